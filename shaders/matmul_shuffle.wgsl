// Y = X · Wᵀ for many tokens, where a CPU with subgroups plays the GPU    (SPEC.md section 1)
// x: [T, ceil(k / 4)] vec4 f32, padding zero;  W: [rows, k] in any weight format
// y: [T, y_stride] f32, written at y_offset + row
// Plan: one invocation computes 8 tokens × 4 rows by itself, without barriers. Each block of 32
// weights is decoded once for the tokens; a block of x is loaded by eight invocations together.
// group.x = rows, group.y = tile of tokens. Accumulates in f32.
#import linear

#import x_block
#import four_rows

const TOKENS: u32 = 8u;

// A block of each of four rows.
struct Weights {
    a: array<vec4<f32>, 8>,
    b: array<vec4<f32>, 8>,
    c: array<vec4<f32>, 8>,
    d: array<vec4<f32>, 8>,
}

// A quad of x times a quad of each of four rows, added to their sums.
fn quad_step(
    input: vec4<f32>,
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
    sums: vec4<f32>,
) -> vec4<f32> {
    let sum = fma(vec4(input.x), vec4(a.x, b.x, c.x, d.x), sums);
    let more = fma(vec4(input.y), vec4(a.y, b.y, c.y, d.y), sum);
    let most = fma(vec4(input.z), vec4(a.z, b.z, c.z, d.z), more);
    return fma(vec4(input.w), vec4(a.w, b.w, c.w, d.w), most);
}

// A token's block of x times the weights, added to its sums.
fn block_step(
    token: u32,
    block: u32,
    lane: u32,
    w: ptr<function, Weights>,
    before: vec4<f32>,
) -> vec4<f32> {
    // tokens past the end repeat the last one
    let input = x_block(min(token, step.n_tokens - 1u), block, lane);
    var sums = before;
    sums = quad_step(input[0], (*w).a[0], (*w).b[0], (*w).c[0], (*w).d[0], sums);
    sums = quad_step(input[1], (*w).a[1], (*w).b[1], (*w).c[1], (*w).d[1], sums);
    sums = quad_step(input[2], (*w).a[2], (*w).b[2], (*w).c[2], (*w).d[2], sums);
    sums = quad_step(input[3], (*w).a[3], (*w).b[3], (*w).c[3], (*w).d[3], sums);
    sums = quad_step(input[4], (*w).a[4], (*w).b[4], (*w).c[4], (*w).d[4], sums);
    sums = quad_step(input[5], (*w).a[5], (*w).b[5], (*w).c[5], (*w).d[5], sums);
    sums = quad_step(input[6], (*w).a[6], (*w).b[6], (*w).c[6], (*w).d[6], sums);
    return quad_step(input[7], (*w).a[7], (*w).b[7], (*w).c[7], (*w).d[7], sums);
}

// Tokens past the end repeat the last one.
fn tile_read(token: u32, i: u32) -> vec4<f32> {
    return correction_read(min(token, step.n_tokens - 1u), i);
}

fn store_token(token: u32, rows: vec4<u32>, sums: vec4<f32>) {
    if (token < step.n_tokens) {
        store_rows(token, rows, sums);
    }
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
    // those past the end repeat the last one and are not stored
    let rows = min(own_rows, vec4(params.n_rows - 1u));
    var sums0 = vec4(0.0);
    var sums1 = vec4(0.0);
    var sums2 = vec4(0.0);
    var sums3 = vec4(0.0);
    var sums4 = vec4(0.0);
    var sums5 = vec4(0.0);
    var sums6 = vec4(0.0);
    var sums7 = vec4(0.0);
    for (var block = 0u; block < (n_quads + 7u) / 8u; block++) {
        var w = Weights(
            weight_block(rows.x, block),
            weight_block(rows.y, block),
            weight_block(rows.z, block),
            weight_block(rows.w, block),
        );
        sums0 = block_step(token, block, lane, &w, sums0);
        sums1 = block_step(token + 1u, block, lane, &w, sums1);
        sums2 = block_step(token + 2u, block, lane, &w, sums2);
        sums3 = block_step(token + 3u, block, lane, &w, sums3);
        sums4 = block_step(token + 4u, block, lane, &w, sums4);
        sums5 = block_step(token + 5u, block, lane, &w, sums5);
        sums6 = block_step(token + 6u, block, lane, &w, sums6);
        sums7 = block_step(token + 7u, block, lane, &w, sums7);
    }
    for (var i = 0u; i < correction_quads(); i++) {
        let columns = correction_columns(own_rows, i);
        sums0 += tile_read(token, i) * columns;
        sums1 += tile_read(token + 1u, i) * columns;
        sums2 += tile_read(token + 2u, i) * columns;
        sums3 += tile_read(token + 3u, i) * columns;
        sums4 += tile_read(token + 4u, i) * columns;
        sums5 += tile_read(token + 5u, i) * columns;
        sums6 += tile_read(token + 6u, i) * columns;
        sums7 += tile_read(token + 7u, i) * columns;
    }
    store_token(token, own_rows, sums0);
    store_token(token + 1u, own_rows, sums1);
    store_token(token + 2u, own_rows, sums2);
    store_token(token + 3u, own_rows, sums3);
    store_token(token + 4u, own_rows, sums4);
    store_token(token + 5u, own_rows, sums5);
    store_token(token + 6u, own_rows, sums6);
    store_token(token + 7u, own_rows, sums7);
}
