use super::*;

params! {
    /// Parameters of `top_k.wgsl`.
    pub struct TopKParams {
        /// Logits.
        pub n: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "top_k",
    params: TopKParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (3, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// result `[4 + 2·TOP_K_CAPACITY]` u32 = the largest of logits `[n]` f32; settings `[1]` u32: k.
pub async fn top_k(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: TopKParams,
    logits: &wgpu::Buffer,
    settings: &wgpu::Buffer,
    result: &wgpu::Buffer,
) -> Result<Op> {
    // the largest, the sum, four bytes of the k-th, what is larger and what is equal
    let variant = kernels.alone(params.n, 8);
    let buffers = [(2, logits), (3, settings), (10, result)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, Grid::Fixed(1, 1)).await
}
