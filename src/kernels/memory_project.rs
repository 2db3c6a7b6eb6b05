use super::*;

params! {
    /// Parameters of `memory_project.wgsl`.
    pub struct MemoryProjectParams {
        pub num_state_heads: u32,
        /// Floats from item to item in raw.
        pub raw_stride: u32,
        pub normalize_qk: u32,
        /// r (rank-wise gates) or 1.
        pub gates_per_head: u32,
        /// 0: λ = 1, 1: λ = 1 − β, 2: λ from its own rows.
        pub lambda_mode: u32,
        /// 1: erase = λ·β, 0: erase = β.
        pub erase_lambda: u32,
        /// 1: items are the write groups of `layer`, 0: the chunk's tokens.
        pub over_groups: u32,
        /// Index among the wrapped layers.
        pub layer: u32,
    }
}

pub(super) const SPEC: KernelSpec = KernelSpec {
    name: "memory_project",
    params: MemoryProjectParams::FIELDS,
    flags: &[
        ("normalize_qk", &[0, 1]),
        ("lambda_mode", &[0, 1, 2]),
        ("erase_lambda", &[0, 1]),
        ("over_groups", &[0, 1]),
    ],
    bindings: &[(2, Access::Read), (3, Access::Read), (10, Access::ReadWrite)],
    fusions: &[],
    uses_step: true,
    uses_weight: false,
};

/// projected = gates and normalised q, k, v of raw; raw `[items, raw_stride]` (or
/// `[layers, groups, raw_stride]`), bias `[2G]`, projected `[items, 6, R]`, all f32.
pub async fn memory_project(
    kernels: &mut Kernels,
    gpu: &Gpu,
    params: MemoryProjectParams,
    raw: &wgpu::Buffer,
    bias: &wgpu::Buffer,
    projected: &wgpu::Buffer,
) -> Result<Op> {
    let variant = kernels.narrow();
    let grid = match params.over_groups {
        1 => Grid::GroupItems(params.num_state_heads, variant.workgroup_size),
        _ => Grid::TokenItems(params.num_state_heads, variant.workgroup_size),
    };
    let buffers = [(2, raw), (3, bias), (10, projected)];
    kernels.op(gpu, &SPEC, variant, &params, &buffers, grid).await
}
