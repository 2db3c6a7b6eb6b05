// A weight matrix in GGUF's Q6_K: blocks of 256 along a row, each 16 groups of 16 with
// w = (d · s) · (q − 32); q of 6 bits, s of 8 with a sign.
// weight_stride is in u32 of quants a row (48 a block): the low four bits of element i of a block are
// nibble i % 8 of word i / 8, its upper two are pair i % 16 of word 32 + i / 16. A block has five u32
// of scales: d as f16 in the lower half of the first, then a byte for each s.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 48]
@group(0) @binding(8) var<storage, read> weight_wide: array<vec4<u32>>; // the same, [rows, blocks · 12]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// d · s of a row's groups `group` (even) and the next.
fn group_scales(row: u32, group: u32) -> vec2<f32> {
    let at = (row * (params.weight_stride / 48u) + group / 16u) * 5u;
    let s = scales[at + 1u + group % 16u / 4u] >> (group % 4u * 8u);
    // up to the sign bit and back, so that it is extended
    let both = bitcast<vec2<i32>>(vec2(s << 24u, s << 16u)) >> vec2(24u);
    return vec2<f32>(both) * unpack2x16float(scales[at]).x;
}

// The lower four nibbles with the lower four pairs of `upper` above them, less 32.
fn quants(bits: u32, upper: u32) -> vec4<f32> {
    let low = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    let high = vec4(upper << 4u, upper << 2u, upper, upper >> 2u) & vec4(48u);
    // as i32, whose conversion is one instruction on a CPU
    return vec4<f32>(vec4<i32>(low | high) - 32);
}

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let at = (row * (params.weight_stride / 48u) + quad / 64u) * 48u;
    let within = quad % 64u;
    let bits = weight[at + within / 2u] >> ((within & 1u) * 16u);
    let upper = weight[at + 32u + within / 4u] >> (within % 4u * 8u);
    let scale = group_scales(row, quad / 8u * 2u);
    return quants(bits, upper) * select(scale.x, scale.y, ((quad / 4u) & 1u) == 1u);
}

// Quants less 32 of elements 32·block .. 32·block + 31 of a row; a block is two groups here.
fn block_quants(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (params.weight_stride / 48u) + block / 8u) * 12u;
    let bits = weight_wide[at + block % 8u];
    let uppers = weight_wide[at + 8u + block % 8u / 2u];
    let upper = select(uppers.xy, uppers.zw, (block & 1u) == 1u);
    return array(
        quants(bits.x, upper.x), quants(bits.x >> 16u, upper.x >> 8u),
        quants(bits.y, upper.x >> 16u), quants(bits.y >> 16u, upper.x >> 24u),
        quants(bits.z, upper.y), quants(bits.z >> 16u, upper.y >> 8u),
        quants(bits.w, upper.y >> 16u), quants(bits.w >> 16u, upper.y >> 24u),
    );
}

// Elements 32·block .. 32·block + 31 of a row.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = block_quants(row, block);
    let scale = group_scales(row, 2u * block);
    return array(
        q[0] * scale.x, q[1] * scale.x, q[2] * scale.x, q[3] * scale.x,
        q[4] * scale.y, q[5] * scale.y, q[6] * scale.y, q[7] * scale.y,
    );
}

// That block times the 32 of x; each group's scale is applied once.
fn weight_block_dot(
    row: u32,
    block: u32,
    x: ptr<function, array<vec4<f32>, 8>>,
    x_sums: vec2<f32>,
) -> f32 {
    let q = block_quants(row, block);
    let first = fma(q[3], (*x)[3], fma(q[2], (*x)[2], fma(q[1], (*x)[1], q[0] * (*x)[0])));
    let second = fma(q[7], (*x)[7], fma(q[6], (*x)[6], fma(q[5], (*x)[5], q[4] * (*x)[4])));
    let scale = group_scales(row, 2u * block);
    return dot(first * scale.x + second * scale.y, vec4(1.0));
}
