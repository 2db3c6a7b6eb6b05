// Parts of o = softmax(q · Kᵀ / sqrt(d)) · V, on a GPU                    (SPEC.md section 1)
// q: [T, q_stride] f32, of which n_q heads;  caches: [positions, n_kv] heads (lib/kv_*)
// parts: [T, n_q, n_splits, 2 + d] f32: largest score, Σ exp(score − largest), Σ exp(…) · v
// Plan: the keys are cut into n_splits ranges, so that a long context keeps a GPU busy; how long they
// are follows from the step, not from the dispatch. One workgroup takes a range for a tile of tokens
// and all query heads that share a KV head, so that what it loads of the cache serves all these rows
// (group.x = KV head · n_splits + range, group.y = tile). It goes through tiles of one key an
// invocation: scores of all rows; then a few invocations a row find its maximum and weights (online
// softmax); then every invocation gathers its own output elements of all rows. attention_combine puts
// the ranges together. Accumulates in f32.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    q_stride: u32, // floats from token to token
    heads_per_kv: u32, // query heads that share a KV head
    tile_tokens: u32,  // tokens of a tile; rows in all: no more than invocations
    n_splits: u32,
    scale: f32,        // d^-0.5
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>;
#import kv
@group(0) @binding(10) var<storage, read_write> parts: array<f32>;

const GROUP: u32 = params.heads_per_kv;
const ROWS: u32 = GROUP * params.tile_tokens; // row = token of the tile · GROUP + head of the group
const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = (HALF + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE; // output pairs an invocation owns
const STRIDE: u32 = WORKGROUP_SIZE + 1u; // neighbouring rows are in different banks
const PER_ROW: u32 = WORKGROUP_SIZE / ROWS; // invocations that share a row's softmax
const SHARE: u32 = (WORKGROUP_SIZE + PER_ROW - 1u) / PER_ROW; // keys of each of them

var<workgroup> query: array<vec2<f32>, ROWS * HALF>;
var<workgroup> weights: array<f32, ROWS * STRIDE>; // scores, then what values are multiplied by
var<workgroup> maxima: array<f32, WORKGROUP_SIZE>;
var<workgroup> rescales: array<f32, ROWS>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let kv_head = group.x / params.n_splits;
    let split = group.x % params.n_splits;
    let first_token = group.y * params.tile_tokens;
    if (first_token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    let last_token = step.n_tokens - 1u;
    for (var i = lane; i < ROWS * HALF; i += WORKGROUP_SIZE) {
        let row = i / HALF;
        // tokens past the end repeat the last one and are not stored
        let token = min(first_token + row / GROUP, last_token);
        let head = kv_head * GROUP + row % GROUP;
        query[i] = q[token * (params.q_stride / 2u) + head * HALF + i % HALF] * params.scale;
    }

    let n_keys = step.n_past + min(first_token + params.tile_tokens, step.n_tokens);
    let n_tiles = (n_keys + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let length = (n_tiles + params.n_splits - 1u) / params.n_splits * WORKGROUP_SIZE;
    let begin = min(split * length, n_keys);
    let end = min(begin + length, n_keys);
    // this invocation's share of a row's softmax
    let row = min(lane / PER_ROW, ROWS - 1u);
    let first_of_row = row * PER_ROW;
    let share_begin = min(lane % PER_ROW * SHARE, WORKGROUP_SIZE);
    let share_end = min(share_begin + SHARE, WORKGROUP_SIZE);
    let seen = step.n_past + min(first_token + row / GROUP, last_token) + 1u; // keys up to its token
    var largest = -1e30;
    var denominator = 0.0; // of its share
    var sums: array<vec2<f32>, PAIRS * ROWS>;
    workgroupBarrier();

    for (var start = begin; start < end; start += WORKGROUP_SIZE) {
        let own_slot = min(start + lane, end - 1u) * params.n_kv_heads + kv_head;
        var scores: array<f32, ROWS>;
        for (var i = 0u; i < HALF; i++) {
            let pair = key_pair(own_slot, i);
            for (var r = 0u; r < ROWS; r++) {
                scores[r] += dot(query[r * HALF + i], pair);
            }
        }
        let own_scale = key_scale(own_slot);
        for (var r = 0u; r < ROWS; r++) {
            weights[r * STRIDE + lane] = scores[r] * own_scale;
        }
        workgroupBarrier();

        let limit = min(seen, end); // no key from here on
        var share_largest = -1e30;
        for (var j = share_begin; j < share_end; j++) {
            let score = weights[row * STRIDE + j];
            share_largest = select(share_largest, max(share_largest, score), start + j < limit);
        }
        maxima[lane] = share_largest;
        workgroupBarrier();
        var new_largest = largest;
        for (var j = 0u; j < PER_ROW; j++) {
            new_largest = max(new_largest, maxima[first_of_row + j]);
        }
        let rescale = exp(largest - new_largest);
        largest = new_largest;
        denominator *= rescale;
        if (lane < ROWS * PER_ROW) {
            for (var j = share_begin; j < share_end; j++) {
                let key = start + j;
                let score = weights[row * STRIDE + j];
                let weight = select(0.0, exp(score - largest), key < limit);
                denominator += weight;
                let slot = min(key, end - 1u) * params.n_kv_heads + kv_head;
                weights[row * STRIDE + j] = weight * value_scale(slot);
            }
            if (lane == first_of_row) {
                rescales[row] = rescale;
            }
        }
        workgroupBarrier();

        let n_tile = min(WORKGROUP_SIZE, end - start);
        for (var p = 0u; p < PAIRS; p++) {
            let pair = lane + p * WORKGROUP_SIZE;
            if (pair < HALF) {
                for (var r = 0u; r < ROWS; r++) {
                    sums[p * ROWS + r] *= rescales[r];
                }
                for (var j = 0u; j < n_tile; j++) {
                    let value = value_pair((start + j) * params.n_kv_heads + kv_head, pair);
                    for (var r = 0u; r < ROWS; r++) {
                        sums[p * ROWS + r] += weights[r * STRIDE + j] * value;
                    }
                }
            }
        }
        workgroupBarrier(); // the weights are overwritten by the next tile
    }

    maxima[lane] = denominator;
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        let token = first_token + r / GROUP;
        if (token > last_token) {
            continue;
        }
        let head = token * params.n_heads + kv_head * GROUP + r % GROUP;
        let part = (head * params.n_splits + split) * (2u + HEAD_DIM);
        if (lane == r * PER_ROW) {
            var total = 0.0;
            for (var j = 0u; j < PER_ROW; j++) {
                total += maxima[lane + j];
            }
            parts[part] = largest;
            parts[part + 1u] = total;
        }
        for (var p = 0u; p < PAIRS; p++) {
            let pair = lane + p * WORKGROUP_SIZE;
            if (pair < HALF) {
                parts[part + 2u + 2u * pair] = sums[p * ROWS + r].x;
                parts[part + 3u + 2u * pair] = sums[p * ROWS + r].y;
            }
        }
    }
}
