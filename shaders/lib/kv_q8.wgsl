// The KV cache of one layer in 8 bits: [positions, n_kv_heads, 1 + head_dim / 4] u32, a head's scale
// as f32, then its quants as 4 × i8 a word; element = quant · scale.
@group(0) @binding(6) var<storage, KV_ACCESS> key_cache: array<u32>;
@group(0) @binding(7) var<storage, KV_ACCESS> value_cache: array<u32>;

const HEAD_WORDS: u32 = 1u + HEAD_DIM / 4u;

// Bytes 2·pair and 2·pair + 1 of a word, pair 0 or 1.
fn unpack_bytes(word: u32, pair: u32) -> vec2<f32> {
    let bits = word >> (16u * pair);
    // up to the sign bit and back, so that it is extended
    return vec2<f32>(bitcast<vec2<i32>>(vec2(bits << 24u, bits << 16u)) >> vec2(24u));
}

// Pair `pair` of the key and of the value that a head has at a position; head_slot is
// position · n_kv_heads + head.
fn key_pair(head_slot: u32, pair: u32) -> vec2<f32> {
    return unpack_bytes(key_cache[head_slot * HEAD_WORDS + 1u + pair / 2u], pair % 2u);
}

fn value_pair(head_slot: u32, pair: u32) -> vec2<f32> {
    return unpack_bytes(value_cache[head_slot * HEAD_WORDS + 1u + pair / 2u], pair % 2u);
}

// What these pairs are still to be multiplied by.
fn key_scale(head_slot: u32) -> f32 {
    return bitcast<f32>(key_cache[head_slot * HEAD_WORDS]);
}

fn value_scale(head_slot: u32) -> f32 {
    return bitcast<f32>(value_cache[head_slot * HEAD_WORDS]);
}
