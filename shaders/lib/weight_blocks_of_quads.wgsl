// Blocks of 32 elements for the formats that have none of their own (f32, f16).
// Elements 32·block .. 32·block + 31 of a row; past its end lie numbers of other rows.
fn weight_block(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let quad = 8u * block;
    return array(
        weight_quad(row, quad), weight_quad(row, quad + 1u),
        weight_quad(row, quad + 2u), weight_quad(row, quad + 3u),
        weight_quad(row, quad + 4u), weight_quad(row, quad + 5u),
        weight_quad(row, quad + 6u), weight_quad(row, quad + 7u),
    );
}

// That block times the 32 of x, which are zero past the row's end.
fn weight_block_dot(
    row: u32,
    block: u32,
    x: ptr<function, array<vec4<f32>, 8>>,
    x_sums: vec2<f32>,
) -> f32 {
    let w = weight_block(row, block);
    var even = w[0] * (*x)[0];
    var odd = w[1] * (*x)[1];
    even = fma(w[2], (*x)[2], even);
    odd = fma(w[3], (*x)[3], odd);
    even = fma(w[4], (*x)[4], even);
    odd = fma(w[5], (*x)[5], odd);
    even = fma(w[6], (*x)[6], even);
    odd = fma(w[7], (*x)[7], odd);
    return dot(even + odd, vec4(1.0));
}
