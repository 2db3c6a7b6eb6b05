// A row of a state and one token: ρ = S·q, and the write after it         (SPEC.md sections 2, 3)
//   S ← keep·S − erase·(S·k)·kᵀ + β·v·kᵀ;  q, k, v and gates from the token's linear rows
// raw: [T, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// Each row makes q and k of its head by itself, which costs nothing beside its neighbours that do the
// same. q and k are divided by their norms after the products with S. gate_bias is the kernel's.
#import gates

// The row at this place among those of params.layer.
fn state_row(row: u32) -> array<f32, RANK> {
    let start = (params.layer * params.num_state_heads * RANK + row) * RANK;
    var s: array<f32, RANK>;
    for (var j = 0u; j < RANK; j++) {
        s[j] = state[start + j];
    }
    return s;
}

// What the row reads for a token.
fn row_read(row: u32, token: u32, s: ptr<function, array<f32, RANK>>) -> f32 {
    let first = token * params.raw_stride + row / RANK * RANK;
    var read = 0.0;
    var squares = 0.0;
    for (var j = 0u; j < RANK; j++) {
        var q = raw[first + j];
        if (params.normalize_qk == 1u) {
            q = precise_tanh(q);
            squares += q * q;
        }
        read += (*s)[j] * q;
    }
    if (params.normalize_qk == 1u) {
        read /= max(sqrt(squares), 1e-6);
    }
    return read;
}

// Writes the token, if params say so, and says how strongly it is or would be written: β.
fn row_write(row: u32, token: u32, s: ptr<function, array<f32, RANK>>) -> f32 {
    let n_rows = params.num_state_heads * RANK;
    let n_gates = params.num_state_heads * params.gates_per_head;
    let gate = row / RANK * params.gates_per_head + min(row % RANK, params.gates_per_head - 1u);
    let source = token * params.raw_stride;
    let gates = source + 3u * n_rows;
    let beta = sigmoid(raw[gates + gate] + gate_bias(gate));
    if (params.writes == 0u) {
        return beta;
    }
    let first = source + n_rows + row / RANK * RANK;
    var key: array<f32, RANK>;
    var predicted = 0.0;
    var squares = 0.0;
    for (var j = 0u; j < RANK; j++) {
        var k = raw[first + j];
        if (params.normalize_qk == 1u) {
            k = precise_tanh(k);
            squares += k * k;
        }
        predicted += (*s)[j] * k;
        key[j] = k;
    }
    var norm = 1.0;
    if (params.normalize_qk == 1u) {
        norm = max(sqrt(squares), 1e-6);
    }
    var lambda = 1.0;
    if (params.lambda_mode == 1u) {
        lambda = 1.0 - beta;
    } else if (params.lambda_mode == 2u) {
        lambda = sigmoid(raw[gates + n_gates + gate] + gate_bias(n_gates + gate));
    }
    let erase = select(beta, lambda * beta, params.erase_lambda == 1u);
    let change = beta * raw[source + 2u * n_rows + row] - erase * (predicted / norm);
    for (var j = 0u; j < RANK; j++) {
        (*s)[j] = lambda * (*s)[j] + change * (key[j] / norm);
    }
    return beta;
}
