// Sums of ROWS rows over one workgroup, all at once, for every device: values go through workgroup
// memory, then WORKGROUP_SIZE / ROWS invocations share a row. Two barriers, whatever the sizes are. Once
// in a kernel's run, by all invocations, in uniform control flow. ROWS divides WORKGROUP_SIZE.
const PARTS: u32 = WORKGROUP_SIZE / ROWS;
const PARTS_STRIDE: u32 = WORKGROUP_SIZE + PARTS; // neighbouring rows are in different banks

var<workgroup> row_parts: array<f32, ROWS * PARTS_STRIDE>;

// Returns what row_sum wants.
fn reduce_rows(lane: u32, values: ptr<function, array<f32, ROWS>>) -> u32 {
    for (var i = 0u; i < ROWS; i++) {
        row_parts[i * PARTS_STRIDE + lane] = (*values)[i];
    }
    workgroupBarrier();
    let own = lane / PARTS * PARTS_STRIDE + lane % PARTS;
    var sum = 0.0;
    for (var i = 0u; i < ROWS; i++) {
        sum += row_parts[own + i * PARTS];
    }
    row_parts[own] = sum; // nobody else reads this one
    workgroupBarrier();
    return PARTS;
}

// The sum of row i, for any invocation.
fn row_sum(i: u32, n_parts: u32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < n_parts; part++) {
        sum += row_parts[i * PARTS_STRIDE + part];
    }
    return sum;
}
