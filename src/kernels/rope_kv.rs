use super::*;

params! {
    /// Parameters of `rope_kv.wgsl`.
    #[derive(Default)]
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
        /// Tokens of a workgroup; [`rope_kv`] says how many.
        pub tile_tokens: u32,
        /// 1: memory queries are squashed and normed, where ρ is made on the spot.
        pub normalize_qk: u32,
        /// Index among the wrapped layers, there too.
        pub layer: u32,
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
        ("tile_tokens", &[1, ROPE_TILE]),
        ("normalize_qk", &[0, 1]),
    ],
    bindings: &[
        (2, Access::ReadWrite),
        (4, Access::Read),
        (6, Access::ReadWrite),
        (7, Access::ReadWrite),
    ],
    fusions: &[
        (Fusion::Heads, &[(3, Access::Read), (5, Access::Read)]),
        (Fusion::HeadsAndReads, &[(3, Access::Read), (5, Access::Read), (11, Access::Read)]),
    ],
    uses_step: true,
    uses_weight: false,
};

/// Tokens that share what a workgroup loads of corrections, where lavapipe plays the GPU: there loads are
/// what takes time, and workgroups need not be many.
const ROPE_TILE: u32 = 8;

/// For a cache in 8 bits.
pub(super) const Q8: KernelSpec = KernelSpec { name: "rope_kv_q8", ..SPEC };

/// What rotation reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct RopeKvBuffers<'a> {
    /// q | k | v, `[T, stride]` f32; q is rotated there.
    pub qkv: &'a wgpu::Buffer,
    /// `[positions, d/2]` (cos, sin) f32
    pub rope_table: &'a wgpu::Buffer,
    /// `[positions, n_kv]` heads of [`KvCache`](crate::kv_cache::KvCache).
    pub keys: &'a wgpu::Buffer,
    pub values: &'a wgpu::Buffer,
    /// What is done to heads first, if params ask for anything: the weights of the norms of q and of k
    /// (d each, if there are norms), then D `[n, R]` of those of q, k, v that are corrected, f32; and
    /// where ρ comes from, R a multiple of 4.
    pub adjustments: Option<(&'a wgpu::Buffer, Reads<'a>)>,
}

/// Where ρ of a token comes from.
#[derive(Debug, Clone, Copy)]
pub enum Reads<'a> {
    /// `[T, R]` f32, there already.
    Stored(&'a wgpu::Buffer),
    /// Made on the spot, for calls of one token, from its linear rows `[1, raw_stride]` and the states
    /// `[layers, H_s, r, r]`, f32.
    Made { raw: &'a wgpu::Buffer, state: &'a wgpu::Buffer },
}

/// Rotates q where it is and k into its cache, puts v into its own, after corrections and norms of heads.
pub async fn rope_kv(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: RopeKvParams,
    buffers: RopeKvBuffers<'_>,
) -> Result<Op> {
    let makes_reads = matches!(buffers.adjustments, Some((_, Reads::Made { .. })));
    let is_tiled = kernels.software && kernels.can_shuffle && !makes_reads;
    let tile_tokens = if is_tiled { ROPE_TILE } else { 1 };
    let params = RopeKvParams { tile_tokens, ..params };
    let spec = if kernels.variant.kv == Storage::Q8 { &Q8 } else { &SPEC };
    let fusion = match buffers.adjustments {
        None => Fusion::None,
        Some((_, Reads::Stored(_))) => Fusion::Heads,
        Some((_, Reads::Made { .. })) => Fusion::HeadsAndReads,
    };
    let variant = Variant { kv_write: true, fusion, shuffle: is_tiled, ..kernels.reducing() };
    let RopeKvBuffers { qkv, rope_table, keys, values, adjustments } = buffers;
    let mut bound = vec![(2, qkv), (4, rope_table), (6, keys), (7, values)];
    if let Some((adjustments, reads)) = adjustments {
        bound.push((3, adjustments));
        match reads {
            Reads::Stored(reads) => bound.push((5, reads)),
            Reads::Made { raw, state } => bound.extend([(5, raw), (11, state)]),
        }
    }
    let grid = Grid::PerTile(params.n_heads + 2 * params.n_kv_heads, tile_tokens);
    kernels.op(gpu, spec, variant, &params, &bound, grid).await
}
