// Rotates q where it is, and k on its way into a cache of 8 bits with v  (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
//   cached: scale = max|y| / 127 over a head, quant = round(y / scale)
// qkv: [T, stride] f32, q | k | v, which lib/head_adjusted corrects and norms first
// table: [positions, d/2] (cos, sin)
// caches: [positions, n_kv, 1 + d/4] u32 (lib/kv_q8)
// Plan: one workgroup a head of a tile of tokens, whose invocations look for a head's largest together;
// group.x = head among q, k, v heads, group.y = tile.
#import heads_of_tile

const QUADS: u32 = (HEAD_DIM / 4u + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE; // an invocation owns

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
