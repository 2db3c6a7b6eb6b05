// o = softmax(q · Kᵀ / sqrt(d)) · V, where a CPU plays the GPU            (SPEC.md section 1)
// q: [T, n_q, d] f32;  caches: [positions, n_kv] heads (lib/kv_*);  o: [T, o_stride] f32
// Plan: one invocation a query head of a token, by itself, so that there is no barrier; it walks
// through the keys four at a time, with a running maximum and sum (online softmax).
// group.x = heads, group.y = token. Accumulates in f32.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    o_stride: u32, // floats from token to token
    scale: f32,    // d^-0.5
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>; // [T, n_q, d/2]
#import kv
@group(0) @binding(10) var<storage, read_write> o: array<f32>;

const HALF: u32 = HEAD_DIM / 2u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let head = min(id.x, params.n_heads - 1u); // past the end: not stored
    let token = id.y;
    let kv_head = head / (params.n_heads / params.n_kv_heads);
    let query = (token * params.n_heads + head) * HALF;
    let last_key = step.n_past + token;
    var largest = -1e30;
    var denominator = 0.0;
    var sums: array<vec2<f32>, HALF>;
    for (var start = 0u; start <= last_key; start += 4u) {
        let keys = vec4(start) + vec4(0u, 1u, 2u, 3u);
        let slots = min(keys, vec4(last_key)) * params.n_kv_heads + kv_head;
        var scores = vec4(0.0);
        for (var i = 0u; i < HALF; i++) {
            let pair = q[query + i];
            scores += vec4(
                dot(pair, key_pair(slots.x, i)),
                dot(pair, key_pair(slots.y, i)),
                dot(pair, key_pair(slots.z, i)),
                dot(pair, key_pair(slots.w, i)),
            );
        }
        scores *= params.scale * vec4(
            key_scale(slots.x),
            key_scale(slots.y),
            key_scale(slots.z),
            key_scale(slots.w),
        );
        scores = select(vec4(-1e30), scores, keys <= vec4(last_key));
        let of_pairs = max(scores.xy, scores.zw);
        let new_largest = max(largest, max(of_pairs.x, of_pairs.y));
        var weights = exp(scores - new_largest);
        weights = select(vec4(0.0), weights, keys <= vec4(last_key));
        let rescale = exp(largest - new_largest);
        denominator = denominator * rescale + dot(weights, vec4(1.0));
        largest = new_largest;
        weights *= vec4(
            value_scale(slots.x),
            value_scale(slots.y),
            value_scale(slots.z),
            value_scale(slots.w),
        );
        for (var i = 0u; i < HALF; i++) {
            sums[i] = sums[i] * rescale
                + (weights.x * value_pair(slots.x, i) + weights.y * value_pair(slots.y, i))
                + (weights.z * value_pair(slots.z, i) + weights.w * value_pair(slots.w, i));
        }
    }
    if (id.x < params.n_heads) {
        for (var i = 0u; i < HALF; i++) {
            let out = token * params.o_stride + head * HEAD_DIM + 2u * i;
            o[out] = sums[i].x / denominator;
            o[out + 1u] = sums[i].y / denominator;
        }
    }
}
