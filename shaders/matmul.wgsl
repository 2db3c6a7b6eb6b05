// Y = X · Wᵀ for many tokens                                             (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one workgroup of 8 × 8 invocations computes a tile of 64 tokens × 64 rows, each invocation
// 8 × 8 of it in registers; both operands pass through workgroup memory 4 quads of k at a time,
// weights dequantised on the way, 4 quads of one row an invocation. Every 16 quads read from there
// serve 256 multiplications. group.x = row tile, group.y = token tile. Accumulates in f32.
#import linear

const TILE: u32 = 64u;       // tokens and rows of a tile
const TILE_QUADS: u32 = 4u;  // quads of k in workgroup memory

var<workgroup> x_tile: array<vec4<f32>, TILE * TILE_QUADS>;
var<workgroup> w_tile: array<vec4<f32>, TILE * TILE_QUADS>;

// Where a quad of a line lies: eight neighbouring lines' are in different banks.
fn slot(line: u32, quad: u32) -> u32 {
    return line * TILE_QUADS + (quad ^ ((line / 2u) % TILE_QUADS));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // not a bound that is a uniform alone: lavapipe would compile anew at every dispatch
    let n_quads = min(params.n_quads, arrayLength(&x));
    let first_token = group.y * TILE;
    let first_row = group.x * TILE;
    let column = lane % 8u; // rows column, column + 8, …
    let line = lane / 8u;   // tokens line, line + 8, …
    let own_row = min(first_row + lane, params.n_rows - 1u); // past the end: not stored
    var near: array<vec4<f32>, 8>; // [token], rows column, … column + 24
    var far: array<vec4<f32>, 8>;  // [token], rows column + 32, … column + 56
    for (var start = 0u; start < n_quads; start += TILE_QUADS) {
        for (var i = 0u; i < TILE_QUADS; i++) {
            // of x, four neighbours read what lies together
            let x_line = lane / TILE_QUADS + i * (64u / TILE_QUADS);
            let x_quad = start + lane % TILE_QUADS;
            let token = first_token + x_line;
            var input = vec4(0.0);
            if (token < step.n_tokens && x_quad < n_quads) {
                input = x[token * n_quads + x_quad];
            }
            x_tile[slot(x_line, lane % TILE_QUADS)] = input;
            var w = vec4(0.0);
            if (start + i < n_quads) {
                w = weight_quad(own_row, start + i);
            }
            w_tile[slot(lane, i)] = w;
        }
        workgroupBarrier();
        for (var q = 0u; q < TILE_QUADS; q++) {
            let w0 = w_tile[slot(column, q)];
            let w1 = w_tile[slot(column + 8u, q)];
            let w2 = w_tile[slot(column + 16u, q)];
            let w3 = w_tile[slot(column + 24u, q)];
            let w4 = w_tile[slot(column + 32u, q)];
            let w5 = w_tile[slot(column + 40u, q)];
            let w6 = w_tile[slot(column + 48u, q)];
            let w7 = w_tile[slot(column + 56u, q)];
            for (var t = 0u; t < 8u; t++) {
                let input = x_tile[slot(line + 8u * t, q)];
                near[t] = fma(vec4(input.x), vec4(w0.x, w1.x, w2.x, w3.x), near[t]);
                far[t] = fma(vec4(input.x), vec4(w4.x, w5.x, w6.x, w7.x), far[t]);
                near[t] = fma(vec4(input.y), vec4(w0.y, w1.y, w2.y, w3.y), near[t]);
                far[t] = fma(vec4(input.y), vec4(w4.y, w5.y, w6.y, w7.y), far[t]);
                near[t] = fma(vec4(input.z), vec4(w0.z, w1.z, w2.z, w3.z), near[t]);
                far[t] = fma(vec4(input.z), vec4(w4.z, w5.z, w6.z, w7.z), far[t]);
                near[t] = fma(vec4(input.w), vec4(w0.w, w1.w, w2.w, w3.w), near[t]);
                far[t] = fma(vec4(input.w), vec4(w4.w, w5.w, w6.w, w7.w), far[t]);
            }
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < 8u; t++) {
        let token = first_token + line + 8u * t;
        for (var r = 0u; r < 8u; r++) {
            let row = first_row + column + 8u * r;
            if (token < step.n_tokens && row < params.n_rows) {
                let index = token * params.y_stride + params.y_offset + row;
                let sum = select(far[t][r % 4u], near[t][r % 4u], r < 4u);
                if (params.accumulate == 1u) {
                    y[index] += sum;
                } else {
                    y[index] = sum;
                }
            }
        }
    }
}
