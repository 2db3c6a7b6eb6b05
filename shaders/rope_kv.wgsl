// Rotates q where it is, and k on its way into the cache with v          (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
// qkv: [T, stride] f32, q | k | v, which lib/head_adjusted corrects and norms first
// table: [positions, d/2] (cos, sin);  caches: [positions, n_kv, d/2] pairs
// Plan: one workgroup a head of a tile of tokens; group.x = head among q, k, v heads, group.y = tile. An
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
    tile_tokens: u32, // tokens of a workgroup
    normalize_qk: u32, // 1: so are memory queries; where ρ is made on the spot
    layer: u32,       // index among the wrapped layers, there too
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
#import kv

#import head
#import rotated

// Of one token, for the whole workgroup.
fn put_head(token: u32, head: u32, lane: u32) {
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

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first_token = group.y * params.tile_tokens;
    if (first_token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    load_heads(first_token, group.x, lane);
    let end = min(first_token + params.tile_tokens, step.n_tokens);
    for (var token = first_token; token < end; token++) {
        put_head(token, group.x, lane);
    }
}
