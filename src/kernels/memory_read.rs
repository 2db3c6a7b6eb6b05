use super::*;

params! {
    /// Parameters of `memory_read.wgsl`.
    pub struct MemoryReadParams {
        pub num_state_heads: u32,
        /// Index among the wrapped layers.
        pub layer: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "memory_read",
    params: MemoryReadParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (3, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// reads = S·q for all tokens; projected `[T, 6, R]`, state `[layers, H_s, r, r]`, reads `[T, R]`,
/// all f32.
pub async fn memory_read(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: MemoryReadParams,
    projected: &wgpu::Buffer,
    state: &wgpu::Buffer,
    reads: &wgpu::Buffer,
) -> Result<Op> {
    let variant = kernels.narrow();
    let grid = Grid::TokenItems(params.num_state_heads * variant.rank, variant.workgroup_size);
    let buffers = [(2, projected), (3, state), (10, reads)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
