// Y = X · Wᵀ for many tokens, where a CPU plays the GPU                   (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one invocation computes 8 tokens × 4 rows by itself, so that there is no barrier; each quad
// of weights serves the tokens, each quad of x the rows. A short loop, because such a device also
// compiles slowly. group.x = rows, group.y = tile of tokens. Accumulates in f32.
#import linear

#import four_rows

const TOKENS: u32 = 8u;

// A quad of x times a quad of each of four rows, added to their sums.
fn step_of(input: vec4<f32>, w: mat4x4<f32>, sums: vec4<f32>) -> vec4<f32> {
    let sum = fma(vec4(input.x), w[0], sums);
    return fma(vec4(input.w), w[3], fma(vec4(input.z), w[2], fma(vec4(input.y), w[1], sum)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // not a bound that is a uniform alone: lavapipe would compile anew at every dispatch
    let n_quads = min(params.n_quads, arrayLength(&x));
    let token = group.y * TOKENS;
    let own_rows = rows_of(group.x, lane);
    // tokens and rows past the end repeat the last one and are not stored
    let rows = min(own_rows, vec4(params.n_rows - 1u));
    let near = min(vec4(token) + vec4(0u, 1u, 2u, 3u), vec4(step.n_tokens - 1u)) * n_quads;
    let far = min(vec4(token) + vec4(4u, 5u, 6u, 7u), vec4(step.n_tokens - 1u)) * n_quads;
    var sums0 = vec4(0.0);
    var sums1 = vec4(0.0);
    var sums2 = vec4(0.0);
    var sums3 = vec4(0.0);
    var sums4 = vec4(0.0);
    var sums5 = vec4(0.0);
    var sums6 = vec4(0.0);
    var sums7 = vec4(0.0);
    for (var quad = 0u; quad < n_quads; quad++) {
        let w = transpose(mat4x4(
            weight_quad(rows.x, quad),
            weight_quad(rows.y, quad),
            weight_quad(rows.z, quad),
            weight_quad(rows.w, quad),
        ));
        sums0 = step_of(x[near.x + quad], w, sums0);
        sums1 = step_of(x[near.y + quad], w, sums1);
        sums2 = step_of(x[near.z + quad], w, sums2);
        sums3 = step_of(x[near.w + quad], w, sums3);
        sums4 = step_of(x[far.x + quad], w, sums4);
        sums5 = step_of(x[far.y + quad], w, sums5);
        sums6 = step_of(x[far.z + quad], w, sums6);
        sums7 = step_of(x[far.w + quad], w, sums7);
    }
    // in a loop, because the device compiles what is written eight times eight times
    var sums = array(sums0, sums1, sums2, sums3, sums4, sums5, sums6, sums7);
    for (var i = token; i < min(token + TOKENS, step.n_tokens); i++) {
        store_rows(i, own_rows, sums[i - token]);
    }
}
