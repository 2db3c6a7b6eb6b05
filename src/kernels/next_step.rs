use super::*;

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "next_step",
    params: &[],
    flags: &[],
    bindings: &[
        (2, Access::Read),
        (3, Access::Read),
        (10, Access::ReadWrite),
        (11, Access::ReadWrite),
        (12, Access::ReadWrite),
        (13, Access::ReadWrite),
    ],
    fusions: &[],
    // it writes the step numbers, so it has them elsewhere than those that read them
    uses_step: false,
    uses_weight: false,
};

/// In [`next_step`]'s results: the host has to choose, and nothing was fed after this step.
pub const UNDECIDED: u32 = u32::MAX;
/// In [`next_step`]'s results: the reply was over before this step.
pub const EMPTY_STEP: u32 = u32::MAX - 1;

/// What [`next_step`] takes from one step to the next.
#[derive(Debug, Clone, Copy)]
pub struct NextStepBuffers<'a> {
    /// `[1]` u32
    pub chosen: &'a wgpu::Buffer,
    /// `[ceil(vocab / 32)]` u32, a bit a token that ends the reply.
    pub stops: &'a wgpu::Buffer,
    /// `[T]` u32
    pub tokens: &'a wgpu::Buffer,
    /// `[slots]` u32
    pub results: &'a wgpu::Buffer,
    /// `[2]` u32: steps done, slots.
    pub progress: &'a wgpu::Buffer,
}

/// Makes the chosen token the next step's, or ends the reply, in the kernels' own step buffer.
pub async fn next_step(
    kernels: &mut Kernels,
    gpu: &Gpu,
    buffers: NextStepBuffers<'_>,
) -> Result<Op> {
    let NextStepBuffers { chosen, stops, tokens, results, progress } = buffers;
    let step = kernels.step.clone();
    let buffers =
        [(2, chosen), (3, stops), (10, &step), (11, tokens), (12, results), (13, progress)];
    kernels.op(gpu, &SPEC, kernels.variant, &NoParams {}, &buffers, Grid::Fixed(1, 1)).await
}
