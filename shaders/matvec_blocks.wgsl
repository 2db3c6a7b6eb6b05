// y[t] = x[t] · Wᵀ for a few tokens, W in blocks                          (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in a quantised format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one workgroup computes eight rows of one token; its invocations stride through k a block of
// 32 at a time, so that a row's weights are read once, 16 bytes an invocation and side by side, and
// a block of x serves eight rows. group.x = rows, group.y = token. Accumulates in f32.
#import linear

#import x_block
#import reduce_rows

const ROWS: u32 = 8u;

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
    for (var block = lane; block < (n_quads + 7u) / 8u; block += WORKGROUP_SIZE) {
        var x_now = x_block(token, block, lane);
        let halves = vec2(
            dot((x_now[0] + x_now[1]) + (x_now[2] + x_now[3]), vec4(1.0)),
            dot((x_now[4] + x_now[5]) + (x_now[6] + x_now[7]), vec4(1.0)),
        );
        for (var i = 0u; i < ROWS; i++) {
            // rows past the end repeat the last one and are not stored
            sums[i] += weight_block_dot(min(row_of(group.x, i), last_row), block, &x_now, halves);
        }
    }
    store_rows(token, group.x, lane, &sums);
}
