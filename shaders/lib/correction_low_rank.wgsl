// D · ρ[t] of the memory, which goes where a product goes (SPEC.md section 2).
// R is a multiple of 4 here.
@group(0) @binding(3) var<storage, read> delta: array<vec4<f32>>; // [rows, R / 4], scaled
@group(0) @binding(4) var<storage, read> reads: array<vec4<f32>>; // [T, R / 4]

// Of a token's row, which is counted in this part of the product.
fn correction(token: u32, row: u32) -> f32 {
    let n_quads = params.n_reads / 4u;
    var sum = 0.0;
    for (var i = 0u; i < n_quads; i++) {
        sum += dot(delta[(params.y_offset + row) * n_quads + i], reads[token * n_quads + i]);
    }
    return sum;
}

// The same for four rows at a time and a quad i of the reads after the other, so that several rows or
// tokens share what is loaded: read · columns.
fn correction_quads() -> u32 {
    return params.n_reads / 4u;
}

fn correction_read(token: u32, i: u32) -> vec4<f32> {
    return reads[token * (params.n_reads / 4u) + i];
}

// A column a row; rows past the end repeat the last one.
fn correction_columns(rows: vec4<u32>, i: u32) -> mat4x4<f32> {
    let held = min(rows, vec4(params.n_rows - 1u));
    let quads = (held + params.y_offset) * (params.n_reads / 4u) + i;
    return mat4x4(delta[quads.x], delta[quads.y], delta[quads.z], delta[quads.w]);
}
