// o = the parts of attention_tiled or attention_serial put together                           (SPEC.md section 1)
//   o = Σ exp(m_s − m) · a_s / Σ exp(m_s − m) · d_s,  m = max m_s, over the ranges s of the keys
// parts: [T, n_q, n_splits, 2 + d] f32: m_s, d_s, a_s;  o: [T, o_stride] f32
// Plan: one workgroup a query head of a token (group.x = head, group.y = token), its invocations
// stride through d. One more takes memory_step along, where nothing before it needs what that leaves.
struct Params {
    n_heads: u32,
    n_splits: u32,
    o_stride: u32, // floats from token to token
    // as memory_step has them:
    num_state_heads: u32,
    raw_stride: u32,
    normalize_qk: u32,
    gates_per_head: u32,
    lambda_mode: u32,
    erase_lambda: u32,
    writes: u32,
    layer: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> parts: array<f32>;
@group(0) @binding(10) var<storage, read_write> o: array<f32>;

#import memory_beside

const PART: u32 = 2u + HEAD_DIM;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    let token = group.y;
    if (memory_beside(head, token, lane) || token >= step.n_tokens) {
        return;
    }
    let first = (token * params.n_heads + head) * params.n_splits * PART;
    var largest = -1e30;
    for (var s = 0u; s < params.n_splits; s++) {
        largest = max(largest, parts[first + s * PART]);
    }
    var denominator = 0.0;
    for (var s = 0u; s < params.n_splits; s++) {
        denominator += exp(parts[first + s * PART] - largest) * parts[first + s * PART + 1u];
    }
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
        var sum = 0.0;
        for (var s = 0u; s < params.n_splits; s++) {
            sum += exp(parts[first + s * PART] - largest) * parts[first + s * PART + 2u + i];
        }
        o[token * params.o_stride + head * HEAD_DIM + i] = sum / denominator;
    }
}
