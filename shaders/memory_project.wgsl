// From the linear memory rows of a token (or of a group mean) to what the scan takes:
//   q, k = tanh then L2-normalised per state head (if normalize_qk);  v as it is
//   β = sigmoid(row + bias);  λ = 1 | 1 − β | sigmoid(row + bias)
//   keep, erase, write from β and λ by the update mode                   (SPEC.md section 2)
// raw: [items, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// projected: [items, 6, R] f32: q | k | v | keep | erase | write
// Plan: one invocation a state head of an item.
struct Params {
    num_state_heads: u32,
    raw_stride: u32,
    normalize_qk: u32,
    gates_per_head: u32, // r (rank-wise) or 1
    lambda_mode: u32,    // 0: λ = 1, 1: λ = 1 − β, 2: λ from its own rows
    erase_lambda: u32,   // 1: erase = λ·β (lambda_outside), 0: erase = β
    over_groups: u32,    // 1: items are the write groups of `layer`, 0: the chunk's tokens
    layer: u32,          // index among the wrapped layers
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [2G] beta_bias | lambda_bias
@group(0) @binding(10) var<storage, read_write> projected: array<f32>;

#import gates

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n_items = select(step.n_tokens, step.n_groups, params.over_groups == 1u);
    let item = id.x / params.num_state_heads;
    let head = id.x % params.num_state_heads;
    if (item >= n_items) {
        return;
    }
    let n_rows = params.num_state_heads * RANK;
    let first = select(0u, params.layer * step.n_groups, params.over_groups == 1u);
    let source = (first + item) * params.raw_stride;
    let target_start = item * 6u * n_rows + head * RANK;

    for (var part = 0u; part < 2u; part++) {
        var squares = 0.0;
        for (var i = 0u; i < RANK; i++) {
            var value = raw[source + part * n_rows + head * RANK + i];
            if (params.normalize_qk == 1u) {
                value = precise_tanh(value);
                squares += value * value;
            }
            projected[target_start + part * n_rows + i] = value;
        }
        if (params.normalize_qk == 1u) {
            let norm = max(sqrt(squares), 1e-6);
            for (var i = 0u; i < RANK; i++) {
                projected[target_start + part * n_rows + i] /= norm;
            }
        }
    }
    let n_gates = params.num_state_heads * params.gates_per_head;
    for (var i = 0u; i < RANK; i++) {
        let gate = head * params.gates_per_head + min(i, params.gates_per_head - 1u);
        let beta = sigmoid(raw[source + 3u * n_rows + gate] + bias[gate]);
        var lambda = 1.0;
        if (params.lambda_mode == 1u) {
            lambda = 1.0 - beta;
        } else if (params.lambda_mode == 2u) {
            lambda = sigmoid(raw[source + 3u * n_rows + n_gates + gate] + bias[n_gates + gate]);
        }
        projected[target_start + 2u * n_rows + i] = raw[source + 2u * n_rows + head * RANK + i];
        projected[target_start + 3u * n_rows + i] = lambda;
        projected[target_start + 4u * n_rows + i] = select(beta, lambda * beta, params.erase_lambda == 1u);
        projected[target_start + 5u * n_rows + i] = beta;
    }
}
