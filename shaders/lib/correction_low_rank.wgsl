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
