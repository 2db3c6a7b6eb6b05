use super::*;

params! {
    /// Parameters of `memory_step.wgsl`.
    #[derive(Default)]
    pub struct MemoryStepParams {
        pub num_state_heads: u32,
        /// Floats from token to token in raw.
        pub raw_stride: u32,
        pub normalize_qk: u32,
        /// r (rank-wise gates) or 1.
        pub gates_per_head: u32,
        /// 0: λ = 1, 1: λ = 1 − β, 2: λ from its own rows.
        pub lambda_mode: u32,
        /// 1: erase = λ·β, 0: erase = β.
        pub erase_lambda: u32,
        /// 1: each token is written after its read, 0: the state stays.
        pub writes: u32,
        /// Index among the wrapped layers.
        pub layer: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "memory_step",
    params: MemoryStepParams::FIELDS,
    flags: &[
        ("normalize_qk", &[0, 1]),
        ("lambda_mode", &[0, 1, 2]),
        ("erase_lambda", &[0, 1]),
        ("writes", &[0, 1]),
    ],
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (10, Access::ReadWrite),
        (11, Access::ReadWrite),
        (12, Access::ReadWrite),
    ],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// What a step of the memory reads and writes, all f32.
#[derive(Debug, Clone, Copy)]
pub struct MemoryStepBuffers<'a> {
    /// `[T, raw_stride]`
    pub raw: &'a wgpu::Buffer,
    /// `[2G]`
    pub bias: &'a wgpu::Buffer,
    /// `[layers, H_s, r, r]`
    pub state: &'a wgpu::Buffer,
    /// `[T, R]`
    pub reads: &'a wgpu::Buffer,
    /// `[T, 6, R]`, of which only the last part, β, is written.
    pub projected: &'a wgpu::Buffer,
}

/// [`memory_project`] and [`memory_scan`] (or [`memory_read`]) in one dispatch, for a few tokens.
pub async fn memory_step(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: MemoryStepParams,
    buffers: MemoryStepBuffers<'_>,
) -> Result<Op> {
    let rows = params.num_state_heads * kernels.variant.rank;
    let variant = kernels.narrow();
    let grid = Grid::Fixed(rows.div_ceil(variant.workgroup_size), 1);
    let MemoryStepBuffers { raw, bias, state, reads, projected } = buffers;
    let buffers = [(2, raw), (3, bias), (10, state), (11, reads), (12, projected)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
