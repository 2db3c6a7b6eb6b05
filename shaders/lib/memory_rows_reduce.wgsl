// The memory's linear rows M · x, by the workgroups behind those of W: ROWS rows each, its
// invocations stride through k (SPEC.md section 2).
@group(0) @binding(11) var<storage, read_write> raw: array<f32>; // [T, n]

#import memory_weight

// True if this workgroup, of which `first` have rows of W, has memory rows.
fn memory_rows(first: u32, group: u32, token: u32, lane: u32) -> bool {
    if (group < first) {
        return false;
    }
    let n_quads = min(params.n_quads, arrayLength(&x));
    let n_rows = arrayLength(&memory_weight) / n_quads;
    let first_row = (group - first) * ROWS;
    var sums: array<f32, ROWS>;
    for (var quad = lane; quad < n_quads; quad += WORKGROUP_SIZE) {
        let input = x[token * n_quads + quad];
        for (var i = 0u; i < ROWS; i++) {
            // rows past the end repeat the last one and are not stored
            sums[i] += dot(memory_quad(min(first_row + i, n_rows - 1u) * n_quads + quad), input);
        }
    }
    let n_parts = reduce_rows(lane, &sums);
    for (var i = lane; i < min(ROWS, n_rows - first_row); i += WORKGROUP_SIZE) {
        raw[token * n_rows + first_row + i] = row_sum(i, n_parts);
    }
    return true;
}
