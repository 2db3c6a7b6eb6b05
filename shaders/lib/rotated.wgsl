// Element i of a head after RoPE (SPEC.md section 1):
//   y[i] = x[i]·cos − x[i + d/2]·sin,  y[i + d/2] = x[i + d/2]·cos + x[i]·sin;  NoPE: y = x
const HALF: u32 = HEAD_DIM / 2u;

// Puts a head back where it was, rotated: an invocation has the two elements that make each other.
fn rotate_in_place(token: u32, head: u32, lane: u32) {
    let start = token * params.stride + head * HEAD_DIM;
    for (var i = lane; i < HALF; i += WORKGROUP_SIZE) {
        let low = element(token, head, i);
        let high = element(token, head, i + HALF);
        if (params.use_rope == 1u) {
            let rotation = rope_table[(step.n_past + token) * HALF + i];
            qkv[start + i] = low * rotation.x - high * rotation.y;
            qkv[start + HALF + i] = high * rotation.x + low * rotation.y;
        } else {
            qkv[start + i] = low;
            qkv[start + HALF + i] = high;
        }
    }
}

fn rotated(token: u32, head: u32, i: u32) -> f32 {
    let x = element(token, head, i);
    if (params.use_rope == 0u) {
        return x;
    }
    let rotation = rope_table[(step.n_past + token) * HALF + i % HALF];
    if (i < HALF) {
        return x * rotation.x - element(token, head, i + HALF) * rotation.y;
    }
    return x * rotation.x + element(token, head, i - HALF) * rotation.y;
}
