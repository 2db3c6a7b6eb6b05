// A row of a state walks through the tokens: each is read, then written   (SPEC.md sections 2, 3)
// raw: [T, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// state: [layers, H_s, r, r] f32;  reads: [T, R] f32
// write_gates: [T, 6, R] f32, of which the last part is written, as memory_project does
// The row makes q and k of its head by itself, which costs nothing beside its neighbours that do the
// same. q and k are divided by their norms after the products with S. The bindings are the kernel's.
#import gates

// row: head · r + i
fn walk(row: u32) {
    let n_rows = params.num_state_heads * RANK;
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
