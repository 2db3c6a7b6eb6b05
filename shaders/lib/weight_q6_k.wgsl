// A weight matrix in GGUF's Q6_K: blocks of 256 along a row, each 16 groups of 16 with
// w = (d · s) · (q − 32); q of 6 bits, s of 8 with a sign.
// weight_stride is in u32 of quants a row (48 a block): the low four bits of element i of a block are
// nibble i % 8 of word i / 8, its upper two are pair i % 16 of word 32 + i / 16. A block has five u32
// of scales: d as f16 in the lower half of the first, then a byte for each s.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 48]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, blocks · 5]

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let block = row * (params.weight_stride / 48u) + quad / 64u;
    let within = quad % 64u;
    let group = within / 4u;
    let at = block * 5u;
    // up to the sign bit and back, so that it is extended
    let s = f32(bitcast<i32>(scales[at + 1u + group / 4u] << (24u - group % 4u * 8u)) >> 24u);
    let d = unpack2x16float(scales[at]).x;
    let bits = weight[block * 48u + within / 2u] >> ((within & 1u) * 16u);
    let upper = weight[block * 48u + 32u + group] >> (within % 4u * 8u);
    let low = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4(15u);
    let high = vec4(upper, upper >> 2u, upper >> 4u, upper >> 6u) & vec4(3u);
    return (vec4<f32>(low + high * 16u) - 32.0) * (d * s);
}
