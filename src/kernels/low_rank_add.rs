use super::*;

params! {
    /// Parameters of `low_rank_add.wgsl`.
    pub struct LowRankAddParams {
        /// Rows of D.
        pub n: u32,
        /// R
        pub n_rows: u32,
        /// Floats from token to token in y.
        pub y_stride: u32,
        /// Floats before the first element in y.
        pub y_offset: u32,
        /// 1: y += …, 0: y = …
        pub accumulate: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "low_rank_add",
    params: LowRankAddParams::FIELDS,
    flags: &[("accumulate", &[0, 1])],
    bindings: &[(2, Access::Read), (3, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// y += D·ρ; delta `[n, R]`, reads `[T, R]`, y `[T, y_stride]`, all f32.
pub async fn low_rank_add(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: LowRankAddParams,
    delta: &wgpu::Buffer,
    reads: &wgpu::Buffer,
    y: &wgpu::Buffer,
) -> Result<Op> {
    let grid = Grid::PerToken(params.n.div_ceil(ELEMENTWISE));
    let buffers = [(2, delta), (3, reads), (10, y)];
    kernels.op(gpu, &SPEC, kernels.variant, &params, &buffers, grid).await
}
