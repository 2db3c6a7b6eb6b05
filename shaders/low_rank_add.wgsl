// y[t] += D · ρ[t], the correction of q, k, v or o                       (SPEC.md section 2)
// D: [n, R] f32, already scaled by (α / r) · m_X;  ρ: [T, R] f32;  y: [T, y_stride] f32
// Plan: one invocation an element of a token.
struct Params {
    n: u32,
    n_rows: u32,     // R
    y_stride: u32,   // floats from token to token
    y_offset: u32,
    accumulate: u32, // 1: y += …, 0: y = …
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> delta: array<f32>;
@group(0) @binding(3) var<storage, read> reads: array<f32>;
@group(0) @binding(10) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    let token = id.y;
    if (i >= params.n || token >= step.n_tokens) {
        return;
    }
    var sum = 0.0;
    for (var j = 0u; j < params.n_rows; j++) {
        sum += delta[i * params.n_rows + j] * reads[token * params.n_rows + j];
    }
    let index = token * params.y_stride + params.y_offset + i;
    if (params.accumulate == 1u) {
        sum += y[index];
    }
    y[index] = sum;
}
