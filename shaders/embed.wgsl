// x[t] = E[token[t]]                                                    (SPEC.md section 1)
// E: [vocab, h] in any weight format, here the rows row_start .. row_start + n_rows of it
// x: [T, h] f32, rows padded to whole quads
// Plan: one invocation a quad of a token; rows of another part of a split table are left alone.
struct Params {
    n_quads: u32,       // ceil(h / 4)
    row_start: u32,     // first vocabulary row in this part
    n_rows: u32,        // vocabulary rows in this part
    weight_stride: u32, // units of the weight format a row
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> tokens: array<u32>; // [T]
#import weight
@group(0) @binding(10) var<storage, read_write> x: array<vec4<f32>>; // [T, n_quads]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quad = id.x;
    let token = id.y;
    if (quad >= params.n_quads || token >= step.n_tokens) {
        return;
    }
    let row = tokens[token] - params.row_start; // wraps to a huge number for earlier parts
    if (row < params.n_rows) {
        x[token * params.n_quads + quad] = weight_quad(row, quad);
    }
}
