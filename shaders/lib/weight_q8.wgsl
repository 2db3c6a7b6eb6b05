// A weight matrix in 8 bits: blocks of 32 along a row, w = quant · scale; quant in −127..127.
// weight_stride is in u32 of quants a row (8 a block); two f16 scales share a u32, and a row's
// scales begin on a u32 of their own.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 8], 4 × i8
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, ceil(blocks / 2)], 2 × f16

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let block = quad / 8u;
    let pair = unpack2x16float(scales[row * ((params.weight_stride / 8u + 1u) / 2u) + block / 2u]);
    let scale = select(pair.x, pair.y, (block & 1u) == 1u);
    // unpack4x8snorm divides by 127
    return unpack4x8snorm(weight[row * params.weight_stride + quad]) * (127.0 * scale);
}
