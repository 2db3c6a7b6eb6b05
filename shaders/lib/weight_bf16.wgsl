// A weight matrix stored as bf16, the upper halves of f32.
@group(0) @binding(8) var<storage, read> weight: array<vec2<u32>>; // [rows, ceil(k / 4)], 4 × bf16

#import bf16

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    return from_bf16(weight[row * params.weight_stride + quad]);
}
#import weight_blocks_of_quads
