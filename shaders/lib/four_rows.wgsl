// Which four rows of W an invocation has, and where their sums go. Neighbours have neighbouring rows.
#import silu
#import correction

fn rows_of(group: u32, lane: u32) -> vec4<u32> {
    if (params.gated == 1u) {
        // two of gate, and the same two of up
        let row = group * (2u * WORKGROUP_SIZE) + lane;
        let up = params.n_rows / 2u + row;
        return vec4(row, row + WORKGROUP_SIZE, up, up + WORKGROUP_SIZE);
    }
    let row = group * (4u * WORKGROUP_SIZE) + lane;
    return vec4(row, row + WORKGROUP_SIZE, row + 2u * WORKGROUP_SIZE, row + 3u * WORKGROUP_SIZE);
}

// A token's sums with its correction.
fn corrected(token: u32, rows: vec4<u32>, sums: vec4<f32>) -> vec4<f32> {
    var all = sums;
    for (var i = 0u; i < correction_quads(); i++) {
        all += correction_read(token, i) * correction_columns(rows, i);
    }
    return all;
}

fn store(token: u32, row: u32, n_rows: u32, value: f32) {
    if (row < n_rows) {
        let index = token * params.y_stride + params.y_offset + row;
        if (params.accumulate == 1u) {
            y[index] = y[index] + value;
        } else {
            y[index] = value;
        }
    }
}

fn store_rows(token: u32, rows: vec4<u32>, sums: vec4<f32>) {
    if (params.gated == 1u) {
        let n_rows = params.n_rows / 2u;
        store(token, rows.x, n_rows, gated(sums.x, sums.z));
        store(token, rows.y, n_rows, gated(sums.y, sums.w));
    } else {
        store(token, rows.x, params.n_rows, sums.x);
        store(token, rows.y, params.n_rows, sums.y);
        store(token, rows.z, params.n_rows, sums.z);
        store(token, rows.w, params.n_rows, sums.w);
    }
}
