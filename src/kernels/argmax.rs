use super::*;

params! {
    /// Parameters of `argmax.wgsl`.
    pub struct ArgmaxParams {
        /// Logits.
        pub n: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "argmax",
    params: ArgmaxParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: false,
    uses_weight: false,
};

/// result `[1]` u32 = index of the largest of logits `[n]` f32.
pub async fn argmax(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: ArgmaxParams,
    logits: &wgpu::Buffer,
    result: &wgpu::Buffer,
) -> Result<Op> {
    let variant = kernels.alone(params.n, 1);
    let buffers = [(2, logits), (10, result)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, Grid::Fixed(1, 1)).await
}
