// y[t] = x[t] · Wᵀ for a few tokens                                      (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one workgroup computes ROWS_PER_WORKGROUP rows of one token, its invocations stride
// through k; group.x = rows, group.y = token. Accumulates in f32.
#import linear

#import reduce_rows

const ROWS: u32 = ROWS_PER_WORKGROUP;

#import group_rows
#import memory_rows_reduce

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // not a bound that is a uniform alone: lavapipe would compile anew at every dispatch
    let n_quads = min(params.n_quads, arrayLength(&x));
    let token = group.y;
    if (token >= step.n_tokens) {
        return; // a step after the end of a reply
    }
    if (memory_rows((params.n_rows + ROWS - 1u) / ROWS, group.x, token, lane)) {
        return;
    }
    let last_row = params.n_rows - 1u;
    var sums: array<f32, ROWS>;
    for (var quad = lane; quad < n_quads; quad += WORKGROUP_SIZE) {
        let input = x[token * n_quads + quad];
        for (var i = 0u; i < ROWS; i++) {
            // rows past the end repeat the last one and are not stored
            sums[i] += dot(weight_quad(min(row_of(group.x, i), last_row), quad), input);
        }
    }
    store_rows(token, group.x, lane, &sums);
}
