use super::*;

params! {
    /// Parameters of `rope_kv.wgsl`.
    pub struct RopeKvParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in qkv.
        pub stride: u32,
        /// 0 on a NoPE layer.
        pub use_rope: u32,
        /// 1: heads of q and k are normed.
        pub has_norm: u32,
        /// Of that norm.
        pub eps: f32,
        /// 1: the memory corrects q.
        pub corrects_q: u32,
        pub corrects_k: u32,
        pub corrects_v: u32,
        /// R of the corrections.
        pub n_reads: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "rope_kv",
    params: RopeKvParams::FIELDS,
    flags: &[
        ("use_rope", &[0, 1]),
        ("has_norm", &[0, 1]),
        ("corrects_q", &[0, 1]),
        ("corrects_k", &[0, 1]),
        ("corrects_v", &[1]),
        ("n_reads", &[8]),
    ],
    bindings: &[
        (2, Access::Read),
        (4, Access::Read),
        (6, Access::ReadWrite),
        (7, Access::ReadWrite),
        (10, Access::ReadWrite),
    ],
    fusions: &[(Fusion::Heads, &[(3, Access::Read), (5, Access::Read)])],
    uses_step: true,
    uses_weight: false,
};

/// For a cache in 8 bits.
pub(super) const Q8: KernelSpec = KernelSpec { name: "rope_kv_q8", ..SPEC };

/// What rotation reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct RopeKvBuffers<'a> {
    /// q | k | v, `[T, stride]` f32
    pub qkv: &'a wgpu::Buffer,
    /// `[positions, d/2]` (cos, sin) f32
    pub rope_table: &'a wgpu::Buffer,
    /// `[positions, n_kv]` heads of [`KvCache`](crate::kv_cache::KvCache).
    pub keys: &'a wgpu::Buffer,
    pub values: &'a wgpu::Buffer,
    /// `[T, n_q, d]` f32
    pub q_out: &'a wgpu::Buffer,
    /// What is done to heads first, if params ask for anything: the weights of the norms of q and of k
    /// (d each, if there are norms), then D `[n, R]` of those of q, k, v that are corrected, f32; and
    /// ρ `[T, R]` f32, R a multiple of 4.
    pub adjustments: Option<(&'a wgpu::Buffer, &'a wgpu::Buffer)>,
}

/// Rotates q into `q_out` and k, v into the caches, after corrections and norms of heads.
pub async fn rope_kv(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: RopeKvParams,
    buffers: RopeKvBuffers<'_>,
) -> Result<Op> {
    let spec = if kernels.variant.kv == Storage::Q8 { &Q8 } else { &SPEC };
    let fusion = if buffers.adjustments.is_some() { Fusion::Heads } else { Fusion::None };
    let variant = Variant { kv_write: true, fusion, ..kernels.reducing() };
    let RopeKvBuffers { qkv, rope_table, keys, values, q_out, adjustments } = buffers;
    let mut bound = vec![(2, qkv), (4, rope_table), (6, keys), (7, values), (10, q_out)];
    if let Some((adjustments, reads)) = adjustments {
        bound.extend([(3, adjustments), (5, reads)]);
    }
    let grid = Grid::PerToken(params.n_heads + 2 * params.n_kv_heads);
    kernels.op(gpu, spec, variant, &params, &bound, grid).await
}
