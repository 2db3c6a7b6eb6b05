// Four bf16 as f32, exactly.
fn from_bf16(bits: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(bits.x << 16u, bits.x & 0xffff0000u, bits.y << 16u, bits.y & 0xffff0000u));
}
