use super::*;

params! {
    /// Parameters of `mask_logits.wgsl`.
    pub struct MaskLogitsParams {
        /// Logits.
        pub n: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "mask_logits",
    params: MaskLogitsParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: false,
    uses_weight: false,
};

/// Rules out tokens in logits `[n]` f32 whose bit in mask `[ceil(n / 32)]` u32 is 0.
pub async fn mask_logits(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: MaskLogitsParams,
    mask: &wgpu::Buffer,
    logits: &wgpu::Buffer,
) -> Result<Op> {
    let grid = Grid::Fixed(params.n.div_ceil(ELEMENTWISE), 1);
    kernels.op(gpu, &SPEC, kernels.variant, &params, &[(2, mask), (10, logits)], grid).await
}
