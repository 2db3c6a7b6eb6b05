use super::*;

params! {
    /// Parameters of `segment_mean.wgsl`.
    pub struct SegmentMeanParams {
        pub n_columns: u32,
        /// Floats from token to token in raw.
        pub raw_stride: u32,
        /// Index among the wrapped layers.
        pub layer: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "segment_mean",
    params: SegmentMeanParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (3, Access::Read), (4, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// Adds this chunk's share to the group means; raw `[T, raw_stride]` f32, group_of_token `[T]` u32,
/// weight_of_token `[T]` f32, mean `[layers, groups, raw_stride]` f32.
pub async fn segment_mean(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: SegmentMeanParams,
    raw: &wgpu::Buffer,
    group_of_token: &wgpu::Buffer,
    weight_of_token: &wgpu::Buffer,
    mean: &wgpu::Buffer,
) -> Result<Op> {
    let grid = Grid::Fixed(params.n_columns.div_ceil(ELEMENTWISE), 1);
    let buffers = [(2, raw), (3, group_of_token), (4, weight_of_token), (10, mean)];
    kernels.op(gpu, &SPEC, kernels.variant, &params, &buffers, grid).await
}
