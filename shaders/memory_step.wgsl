// memory_project and memory_scan or memory_read in one, for a few tokens (SPEC.md sections 2, 3)
//   for each token in order: q, k, v and gates from its linear rows;  ρ = S·q;  then the write
// raw: [T, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// state: [layers, H_s, r, r] f32;  reads: [T, R] f32
// write_gates: [T, 6, R] f32, of which the last part is written, as memory_project does
// Plan: one invocation a row of a state head. It makes q and k of its head by itself, which costs
// nothing beside its neighbours that do the same, keeps its row in registers and walks through the
// tokens; no barriers. q and k are divided by their norms after the products with S.
struct Params {
    num_state_heads: u32,
    raw_stride: u32,
    normalize_qk: u32,
    gates_per_head: u32, // r (rank-wise) or 1
    lambda_mode: u32,    // 0: λ = 1, 1: λ = 1 − β, 2: λ from its own rows
    erase_lambda: u32,   // 1: erase = λ·β (lambda_outside), 0: erase = β
    writes: u32,         // 1: S changes, 0: it is only read
    layer: u32,          // index among the wrapped layers
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [2G] beta_bias | lambda_bias
@group(0) @binding(10) var<storage, read_write> state: array<f32>;
@group(0) @binding(11) var<storage, read_write> reads: array<f32>;
@group(0) @binding(12) var<storage, read_write> write_gates: array<f32>;

#import gates

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n_rows = params.num_state_heads * RANK;
    let row = id.x; // head · r + i
    if (row >= n_rows) {
        return;
    }
    let head_start = row / RANK * RANK;
    let n_gates = params.num_state_heads * params.gates_per_head;
    let gate = row / RANK * params.gates_per_head + min(row % RANK, params.gates_per_head - 1u);
    let state_start = (params.layer * n_rows + row) * RANK;
    var s: array<f32, RANK>;
    for (var j = 0u; j < RANK; j++) {
        s[j] = state[state_start + j];
    }
    for (var token = 0u; token < step.n_tokens; token++) {
        let source = token * params.raw_stride;
        var key: array<f32, RANK>;
        var read = 0.0;
        var predicted = 0.0;
        var squares = vec2(0.0);
        for (var j = 0u; j < RANK; j++) {
            var q = raw[source + head_start + j];
            var k = raw[source + n_rows + head_start + j];
            if (params.normalize_qk == 1u) {
                q = precise_tanh(q);
                k = precise_tanh(k);
                squares += vec2(q * q, k * k);
            }
            read += s[j] * q;
            predicted += s[j] * k;
            key[j] = k;
        }
        var norms = vec2(1.0);
        if (params.normalize_qk == 1u) {
            norms = max(sqrt(squares), vec2(1e-6));
        }
        reads[token * n_rows + row] = read / norms.x;

        let gates = source + 3u * n_rows;
        let beta = sigmoid(raw[gates + gate] + bias[gate]);
        write_gates[(6u * token + 5u) * n_rows + row] = beta;
        if (params.writes == 1u) {
            var lambda = 1.0;
            if (params.lambda_mode == 1u) {
                lambda = 1.0 - beta;
            } else if (params.lambda_mode == 2u) {
                lambda = sigmoid(raw[gates + n_gates + gate] + bias[n_gates + gate]);
            }
            let erase = select(beta, lambda * beta, params.erase_lambda == 1u);
            let value = raw[source + 2u * n_rows + row];
            let change = beta * value - erase * (predicted / norms.y);
            for (var j = 0u; j < RANK; j++) {
                s[j] = lambda * s[j] + change * (key[j] / norms.y);
            }
        }
    }
    if (params.writes == 1u) {
        for (var j = 0u; j < RANK; j++) {
            state[state_start + j] = s[j];
        }
    }
}
