// A weight matrix in 4 bits: blocks of 32 along a row, w = (nibble − 8) · scale.
// weight_stride is in u32 of nibbles a row (4 a block); element i of a block is nibble i % 8 of
// word i / 8. Two f16 scales share a u32, and a row's scales begin on a u32 of their own.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 4], 8 × u4
@group(0) @binding(8) var<storage, read> weight_wide: array<vec4<u32>>; // the same, [rows, blocks]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, ceil(blocks / 2)], 2 × f16

fn block_scale(row: u32, block: u32) -> f32 {
    let pair = unpack2x16float(scales[row * ((params.weight_stride / 4u + 1u) / 2u) + block / 2u]);
    return select(pair.x, pair.y, (block & 1u) == 1u);
}

// The lower four nibbles less 8.
fn nibbles(bits: u32) -> vec4<f32> {
    // as i32, whose conversion is one instruction on a CPU
    let quants = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    return vec4<f32>(vec4<i32>(quants) - 8);
}

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let bits = weight[row * params.weight_stride + quad / 2u] >> ((quad & 1u) * 16u);
    return nibbles(bits) * block_scale(row, quad / 8u);
}

// Elements 32·block .. 32·block + 31 of a row.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let bits = weight_wide[row * (params.weight_stride / 4u) + block];
    let scale = block_scale(row, block);
    return array(
        nibbles(bits.x) * scale, nibbles(bits.x >> 16u) * scale,
        nibbles(bits.y) * scale, nibbles(bits.y >> 16u) * scale,
        nibbles(bits.z) * scale, nibbles(bits.z >> 16u) * scale,
        nibbles(bits.w) * scale, nibbles(bits.w >> 16u) * scale,
    );
}

// The lower four nibbles where they are: the j-th is 16^j times too large.
fn nibbles_in_place(bits: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(vec4(bits) & vec4(0xfu, 0xf0u, 0xf00u, 0xf000u)));
}

// That block times the 32 of x, whose halves add up to x_sums: the scale is applied once, and so is
// the offset of 8, to the sum.
fn weight_block_dot(
    row: u32,
    block: u32,
    x: ptr<function, array<vec4<f32>, 8>>,
    x_sums: vec2<f32>,
) -> f32 {
    let bits = weight_wide[row * (params.weight_stride / 4u) + block];
    var even = nibbles_in_place(bits.x) * (*x)[0];
    var odd = nibbles_in_place(bits.x >> 16u) * (*x)[1];
    even = fma(nibbles_in_place(bits.y), (*x)[2], even);
    odd = fma(nibbles_in_place(bits.y >> 16u), (*x)[3], odd);
    even = fma(nibbles_in_place(bits.z), (*x)[4], even);
    odd = fma(nibbles_in_place(bits.z >> 16u), (*x)[5], odd);
    even = fma(nibbles_in_place(bits.w), (*x)[6], even);
    odd = fma(nibbles_in_place(bits.w >> 16u), (*x)[7], odd);
    let sum = dot(even + odd, vec4(1.0, 0.0625, 0.00390625, 0.000244140625)); // 16^−j
    return block_scale(row, block) * (sum - 8.0 * (x_sums.x + x_sums.y));
}
