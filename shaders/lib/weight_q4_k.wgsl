// A weight matrix in GGUF's Q4_K: blocks of 256 along a row, each eight groups of 32 with
// w = (d · s) · q − m · t; q of 4 bits, s and t of 6.
// weight_stride is in u32 of quants a row (32 a block); element i of a block is nibble i % 8 of
// word i / 8. A block has five u32 of scales: d and m as f16, then a byte for each s, and for each t.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 32], 8 × u4
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let at = (row * (params.weight_stride / 32u) + quad / 64u) * 5u;
    let group = quad / 8u % 8u;
    let shift = group % 4u * 8u;
    let s = f32((scales[at + 1u + group / 4u] >> shift) & 255u);
    let t = f32((scales[at + 3u + group / 4u] >> shift) & 255u);
    let dm = unpack2x16float(scales[at]);
    let bits = weight[row * params.weight_stride + quad / 2u] >> ((quad & 1u) * 16u);
    let quants = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    return vec4<f32>(quants) * (dm.x * s) - vec4(dm.y * t);
}
