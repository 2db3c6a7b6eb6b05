use super::*;

params! {
    /// Parameters of `attention.wgsl`.
    pub struct AttentionParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in o.
        pub o_stride: u32,
        /// d^-0.5
        pub scale: f32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "attention",
    params: AttentionParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (6, Access::Read), (7, Access::Read), (10, Access::ReadWrite)],
    uses_step: true,
    uses_weight: false,
};

/// o = causal attention of q `[T, n_q, d]` over the caches `[positions, n_kv, d]`; o
/// `[T, o_stride]` f32.
pub async fn attention(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    q: &wgpu::Buffer,
    (key_cache, value_cache): (&wgpu::Buffer, &wgpu::Buffer),
    o: &wgpu::Buffer,
) -> Result<Op> {
    let variant = kernels.reducing();
    let buffers = [(2, q), (6, key_cache), (7, value_cache), (10, o)];
    let grid = Grid::PerToken(params.n_heads);
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
