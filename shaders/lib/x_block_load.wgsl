// The elements 32·block .. 32·block + 31 of a token of x; zeros past its end.
fn x_quad(token: u32, quad: u32) -> vec4<f32> {
    if (params.whole_blocks == 1u) {
        return x[token * params.n_quads + quad];
    }
    // a quad past the end may be another token's, and a quantised zero times that need not be zero
    let index = token * params.n_quads + min(quad, params.n_quads - 1u);
    return select(vec4(0.0), x[index], quad < params.n_quads);
}

fn x_block(token: u32, block: u32, lane: u32) -> array<vec4<f32>, 8> {
    let quad = 8u * block;
    return array(
        x_quad(token, quad), x_quad(token, quad + 1u),
        x_quad(token, quad + 2u), x_quad(token, quad + 3u),
        x_quad(token, quad + 4u), x_quad(token, quad + 5u),
        x_quad(token, quad + 6u), x_quad(token, quad + 7u),
    );
}
