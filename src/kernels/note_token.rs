use super::*;

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "note_token",
    params: &[],
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// Adds the first of tokens `[T]` u32 to ids `[2 + n]` u32 (count, bits of the penalty, token ids),
/// unless it is among them.
pub async fn note_token(
    kernels: &mut Kernels,
    gpu: &Gpu,
    tokens: &wgpu::Buffer,
    ids: &wgpu::Buffer,
) -> Result<Op> {
    let buffers = [(2, tokens), (10, ids)];
    kernels.op(gpu, &SPEC, kernels.variant, &NoParams {}, &buffers, Grid::Fixed(1, 1)).await
}
