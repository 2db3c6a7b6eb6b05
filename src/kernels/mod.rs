//! The host side of the shaders: one file a kernel, each with its parameters, its bindings and a
//! function that makes an [`Op`]. Owns pipelines, bind groups and dispatch sizes; the order of
//! operations is `model.rs`'s.
//!
//! Everything is made at load. A step writes the [`Step`] numbers and records dispatches.

mod argmax;
mod attention;
mod choose;
mod embed;
mod linear;
mod low_rank_add;
mod mask_logits;
mod memory_project;
mod memory_read;
mod memory_scan;
mod memory_step;
mod next_step;
mod note_token;
mod pipelines;
mod repetition_penalty;
mod rms_norm;
mod rope_kv;
mod segment_mean;
mod silu_mul;
mod top_k;

pub use argmax::{ArgmaxParams, argmax};
pub(crate) use attention::most_attention_parts;
pub use attention::{
    AttentionBuffers, AttentionCombineParams, AttentionParams, AttentionSerialParams,
    AttentionTiledParams, attention, attention_few, attention_parts_len, takes_memory_step,
};
pub use choose::{ChooseInputs, choose};
pub use embed::{EmbedParams, embed};
pub use linear::{Beside, LinearParams, LinearTarget, can_gate, matmul, matvec};
pub use low_rank_add::{LowRankAddParams, low_rank_add};
pub use mask_logits::{MaskLogitsParams, mask_logits};
pub use memory_project::{MemoryProjectParams, memory_project};
pub use memory_read::{MemoryReadParams, memory_read};
pub use memory_scan::{MemoryScanParams, memory_scan};
pub use memory_step::{MemoryStepBuffers, MemoryStepParams, memory_step};
pub use next_step::{EMPTY_STEP, NextStepBuffers, UNDECIDED, next_step};
pub use note_token::note_token;
pub use repetition_penalty::repetition_penalty;
pub use rms_norm::{RmsNormParams, rms_norm};
pub use rope_kv::{Reads, RopeKvBuffers, RopeKvParams, rope_kv};
pub use segment_mean::{SegmentMeanParams, segment_mean};
pub use silu_mul::{SiluMulParams, silu_mul};
pub use top_k::{TopKParams, top_k};

use crate::error::Result;
use crate::gpu::{Gpu, Instruments};
use crate::shader::{self, Fusion, Storage, Variant};
use bytemuck::{Pod, Zeroable};
use pipelines::{Pipeline, Pipelines};
use std::sync::Arc;

/// Declares the `#[repr(C)]` mirror of a shader's `Params`; all fields are 4 bytes, so offsets
/// follow from the order, which `tests/shaders.rs` compares with the WGSL.
macro_rules! params {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            /// Field names and types in memory order.
            pub const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), stringify!($type))),*];
        }
    };
}
pub(crate) use params;

params! {
    /// The numbers that change from call to call (`shaders/lib/step.wgsl`).
    pub struct Step {
        /// Tokens of this chunk.
        pub n_tokens: u32,
        /// Tokens in the KV cache before this chunk.
        pub n_past: u32,
        /// Write groups of this call.
        pub n_groups: u32,
        /// 1 / temperature, for `top_k`.
        pub inverse_temperature: f32,
    }
}

/// What a shader does with a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// The interface of a kernel, checked against its WGSL by `tests/shaders.rs`.
#[derive(Debug)]
pub struct KernelSpec {
    pub name: &'static str,
    /// Fields of `Params`; empty if the kernel has none.
    pub params: &'static [(&'static str, &'static str)],
    /// Those params that choose between ways through the kernel, with the values they can have.
    pub flags: &'static [(&'static str, &'static [u32])],
    /// Storage bindings beside params (0) and step (1); the weight's (8, 9) come with the format.
    pub bindings: &'static [(u32, Access)],
    /// What it can take along, and the bindings that come with it.
    pub fusions: &'static [(Fusion, &'static [(u32, Access)])],
    pub uses_step: bool,
    pub uses_weight: bool,
}

/// Every kernel's interface.
pub const SPECS: &[&KernelSpec] = &[
    &embed::SPEC,
    &rms_norm::SPEC,
    &linear::MATVEC,
    &linear::MATVEC_BLOCKS,
    &linear::MATVEC_SERIAL,
    &linear::MATVEC_QUADS,
    &linear::MATMUL,
    &linear::MATMUL_SERIAL,
    &linear::MATMUL_SHUFFLE,
    &memory_project::SPEC,
    &memory_scan::SPEC,
    &memory_read::SPEC,
    &memory_step::SPEC,
    &segment_mean::SPEC,
    &low_rank_add::SPEC,
    &rope_kv::SPEC,
    &rope_kv::Q8,
    &attention::SPEC,
    &attention::TILED,
    &attention::COMBINE,
    &attention::SERIAL,
    &silu_mul::SPEC,
    &note_token::SPEC,
    &repetition_penalty::SPEC,
    &mask_logits::SPEC,
    &argmax::SPEC,
    &top_k::SPEC,
    &choose::SPEC,
    &next_step::SPEC,
];

/// How many workgroups a dispatch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Always this many.
    Fixed(u32, u32),
    /// x workgroups for each token.
    PerToken(u32),
    /// x workgroups for each token and each of this many ranges (z).
    PerTokenRange(u32, u32),
    /// x workgroups for each tile of this many tokens.
    PerTile(u32, u32),
    /// One invocation an item, so many items a token, in workgroups of that many.
    TokenItems(u32, u32),
    /// The same for write groups.
    GroupItems(u32, u32),
}

impl Grid {
    fn workgroups(self, step: &Step) -> (u32, u32, u32) {
        let (x, y) = match self {
            Grid::PerTokenRange(x, ranges) => return (x, step.n_tokens, ranges),
            Grid::Fixed(x, y) => (x, y),
            Grid::PerToken(x) => (x, step.n_tokens),
            Grid::PerTile(x, tile) => (x, step.n_tokens.div_ceil(tile)),
            Grid::TokenItems(n, workgroup) => ((step.n_tokens * n).div_ceil(workgroup), 1),
            Grid::GroupItems(n, workgroup) => ((step.n_groups * n).div_ceil(workgroup), 1),
        };
        (x, y, 1)
    }
}

/// Invocations of a workgroup where none talks to another.
pub const ELEMENTWISE: u32 = 64;

/// Invocations of a workgroup on a CPU that plays the GPU: as many as it computes side by side.
pub const SERIAL_WORKGROUP: u32 = 8;

/// Invocations of a workgroup that is alone or one of few: as many as plain WebGPU allows.
const ALONE: u32 = 256;

/// One recorded-to-be dispatch: pipeline, bindings and size.
#[derive(Debug, Clone)]
pub struct Op {
    kernel: &'static str,
    pipeline: Pipeline,
    bind_group: wgpu::BindGroup,
    grid: Grid,
    instruments: Arc<Instruments>,
}

impl Op {
    /// Records the dispatch for this step's sizes.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let (x, y, z) = self.grid.workgroups(step);
        if x > 0 && y > 0 {
            pass.set_pipeline(self.pipeline.wait());
            pass.set_bind_group(0, &self.bind_group, &[]);
            self.instruments.dispatch(self.kernel, pass, |pass| pass.dispatch_workgroups(x, y, z));
        }
    }
}

/// Makes ops at load: compiles each distinct shader once and owns the step buffer.
#[derive(Debug)]
pub struct Kernels {
    /// The buffer that every op reads its [`Step`] from; storage, so that the GPU can count on.
    pub step: wgpu::Buffer,
    variant: Variant,
    pipelines: Pipelines,
    reduce_workgroup: u32,
    software: bool,
    /// Eight invocations of a workgroup can share what they load.
    can_shuffle: bool,
}

impl Kernels {
    /// For one model: `kv` is the storage of its cache, `rank` and `head_dim` its sizes.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub async fn new(gpu: &Gpu, kv: Storage, rank: usize, head_dim: usize) -> Result<Kernels> {
        let step = gpu.storage("step", size_of::<Step>() as u64).await?;
        Ok(Kernels {
            step,
            variant: Variant {
                weight: Storage::F32,
                kv,
                kv_write: false,
                fusion: Fusion::None,
                min_subgroup_size: match gpu.tier.subgroups {
                    true => gpu.tier.min_subgroup_size.max(1),
                    false => 0,
                },
                shuffle: false,
                short_loops: false,
                f16: gpu.tier.f16,
                enable_subgroups_line: cfg!(target_arch = "wasm32"),
                workgroup_size: ELEMENTWISE,
                rank: rank as u32,
                head_dim: head_dim as u32,
            },
            pipelines: Pipelines::default(),
            reduce_workgroup: gpu.tier.reduce_workgroup(),
            software: gpu.tier.software,
            can_shuffle: gpu.tier.min_subgroup_size >= SERIAL_WORKGROUP,
        })
    }

    /// Lets kernels compile while other things go on, until [`Kernels::finish`].
    pub fn compile_ahead(&mut self) {
        self.pipelines.compile_ahead();
    }

    /// Waits until all kernels are compiled.
    ///
    /// # Errors
    /// [`Error::Gpu`] for one that does not compile on this device.
    pub async fn finish(&mut self) -> Result<()> {
        self.pipelines.finish().await
    }

    /// The variant for kernels whose workgroups reduce together.
    fn reducing(&self) -> Variant {
        Variant { workgroup_size: self.reduce_workgroup, ..self.variant }
    }

    /// The variant for kernels of a CPU that plays the GPU.
    fn serial(&self) -> Variant {
        let (workgroup_size, shuffle) = (SERIAL_WORKGROUP, self.can_shuffle);
        Variant { workgroup_size, shuffle, ..self.variant }
    }

    /// The variant for kernels of few invocations that do not talk to each other: as many a workgroup
    /// as are computed side by side.
    fn narrow(&self) -> Variant {
        if self.software { self.serial() } else { self.variant }
    }

    /// The variant for a kernel of one workgroup that goes through `n` numbers so many times: as large as
    /// plain WebGPU allows, or where barriers are slow, also to compile, as small as lavapipe's 65,535
    /// rounds of an invocation's loops allow.
    fn alone(&self, n: u32, n_times: u32) -> Variant {
        let most_rounds = 32_768 / n_times;
        let workgroup_size = match self.software {
            true => n.div_ceil(most_rounds).next_power_of_two().clamp(SERIAL_WORKGROUP, ALONE),
            false => ALONE,
        };
        Variant { workgroup_size, ..self.variant }
    }

    /// Makes an op: compiles the kernel if need be, uploads its params, binds its buffers.
    async fn op<P: Pod>(
        &mut self,
        gpu: &Gpu,
        spec: &'static KernelSpec,
        variant: Variant,
        params: &P,
        buffers: &[(u32, &wgpu::Buffer)],
        grid: Grid,
    ) -> Result<Op> {
        debug_assert_eq!(size_of::<P>(), 4 * spec.params.len(), "{}", spec.name);
        let flags = flag_values(spec, bytemuck::bytes_of(params));
        let mut bound: Vec<(u32, wgpu::Buffer)> = Vec::with_capacity(buffers.len() + 2);
        if !spec.params.is_empty() {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = gpu.buffer(spec.name, size_of::<P>() as u64, usage).await?;
            gpu.queue.write_buffer(&buffer, 0, bytemuck::bytes_of(params));
            bound.push((0, buffer));
        }
        if spec.uses_step {
            bound.push((1, self.step.clone()));
        }
        bound.extend(buffers.iter().map(|(binding, buffer)| (*binding, (*buffer).clone())));
        let source = shader::source(spec.name, &variant, &flags);
        let layout: Vec<_> =
            bound.iter().map(|(binding, _)| layout_entry(spec, *binding)).collect();
        let pipeline = self.pipelines.get(&gpu.device, spec.name, source, &layout).await?;
        let entries: Vec<_> = bound
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(spec.name),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let instruments = gpu.device.instruments().clone();
        Ok(Op { kernel: spec.name, pipeline, bind_group, grid, instruments })
    }
}

/// The layout of a binding; what is no storage of the kernel's own are params (0), step (1) and
/// weights (8, 9).
fn layout_entry(spec: &KernelSpec, binding: u32) -> wgpu::BindGroupLayoutEntry {
    let fused = spec.fusions.iter().flat_map(|(_, bindings)| *bindings);
    let own = spec.bindings.iter().chain(fused).find(|(number, _)| *number == binding);
    let ty = match binding {
        0 => wgpu::BufferBindingType::Uniform,
        _ => wgpu::BufferBindingType::Storage {
            read_only: own.is_none_or(|(_, access)| *access == Access::Read),
        },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

/// The flags of a kernel as its params have them.
fn flag_values(spec: &KernelSpec, params: &[u8]) -> Vec<(&'static str, u32)> {
    let words = spec.params.iter().zip(params.chunks_exact(4));
    let is_flag = |name: &str| spec.flags.iter().any(|(flag, _)| *flag == name);
    words
        .filter(|((name, _), _)| is_flag(name))
        .map(|((name, _), bytes)| (*name, bytemuck::pod_read_unaligned(bytes)))
        .collect()
}

/// For kernels without params.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NoParams {}
