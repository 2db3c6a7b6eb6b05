// Rotates q where it is, and k on its way into a cache of 8 bits with v  (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
//   cached: scale = max|y| / 127 over a head, quant = round(y / scale)
// qkv: [T, stride] f32, q | k | v, which lib/head_adjusted corrects and norms first
// table: [positions, d/2] (cos, sin)
// caches: [positions, n_kv, 1 + d/4] u32 (lib/kv_q8)
// Plan: one workgroup a head of a tile of tokens, whose invocations look for a head's largest together;
// group.x = head among q, k, v heads, group.y = tile.
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

const QUADS: u32 = (HEAD_DIM / 4u + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE; // an invocation owns

#import head
#import rotated
#import reduce

fn quants(y: vec4<f32>, inverse: f32) -> u32 {
    let q = vec4<i32>(clamp(round(y * inverse), vec4(-127.0), vec4(127.0)));
    let bytes = bitcast<vec4<u32>>(q) & vec4(255u);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

// Of one token, for the whole workgroup.
fn put_head(token: u32, head: u32, lane: u32) {
    if (head < params.n_heads) {
        rotate_in_place(token, head, lane);
        return; // the whole workgroup has this head
    }
    let position = step.n_past + token;
    let is_value = head >= params.n_heads + params.n_kv_heads;
    var own: array<vec4<f32>, QUADS>;
    var largest = 0.0;
    for (var n = 0u; n < QUADS; n++) {
        let i = 4u * (lane + n * WORKGROUP_SIZE);
        if (i >= HEAD_DIM) {
            continue;
        }
        var y = vec4(0.0);
        if (is_value) {
            y = vec4(
                element(token, head, i),
                element(token, head, i + 1u),
                element(token, head, i + 2u),
                element(token, head, i + 3u),
            );
        } else {
            y = vec4(
                rotated(token, head, i),
                rotated(token, head, i + 1u),
                rotated(token, head, i + 2u),
                rotated(token, head, i + 3u),
            );
        }
        own[n] = y;
        let of_pairs = max(abs(y.xy), abs(y.zw));
        largest = max(largest, max(of_pairs.x, of_pairs.y));
    }
    let scale = reduce_max(lane, largest) / 127.0;
    let inverse = select(0.0, 1.0 / scale, scale > 0.0);
    let kv_head = (head - params.n_heads) % params.n_kv_heads;
    let slot = (position * params.n_kv_heads + kv_head) * HEAD_WORDS;
    for (var n = 0u; n < QUADS; n++) {
        let quad = lane + n * WORKGROUP_SIZE;
        if (4u * quad < HEAD_DIM) {
            if (is_value) {
                value_cache[slot + 1u + quad] = quants(own[n], inverse);
            } else {
                key_cache[slot + 1u + quad] = quants(own[n], inverse);
            }
        }
    }
    if (lane == 0u) {
        if (is_value) {
            value_cache[slot] = bitcast<u32>(scale);
        } else {
            key_cache[slot] = bitcast<u32>(scale);
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
