use super::*;

params! {
    /// Parameters of `rms_norm.wgsl`.
    pub struct RmsNormParams {
        /// Elements of a row.
        pub dim: u32,
        /// Floats from token to token in x.
        pub x_stride: u32,
        /// Floats before the first row in x.
        pub x_offset: u32,
        /// Floats from token to token in y.
        pub y_stride: u32,
        /// Floats before the first row in y.
        pub y_offset: u32,
        pub eps: f32,
        /// 1: y += …, 0: y = …
        pub accumulate: u32,
        /// 1: only the chunk's last token, into the first row of y.
        pub last_only: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "rms_norm",
    params: RmsNormParams::FIELDS,
    flags: &[("accumulate", &[0, 1]), ("last_only", &[0, 1])],
    bindings: &[(2, Access::Read), (3, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// Elements of a row from which a GPU takes its largest workgroup: in decoding there is one, which waits
/// for its loads.
const LONG_ROW: u32 = 1024;

/// y = RMSNorm(x; weight) over `rows_per_token` rows of each token; weight `[dim]` f32.
pub async fn rms_norm(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: RmsNormParams,
    rows_per_token: usize,
    x: &wgpu::Buffer,
    weight: &wgpu::Buffer,
    y: &wgpu::Buffer,
) -> Result<Op> {
    let variant = match params.dim >= LONG_ROW && !kernels.software {
        true => Variant { workgroup_size: ALONE, ..kernels.variant },
        false => kernels.reducing(),
    };
    let rows = rows_per_token as u32;
    let grid = match params.last_only {
        1 => Grid::Fixed(rows, 1),
        _ => Grid::PerToken(rows),
    };
    let buffers = [(2, x), (3, weight), (10, y)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
