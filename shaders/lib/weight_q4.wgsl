// A weight matrix in 4 bits: blocks of 32 along a row, w = (nibble − 8) · scale.
// weight_stride is in u32 of nibbles a row (4 a block); element i of a block is nibble i % 8 of
// word i / 8. Two f16 scales share a u32, and a row's scales begin on a u32 of their own.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 4], 8 × u4
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, ceil(blocks / 2)], 2 × f16

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let block = quad / 8u;
    let pair = unpack2x16float(scales[row * ((params.weight_stride / 4u + 1u) / 2u) + block / 2u]);
    let scale = select(pair.x, pair.y, (block & 1u) == 1u);
    let bits = weight[row * params.weight_stride + quad / 2u] >> ((quad & 1u) * 16u);
    let nibbles = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    return (vec4<f32>(nibbles) - 8.0) * scale;
}
