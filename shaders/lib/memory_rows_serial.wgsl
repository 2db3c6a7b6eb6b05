// The memory's linear rows M · x, f32, by the workgroups behind those of W: one row an invocation, so
// that there is no barrier (SPEC.md section 2).
@group(0) @binding(3) var<storage, read> memory_weight: array<vec4<f32>>; // [n, ceil(k / 4)]
@group(0) @binding(11) var<storage, read_write> raw: array<f32>; // [T, n]

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
    var even = vec4(0.0);
    var odd = vec4(0.0);
    for (var block = 0u; block < (n_quads + 7u) / 8u; block++) {
        let input = x_block(token, block, lane); // zeros past the end
        let quad = start + 8u * block;
        even = fma(input[0], memory_weight[quad], even);
        odd = fma(input[1], memory_weight[quad + 1u], odd);
        even = fma(input[2], memory_weight[quad + 2u], even);
        odd = fma(input[3], memory_weight[quad + 3u], odd);
        even = fma(input[4], memory_weight[quad + 4u], even);
        odd = fma(input[5], memory_weight[quad + 5u], odd);
        even = fma(input[6], memory_weight[quad + 6u], even);
        odd = fma(input[7], memory_weight[quad + 7u], odd);
    }
    if (row < n_rows) {
        raw[token * n_rows + row] = dot(even + odd, vec4(1.0));
    }
    return true;
}
