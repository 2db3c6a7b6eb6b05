// Y = X · Wᵀ for many tokens                                             (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one workgroup of 8 × 8 invocations computes a tile of 32 tokens × 32 rows, each
// invocation 4 × 4 of it; both operands pass through workgroup memory 8 quads of k at a time,
// weights dequantised on the way. group.x = row tile, group.y = token tile. Accumulates in f32.
struct Params {
    n_rows: u32,
    n_quads: u32,       // ceil(k / 4)
    weight_stride: u32, // units of the weight format a row
    y_stride: u32,      // floats from token to token
    y_offset: u32,      // floats before the first row
    accumulate: u32,    // 1: y += …, 0: y = …
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
#import weight
@group(0) @binding(10) var<storage, read_write> y: array<f32>;

const TILE: u32 = 32u;       // tokens and rows of a tile
const TILE_QUADS: u32 = 8u;  // quads of k in workgroup memory
const PITCH: u32 = 9u;       // one quad of padding, against bank conflicts

var<workgroup> x_tile: array<vec4<f32>, TILE * PITCH>;
var<workgroup> w_tile: array<vec4<f32>, TILE * PITCH>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first_token = group.y * TILE;
    let first_row = group.x * TILE;
    let column = lane % 8u; // rows column, column + 8, …
    let line = lane / 8u;   // tokens line, line + 8, …
    var sums: array<vec4<f32>, 4>; // [token][row]
    for (var start = 0u; start < params.n_quads; start += TILE_QUADS) {
        for (var i = lane; i < TILE * TILE_QUADS; i += 64u) {
            let line_in_tile = i / TILE_QUADS;
            let quad = start + i % TILE_QUADS;
            let slot = line_in_tile * PITCH + i % TILE_QUADS;
            let token = first_token + line_in_tile;
            let row = first_row + line_in_tile;
            var x_quad = vec4(0.0);
            if (token < step.n_tokens && quad < params.n_quads) {
                x_quad = x[token * params.n_quads + quad];
            }
            x_tile[slot] = x_quad;
            var w_quad = vec4(0.0);
            if (row < params.n_rows && quad < params.n_quads) {
                w_quad = weight_quad(row, quad);
            }
            w_tile[slot] = w_quad;
        }
        workgroupBarrier();
        for (var q = 0u; q < TILE_QUADS; q++) {
            let w0 = w_tile[column * PITCH + q];
            let w1 = w_tile[(column + 8u) * PITCH + q];
            let w2 = w_tile[(column + 16u) * PITCH + q];
            let w3 = w_tile[(column + 24u) * PITCH + q];
            for (var t = 0u; t < 4u; t++) {
                let input = x_tile[(line + 8u * t) * PITCH + q];
                sums[t] += vec4(dot(input, w0), dot(input, w1), dot(input, w2), dot(input, w3));
            }
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < 4u; t++) {
        let token = first_token + line + 8u * t;
        for (var r = 0u; r < 4u; r++) {
            let row = first_row + column + 8u * r;
            if (token < step.n_tokens && row < params.n_rows) {
                let index = token * params.y_stride + params.y_offset + row;
                if (params.accumulate == 1u) {
                    y[index] += sums[t][r];
                } else {
                    y[index] = sums[t][r];
                }
            }
        }
    }
}
