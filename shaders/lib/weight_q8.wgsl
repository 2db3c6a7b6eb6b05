// A weight matrix in 8 bits: blocks of 32 along a row, w = quant · scale; quant in −127..127.
// weight_stride is in u32 of quants a row (8 a block); two f16 scales share a u32, and a row's
// scales begin on a u32 of their own.
@group(0) @binding(8) var<storage, read> weight: array<u32>; // [rows, blocks · 8], 4 × i8
@group(0) @binding(8) var<storage, read> weight_wide: array<vec4<u32>>; // the same, [rows, blocks · 2]
@group(0) @binding(9) var<storage, read> scales: array<u32>; // [rows, ceil(blocks / 2)], 2 × f16

fn block_scale(row: u32, block: u32) -> f32 {
    let pair = unpack2x16float(scales[row * ((params.weight_stride / 8u + 1u) / 2u) + block / 2u]);
    return select(pair.x, pair.y, (block & 1u) == 1u);
}

// Four i8.
fn bytes(bits: u32) -> vec4<f32> {
    // up to the sign bit and back, so that it is extended
    let raised = bitcast<vec4<i32>>(vec4(bits << 24u, bits << 16u, bits << 8u, bits));
    return vec4<f32>(raised >> vec4(24u));
}

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    return bytes(weight[row * params.weight_stride + quad]) * block_scale(row, quad / 8u);
}

// Elements 32·block .. 32·block + 31 of a row.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = row * (params.weight_stride / 4u) + 2u * block;
    let low = weight_wide[at];
    let high = weight_wide[at + 1u];
    let scale = block_scale(row, block);
    return array(
        bytes(low.x) * scale, bytes(low.y) * scale, bytes(low.z) * scale, bytes(low.w) * scale,
        bytes(high.x) * scale, bytes(high.y) * scale, bytes(high.z) * scale, bytes(high.w) * scale,
    );
}

// That block times the 32 of x; the scale is applied once, to the sum.
fn weight_block_dot(
    row: u32,
    block: u32,
    x: ptr<function, array<vec4<f32>, 8>>,
    x_sums: vec2<f32>,
) -> f32 {
    let at = row * (params.weight_stride / 4u) + 2u * block;
    let low = weight_wide[at];
    let high = weight_wide[at + 1u];
    var even = bytes(low.x) * (*x)[0];
    var odd = bytes(low.y) * (*x)[1];
    even = fma(bytes(low.z), (*x)[2], even);
    odd = fma(bytes(low.w), (*x)[3], odd);
    even = fma(bytes(high.x), (*x)[4], even);
    odd = fma(bytes(high.y), (*x)[5], odd);
    even = fma(bytes(high.z), (*x)[6], even);
    odd = fma(bytes(high.w), (*x)[7], odd);
    return block_scale(row, block) * dot(even + odd, vec4(1.0));
}
