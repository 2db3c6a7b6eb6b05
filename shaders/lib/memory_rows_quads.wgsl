// The memory's linear rows M · x, by the workgroups behind those of W: one row an invocation, a
// quad at a time (SPEC.md section 2).
@group(0) @binding(11) var<storage, read_write> raw: array<f32>; // [T, n]

#import memory_weight

// True if this workgroup, of which `first` have rows of W, has memory rows.
fn memory_rows(first: u32, group: u32, token: u32, lane: u32) -> bool {
    if (group < first) {
        return false;
    }
    let n_quads = min(params.n_quads, arrayLength(&x));
    let n_rows = arrayLength(&memory_weight) / n_quads;
    let row = (group - first) * WORKGROUP_SIZE + lane;
    // rows past the end repeat the last one and are not stored
    let start = min(row, n_rows - 1u) * n_quads;
    var sum = 0.0;
    for (var quad = 0u; quad < n_quads; quad++) {
        sum += dot(memory_quad(start + quad), x[token * n_quads + quad]);
    }
    if (row < n_rows) {
        raw[token * n_rows + row] = sum;
    }
    return true;
}
