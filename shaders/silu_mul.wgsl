// y = silu(gate) · up,  silu(z) = z · sigmoid(z)                         (SPEC.md section 1)
// gate_up: [T, gate_up_stride] f32, gate at 0 and up at n;  y: [T, y_stride] f32
// Plan: one invocation an element of a token.
struct Params {
    n: u32,
    gate_up_stride: u32,
    y_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> gate_up: array<f32>;
@group(0) @binding(10) var<storage, read_write> y: array<f32>;

#import silu

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    let token = id.y;
    if (i >= params.n || token >= step.n_tokens) {
        return;
    }
    let gate = gate_up[token * params.gate_up_stride + i];
    let up = gate_up[token * params.gate_up_stride + params.n + i];
    y[token * params.y_stride + i] = gated(gate, up);
}
