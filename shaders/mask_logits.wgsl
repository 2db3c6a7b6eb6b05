// logits[i] ← −∞ where bit i of the mask is 0: tokens that the next one cannot be
// logits: [vocab] f32, here as their bits, as WGSL has no −∞ to write
// mask: [ceil(vocab / 32)] u32; bit i of the mask is bit i mod 32 of word i / 32
// Plan: one invocation a logit.
struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> mask: array<u32>;
@group(0) @binding(10) var<storage, read_write> logits: array<u32>;

const MINUS_INFINITY: u32 = 0xff800000u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x;
    if (token >= params.n) {
        return;
    }
    let is_allowed = ((mask[token / 32u] >> (token % 32u)) & 1u) == 1u;
    if (!is_allowed) {
        logits[token] = MINUS_INFINITY;
    }
}
