use super::*;
use crate::matrix::Matrix;
use crate::shader::MATVEC_ROWS;
use crate::weights::quantize::BLOCK;

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
        /// 1: k is a multiple of 32.
        pub whole_blocks: u32,
    }
}

pub(super) const MATVEC: KernelSpec = KernelSpec {
    name: "matvec",
    params: LinearParams::FIELDS,
    flags: &[("accumulate", &[0, 1]), ("whole_blocks", &[0, 1])],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    uses_step: false,
    uses_weight: true,
};
/// For quantised weights on a GPU.
pub(super) const MATVEC_BLOCKS: KernelSpec = KernelSpec { name: "matvec_blocks", ..MATVEC };
/// For CPUs that play the GPU.
pub(super) const MATVEC_SERIAL: KernelSpec = KernelSpec { name: "matvec_serial", ..MATVEC };

pub(super) const MATMUL: KernelSpec = KernelSpec { name: "matmul", uses_step: true, ..MATVEC };
/// For CPUs that play the GPU.
pub(super) const MATMUL_SERIAL: KernelSpec = KernelSpec { name: "matmul_serial", ..MATMUL };
/// The same with subgroups of eight.
pub(super) const MATMUL_SHUFFLE: KernelSpec = KernelSpec { name: "matmul_shuffle", ..MATMUL };

/// Rows a workgroup of `matvec_blocks`.
const BLOCKS_ROWS: u32 = 8;
/// Rows a workgroup where each invocation has four.
const SERIAL_ROWS: u32 = 4 * SERIAL_WORKGROUP;
/// Tokens of an invocation of `matmul_serial` and `matmul_shuffle`.
const SERIAL_TOKENS: u32 = 8;
/// Tokens and rows of a tile of `matmul`.
const TILE: u32 = 64;

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
    let serial = kernels.serial();
    let reducing = kernels.reducing();
    let is_software = kernels.software;
    linear(kernels, gpu, weight, x, target, |storage, n_rows| {
        let (spec, variant, rows) = match storage {
            _ if is_software => (&MATVEC_SERIAL, serial, SERIAL_ROWS),
            storage if storage.is_quantised() => (&MATVEC_BLOCKS, reducing, BLOCKS_ROWS),
            _ => (&MATVEC, reducing, MATVEC_ROWS),
        };
        let n = n_rows.div_ceil(rows);
        (spec, variant, if one_token { Grid::Fixed(n, 1) } else { Grid::PerToken(n) })
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
    let (spec, variant, rows, tokens) = match (kernels.software, kernels.can_shuffle) {
        (false, _) => (&MATMUL, kernels.variant, TILE, TILE),
        (true, false) => (&MATMUL_SERIAL, kernels.serial(), SERIAL_ROWS, SERIAL_TOKENS),
        (true, true) => (&MATMUL_SHUFFLE, kernels.serial(), SERIAL_ROWS, SERIAL_TOKENS),
    };
    linear(kernels, gpu, weight, x, target, |_, n_rows| {
        (spec, variant, Grid::PerTile(n_rows.div_ceil(rows), tokens))
    })
    .await
}

/// One op for each part; `form` tells kernel, variant and grid for a part's storage and rows.
async fn linear(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
    form: impl Fn(Storage, u32) -> (&'static KernelSpec, Variant, Grid),
) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    for part in &weight.parts {
        let params = LinearParams {
            n_rows: part.n_rows as u32,
            n_quads: weight.k.div_ceil(4) as u32,
            weight_stride: part.row_stride,
            y_stride: target.y_stride as u32,
            y_offset: part.row_start as u32,
            accumulate: target.accumulate.into(),
            whole_blocks: weight.k.is_multiple_of(BLOCK).into(),
        };
        let (spec, variant, grid) = form(part.storage, params.n_rows);
        let variant = Variant { weight: part.storage, ..variant };
        let buffers = part.bindings(&[(2, x), (10, target.y)]);
        ops.push(kernels.op(gpu, spec, variant, &params, &buffers, grid).await?);
    }
    Ok(ops)
}
