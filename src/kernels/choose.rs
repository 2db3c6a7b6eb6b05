use super::*;
use crate::engine::MAX_TOP_K;

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "choose",
    params: &[],
    flags: &[],
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (5, Access::Read),
        (10, Access::ReadWrite),
    ],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// What [`choose`] reads.
#[derive(Debug, Clone, Copy)]
pub struct ChooseInputs<'a> {
    /// `[4 + 2·TOP_K_CAPACITY]` u32, from `top_k`.
    pub top_k: &'a wgpu::Buffer,
    /// `[4]` u32: candidates asked for, top-k (0: off), bits of top-p, bits of min-p.
    pub settings: &'a wgpu::Buffer,
    /// `[slots]` f32
    pub uniforms: &'a wgpu::Buffer,
    /// `[2]` u32: steps done, slots.
    pub progress: &'a wgpu::Buffer,
}

/// chosen `[1]` u32 = a token drawn from the largest logits, or `u32::MAX` if f32 cannot tell which.
pub async fn choose(
    kernels: &mut Kernels,
    gpu: &Gpu,
    inputs: ChooseInputs<'_>,
    chosen: &wgpu::Buffer,
) -> Result<Op> {
    let variant = Variant { workgroup_size: MAX_TOP_K as u32, ..kernels.variant };
    let ChooseInputs { top_k, settings, uniforms, progress } = inputs;
    let buffers = [(2, top_k), (3, settings), (4, uniforms), (5, progress), (10, chosen)];
    kernels.op(gpu, &SPEC, variant, &NoParams {}, &buffers, Grid::Fixed(1, 1)).await
}
