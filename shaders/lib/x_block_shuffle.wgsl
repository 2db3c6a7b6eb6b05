// The elements 32·block .. 32·block + 31 of a token of x; zeros past its end. Each of a workgroup's
// eight invocations, which are one subgroup or part of one, loads an eighth and hands it round.
fn x_block(token: u32, block: u32, lane: u32) -> array<vec4<f32>, 8> {
    let quad = 8u * block + lane;
    var mine = vec4(0.0);
    if (params.whole_blocks == 1u) {
        mine = x[token * params.n_quads + quad];
    } else {
        // a quad past the end may be another token's, and a quantised zero times that need not be 0
        let index = token * params.n_quads + min(quad, params.n_quads - 1u);
        mine = select(vec4(0.0), x[index], quad < params.n_quads);
    }
    return array(
        subgroupShuffle(mine, 0u), subgroupShuffle(mine, 1u),
        subgroupShuffle(mine, 2u), subgroupShuffle(mine, 3u),
        subgroupShuffle(mine, 4u), subgroupShuffle(mine, 5u),
        subgroupShuffle(mine, 6u), subgroupShuffle(mine, 7u),
    );
}
