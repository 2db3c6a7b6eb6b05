// A row of a state and what it reads for a token: ρ = S·q               (SPEC.md sections 2, 3)
// raw: [T, raw_stride] f32: m_q first, R;  state: [layers, H_s, r, r] f32
// Each row makes q of its head by itself, which costs nothing beside its neighbours that do the same. q
// is divided by its norm after the product with S.
#import gates

// A row, counted through all heads of all layers.
fn state_row(row: u32) -> array<f32, RANK> {
    var s: array<f32, RANK>;
    for (var j = 0u; j < RANK; j++) {
        s[j] = state[row * RANK + j];
    }
    return s;
}

// source: floats before the token's linear rows; row: within the layer.
fn row_read(row: u32, source: u32, s: ptr<function, array<f32, RANK>>) -> f32 {
    let first = source + row / RANK * RANK;
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

