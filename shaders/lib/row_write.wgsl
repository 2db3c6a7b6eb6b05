// A row of a state and the write of a token                             (SPEC.md sections 2, 3)
//   S ← keep·S − erase·(S·k)·kᵀ + β·v·kᵀ;  k, v and gates from the token's linear rows
// raw: [T, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// Each row makes k of its head by itself, and divides it by its norm after the product with S.
#import gates

// Writes the token, if params say so, and says how strongly it is or would be written: β.
fn row_write(row: u32, source: u32, s: ptr<function, array<f32, RANK>>) -> f32 {
    let n_rows = params.num_state_heads * RANK;
    let n_gates = params.num_state_heads * params.gates_per_head;
    let gate = row / RANK * params.gates_per_head + min(row % RANK, params.gates_per_head - 1u);
    let gates = source + 3u * n_rows;
    let beta = sigmoid(raw[gates + gate] + bias[gate]);
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
        lambda = sigmoid(raw[gates + n_gates + gate] + bias[n_gates + gate]);
    }
    let erase = select(beta, lambda * beta, params.erase_lambda == 1u);
    let change = beta * raw[source + 2u * n_rows + row] - erase * (predicted / norm);
    for (var j = 0u; j < RANK; j++) {
        (*s)[j] = lambda * (*s)[j] + change * (key[j] / norm);
    }
    return beta;
}
