// A weight matrix in GGUF's Q5_K: blocks of 256 along a row, each eight groups of 32 with
// w = (d · s) · q − m · t; q of 5 bits, s and t of 6.
// weight_stride is in u32 of quants a row (40 a block): the low four bits of element i of a block are
// nibble i % 8 of word i / 8, its fifth is bit i % 32 of word 32 + i / 32. A block has five u32 of
// scales: d and m as f16, then a byte for each s, and for each t.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 40]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let block = row * (params.weight_stride / 40u) + quad / 64u;
    let within = quad % 64u;
    let group = within / 8u;
    let at = block * 5u;
    let shift = group % 4u * 8u;
    let s = f32((scales[at + 1u + group / 4u] >> shift) & 255u);
    let t = f32((scales[at + 3u + group / 4u] >> shift) & 255u);
    let dm = unpack2x16float(scales[at]);
    let bits = weight[block * 40u + within / 2u] >> ((within & 1u) * 16u);
    let fifth = weight[block * 40u + 32u + group] >> (within % 8u * 4u);
    let low = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    let high = vec4(fifth, fifth >> 1u, fifth >> 2u, fifth >> 3u) & vec4(1u);
    return vec4<f32>(low + high * 16u) * (dm.x * s) - vec4(dm.y * t);
}
