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

params! {
    /// Parameters of `attention_split.wgsl`.
    pub struct AttentionSplitParams {
        pub n_heads: u32,
        pub n_kv_heads: u32,
        /// Query heads that share a KV head.
        pub heads_per_kv: u32,
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

/// Ranges of the keys, for a few tokens on a GPU.
pub(super) const SPLIT: KernelSpec = KernelSpec {
    name: "attention_split",
    params: AttentionSplitParams::FIELDS,
    flags: &[("heads_per_kv", &[1, 4]), ("n_splits", &[SPLITS])],
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
    flags: &[("n_splits", &[SPLITS, SERIAL_SPLITS])],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: false,
    uses_weight: false,
};

/// Ranges on a GPU: times the KV heads, workgroups enough for a large one.
const SPLITS: u32 = 32;
/// Ranges where a CPU plays the GPU: 65,536 keys in eight take half of the rounds that it allows.
const SERIAL_SPLITS: u32 = 8;
/// Rounds up to which loops may be short: half of what lavapipe allows, and remainders of a few.
const MAX_SHORT_ROUNDS: u64 = 32_768;
/// Query heads whose vectors and sums a workgroup of `attention_split` has room for.
const MAX_HEADS_PER_KV: u32 = 8;

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
        false => n_few.min(n_tokens) * SPLITS as usize,
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
    let n_splits = (n_tokens * SERIAL_SPLITS as usize).max(n_few.min(n_tokens) * SPLITS as usize);
    n_splits * n_heads * (2 + head_dim)
}

/// What attention reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBuffers<'a> {
    /// `[T, n_q, d]` f32
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
        return serial(kernels, gpu, params, buffers).await;
    }
    let AttentionBuffers { q, keys, values, o, .. } = buffers;
    let (variant, grid) = (kernels.reducing(), Grid::PerToken(params.n_heads));
    let buffers = [(2, q), (6, keys), (7, values), (10, o)];
    Ok(vec![kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await?])
}

/// The same for a few tokens: on a GPU the keys are shared out, so that a long context does not make
/// a token wait.
pub async fn attention_few(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: AttentionParams,
    buffers: AttentionBuffers<'_>,
) -> Result<Vec<Op>> {
    let AttentionParams { n_heads, n_kv_heads, scale, .. } = params;
    let heads_per_kv = n_heads / n_kv_heads;
    if kernels.software || heads_per_kv > MAX_HEADS_PER_KV {
        return attention(kernels, gpu, params, buffers).await;
    }
    let AttentionBuffers { q, keys, values, parts, .. } = buffers;
    let variant = kernels.reducing();
    let split = AttentionSplitParams { n_heads, n_kv_heads, heads_per_kv, n_splits: SPLITS, scale };
    let bound = [(2, q), (6, keys), (7, values), (10, parts)];
    let grid = Grid::PerToken(n_kv_heads * SPLITS);
    let split = kernels.op(gpu, &SPLIT, variant, &split, &bound, grid).await?;
    Ok(vec![split, combine(kernels, gpu, variant, params, SPLITS, buffers).await?])
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
) -> Result<Vec<Op>> {
    let AttentionParams { n_heads, n_kv_heads, scale, .. } = params;
    let AttentionBuffers { q, keys, values, parts, .. } = buffers;
    let mut variant = kernels.serial();
    variant.short_loops = !kernels.can_shuffle
        && most_rounds(keys.size(), n_kv_heads, variant.head_dim) < MAX_SHORT_ROUNDS;
    let ranges = AttentionSerialParams { n_heads, n_kv_heads, n_splits: SERIAL_SPLITS, scale };
    let bound = [(2, q), (6, keys), (7, values), (10, parts)];
    let grid = Grid::PerTokenRange(n_heads.div_ceil(SERIAL_WORKGROUP), SERIAL_SPLITS);
    let ranges = kernels.op(gpu, &SERIAL, variant, &ranges, &bound, grid).await?;
    Ok(vec![ranges, combine(kernels, gpu, variant, params, SERIAL_SPLITS, buffers).await?])
}

async fn combine(
    kernels: &mut Kernels,
    gpu: &Gpu,
    variant: Variant,
    AttentionParams { n_heads, o_stride, .. }: AttentionParams,
    n_splits: u32,
    buffers: AttentionBuffers<'_>,
) -> Result<Op> {
    let params = AttentionCombineParams { n_heads, n_splits, o_stride };
    let bound = [(2, buffers.parts), (10, buffers.o)];
    let grid = Grid::PerToken(n_heads);
    kernels.op(gpu, &COMBINE, variant, &params, &bound, grid).await
}

#[cfg(test)]
mod tests {
    use super::*;

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
