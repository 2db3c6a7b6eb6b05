// Rotates q where it is, and k on its way into the cache with v          (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
// qkv: [T, stride] f32, q | k | v, which lib/head_adjusted corrects and norms first
// table: [positions, d/2] (cos, sin);  caches: [positions, n_kv, d/2] pairs
// Plan: one workgroup a head of a token; group.x = head among q, k, v heads, group.y = token. An
// invocation has pairs of neighbouring elements (they share a word of an f16 cache).
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    stride: u32,     // floats from token to token in qkv
    use_rope: u32,   // 0: NoPE layer
    has_norm: u32,   // 1: heads of q and k are normed
    eps: f32,        // of that norm
    corrects_q: u32, // 1: the memory corrects q
    corrects_k: u32,
    corrects_v: u32,
    n_reads: u32,    // R of the corrections
    // where ρ is made on the spot (lib/memory_row):
    num_state_heads: u32,
    raw_stride: u32,
    normalize_qk: u32,
    gates_per_head: u32,
    lambda_mode: u32,
    erase_lambda: u32,
    writes: u32,     // 1: tokens of the chunk are written
    layer: u32,      // index among the wrapped layers
    first_bias: u32, // floats of `adjustments` before the gates' biases
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
#import kv

#import head
#import rotated

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    let token = group.y;
    if (token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    load_head(token, head, lane);
    if (head < params.n_heads) {
        rotate_in_place(token, head, lane);
        return; // the whole workgroup has this head
    }
    let position = step.n_past + token;
    for (var pair = lane; pair < HALF; pair += WORKGROUP_SIZE) {
        let i = 2u * pair;
        if (head < params.n_heads + params.n_kv_heads) {
            let slot = (position * params.n_kv_heads + head - params.n_heads) * HALF + pair;
            key_cache[slot] = pack_pair(vec2(rotated(token, head, i), rotated(token, head, i + 1u)));
        } else {
            let kv_head = head - params.n_heads - params.n_kv_heads;
            let slot = (position * params.n_kv_heads + kv_head) * HALF + pair;
            value_cache[slot] = pack_pair(vec2(element(token, head, i), element(token, head, i + 1u)));
        }
    }
}
