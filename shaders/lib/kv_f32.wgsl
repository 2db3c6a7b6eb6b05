// The KV cache of one layer as f32 pairs: [positions, n_kv_heads, head_dim / 2] vec2.
@group(0) @binding(6) var<storage, KV_ACCESS> key_cache: array<vec2<f32>>;
@group(0) @binding(7) var<storage, KV_ACCESS> value_cache: array<vec2<f32>>;

fn pack_pair(pair: vec2<f32>) -> vec2<f32> {
    return pair;
}

fn unpack_pair(pair: vec2<f32>) -> vec2<f32> {
    return pair;
}

// Pair `pair` of the key and of the value that a head has at a position; head_slot is
// position · n_kv_heads + head.
fn key_pair(head_slot: u32, pair: u32) -> vec2<f32> {
    return unpack_pair(key_cache[head_slot * (HEAD_DIM / 2u) + pair]);
}

fn value_pair(head_slot: u32, pair: u32) -> vec2<f32> {
    return unpack_pair(value_cache[head_slot * (HEAD_DIM / 2u) + pair]);
}

// What these pairs are still to be multiplied by.
fn key_scale(head_slot: u32) -> f32 {
    return 1.0;
}

fn value_scale(head_slot: u32) -> f32 {
    return 1.0;
}
