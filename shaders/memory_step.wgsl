// memory_project and memory_scan or memory_read in one, for a few tokens (SPEC.md sections 2, 3)
//   for each token in order: q, k, v and gates from its linear rows;  ρ = S·q;  then the write
// raw: [T, raw_stride] f32: m_q | m_k | m_v (R each) | β (G) | λ (G, if there)
// state: [layers, H_s, r, r] f32;  reads: [T, R] f32
// write_gates: [T, 6, R] f32, of which the last part is written, as memory_project does
// Plan: one invocation a row of a state head, which keeps it in registers and walks through the
// tokens; no barriers.
struct Params {
    num_state_heads: u32,
    raw_stride: u32,
    normalize_qk: u32,
    gates_per_head: u32, // r (rank-wise) or 1
    lambda_mode: u32,    // 0: λ = 1, 1: λ = 1 − β, 2: λ from its own rows
    erase_lambda: u32,   // 1: erase = λ·β (lambda_outside), 0: erase = β
    writes: u32,         // 1: S changes, 0: it is only read
    layer: u32,          // index among the wrapped layers
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [2G] beta_bias | lambda_bias
@group(0) @binding(10) var<storage, read_write> state: array<f32>;
@group(0) @binding(11) var<storage, read_write> reads: array<f32>;
@group(0) @binding(12) var<storage, read_write> write_gates: array<f32>;

#import memory_walk

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.num_state_heads * RANK) {
        walk(id.x); // head · r + i
    }
}
