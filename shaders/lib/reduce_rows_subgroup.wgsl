// Sums of ROWS rows over one workgroup, all at once, with subgroup operations and one barrier: one
// value a row and subgroup goes through workgroup memory. Once in a kernel's run, by all
// invocations, in uniform control flow.
var<workgroup> row_parts: array<f32, ROWS * WORKGROUP_SIZE>;

// Returns what row_sum wants.
fn reduce_rows(lane: u32, values: ptr<function, array<f32, ROWS>>) -> u32 {
    let size = subgroupAdd(1u);
    let first = subgroupBroadcastFirst(lane);
    for (var i = 0u; i < ROWS; i++) {
        let part = subgroupAdd((*values)[i]);
        if (lane == first) {
            row_parts[first / size * ROWS + i] = part;
        }
    }
    workgroupBarrier();
    return WORKGROUP_SIZE / size;
}

// The sum of row i, for any invocation.
fn row_sum(i: u32, n_parts: u32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < n_parts; part++) {
        sum += row_parts[part * ROWS + i];
    }
    return sum;
}
