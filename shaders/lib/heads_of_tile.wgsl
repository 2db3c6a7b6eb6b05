// What turning a head and keeping it takes, whatever the cache: parameters, bindings, the walk over a tile's tokens.
// The kernel brings put_head(token, head, lane), of one token and for the whole workgroup.
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
