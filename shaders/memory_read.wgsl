// ρ_t = S · q_t for all tokens, the state is left alone                  (SPEC.md section 3)
// Used in read-only calls and while group writes wait for the end of the call.
// projected: [T, 6, R] f32 from memory_project (its q part);  state: [layers, H_s, r, r] f32
// reads: [T, R] f32
// Plan: one invocation a row of a token's read.
struct Params {
    num_state_heads: u32,
    layer: u32, // index among the wrapped layers
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> projected: array<f32>;
@group(0) @binding(3) var<storage, read> state: array<f32>;
@group(0) @binding(10) var<storage, read_write> reads: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n_rows = params.num_state_heads * RANK;
    let token = id.x / n_rows;
    let row = id.x % n_rows;
    if (token >= step.n_tokens) {
        return;
    }
    let q = token * 6u * n_rows + row / RANK * RANK;
    let state_start = (params.layer * n_rows + row) * RANK;
    var read = 0.0;
    for (var j = 0u; j < RANK; j++) {
        read += state[state_start + j] * projected[q + j];
    }
    reads[token * n_rows + row] = read;
}
