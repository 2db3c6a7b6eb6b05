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

/// For CPUs that play the GPU.
pub(super) const SERIAL: KernelSpec = KernelSpec { name: "attention_serial", ..SPEC };

/// o = causal attention of q `[T, n_q, d]` over the caches `[positions, n_kv]` heads; o
/// `[T, o_stride]` f32.
pub async fn attention(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    q: &wgpu::Buffer,
    (key_cache, value_cache): (&wgpu::Buffer, &wgpu::Buffer),
    o: &wgpu::Buffer,
) -> Result<Op> {
    let buffers = [(2, q), (6, key_cache), (7, value_cache), (10, o)];
    let (spec, variant, grid) = match kernels.software {
        true => (&SERIAL, kernels.serial(), params.n_heads.div_ceil(SERIAL_WORKGROUP)),
        false => (&SPEC, kernels.reducing(), params.n_heads),
    };
    let grid = Grid::PerToken(grid);
    kernels.op(gpu, spec, variant, &params, &buffers, grid).await
}
