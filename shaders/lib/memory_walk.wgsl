// A row of a state walks through the tokens: each is read, then written   (SPEC.md sections 2, 3)
// state: [layers, H_s, r, r] f32;  reads: [T, R] f32
// write_gates: [T, 6, R] f32, of which the last part is written, as memory_project does
// The bindings are the kernel's.
#import row_read
#import row_write

fn walk(row: u32) {
    let n_rows = params.num_state_heads * RANK;
    let first = params.layer * n_rows + row;
    var s = state_row(first);
    for (var token = 0u; token < step.n_tokens; token++) {
        let source = token * params.raw_stride;
        reads[token * n_rows + row] = row_read(row, source, &s);
        write_gates[(6u * token + 5u) * n_rows + row] = row_write(row, source, &s);
    }
    if (params.writes == 1u) {
        for (var j = 0u; j < RANK; j++) {
            state[first * RANK + j] = s[j];
        }
    }
}
