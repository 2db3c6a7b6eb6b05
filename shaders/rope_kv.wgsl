// Rotates q where it is, and k on its way into the cache with v          (SPEC.md section 1)
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
// qkv: [T, stride] f32, q | k | v, which lib/head_adjusted corrects and norms first
// table: [positions, d/2] (cos, sin);  caches: [positions, n_kv, d/2] pairs
// Plan: one workgroup a head of a tile of tokens; group.x = head among q, k, v heads, group.y = tile. An
// invocation has pairs of neighbouring elements (they share a word of an f16 cache).
#import heads_of_tile

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
