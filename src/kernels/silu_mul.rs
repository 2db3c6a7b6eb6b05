use super::*;

params! {
    /// Parameters of `silu_mul.wgsl`.
    pub struct SiluMulParams {
        /// Elements of gate, of up and of y.
        pub n: u32,
        /// Floats from token to token in gate_up.
        pub gate_up_stride: u32,
        /// Floats from token to token in y.
        pub y_stride: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "silu_mul",
    params: SiluMulParams::FIELDS,
    flags: &[],
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// y = silu(gate)·up; gate_up `[T, gate_up_stride]`, y `[T, y_stride]`, f32.
pub async fn silu_mul(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: SiluMulParams,
    gate_up: &wgpu::Buffer,
    y: &wgpu::Buffer,
) -> Result<Op> {
    let grid = Grid::PerToken(params.n.div_ceil(ELEMENTWISE));
    let buffers = [(2, gate_up), (10, y)];
    kernels.op(gpu, &SPEC, kernels.variant, &params, &buffers, grid).await
}
