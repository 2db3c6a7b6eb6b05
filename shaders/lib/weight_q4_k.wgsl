// A weight matrix in GGUF's Q4_K: blocks of 256 along a row, each eight groups of 32 with
// w = (d · s) · q − m · t; q of 4 bits, s and t of 6.
// weight_stride is in u32 of quants a row (32 a block); element i of a block is nibble i % 8 of
// word i / 8. A block has five u32 of scales: d and m as f16, then a byte for each s, and for each t.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 32], 8 × u4
@group(0) @binding(8) var<storage, read> weight_wide: array<vec4<u32>>; // the same, [rows, groups]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// d · s and m · t of a row's group.
fn group_scales(row: u32, group: u32) -> vec2<f32> {
    let at = (row * (params.weight_stride / 32u) + group / 8u) * 5u;
    let within = group % 8u;
    let shift = within % 4u * 8u;
    let s = f32((scales[at + 1u + within / 4u] >> shift) & 255u);
    let t = f32((scales[at + 3u + within / 4u] >> shift) & 255u);
    return unpack2x16float(scales[at]) * vec2(s, t);
}

// The lower four nibbles.
fn nibbles(bits: u32) -> vec4<f32> {
    // as i32, whose conversion is one instruction on a CPU
    return vec4<f32>(vec4<i32>(vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u)));
}

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let scale = group_scales(row, quad / 8u);
    let bits = weight[row * params.weight_stride + quad / 2u] >> ((quad & 1u) * 16u);
    return nibbles(bits) * scale.x - vec4(scale.y);
}

// Elements 32·block .. 32·block + 31 of a row; a block is a group here.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let bits = weight_wide[row * (params.weight_stride / 4u) + block];
    let scale = group_scales(row, block);
    let least = vec4(scale.y);
    return array(
        nibbles(bits.x) * scale.x - least, nibbles(bits.x >> 16u) * scale.x - least,
        nibbles(bits.y) * scale.x - least, nibbles(bits.y >> 16u) * scale.x - least,
        nibbles(bits.z) * scale.x - least, nibbles(bits.z >> 16u) * scale.x - least,
        nibbles(bits.w) * scale.x - least, nibbles(bits.w >> 16u) * scale.x - least,
    );
}

// The lower four nibbles where they are: the j-th is 16^j times too large.
fn nibbles_in_place(bits: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(vec4(bits) & vec4(0xfu, 0xf0u, 0xf00u, 0xf000u)));
}

// That block times the 32 of x, whose halves add up to x_sums: scale and minimum are applied once.
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
    let scale = group_scales(row, block);
    return scale.x * sum - scale.y * (x_sums.x + x_sums.y);
}
