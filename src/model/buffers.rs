//! Activations, results and small tables of a model on the GPU: every buffer that is neither a
//! weight nor the KV cache. Owns their shapes.

use super::{Linear, LoadOptions};
use crate::config::{DeltaConfig, ModelConfig};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::attention_parts_len;
use crate::memory::MemoryDims;
use crate::rope::RopeTable;
use crate::shader::TOP_K_CAPACITY;

/// Activations and small tables; `T` is the chunk size.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `[T]` u32
    pub tokens: wgpu::Buffer,
    /// `[T]` u32, `[T]` f32: the chunk's part of a group write plan.
    pub group_of_token: wgpu::Buffer,
    pub weight_of_token: wgpu::Buffer,
    /// Residual stream, `[T, ceil(h/4)·4]` f32.
    pub x: wgpu::Buffer,
    /// Normed x, the same shape.
    pub normed: wgpu::Buffer,
    /// q | k | v, `[T, (n_q + 2·n_kv)·d]` f32; q is rotated there.
    pub qkv: wgpu::Buffer,
    /// Attention over ranges of the keys, `[T, n_q, splits, 2 + d]` f32; on GPUs for a few tokens.
    pub attention_parts: wgpu::Buffer,
    /// Attention output, `[T, ceil(n_q·d/4)·4]` f32.
    pub attended: wgpu::Buffer,
    /// silu(gate)·up, `[T, ceil(FFN/4)·4]` f32.
    pub activated: wgpu::Buffer,
    /// Linear memory rows, `[T, 3R + G (+ G)]` f32.
    pub raw: wgpu::Buffer,
    /// What the scan takes, `[T, 6, R]` f32.
    pub projected: wgpu::Buffer,
    /// ρ, `[T, R]` f32.
    pub reads: wgpu::Buffer,
    /// Δo before its norm, `[T, h]` f32.
    pub delta_output: wgpu::Buffer,
    /// S, `[wrapped layers, H_s, r, r]` f32.
    pub state: wgpu::Buffer,
    /// `[context, d/2]` (cos, sin) f32
    pub rope_table: wgpu::Buffer,
    /// Input of the head, `[logits_rows, ceil(h/4)·4]` f32.
    pub final_normed: wgpu::Buffer,
    /// `[logits_rows, vocab]` f32
    pub logits: wgpu::Buffer,
    /// `[2 + vocab]` u32
    pub penalty_ids: wgpu::Buffer,
    /// `[ceil(vocab / 32)]` u32
    pub mask: wgpu::Buffer,
    /// `[1]` u32
    pub argmax: wgpu::Buffer,
    /// `[4]` u32: k; then what `choose` reads.
    pub top_k_settings: wgpu::Buffer,
    /// `[4 + 2·TOP_K_CAPACITY]` u32
    pub top_k: wgpu::Buffer,
}

impl Buffers {
    pub async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        sizes: &MemorySizes,
        dims: &MemoryDims,
        options: &LoadOptions,
        context_window: usize,
    ) -> Result<Buffers> {
        let t = options.chunk as u64;
        let padded = |n: usize| n.next_multiple_of(4) as u64;
        let floats = async |label: &str, n: u64| gpu.storage(label, 4 * n).await;
        let qkv = (config.q_size() + 2 * config.kv_size()) as u64;
        let h = padded(config.hidden_size);
        // the device's limit is asked first, as the table takes as much host memory
        let rope_table =
            floats("rope table", context_window as u64 * config.head_dim as u64).await?;
        let rope = RopeTable::of(config, context_window);
        let pairs = rope.cos.iter().zip(&rope.sin);
        let table: Vec<f32> = pairs.flat_map(|(&cos, &sin)| [cos, sin]).collect();
        gpu.queue.write_buffer(&rope_table, 0, bytemuck::cast_slice(&table));
        let few = Linear::many_from(&gpu.tier) as usize - 1;
        let (heads, head_dim) = (config.n_heads, config.head_dim);
        let parts = attention_parts_len(gpu, options.chunk, few, heads, head_dim);
        Ok(Buffers {
            tokens: floats("tokens", t).await?,
            group_of_token: floats("group of token", t).await?,
            weight_of_token: floats("weight of token", t).await?,
            x: floats("residual stream", t * h).await?,
            normed: floats("normed", t * h).await?,
            qkv: floats("qkv", t * qkv).await?,
            attention_parts: floats("attention parts", parts as u64).await?,
            attended: floats("attended", t * padded(config.q_size())).await?,
            activated: floats("activated", t * padded(config.intermediate_size)).await?,
            raw: floats("memory rows", t * sizes.raw_stride as u64).await?,
            projected: floats("projected memory rows", t * 6 * sizes.n_rows as u64).await?,
            // bound as whole quads even where nothing is read
            reads: floats("reads", (t * sizes.n_rows as u64).max(4)).await?,
            delta_output: floats("delta of the output", t * config.hidden_size as u64).await?,
            state: floats("memory state", dims.len() as u64).await?,
            rope_table,
            final_normed: floats("final normed", options.logits_rows as u64 * h).await?,
            logits: floats("logits", options.logits_rows as u64 * config.vocab_size as u64).await?,
            penalty_ids: floats("penalised tokens", 2 + config.vocab_size as u64).await?,
            mask: floats("mask", config.vocab_size.div_ceil(32) as u64).await?,
            argmax: floats("argmax", 1).await?,
            top_k_settings: floats("top-k settings", 4).await?,
            top_k: floats("top-k", 4 + 2 * u64::from(TOP_K_CAPACITY)).await?,
        })
    }
}

/// Row counts of the memory's part of a layer; zeros without δ-mem.
#[derive(Debug, Clone, Default)]
pub(super) struct MemorySizes {
    /// R
    pub n_rows: usize,
    /// 3R + G, + G if λ has rows of its own.
    pub raw_stride: usize,
}

impl MemorySizes {
    pub fn new(delta: Option<&DeltaConfig>) -> MemorySizes {
        delta.map_or_else(MemorySizes::default, |delta| MemorySizes {
            n_rows: delta.n_rows(),
            raw_stride: 3 * delta.n_rows()
                + delta.n_gates() * (1 + usize::from(delta.uses_lambda())),
        })
    }
}
