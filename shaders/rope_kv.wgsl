// Rotates q and k and puts k, v into the cache                           (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
// qk: [T, stride] f32 with q at 0 and k at n_q·d (after the q/k norms where there are any)
// v: the same layout, v at (n_q + n_kv)·d;  table: [positions, d/2] (cos, sin)
// q_out: [T, n_q, d] f32;  caches: [positions, n_kv, d/2] pairs
// Plan: one invocation a pair of neighbouring elements (they share a word of an f16 cache) of one
// head of a token; id.x = pair among q, k, v heads, id.y = token.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    stride: u32,   // floats from token to token in qk and v
    use_rope: u32, // 0: NoPE layer
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> qk: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
#import kv
@group(0) @binding(10) var<storage, read_write> q_out: array<f32>;

const HALF: u32 = HEAD_DIM / 2u;

// Element i of the rotated head that starts at `start`.
fn rotated(start: u32, i: u32, position: u32) -> f32 {
    let x = qk[start + i];
    if (params.use_rope == 0u) {
        return x;
    }
    let rotation = rope_table[position * HALF + i % HALF];
    if (i < HALF) {
        return x * rotation.x - qk[start + i + HALF] * rotation.y;
    }
    return x * rotation.x + qk[start + i - HALF] * rotation.y;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.y;
    let head = id.x / HALF; // q heads, then k heads, then v heads
    let pair = id.x % HALF;
    if (token >= step.n_tokens || head >= params.n_heads + 2u * params.n_kv_heads) {
        return;
    }
    let position = step.n_past + token;
    let start = token * params.stride + head * HEAD_DIM;
    let i = 2u * pair;
    if (head < params.n_heads) {
        let out = (token * params.n_heads + head) * HEAD_DIM + i;
        q_out[out] = rotated(start, i, position);
        q_out[out + 1u] = rotated(start, i + 1u, position);
    } else if (head < params.n_heads + params.n_kv_heads) {
        let slot = (position * params.n_kv_heads + head - params.n_heads) * HALF + pair;
        key_cache[slot] = pack_pair(vec2(rotated(start, i, position), rotated(start, i + 1u, position)));
    } else {
        let kv_head = head - params.n_heads - params.n_kv_heads;
        let slot = (position * params.n_kv_heads + kv_head) * HALF + pair;
        value_cache[slot] = pack_pair(vec2(v[start + i], v[start + i + 1u]));
    }
}
