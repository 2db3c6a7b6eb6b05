// A weight matrix stored as f32: [rows, row_quads] vec4, rows padded with zeros to whole quads.
@group(0) @binding(8) var<storage, read> weight: array<vec4<f32>>; // [rows, ceil(k / 4)]

// Elements 4·quad .. 4·quad + 3 of a row.
fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    return weight[row * params.weight_stride + quad];
}
#import weight_blocks_of_quads
