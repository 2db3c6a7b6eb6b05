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
        // where ρ is made on the spot, as MemoryStepParams has them:
        pub num_state_heads: u32,
        pub raw_stride: u32,
        pub normalize_qk: u32,
        pub gates_per_head: u32,
        pub lambda_mode: u32,
        pub erase_lambda: u32,
        pub writes: u32,
        pub layer: u32,
        /// Floats of the adjustments before the gates' biases.
        pub first_bias: u32,
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
        // memory_step is checked with the others
        ("normalize_qk", &[1]),
        ("lambda_mode", &[2]),
        ("erase_lambda", &[1]),
        ("writes", &[1]),
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
    /// Made on the spot from the linear rows `[T, raw_stride]` and the states `[layers, H_s, r, r]`,
    /// f32; the gates' biases `[2G]` lie behind the corrections. For a few tokens: each walks through
    /// those before it.
    Walked { raw: &'a wgpu::Buffer, state: &'a wgpu::Buffer },
}

impl RopeKvParams {
    /// With those of the memory, for [`Reads::Walked`].
    pub fn walking(self, memory: MemoryStepParams) -> RopeKvParams {
        let MemoryStepParams {
            num_state_heads,
            raw_stride,
            normalize_qk,
            gates_per_head,
            lambda_mode,
            erase_lambda,
            writes,
            layer,
        } = memory;
        RopeKvParams {
            num_state_heads,
            raw_stride,
            normalize_qk,
            gates_per_head,
            lambda_mode,
            erase_lambda,
            writes,
            layer,
            ..self
        }
    }
}

/// Rotates q where it is and k into its cache, puts v into its own, after corrections and norms of heads.
pub async fn rope_kv(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: RopeKvParams,
    buffers: RopeKvBuffers<'_>,
) -> Result<Op> {
    let spec = if kernels.variant.kv == Storage::Q8 { &Q8 } else { &SPEC };
    let fusion = match buffers.adjustments {
        None => Fusion::None,
        Some((_, Reads::Stored(_))) => Fusion::Heads,
        Some((_, Reads::Walked { .. })) => Fusion::HeadsAndReads,
    };
    let variant = Variant { kv_write: true, fusion, ..kernels.reducing() };
    let RopeKvBuffers { qkv, rope_table, keys, values, adjustments } = buffers;
    let mut bound = vec![(2, qkv), (4, rope_table), (6, keys), (7, values)];
    if let Some((adjustments, reads)) = adjustments {
        bound.push((3, adjustments));
        match reads {
            Reads::Stored(reads) => bound.push((5, reads)),
            Reads::Walked { raw, state } => bound.extend([(5, raw), (11, state)]),
        }
    }
    let grid = Grid::PerToken(params.n_heads + 2 * params.n_kv_heads);
    kernels.op(gpu, spec, variant, &params, &bound, grid).await
}
