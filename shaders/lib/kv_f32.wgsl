// The KV cache of one layer as f32 pairs: [positions, n_kv_heads, head_dim / 2] vec2.
@group(0) @binding(6) var<storage, KV_ACCESS> key_cache: array<vec2<f32>>;
@group(0) @binding(7) var<storage, KV_ACCESS> value_cache: array<vec2<f32>>;

fn pack_pair(pair: vec2<f32>) -> vec2<f32> {
    return pair;
}

fn unpack_pair(pair: vec2<f32>) -> vec2<f32> {
    return pair;
}
