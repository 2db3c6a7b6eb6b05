// Parameters and bindings of every product with a weight matrix.
struct Params {
    n_rows: u32,
    n_quads: u32,       // ceil(k / 4)
    weight_stride: u32, // units of the weight format a row
    y_stride: u32,      // floats from token to token
    y_offset: u32,      // floats before the first row
    accumulate: u32,    // 1: y += …, 0: y = …
    whole_blocks: u32,  // 1: k is a multiple of 32
    gated: u32,         // 1: y = silu(gate) · up, of W's halves; 0: y = x · Wᵀ
    n_reads: u32,       // R of the correction
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
#import weight
@group(0) @binding(10) var<storage, read_write> y: array<f32>;
