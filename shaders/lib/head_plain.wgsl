// A head of q, k or v as it is in qkv.
fn load_heads(first_token: u32, head: u32, lane: u32) {}

// Element i of a token's head.
fn element(token: u32, head: u32, i: u32) -> f32 {
    return qkv[token * params.stride + head * HEAD_DIM + i];
}
