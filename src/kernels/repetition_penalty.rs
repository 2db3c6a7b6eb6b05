use super::*;

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "repetition_penalty",
    params: &[],
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: false,
    uses_weight: false,
};

/// Damps listed tokens in logits `[vocab]` f32; ids `[2 + vocab]` u32: count, bits of the penalty,
/// token ids.
pub async fn repetition_penalty(
    kernels: &mut Kernels,
    gpu: &Gpu,
    vocab_size: usize,
    ids: &wgpu::Buffer,
    logits: &wgpu::Buffer,
) -> Result<Op> {
    let grid = Grid::Fixed((vocab_size as u32).div_ceil(ELEMENTWISE), 1);
    let buffers = [(2, ids), (10, logits)];
    kernels.op(gpu, &SPEC, kernels.variant, &NoParams {}, &buffers, grid).await
}
