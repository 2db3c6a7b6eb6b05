// The memory's linear rows M · x, by the workgroups behind those of W: one row an invocation, so
// that there is no barrier (SPEC.md section 2).
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
    for (var block = 0u; block < (n_quads + 7u) / 8u; block++) {
        let input = x_block(token, block, lane); // zeros past the end
        let quad = start + 8u * block;
        // in the order of lib/weight_blocks_of_quads, so that rows of a matrix in parts are the same
        var even = memory_quad(quad) * input[0];
        var odd = memory_quad(quad + 1u) * input[1];
        even = fma(memory_quad(quad + 2u), input[2], even);
        odd = fma(memory_quad(quad + 3u), input[3], odd);
        even = fma(memory_quad(quad + 4u), input[4], even);
        odd = fma(memory_quad(quad + 5u), input[5], odd);
        even = fma(memory_quad(quad + 6u), input[6], even);
        odd = fma(memory_quad(quad + 7u), input[7], odd);
        sum += dot(even + odd, vec4(1.0));
    }
    if (row < n_rows) {
        raw[token * n_rows + row] = sum;
    }
    return true;
}
