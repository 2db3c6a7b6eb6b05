use super::*;
use crate::matrix::Matrix;

params! {
    /// Parameters of `embed.wgsl`.
    pub struct EmbedParams {
        /// ceil(h / 4)
        pub n_quads: u32,
        /// First vocabulary row in this part of the table.
        pub row_start: u32,
        /// Vocabulary rows in this part.
        pub n_rows: u32,
        /// Storage units a row.
        pub weight_stride: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "embed",
    params: EmbedParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: true,
};

/// x = E[tokens]: one op for each part of the table `[vocab, h]`; tokens `[T]` u32, x
/// `[T, ceil(h/4)·4]` f32.
pub async fn embed(
    kernels: &mut Kernels,
    gpu: &Gpu,
    table: &Matrix,
    tokens: &wgpu::Buffer,
    x: &wgpu::Buffer,
) -> Result<Vec<Op>> {
    let n_quads = table.k.div_ceil(4) as u32;
    let mut ops = Vec::new();
    for part in &table.parts {
        let variant = Variant { weight: part.storage, ..kernels.variant };
        let params = EmbedParams {
            n_quads,
            row_start: part.row_start as u32,
            n_rows: part.n_rows as u32,
            weight_stride: part.row_stride,
        };
        let buffers = part.bindings(&[(2, tokens), (10, x)]);
        let grid = Grid::PerToken(n_quads.div_ceil(ELEMENTWISE));
        ops.push(kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await?);
    }
    Ok(ops)
}
