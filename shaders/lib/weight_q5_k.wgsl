// A weight matrix in GGUF's Q5_K: blocks of 256 along a row, each eight groups of 32 with
// w = (d · s) · q − m · t; q of 5 bits, s and t of 6.
// weight_stride is in u32 of quants a row (40 a block): the low four bits of element i of a block are
// nibble i % 8 of word i / 8, its fifth is bit i % 32 of word 32 + i / 32. A block has five u32 of
// scales: d and m as f16, then a byte for each s, and for each t.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 40]
@group(0) @binding(8) var<storage, read> weight_wide: array<vec4<u32>>; // the same, [rows, blocks · 10]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// d · s and m · t of a row's group.
fn group_scales(row: u32, group: u32) -> vec2<f32> {
    let at = (row * (params.weight_stride / 40u) + group / 8u) * 5u;
    let within = group % 8u;
    let shift = within % 4u * 8u;
    let s = f32((scales[at + 1u + within / 4u] >> shift) & 255u);
    let t = f32((scales[at + 3u + within / 4u] >> shift) & 255u);
    return unpack2x16float(scales[at]) * vec2(s, t);
}

// The lower four nibbles, with the lower four bits of `fifth` above them.
fn quants(bits: u32, fifth: u32) -> vec4<f32> {
    let low = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    let high = vec4(fifth << 4u, fifth << 3u, fifth << 2u, fifth << 1u) & vec4(16u);
    // as i32, whose conversion is one instruction on a CPU
    return vec4<f32>(vec4<i32>(low | high));
}

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let at = (row * (params.weight_stride / 40u) + quad / 64u) * 40u;
    let within = quad % 64u;
    let bits = weight[at + within / 2u] >> ((within & 1u) * 16u);
    let fifth = weight[at + 32u + within / 8u] >> (within % 8u * 4u);
    let scale = group_scales(row, quad / 8u);
    return quants(bits, fifth) * scale.x - vec4(scale.y);
}

// Quants of elements 32·block .. 32·block + 31 of a row; a block is a group here.
fn block_quants(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (params.weight_stride / 40u) + block / 8u) * 10u;
    let bits = weight_wide[at + block % 8u];
    let fifth = weight_wide[at + 8u + block % 8u / 4u][block % 4u];
    return array(
        quants(bits.x, fifth), quants(bits.x >> 16u, fifth >> 4u),
        quants(bits.y, fifth >> 8u), quants(bits.y >> 16u, fifth >> 12u),
        quants(bits.z, fifth >> 16u), quants(bits.z >> 16u, fifth >> 20u),
        quants(bits.w, fifth >> 24u), quants(bits.w >> 16u, fifth >> 28u),
    );
}

// Elements 32·block .. 32·block + 31 of a row.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = block_quants(row, block);
    let scale = group_scales(row, block);
    let least = vec4(scale.y);
    return array(
        q[0] * scale.x - least, q[1] * scale.x - least,
        q[2] * scale.x - least, q[3] * scale.x - least,
        q[4] * scale.x - least, q[5] * scale.x - least,
        q[6] * scale.x - least, q[7] * scale.x - least,
    );
}

// That block times the 32 of x, whose halves add up to x_sums: scale and minimum are applied once.
fn weight_block_dot(
    row: u32,
    block: u32,
    x: ptr<function, array<vec4<f32>, 8>>,
    x_sums: vec2<f32>,
) -> f32 {
    let q = block_quants(row, block);
    var even = q[0] * (*x)[0];
    var odd = q[1] * (*x)[1];
    even = fma(q[2], (*x)[2], even);
    odd = fma(q[3], (*x)[3], odd);
    even = fma(q[4], (*x)[4], even);
    odd = fma(q[5], (*x)[5], odd);
    even = fma(q[6], (*x)[6], even);
    odd = fma(q[7], (*x)[7], odd);
    let scale = group_scales(row, block);
    return scale.x * dot(even + odd, vec4(1.0)) - scale.y * (x_sums.x + x_sums.y);
}
