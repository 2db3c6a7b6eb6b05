use super::*;
use crate::matrix::Matrix;
use crate::shader::{MATMUL_TILE, MATVEC_ROWS};

params! {
    /// Parameters of `matvec.wgsl` and `matmul.wgsl`.
    pub struct LinearParams {
        pub n_rows: u32,
        /// ceil(k / 4)
        pub n_quads: u32,
        /// Storage units a row.
        pub weight_stride: u32,
        /// Floats from token to token in y.
        pub y_stride: u32,
        /// Floats before the first row in y.
        pub y_offset: u32,
        /// 1: y += …, 0: y = …
        pub accumulate: u32,
    }
}

pub(super) const MATVEC: KernelSpec = KernelSpec {
    name: "matvec",
    params: LinearParams::FIELDS,
    flags: &[("accumulate", &[0, 1])],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    uses_step: false,
    uses_weight: true,
};

pub(super) const MATMUL: KernelSpec = KernelSpec { name: "matmul", uses_step: true, ..MATVEC };

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
pub struct LinearTarget<'a> {
    /// `[T, y_stride]` f32
    pub y: &'a wgpu::Buffer,
    /// Floats from token to token.
    pub y_stride: usize,
    /// True adds to what is there (a residual).
    pub accumulate: bool,
}

/// y = x·Wᵀ for a few tokens (or exactly one): one op for each part of W `[rows, k]`; x
/// `[T, ceil(k/4)·4]` f32 with zero padding.
pub async fn matvec(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
    one_token: bool,
) -> Result<Vec<Op>> {
    let variant = kernels.reducing();
    let grid = |x: u32| if one_token { Grid::Fixed(x, 1) } else { Grid::PerToken(x) };
    linear(kernels, gpu, &MATVEC, variant, weight, x, target, |rows| {
        grid(rows.div_ceil(MATVEC_ROWS))
    })
    .await
}

/// y = x·Wᵀ for many tokens; as [`matvec`].
pub async fn matmul(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
) -> Result<Vec<Op>> {
    let variant = kernels.variant;
    let grid = |rows: u32| Grid::PerTile(rows.div_ceil(MATMUL_TILE), MATMUL_TILE);
    linear(kernels, gpu, &MATMUL, variant, weight, x, target, grid).await
}

#[expect(clippy::too_many_arguments, reason = "the two kernels differ in exactly these")]
async fn linear(
    kernels: &mut Kernels,
    gpu: &Gpu,
    spec: &'static KernelSpec,
    variant: Variant,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
    grid: impl Fn(u32) -> Grid,
) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    for part in &weight.parts {
        let variant = Variant { weight: part.storage, ..variant };
        let params = LinearParams {
            n_rows: part.n_rows as u32,
            n_quads: weight.k.div_ceil(4) as u32,
            weight_stride: part.row_stride,
            y_stride: target.y_stride as u32,
            y_offset: part.row_start as u32,
            accumulate: target.accumulate.into(),
        };
        let buffers = part.bindings(&[(2, x), (10, target.y)]);
        let grid = grid(params.n_rows);
        ops.push(kernels.op(gpu, spec, variant, &params, &buffers, grid).await?);
    }
    Ok(ops)
}
