// Which ROWS rows of W a workgroup has, and where their sums go.
#import silu
#import correction

// The i-th row of a workgroup.
fn row_of(group: u32, i: u32) -> u32 {
    if (params.gated == 1u) {
        // first rows of gate, then the same rows of up
        const HALF_ROWS = ROWS / 2u;
        return group * HALF_ROWS + i % HALF_ROWS + i / HALF_ROWS * (params.n_rows / 2u);
    }
    return group * ROWS + i;
}

fn store(token: u32, row: u32, n_rows: u32, value: f32) {
    if (row < n_rows) {
        let index = token * params.y_stride + params.y_offset + row;
        if (params.accumulate == 1u) {
            y[index] = y[index] + value + correction(token, row);
        } else {
            y[index] = value + correction(token, row);
        }
    }
}

// Adds up what the invocations have of each row, and writes it.
fn store_rows(token: u32, group: u32, lane: u32, sums: ptr<function, array<f32, ROWS>>) {
    let n_parts = reduce_rows(lane, sums);
    if (params.gated == 1u) {
        for (var i = lane; i < ROWS / 2u; i += WORKGROUP_SIZE) {
            let value = gated(row_sum(i, n_parts), row_sum(i + ROWS / 2u, n_parts));
            store(token, row_of(group, i), params.n_rows / 2u, value);
        }
    } else {
        for (var i = lane; i < ROWS; i += WORKGROUP_SIZE) {
            store(token, row_of(group, i), params.n_rows, row_sum(i, n_parts));
        }
    }
}
