use super::*;

params! {
    /// Parameters of `rope_kv.wgsl`.
    pub struct RopeKvParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in qk and v.
        pub stride: u32,
        /// 0 on a NoPE layer.
        pub use_rope: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "rope_kv",
    params: RopeKvParams::FIELDS,
    flags: &[("use_rope", &[0, 1])],
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (6, Access::ReadWrite),
        (7, Access::ReadWrite),
        (10, Access::ReadWrite),
    ],
    uses_step: true,
    uses_weight: false,
};

/// For a cache in 8 bits.
pub(super) const Q8: KernelSpec = KernelSpec { name: "rope_kv_q8", ..SPEC };

/// Rotates q into `q_out` `[T, n_q, d]` and k, v into the caches `[positions, n_kv, d]`; qk and v
/// `[T, stride]` may be one buffer, rope_table `[positions, d/2]` (cos, sin).
#[expect(clippy::too_many_arguments, reason = "one a binding")]
pub async fn rope_kv(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: RopeKvParams,
    qk: &wgpu::Buffer,
    v: &wgpu::Buffer,
    rope_table: &wgpu::Buffer,
    (key_cache, value_cache): (&wgpu::Buffer, &wgpu::Buffer),
    q_out: &wgpu::Buffer,
) -> Result<Op> {
    let n_heads = params.n_heads + 2 * params.n_kv_heads;
    let (spec, variant, grid) = match kernels.variant.kv {
        Storage::Q8 => (&Q8, kernels.reducing(), n_heads),
        _ => {
            let pairs = n_heads * kernels.variant.head_dim / 2;
            (&SPEC, kernels.variant, pairs.div_ceil(ELEMENTWISE))
        }
    };
    let (variant, grid) = (Variant { kv_write: true, ..variant }, Grid::PerToken(grid));
    let buffers = [(2, qk), (3, v), (4, rope_table), (6, key_cache), (7, value_cache), (10, q_out)];
    kernels.op(gpu, spec, variant, &params, &buffers, grid).await
}
