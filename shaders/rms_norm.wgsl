// y = w · x / sqrt(mean(x²) + eps), mean over a row                      (SPEC.md section 1)
// Rows are parts of a token: the whole hidden vector, one query or key head, or Δo.
// x: [T, rows_per_token, dim] f32 with strides;  w: [dim] f32;  y: like x, with its own strides
// Plan: one workgroup a row; group.x = row in the token, group.y = token. Accumulates in f32.
struct Params {
    dim: u32,
    x_stride: u32,   // floats from token to token
    x_offset: u32,   // floats before the first row
    y_stride: u32,
    y_offset: u32,
    eps: f32,
    accumulate: u32, // 1: y += …, 0: y = …
    last_only: u32,  // 1: only the chunk's last token, into the first row of y
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>; // [dim]
@group(0) @binding(10) var<storage, read_write> y: array<f32>;

#import reduce

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (group.y >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    let token = select(group.y, step.n_tokens - 1u, params.last_only == 1u);
    let x_start = token * params.x_stride + params.x_offset + group.x * params.dim;
    let y_start = group.y * params.y_stride + params.y_offset + group.x * params.dim;
    var squares = 0.0;
    for (var i = lane; i < params.dim; i += WORKGROUP_SIZE) {
        let value = x[x_start + i];
        squares += value * value;
    }
    let mean = reduce_add(lane, squares) / f32(params.dim);
    let scale = 1.0 / sqrt(mean + params.eps);
    for (var i = lane; i < params.dim; i += WORKGROUP_SIZE) {
        var value = weight[i] * (x[x_start + i] * scale);
        if (params.accumulate == 1u) {
            value += y[y_start + i];
        }
        y[y_start + i] = value;
    }
}
