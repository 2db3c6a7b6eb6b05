use super::*;

params! {
    /// Parameters of `memory_scan.wgsl`.
    pub struct MemoryScanParams {
        pub num_state_heads: u32,
        /// Index among the wrapped layers.
        pub layer: u32,
        /// 1: items are the write groups, reads are not stored; 0: the tokens.
        pub over_groups: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "memory_scan",
    params: MemoryScanParams::FIELDS,
    flags: &[("over_groups", &[0, 1])],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite), (11, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// Read, then write, item by item; projected `[items, 6, R]`, state `[layers, H_s, r, r]`, reads
/// `[items, R]`, all f32.
pub async fn memory_scan(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: MemoryScanParams,
    projected: &wgpu::Buffer,
    state: &wgpu::Buffer,
    reads: &wgpu::Buffer,
) -> Result<Op> {
    let rows = params.num_state_heads * kernels.variant.rank;
    let variant = kernels.narrow();
    let grid = Grid::Fixed(rows.div_ceil(variant.workgroup_size), 1);
    let buffers = [(2, projected), (10, state), (11, reads)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
