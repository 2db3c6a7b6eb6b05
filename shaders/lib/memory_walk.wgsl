// A row of a state walks through the tokens: each is read, then written   (SPEC.md sections 2, 3)
// state: [layers, H_s, r, r] f32;  reads: [T, R] f32
// write_gates: [T, 6, R] f32, of which the last part is written, as memory_project does
// The bindings are the kernel's.
#import memory_row

fn gate_bias(i: u32) -> f32 {
    return bias[i];
}

fn walk(row: u32) {
    let n_rows = params.num_state_heads * RANK;
    var s = state_row(row);
    for (var token = 0u; token < step.n_tokens; token++) {
        reads[token * n_rows + row] = row_read(row, token, &s);
        write_gates[(6u * token + 5u) * n_rows + row] = row_write(row, token, &s);
    }
    if (params.writes == 1u) {
        let start = (params.layer * n_rows + row) * RANK;
        for (var j = 0u; j < RANK; j++) {
            state[start + j] = s[j];
        }
    }
}
