// Parts of o = softmax(q · Kᵀ / sqrt(d)) · V, where a CPU plays the GPU   (SPEC.md section 1)
// q: [T, q_stride] f32, of which n_q heads;  caches: [positions, n_kv] heads (lib/kv_*)
// parts: [T, n_q, n_splits, 2 + d] f32: largest score, Σ exp(score − largest), Σ exp(…) · v
// Plan: one invocation a query head of a token and one of n_splits ranges of the keys, by itself, so
// that there is no barrier; it walks through the keys four at a time, with a running maximum and sum
// (online softmax). lavapipe ends an invocation's loops after 65,535 rounds in all: hence the ranges,
// and several pairs a round (lib/pairs_*). attention_combine puts the ranges together.
// group.x = heads, group.y = token, group.z = range. Accumulates in f32.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    q_stride: u32, // floats from token to token
    n_splits: u32,
    scale: f32, // d^-0.5
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>;
#import kv
@group(0) @binding(10) var<storage, read_write> parts: array<f32>;

const HALF: u32 = HEAD_DIM / 2u;

// A pair of q times that pair of four keys.
fn products(query: u32, slots: vec4<u32>, i: u32) -> vec4<f32> {
    let pair = q[query + i];
    return vec4(
        dot(pair, key_pair(slots.x, i)),
        dot(pair, key_pair(slots.y, i)),
        dot(pair, key_pair(slots.z, i)),
        dot(pair, key_pair(slots.w, i)),
    );
}

// A pair of four values, weighted.
fn mixed(weights: vec4<f32>, slots: vec4<u32>, i: u32) -> vec2<f32> {
    return (weights.x * value_pair(slots.x, i) + weights.y * value_pair(slots.y, i))
        + (weights.z * value_pair(slots.z, i) + weights.w * value_pair(slots.w, i));
}

#import pairs

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let head = min(id.x, params.n_heads - 1u); // past the end: not stored
    let token = id.y;
    if (token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    let kv_head = head / (params.n_heads / params.n_kv_heads);
    let query = token * (params.q_stride / 2u) + head * HALF;
    let n_keys = step.n_past + token + 1u;
    // whole fours, so that all ranges but the last are free of padding
    let length = ((n_keys + 3u) / 4u + params.n_splits - 1u) / params.n_splits * 4u;
    let begin = min(id.z * length, n_keys);
    let end = min(begin + length, n_keys);
    var largest = -1e30;
    var denominator = 0.0;
    var sums: array<vec2<f32>, HALF>;
    for (var start = begin; start < end; start += 4u) {
        let keys = vec4(start) + vec4(0u, 1u, 2u, 3u);
        let slots = min(keys, vec4(end - 1u)) * params.n_kv_heads + kv_head;
        var scores = scores_of(query, slots);
        scores *= params.scale * vec4(
            key_scale(slots.x),
            key_scale(slots.y),
            key_scale(slots.z),
            key_scale(slots.w),
        );
        scores = select(vec4(-1e30), scores, keys < vec4(end));
        let of_pairs = max(scores.xy, scores.zw);
        let new_largest = max(largest, max(of_pairs.x, of_pairs.y));
        var weights = select(vec4(0.0), exp(scores - new_largest), keys < vec4(end));
        let rescale = exp(largest - new_largest);
        denominator = denominator * rescale + dot(weights, vec4(1.0));
        largest = new_largest;
        weights *= vec4(
            value_scale(slots.x),
            value_scale(slots.y),
            value_scale(slots.z),
            value_scale(slots.w),
        );
        mix(&sums, rescale, weights, slots);
    }
    if (id.x < params.n_heads) {
        let first = ((token * params.n_heads + head) * params.n_splits + id.z) * (2u + HEAD_DIM);
        parts[first] = largest;
        parts[first + 1u] = denominator;
        for (var i = 0u; i < HALF; i++) {
            parts[first + 2u + 2u * i] = sums[i].x;
            parts[first + 3u + 2u * i] = sums[i].y;
        }
    }
}
