// Parts of o = softmax(q · Kᵀ / sqrt(d)) · V for a few tokens             (SPEC.md section 1)
// q: [T, q_stride] f32, of which n_q heads;  caches: [positions, n_kv] heads (lib/kv_*)
// parts: [T, n_q, n_splits, 2 + d] f32: largest score, Σ exp(score − largest), Σ exp(…) · v
// Plan: the keys are cut into n_splits ranges, so that a long context keeps a GPU busy; how long they
// are follows from the step, not from the dispatch. One workgroup takes a range for all query heads
// that share a KV head (group.x = KV head · n_splits + range, group.y = token), so that the cache is
// read once. Tiles of one key an invocation, with a running maximum and sum; attention_combine puts
// the ranges together. Accumulates in f32.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    q_stride: u32, // floats from token to token
    heads_per_kv: u32, // query heads that share a KV head
    n_splits: u32,
    scale: f32,        // d^-0.5
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>;
#import kv
@group(0) @binding(10) var<storage, read_write> parts: array<f32>;

#import reduce

const GROUP: u32 = params.heads_per_kv;
const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = (HALF + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE; // output pairs an invocation owns

var<workgroup> query: array<vec2<f32>, GROUP * HALF>;
var<workgroup> weights: array<f32, GROUP * WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let kv_head = group.x / params.n_splits;
    let split = group.x % params.n_splits;
    let token = group.y;
    if (token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    let first_head = token * params.n_heads + kv_head * GROUP;
    let first_pair = token * (params.q_stride / 2u) + kv_head * GROUP * HALF;
    for (var i = lane; i < GROUP * HALF; i += WORKGROUP_SIZE) {
        query[i] = q[first_pair + i] * params.scale;
    }
    workgroupBarrier();

    let n_keys = step.n_past + token + 1u;
    let n_tiles = (n_keys + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let length = (n_tiles + params.n_splits - 1u) / params.n_splits * WORKGROUP_SIZE;
    let begin = min(split * length, n_keys);
    let end = min(begin + length, n_keys);
    var largest: array<f32, GROUP>;
    var denominators: array<f32, GROUP>; // of this invocation's keys
    var rescales: array<f32, GROUP>;
    var sums: array<vec2<f32>, PAIRS * GROUP>;
    for (var h = 0u; h < GROUP; h++) {
        largest[h] = -1e30;
    }
    for (var start = begin; start < end; start += WORKGROUP_SIZE) {
        let key = start + lane;
        let own_slot = min(key, end - 1u) * params.n_kv_heads + kv_head;
        var scores: array<f32, GROUP>;
        for (var i = 0u; i < HALF; i++) {
            let pair = key_pair(own_slot, i);
            for (var h = 0u; h < GROUP; h++) {
                scores[h] += dot(query[h * HALF + i], pair);
            }
        }
        let own_key_scale = key_scale(own_slot);
        let own_value_scale = value_scale(own_slot);
        for (var h = 0u; h < GROUP; h++) {
            let score = select(-1e30, scores[h] * own_key_scale, key < end);
            let new_largest = max(largest[h], reduce_max(lane, score));
            let weight = select(0.0, exp(score - new_largest), key < end);
            rescales[h] = exp(largest[h] - new_largest);
            denominators[h] = denominators[h] * rescales[h] + weight;
            largest[h] = new_largest;
            weights[h * WORKGROUP_SIZE + lane] = weight * own_value_scale;
        }
        workgroupBarrier();
        let n_tile = min(WORKGROUP_SIZE, end - start);
        for (var p = 0u; p < PAIRS; p++) {
            let pair = lane + p * WORKGROUP_SIZE;
            if (pair < HALF) {
                for (var h = 0u; h < GROUP; h++) {
                    sums[p * GROUP + h] *= rescales[h];
                }
                for (var j = 0u; j < n_tile; j++) {
                    let value = value_pair((start + j) * params.n_kv_heads + kv_head, pair);
                    for (var h = 0u; h < GROUP; h++) {
                        sums[p * GROUP + h] += weights[h * WORKGROUP_SIZE + j] * value;
                    }
                }
            }
        }
        workgroupBarrier(); // the weights are overwritten by the next tile
    }
    for (var h = 0u; h < GROUP; h++) {
        let denominator = reduce_add(lane, denominators[h]);
        let part = ((first_head + h) * params.n_splits + split) * (2u + HEAD_DIM);
        if (lane == 0u) {
            parts[part] = largest[h];
            parts[part + 1u] = denominator;
        }
        for (var p = 0u; p < PAIRS; p++) {
            let pair = lane + p * WORKGROUP_SIZE;
            if (pair < HALF) {
                parts[part + 2u + 2u * pair] = sums[p * GROUP + h].x;
                parts[part + 3u + 2u * pair] = sums[p * GROUP + h].y;
            }
        }
    }
}
