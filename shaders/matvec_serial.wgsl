// y[t] = x[t] · Wᵀ for a few tokens, where a CPU plays the GPU            (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one invocation sums four rows of one token by itself, so that there is no barrier, and takes
// x a block of 32 at a time, which serves all four: loads are what such a device is slow at.
// group.x = rows, group.y = token. Accumulates in f32.
#import linear

#import x_block
#import four_rows
#import memory_rows_serial

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
    let n_groups = (params.n_rows + 4u * WORKGROUP_SIZE - 1u) / (4u * WORKGROUP_SIZE);
    if (memory_rows(n_groups, group.x, token, lane)) {
        return;
    }
    let rows = rows_of(group.x, lane);
    // rows past the end repeat the last one and are not stored
    let source_rows = min(rows, vec4(params.n_rows - 1u));
    var sums = vec4(0.0);
    for (var block = 0u; block < (n_quads + 7u) / 8u; block++) {
        var x_now = x_block(token, block, lane);
        let halves = vec2(
            dot((x_now[0] + x_now[1]) + (x_now[2] + x_now[3]), vec4(1.0)),
            dot((x_now[4] + x_now[5]) + (x_now[6] + x_now[7]), vec4(1.0)),
        );
        sums += vec4(
            weight_block_dot(source_rows.x, block, &x_now, halves),
            weight_block_dot(source_rows.y, block, &x_now, halves),
            weight_block_dot(source_rows.z, block, &x_now, halves),
            weight_block_dot(source_rows.w, block, &x_now, halves),
        );
    }
    store_rows(token, rows, corrected(token, rows, sums));
}
