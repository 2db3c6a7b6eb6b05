use super::*;
params! {
    /// Parameters of `attention.wgsl`.
    pub struct AttentionParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in q.
        pub q_stride: u32,
        /// Floats from token to token in o.
        pub o_stride: u32,
        /// d^-0.5
        pub scale: f32,
    }
}

params! {
    /// Parameters of `attention_tiled.wgsl`.
    pub struct AttentionTiledParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in q.
        pub q_stride: u32,
        /// Query heads that share a KV head.
        pub heads_per_kv: u32,
        /// Tokens of a tile.
        pub tile_tokens: u32,
        /// Ranges of the keys.
        pub n_splits: u32,
        /// d^-0.5
        pub scale: f32,
    }
}

params! {
    /// Parameters of `attention_serial.wgsl`.
    pub struct AttentionSerialParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Floats from token to token in q.
        pub q_stride: u32,
        /// Ranges of the keys.
        pub n_splits: u32,
        /// d^-0.5
        pub scale: f32,
    }
}

params! {
    /// Parameters of `attention_combine.wgsl`.
    pub struct AttentionCombineParams {
        pub n_heads: u32,
        /// Ranges of the keys.
        pub n_splits: u32,
        /// Floats from token to token in o.
        pub o_stride: u32,
        // of the memory's step that it takes along, as MemoryStepParams has them:
        pub num_state_heads: u32,
        pub raw_stride: u32,
        pub normalize_qk: u32,
        pub gates_per_head: u32,
        pub lambda_mode: u32,
        pub erase_lambda: u32,
        pub writes: u32,
        pub layer: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "attention",
    params: AttentionParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (6, Access::Read), (7, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// Ranges of the keys, on a GPU.
pub(super) const TILED: KernelSpec = KernelSpec {
    name: "attention_tiled",
    params: AttentionTiledParams::FIELDS,
    // rows that fit the largest heads too; tests/kernels runs what is used
    flags: &[("heads_per_kv", &[1, 4]), ("tile_tokens", &[1]), ("n_splits", &[SPLITS])],
    ..SPEC
};

/// Ranges of the keys, for CPUs that play the GPU.
pub(super) const SERIAL: KernelSpec = KernelSpec {
    name: "attention_serial",
    params: AttentionSerialParams::FIELDS,
    flags: &[("n_splits", &[SERIAL_SPLITS])],
    ..SPEC
};

pub(super) const COMBINE: KernelSpec = KernelSpec {
    name: "attention_combine",
    params: AttentionCombineParams::FIELDS,
    flags: &[
        ("n_splits", &[SPLITS, TILED_SPLITS]),
        // memory_step is checked with the others; a loop's bound is no uniform
        ("num_state_heads", &[8]),
        ("normalize_qk", &[1]),
        ("lambda_mode", &[2]),
        ("erase_lambda", &[1]),
        ("writes", &[1]),
    ],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[(
        Fusion::MemoryStep,
        &[
            (3, Access::Read),
            (4, Access::Read),
            (11, Access::ReadWrite),
            (12, Access::ReadWrite),
            (13, Access::ReadWrite),
        ],
    )],
    uses_step: true,
    uses_weight: false,
};

/// Ranges for a few tokens on a GPU: times the KV heads, workgroups enough for a large one.
const SPLITS: u32 = 32;
/// Ranges for many tokens on a GPU: times KV heads and tiles of a chunk, some hundred workgroups.
const TILED_SPLITS: u32 = 8;
/// Query rows (heads times tokens) that share what a workgroup of `attention_tiled` loads: their scores
/// and sums are in registers.
const TILED_ROWS: u32 = 16;
/// Bytes of workgroup memory that plain WebGPU has.
const WORKGROUP_BYTES: u32 = 16_384;
/// Ranges where a CPU plays the GPU: 65,536 keys in eight take half of the rounds that it allows.
const SERIAL_SPLITS: u32 = 8;
/// Rounds up to which loops may be short: half of what lavapipe allows, and remainders of a few.
const MAX_SHORT_ROUNDS: u64 = 32_768;

/// Floats of the scratch buffer `parts` of [`attention`] and [`attention_few`] for chunks of
/// `n_tokens`, of which `n_few` at most go through the latter.
pub fn attention_parts_len(
    gpu: &Gpu,
    n_tokens: usize,
    n_few: usize,
    n_heads: usize,
    head_dim: usize,
) -> usize {
    let n_splits = match gpu.tier.software {
        true => n_tokens * SERIAL_SPLITS as usize,
        false => (n_tokens * TILED_SPLITS as usize).max(n_few.min(n_tokens) * SPLITS as usize),
    };
    n_splits * n_heads * (2 + head_dim)
}

/// [`attention_parts_len`] on the kind of device that takes more.
pub(crate) fn most_attention_parts(
    n_tokens: usize,
    n_few: usize,
    n_heads: usize,
    head_dim: usize,
) -> usize {
    let many = n_tokens * SERIAL_SPLITS.max(TILED_SPLITS) as usize;
    let n_splits = many.max(n_few.min(n_tokens) * SPLITS as usize);
    n_splits * n_heads * (2 + head_dim)
}

/// What attention reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBuffers<'a> {
    /// `[T, q_stride]` f32, of which n_q heads
    pub q: &'a wgpu::Buffer,
    /// `[positions, n_kv]` heads of [`KvCache`](crate::kv_cache::KvCache).
    pub keys: &'a wgpu::Buffer,
    pub values: &'a wgpu::Buffer,
    /// Scratch, see [`attention_parts_len`].
    pub parts: &'a wgpu::Buffer,
    /// `[T, o_stride]` f32
    pub o: &'a wgpu::Buffer,
}

/// o = causal attention of q over the caches.
pub async fn attention(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    buffers: AttentionBuffers<'_>,
) -> Result<Vec<Op>> {
    if kernels.software {
        return serial(kernels, gpu, params, buffers, None).await;
    }
    let variant = kernels.reducing();
    let Some(tile_tokens) = tile_tokens(variant, params) else {
        let AttentionBuffers { q, keys, values, o, .. } = buffers;
        let buffers = [(2, q), (6, keys), (7, values), (10, o)];
        let grid = Grid::PerToken(params.n_heads);
        return Ok(vec![kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await?]);
    };
    tiled(kernels, gpu, params, buffers, (tile_tokens, TILED_SPLITS), None).await
}

/// The most tokens of a tile of `attention_tiled`, `None` where not even one fits.
fn tile_tokens(
    Variant { workgroup_size, head_dim, .. }: Variant,
    AttentionParams { n_heads, n_kv_heads, .. }: AttentionParams,
) -> Option<u32> {
    let heads_per_kv = n_heads / n_kv_heads;
    // a row has its query, a tile's weights and a factor; an invocation a maximum
    let row_bytes = 4 * (head_dim + workgroup_size + 1 + 1);
    let rows = (WORKGROUP_BYTES - 4 * workgroup_size) / row_bytes;
    let n_tokens = rows.min(TILED_ROWS).min(workgroup_size) / heads_per_kv;
    (n_tokens > 0).then_some(n_tokens)
}

/// Whether the memory's step of a token is to ride along: [`attention_few`] must end with a dispatch that
/// can take it, and a workgroup must have an invocation for each of so many rows of S, as every head makes
/// the reads again. Not where shaders are compiled for each visit and run on a CPU: with 64 rows a page on
/// SwiftShader had its first token 1.4 s later and a sixth fewer tokens a second (BENCHMARKS.md); with
/// fewer rows that has not been measured.
pub fn takes_memory_step(kernels: &Kernels, params: AttentionParams, n_rows: usize) -> bool {
    let ends_with_combine = match kernels.software {
        true => kernels.can_shuffle,
        false => tile_tokens(kernels.reducing(), params).is_some(),
    };
    ends_with_combine && n_rows <= kernels.reduce_workgroup as usize
}

/// The same for a few tokens: on a GPU the keys are shared out, so that a long context does not make
/// a token wait. With it goes the memory's step, where that is given.
///
/// # Panics
/// If one is given where no dispatch can take it (see [`takes_memory_step`]).
pub async fn attention_few(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    buffers: AttentionBuffers<'_>,
    memory: Option<(MemoryStepParams, MemoryStepBuffers<'_>)>,
) -> Result<Vec<Op>> {
    if kernels.software {
        return serial(kernels, gpu, params, buffers, memory).await;
    }
    if tile_tokens(kernels.reducing(), params).is_none() {
        assert!(memory.is_none(), "attention in one dispatch takes no step along");
        return attention(kernels, gpu, params, buffers).await;
    }
    tiled(kernels, gpu, params, buffers, (1, SPLITS), memory).await
}

/// The keys in `n_splits` ranges, for tiles of `tile_tokens` tokens.
async fn tiled(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    buffers: AttentionBuffers<'_>,
    (tile_tokens, n_splits): (u32, u32),
    memory: Option<(MemoryStepParams, MemoryStepBuffers<'_>)>,
) -> Result<Vec<Op>> {
    let AttentionParams { n_heads, n_kv_heads, q_stride, scale, .. } = params;
    let AttentionBuffers { q, keys, values, parts, .. } = buffers;
    let variant = kernels.reducing();
    let heads_per_kv = n_heads / n_kv_heads;
    let ranges = AttentionTiledParams {
        n_heads,
        n_kv_heads,
        q_stride,
        heads_per_kv,
        tile_tokens,
        n_splits,
        scale,
    };
    let bound = [(2, q), (6, keys), (7, values), (10, parts)];
    let grid = Grid::PerTile(n_kv_heads * n_splits, tile_tokens);
    let ranges = kernels.op(gpu, &TILED, variant, &ranges, &bound, grid).await?;
    Ok(vec![ranges, combine(kernels, gpu, variant, params, n_splits, buffers, memory).await?])
}

/// Rounds of an invocation's loops in a full cache of so many bytes, two pairs a round: at most that, as
/// it takes an element of the cache for a byte.
fn most_rounds(cache_bytes: u64, n_kv_heads: u32, head_dim: u32) -> u64 {
    let positions = cache_bytes / u64::from(n_kv_heads * head_dim);
    // four keys a round, whose pairs are gone through twice
    positions.div_ceil(4 * u64::from(SERIAL_SPLITS)) * u64::from(1 + head_dim / 2)
}

/// Every invocation by itself.
async fn serial(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    buffers: AttentionBuffers<'_>,
    memory: Option<(MemoryStepParams, MemoryStepBuffers<'_>)>,
) -> Result<Vec<Op>> {
    let AttentionParams { n_heads, n_kv_heads, q_stride, scale, .. } = params;
    let AttentionBuffers { q, keys, values, parts, .. } = buffers;
    let mut variant = kernels.serial();
    variant.short_loops = !kernels.can_shuffle
        && most_rounds(keys.size(), n_kv_heads, variant.head_dim) < MAX_SHORT_ROUNDS;
    let ranges =
        AttentionSerialParams { n_heads, n_kv_heads, q_stride, n_splits: SERIAL_SPLITS, scale };
    let bound = [(2, q), (6, keys), (7, values), (10, parts)];
    let grid = Grid::PerTokenRange(n_heads.div_ceil(SERIAL_WORKGROUP), SERIAL_SPLITS);
    let ranges = kernels.op(gpu, &SERIAL, variant, &ranges, &bound, grid).await?;
    Ok(vec![ranges, combine(kernels, gpu, variant, params, SERIAL_SPLITS, buffers, memory).await?])
}

async fn combine(
    kernels: &mut Kernels,
    gpu: &Gpu,
    variant: Variant,
    AttentionParams { n_heads, o_stride, .. }: AttentionParams,
    n_splits: u32,
    buffers: AttentionBuffers<'_>,
    memory: Option<(MemoryStepParams, MemoryStepBuffers<'_>)>,
) -> Result<Op> {
    let mut bound = vec![(2, buffers.parts), (10, buffers.o)];
    let mut n_workgroups = n_heads;
    let mut fusion = Fusion::None;
    let mut step = MemoryStepParams::default();
    if let Some((params, MemoryStepBuffers { raw, bias, state, reads, projected })) = memory {
        bound.extend([(3, raw), (4, bias), (11, state), (12, reads), (13, projected)]);
        n_workgroups += 1;
        fusion = Fusion::MemoryStep;
        step = params;
    }
    let params = AttentionCombineParams {
        n_heads,
        n_splits,
        o_stride,
        num_state_heads: step.num_state_heads,
        raw_stride: step.raw_stride,
        normalize_qk: step.normalize_qk,
        gates_per_head: step.gates_per_head,
        lambda_mode: step.lambda_mode,
        erase_lambda: step.erase_lambda,
        writes: step.writes,
        layer: step.layer,
    };
    let variant = Variant { fusion, ..variant };
    kernels.op(gpu, &COMBINE, variant, &params, &bound, Grid::PerToken(n_workgroups)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_workgroup_memory() {
        let of = |head_dim, heads_per_kv: u32| {
            let variant = Variant {
                weight: Storage::F32,
                kv: Storage::F16,
                kv_write: false,
                fusion: Fusion::None,
                min_subgroup_size: 0,
                shuffle: false,
                short_loops: false,
                f16: false,
                enable_subgroups_line: false,
                workgroup_size: 64,
                rank: 8,
                head_dim,
            };
            let params = AttentionParams {
                n_heads: 2 * heads_per_kv,
                n_kv_heads: 2,
                q_stride: 0,
                o_stride: 0,
                scale: 1.0,
            };
            tile_tokens(variant, params)
        };
        // SmolLM3, Qwen3; then 12 rows of 256, and none of eight heads of 512
        assert_eq!(of(128, 4), Some(4));
        assert_eq!(of(128, 2), Some(8));
        assert_eq!(of(256, 4), Some(3));
        assert_eq!(of(512, 8), None);
        assert_eq!(of(128, 17), None);
    }

    #[test]
    fn loops_are_short_only_where_lavapipe_lets_them_end() {
        // two bytes an element, four KV heads of 128
        let rounds = |positions: u64| most_rounds(positions * 4 * 128 * 2, 4, 128);
        assert!(rounds(4096) < MAX_SHORT_ROUNDS);
        assert!(rounds(65_536) > MAX_SHORT_ROUNDS);
        // 8,192 elements of a byte, in eight ranges, four a round
        assert_eq!(rounds(4096), 256 * 65);
    }
}
