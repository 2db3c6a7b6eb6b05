// o = softmax(q · Kᵀ / sqrt(d)) · V, causal, grouped query heads         (SPEC.md section 1)
// q: [T, q_stride] f32, of which n_q heads;  caches: [positions, n_kv, d/2] pairs;  o: [T, o_stride] f32
// Plan: one workgroup a query head of a token (group.x = head, group.y = token) walks through the
// keys in tiles of one key an invocation, with a running maximum and sum (online softmax); then
// every invocation gathers its own output elements. Accumulates in f32.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    q_stride: u32, // floats from token to token
    o_stride: u32, // floats from token to token
    scale: f32,    // d^-0.5
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>;
#import kv
@group(0) @binding(10) var<storage, read_write> o: array<f32>;

#import reduce

const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = (HALF + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE; // output pairs an invocation owns

var<workgroup> query: array<vec2<f32>, HALF>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    let token = group.y;
    let kv_head = head / (params.n_heads / params.n_kv_heads);
    for (var i = lane; i < HALF; i += WORKGROUP_SIZE) {
        query[i] = q[token * (params.q_stride / 2u) + head * HALF + i] * params.scale;
    }
    workgroupBarrier();

    let n_keys = step.n_past + token + 1u;
    var largest = -1e30;
    var denominator = 0.0;
    var sums: array<vec2<f32>, PAIRS>;
    for (var start = 0u; start < n_keys; start += WORKGROUP_SIZE) {
        let key = start + lane;
        var score = -1e30;
        if (key < n_keys) {
            let slot = key * params.n_kv_heads + kv_head;
            score = 0.0;
            for (var i = 0u; i < HALF; i++) {
                score += dot(query[i], key_pair(slot, i));
            }
            score *= key_scale(slot);
        }
        let new_largest = max(largest, reduce_max(lane, score));
        let weight = select(0.0, exp(score - new_largest), key < n_keys);
        let rescale = exp(largest - new_largest);
        denominator = denominator * rescale + reduce_add(lane, weight);
        largest = new_largest;
        let own_slot = min(key, n_keys - 1u) * params.n_kv_heads + kv_head;
        weights[lane] = weight * value_scale(own_slot);
        workgroupBarrier();
        let n_tile = min(WORKGROUP_SIZE, n_keys - start);
        for (var p = 0u; p < PAIRS; p++) {
            let pair = lane + p * WORKGROUP_SIZE;
            var sum = sums[p] * rescale;
            if (pair < HALF) {
                for (var j = 0u; j < n_tile; j++) {
                    let slot = (start + j) * params.n_kv_heads + kv_head;
                    sum += weights[j] * value_pair(slot, pair);
                }
            }
            sums[p] = sum;
        }
        workgroupBarrier(); // the weights are overwritten by the next tile
    }
    for (var p = 0u; p < PAIRS; p++) {
        let pair = lane + p * WORKGROUP_SIZE;
        if (pair < HALF) {
            let out = token * params.o_stride + head * HEAD_DIM + 2u * pair;
            o[out] = sums[p].x / denominator;
            o[out + 1u] = sums[p].y / denominator;
        }
    }
}
