// y[t] = x[t] · Wᵀ for a few tokens and weights that are numbers one after the other, where a CPU
// without shuffles plays the GPU                                          (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] f16 or f32
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one invocation sums four rows of one token by itself, as in matvec_serial, but a quad at a
// time: such a device compiles slowly, and these formats have nothing that a block would share.
// group.x = rows, group.y = token. Accumulates in f32.
#import linear

#import four_rows
#import memory_rows_quads

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
    for (var quad = 0u; quad < n_quads; quad++) {
        let input = x[token * n_quads + quad];
        sums += vec4(
            dot(weight_quad(source_rows.x, quad), input),
            dot(weight_quad(source_rows.y, quad), input),
            dot(weight_quad(source_rows.z, quad), input),
            dot(weight_quad(source_rows.w, quad), input),
        );
    }
    store_rows(token, rows, corrected(token, rows, sums));
}
