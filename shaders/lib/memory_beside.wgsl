// memory_step by a workgroup behind those of the heads: its invocations stride through the rows.
@group(0) @binding(3) var<storage, read> raw: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>; // [2G] beta_bias | lambda_bias
@group(0) @binding(11) var<storage, read_write> state: array<f32>;
@group(0) @binding(12) var<storage, read_write> reads: array<f32>;
@group(0) @binding(13) var<storage, read_write> write_gates: array<f32>;

#import memory_walk

// True if this workgroup is the memory's.
fn memory_beside(head: u32, token: u32, lane: u32) -> bool {
    if (head < params.n_heads) {
        return false;
    }
    if (token == 0u) {
        for (var row = lane; row < params.num_state_heads * RANK; row += WORKGROUP_SIZE) {
            walk(row);
        }
    }
    return true;
}
