// ρ of a token as memory_step, memory_scan or memory_read left it.
@group(0) @binding(5) var<storage, read> reads: array<vec4<f32>>; // [T, R / 4]

// For the whole workgroup, in uniform control flow.
fn load_reads(token: u32, lane: u32) {}

fn read_quad(token: u32, i: u32) -> vec4<f32> {
    return reads[token * (params.n_reads / 4u) + i];
}
