// A weight matrix stored as f16, unpacked with core WGSL so that every device can read it.
@group(0) @binding(8) var<storage, read> weight: array<vec2<u32>>; // [rows, ceil(k / 4)], 4 × f16

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let bits = weight[row * params.weight_stride + quad];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}
#import weight_blocks_of_quads
