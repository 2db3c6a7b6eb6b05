//! Makes a [`Model`]: uploads the weights, allocates the buffers, builds every operation of a step.

mod memory;

use super::buffers::{Buffers, MemorySizes};
use super::{Attend, Choice, Head, Layer, Linear, MemoryLayer, Model, One};
use crate::config::{DeltaConfig, DeltaHead, ModelConfig, WriteGranularity};
use crate::engine::{Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::{self, Beside, Kernels, LinearTarget, Reads, RmsNormParams};
use crate::kv_cache::KvCache;
use crate::matrix::{Matrix, Uploader};
use crate::memory::MemoryDims;
use crate::shader::Storage;
use crate::weights::TensorSource;
pub(crate) use memory::bytes_spared;
use memory::{correction, gate_biases, memory_ops, project_params, scan_params};
use std::sync::Arc;

/// Tokens of a prefill that go through the layers together.
pub const DEFAULT_CHUNK: usize = 64;
/// Context window, unless the backbone's is smaller.
pub const DEFAULT_CONTEXT: usize = 4096;

/// How weights, KV cache and activations are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Storage of the backbone's matrices, but for those whose source has one of its own; norms and
    /// the adapter stay f32.
    pub weights: Storage,
    /// Storage of the KV cache, one of [`Storage::KV`].
    pub kv: Storage,
    /// Positions of the KV cache; `None` takes [`DEFAULT_CONTEXT`] or the backbone's maximum.
    pub context_window: Option<usize>,
    /// Most tokens that go through the layers together; changes memory and speed, no result.
    pub chunk: usize,
    /// Rows of logits that a call for all of them computes at a time.
    pub logits_rows: usize,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            weights: Storage::F16,
            kv: Storage::F16,
            context_window: None,
            chunk: DEFAULT_CHUNK,
            logits_rows: 1,
        }
    }
}

impl LoadOptions {
    /// Checks that the backbone's KV cache can be kept so.
    ///
    /// # Errors
    /// [`Error::Setting`] for a storage that is for weights only, or whose words a head does not fill.
    pub fn check_kv(&self, config: &ModelConfig) -> Result<()> {
        let refused = |reason| Err(Error::Setting { name: "kv", reason });
        if !Storage::KV.contains(&self.kv) {
            return refused(format!("{} is not f32, f16 or q8", self.kv.name()));
        }
        if self.kv == Storage::Q8 && !config.head_dim.is_multiple_of(4) {
            return refused(format!("q8 needs heads of whole quads, not of {}", config.head_dim));
        }
        Ok(())
    }
}

/// The context window that results from a wish and the backbone's maximum.
///
/// # Errors
/// [`Error::Setting`] for 0 or more positions than the backbone has.
pub fn context_window(config: &ModelConfig, wish: Option<usize>) -> Result<usize> {
    let most = config.max_position_embeddings;
    match wish {
        None => Ok(DEFAULT_CONTEXT.min(most)),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => Err(Error::Setting {
            name: "context",
            reason: format!("{n} is not between 1 and the backbone's {most} positions"),
        }),
    }
}

/// Operations and buffers of group writes (SSW, sentences), made for a number of groups.
#[derive(Debug)]
pub(super) struct GroupWrites {
    capacity: usize,
    /// `[wrapped layers, groups, raw_stride]` f32
    pub mean: wgpu::Buffer,
    /// For each wrapped layer: adds a chunk's tokens to the means.
    pub accumulate: Vec<kernels::Op>,
    /// For each wrapped layer: gates of the means, then the writes.
    pub write: Vec<(kernels::Op, kernels::Op)>,
}

impl Model {
    /// Loads backbone and adapter onto the device. Tensors stream through host memory in pieces.
    /// `progress` is called with (elements done, elements in all).
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`] before anything is uploaded; those of the
    /// source; [`Error::DeviceLimit`], [`Error::OutOfMemory`], [`Error::Gpu`] from the device.
    pub async fn load(
        gpu: Gpu,
        config: &ModelConfig,
        tensors: &dyn TensorSource,
        adapter: Option<(&DeltaConfig, &dyn TensorSource)>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        for (name, value) in [("chunk", options.chunk), ("logits_rows", options.logits_rows)] {
            if value == 0 {
                return Err(Error::Setting { name, reason: "must be at least 1".into() });
            }
        }
        options.check_kv(config)?;
        for (name, shape) in config.tensor_shapes() {
            tensors.check_shape(&name, &shape)?;
        }
        let mut total = config.n_parameters();
        let delta = adapter.map(|(delta, _)| delta);
        if let Some((delta, source)) = adapter {
            for (name, shape) in delta.tensor_shapes(config)? {
                source.check_shape(&name, &shape)?;
                total += shape.iter().product::<usize>() as u64;
            }
        }
        let dims = match delta {
            Some(delta) => delta.memory_dims(config)?,
            None => MemoryDims::default(),
        };
        let context_window = context_window(config, options.context_window)?;
        let sizes = MemorySizes::new(delta);
        let chunk = options.chunk.min(context_window).min(most_tokens(&gpu, sizes.n_rows));
        let logits_rows = options.logits_rows.min(chunk);
        let options = &LoadOptions { chunk, logits_rows, ..options.clone() };
        let mut kernels = Kernels::new(&gpu, options.kv, dims.rank, config.head_dim).await?;
        kernels.compile_ahead();
        let cache = KvCache::new(&gpu, config, options.kv, context_window).await?;
        let buffers = Buffers::new(&gpu, config, &sizes, &dims, options, context_window).await?;
        let mut loader = Loader {
            upload: Uploader::new(&gpu, total, progress),
            kernels,
            buffers: &buffers,
            cache: &cache,
            config,
            tensors,
            adapter,
            dims: &dims,
            sizes: &sizes,
            options,
            gate_up: None,
        };
        let embedding = loader
            .matrix(&[("model.embed_tokens.weight", config.vocab_size)], config.hidden_size)
            .await?;
        let embed =
            kernels::embed(&mut loader.kernels, &gpu, &embedding, &buffers.tokens, &buffers.x)
                .await?;
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            layers.push(loader.layer(layer).await?);
        }
        let head = loader.head(embedding).await?;
        loader.upload.finish().await?;
        let mut kernels = loader.kernels;
        kernels.finish().await?;
        let mut model = Model {
            config: config.clone(),
            delta: delta.cloned(),
            dims,
            options: options.clone(),
            context_window,
            n_past: 0,
            last_logits_row: None,
            kernels,
            buffers,
            cache,
            embed,
            layers,
            head,
            groups: None,
            gauges: None,
            device_loop: None,
            run: None,
            identity: Arc::new(()),
            gpu,
        };
        if delta.is_some_and(|delta| delta.write_granularity != WriteGranularity::Token) {
            // most calls have a message or two; more make room for themselves
            model.make_room_for_groups(8).await?;
        }
        model.gpu.check()?;
        Ok(model)
    }

    /// Makes sure that a call can have this many write groups.
    pub(super) async fn make_room_for_groups(&mut self, n_groups: usize) -> Result<()> {
        let Some(delta) = &self.delta else {
            return Ok(());
        };
        if self.groups.as_ref().is_some_and(|g| g.capacity >= n_groups) {
            return Ok(());
        }
        let sizes = MemorySizes::new(Some(delta));
        let most = most_tokens(&self.gpu, sizes.n_rows);
        if n_groups > most {
            return Err(Error::DeviceLimit {
                what: "a call with so many messages or sentences".into(),
                needed: n_groups as u64,
                limit: most as u64,
                advice: "feed the text in several calls",
            });
        }
        let capacity = n_groups.next_power_of_two();
        let (gpu, kernels, buffers) = (&self.gpu, &mut self.kernels, &self.buffers);
        let row_bytes = 4 * capacity as u64 * sizes.raw_stride as u64;
        let mean_bytes = self.dims.layers.len() as u64 * row_bytes;
        let mean = gpu.storage("group means", mean_bytes).await?;
        let projected_bytes = 4 * capacity as u64 * 6 * sizes.n_rows as u64;
        let projected = gpu.storage("projected group means", projected_bytes).await?;
        let mut accumulate = Vec::new();
        let mut write = Vec::new();
        let wrapped = self.layers.iter().filter_map(|layer| layer.memory.as_ref());
        for (index, memory) in wrapped.enumerate() {
            let params = kernels::SegmentMeanParams {
                n_columns: sizes.raw_stride as u32,
                raw_stride: sizes.raw_stride as u32,
                layer: index as u32,
            };
            let (groups, weights) = (&buffers.group_of_token, &buffers.weight_of_token);
            accumulate.push(
                kernels::segment_mean(kernels, gpu, params, &buffers.raw, groups, weights, &mean)
                    .await?,
            );
            let params = project_params(delta, &sizes, index, true);
            let project =
                kernels::memory_project(kernels, gpu, params, &mean, &memory.bias, &projected)
                    .await?;
            let params = scan_params(delta, index, true);
            let (state, reads) = (&buffers.state, &buffers.reads);
            let scan = kernels::memory_scan(kernels, gpu, params, &projected, state, reads).await?;
            write.push((project, scan));
        }
        self.groups = Some(GroupWrites { capacity, mean, accumulate, write });
        Ok(())
    }
}

/// Most tokens (or write groups) that a dispatch over tokens and over their memory rows can have.
fn most_tokens(gpu: &Gpu, n_rows: usize) -> usize {
    let workgroups = gpu.tier.max_workgroups as usize;
    workgroups.min(workgroups.saturating_mul(kernels::SERIAL_WORKGROUP as usize) / n_rows.max(1))
}

/// What is done to q, k and v heads before they are rotated.
struct Heads {
    /// The part of the params that says so.
    params: kernels::RopeKvParams,
    adjustments: Option<wgpu::Buffer>,
    /// Corrections that rotation cannot take along.
    apart: Vec<kernels::Op>,
}

/// What is at hand while layers are made.
struct Loader<'a> {
    upload: Uploader<'a>,
    kernels: Kernels,
    buffers: &'a Buffers,
    cache: &'a KvCache,
    config: &'a ModelConfig,
    tensors: &'a dyn TensorSource,
    adapter: Option<(&'a DeltaConfig, &'a dyn TensorSource)>,
    dims: &'a MemoryDims,
    sizes: &'a MemorySizes,
    options: &'a LoadOptions,
    /// gate | up, `[T, 2·FFN]` f32, once a layer has products that do not apply silu themselves.
    gate_up: Option<wgpu::Buffer>,
}

impl Loader<'_> {
    /// Backbone tensors `[n_i, k]`, stacked, in the storage that the options ask for.
    async fn matrix(&mut self, tensors: &[(&str, usize)], k: usize) -> Result<Matrix> {
        let tensors: Vec<_> = tensors.iter().map(|(name, n)| (name.to_string(), *n)).collect();
        let storage = self.options.weights;
        self.upload.matrix(self.tensors, &tensors, k, storage).await
    }

    /// y = x·Wᵀ in both forms.
    async fn linear(
        &mut self,
        weight: &Matrix,
        x: &wgpu::Buffer,
        target: LinearTarget<'_>,
    ) -> Result<Linear> {
        let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
        Ok(Linear {
            few: kernels::matvec(kernels, gpu, weight, x, target, false).await?,
            many: kernels::matmul(kernels, gpu, weight, x, target).await?,
            many_from: Linear::many_from(&gpu.tier),
        })
    }

    /// RMSNorm over the hidden vector.
    async fn hidden_norm(
        &mut self,
        name: &str,
        y: &wgpu::Buffer,
        last_only: bool,
    ) -> Result<kernels::Op> {
        let weight = self.upload.vector(self.tensors, name).await?;
        let stride = self.config.hidden_size.next_multiple_of(4) as u32;
        let params = RmsNormParams {
            dim: self.config.hidden_size as u32,
            x_stride: stride,
            x_offset: 0,
            y_stride: stride,
            y_offset: 0,
            eps: self.config.rms_norm_eps,
            accumulate: 0,
            last_only: last_only.into(),
        };
        let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
        kernels::rms_norm(kernels, gpu, params, 1, &self.buffers.x, &weight, y).await
    }

    async fn layer(&mut self, layer: usize) -> Result<Layer> {
        let (config, b) = (self.config, self.buffers);
        let (h, ffn) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_size(), config.kv_size());
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let residual = LinearTarget {
            y: &b.x,
            y_stride: h.next_multiple_of(4),
            accumulate: true,
            gated: false,
            beside: Beside::Nothing,
        };
        let index = self.dims.layers.iter().position(|&l| l == layer);
        let wrapped = self.adapter.zip(index);

        let input_norm = self.hidden_norm(&name("input_layernorm"), &b.normed, false).await?;
        let stacked = [
            (&*name("self_attn.q_proj"), q),
            (&*name("self_attn.k_proj"), kv),
            (&*name("self_attn.v_proj"), kv),
        ];
        let qkv_weight = self.matrix(&stacked, h).await?;
        let rows_weight = match wrapped {
            Some(((delta, source), _)) => Some(self.memory_rows(layer, delta, source).await?),
            None => None,
        };
        let beside = match &rows_weight {
            Some(weight) => Beside::MemoryRows { weight, raw: &b.raw },
            None => Beside::Nothing,
        };
        let (y, y_stride) = (&b.qkv, q + 2 * kv);
        let target = LinearTarget { y, y_stride, accumulate: false, gated: false, beside };
        let qkv = self.linear(&qkv_weight, &b.normed, target).await?;
        let (attend, bias) = self.attend(layer, wrapped).await?;
        let output_weight = self.matrix(&[(&name("self_attn.o_proj"), h)], q).await?;
        let (output, memory) = match wrapped.zip(bias) {
            None => (self.linear(&output_weight, &b.attended, residual).await?, None),
            Some((((delta, source), _), bias)) => {
                let output = self.corrected_output(layer, delta, source, &output_weight, residual);
                let (output, output_apart) = output.await?;
                (output, Some(MemoryLayer { output_apart, bias }))
            }
        };

        let post_norm =
            self.hidden_norm(&name("post_attention_layernorm"), &b.normed, false).await?;
        let stacked = [(&*name("mlp.gate_proj"), ffn), (&*name("mlp.up_proj"), ffn)];
        let gate_up_weight = self.matrix(&stacked, h).await?;
        let gate_up = self.activated(&gate_up_weight).await?;
        let down_weight = self.matrix(&[(&name("mlp.down_proj"), h)], ffn).await?;
        let down = self.linear(&down_weight, &b.activated, residual).await?;
        Ok(Layer { input_norm, qkv, attend, memory, output, post_norm, gate_up, down })
    }

    /// What lies between q, k, v and o; and the gates' biases of a wrapped layer, whose place among those
    /// comes with its adapter.
    async fn attend(
        &mut self,
        layer: usize,
        wrapped: Option<((&DeltaConfig, &dyn TensorSource), usize)>,
    ) -> Result<(Attend, Option<wgpu::Buffer>)> {
        let (config, b) = (self.config, self.buffers);
        let heads = self.heads(layer).await?;
        let biases = match wrapped {
            None => Vec::new(),
            Some(((delta, source), _)) => gate_biases(layer, delta, source)?,
        };
        let (keys, values) = &self.cache.layers[layer];
        let gpu = self.upload.gpu();
        let kernels = &mut self.kernels;
        let rope_params = kernels::RopeKvParams {
            n_heads: config.n_heads as u32,
            n_kv_heads: config.n_kv_heads as u32,
            stride: (config.q_size() + 2 * config.kv_size()) as u32,
            use_rope: config.use_rope[layer].into(),
            ..heads.params
        };
        let rope_buffers = kernels::RopeKvBuffers {
            qkv: &b.qkv,
            rope_table: &b.rope_table,
            keys,
            values,
            adjustments: heads.adjustments.as_ref().map(|a| (a, Reads::Stored(&b.reads))),
        };
        let rope_kv = kernels::rope_kv(kernels, gpu, rope_params, rope_buffers).await?;
        let params = kernels::AttentionParams {
            n_heads: config.n_heads as u32,
            n_kv_heads: config.n_kv_heads as u32,
            q_stride: rope_params.stride,
            o_stride: config.q_size().next_multiple_of(4) as u32,
            scale: (config.head_dim as f32).powf(-0.5),
        };
        let buffers = kernels::AttentionBuffers {
            q: &b.qkv,
            keys,
            values,
            parts: &b.attention_parts,
            o: &b.attended,
        };
        let few = kernels::attention_few(kernels, gpu, params, buffers, None).await?;
        let many = kernels::attention(kernels, gpu, params, buffers).await?;
        let many_from = Linear::many_from(&gpu.tier);
        let after = |memory: &[kernels::Op], attention: &[kernels::Op]| {
            [memory, &heads.apart, std::slice::from_ref(&rope_kv), attention].concat()
        };
        let Some(((delta, _), index)) = wrapped else {
            let bare = Linear { few: after(&[], &few), many: after(&[], &many), many_from };
            return Ok((Attend { one: None, writing: bare.clone(), reading: bare }, None));
        };

        let bias = gpu.storage_with("memory gate biases", &biases).await?;
        let memory = memory_ops(kernels, gpu, b, self.sizes, delta, index, &bias).await?;
        let writing = Linear {
            few: after(&memory.write_few, &few),
            many: after(&memory.write, &many),
            many_from,
        };
        let reading = Linear {
            few: after(&memory.read_few, &few),
            many: after(&memory.read, &many),
            many_from,
        };
        if !heads.apart.is_empty() || !kernels::takes_memory_step(kernels, params, delta.n_rows()) {
            return Ok((Attend { one: None, writing, reading }, Some(bias)));
        }
        // rotation makes the reads that it takes, and the end of attention the writes
        let rope_kv = match (rope_params.n_reads, &heads.adjustments) {
            (0, _) | (_, None) => rope_kv,
            (_, Some(adjustments)) => {
                let reads = Reads::Made { raw: &b.raw, state: &b.state };
                let adjustments = Some((adjustments, reads));
                let buffers = kernels::RopeKvBuffers { adjustments, ..rope_buffers };
                let params = kernels::RopeKvParams {
                    normalize_qk: memory.step.normalize_qk,
                    layer: memory.step.layer,
                    ..rope_params
                };
                kernels::rope_kv(kernels, gpu, params, buffers).await?
            }
        };
        let mut forms = [memory.step, memory.step_read].map(|step| (step, Vec::new()));
        for (step, ops) in &mut forms {
            let step = Some((*step, memory.buffers));
            ops.push(rope_kv.clone());
            ops.extend(kernels::attention_few(kernels, gpu, params, buffers, step).await?);
        }
        let [(_, one_writing), (_, one_reading)] = forms;
        let one = Some(One { writing: one_writing, reading: one_reading });
        Ok((Attend { one, writing, reading }, Some(bias)))
    }

    /// activated = silu(gate)·up of the normed x, in both forms.
    async fn activated(&mut self, weight: &Matrix) -> Result<Linear> {
        let (b, ffn) = (self.buffers, self.config.intermediate_size);
        let y_stride = ffn.next_multiple_of(4);
        let params = kernels::SiluMulParams {
            n: ffn as u32,
            gate_up_stride: 2 * ffn as u32,
            y_stride: y_stride as u32,
        };
        let mut forms = [Vec::new(), Vec::new()];
        let (few, many) = kernels::can_gate(&self.kernels, weight);
        for (index, gated) in [few, many].into_iter().enumerate() {
            let gate_up = match gated {
                true => None,
                false => Some(self.gate_up().await?),
            };
            let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
            let (y, y_stride) = match &gate_up {
                None => (&b.activated, y_stride),
                Some(gate_up) => (gate_up, 2 * ffn),
            };
            let beside = Beside::Nothing;
            let target = LinearTarget { y, y_stride, accumulate: false, gated, beside };
            let mut ops = match index {
                0 => kernels::matvec(kernels, gpu, weight, &b.normed, target, false).await?,
                _ => kernels::matmul(kernels, gpu, weight, &b.normed, target).await?,
            };
            if let Some(gate_up) = &gate_up {
                ops.push(kernels::silu_mul(kernels, gpu, params, gate_up, &b.activated).await?);
            }
            forms[index] = ops;
        }
        let [few, many] = forms;
        Ok(Linear { few, many, many_from: Linear::many_from(&self.upload.gpu().tier) })
    }

    /// The buffer between a product and its silu, made when it is first needed.
    async fn gate_up(&mut self) -> Result<wgpu::Buffer> {
        if let Some(buffer) = &self.gate_up {
            return Ok(buffer.clone());
        }
        let n = self.options.chunk * 2 * self.config.intermediate_size;
        let buffer = self.upload.gpu().storage("gate and up", 4 * n as u64).await?;
        self.gate_up = Some(buffer.clone());
        Ok(buffer)
    }

    /// What is done to q, k and v heads before they are rotated.
    async fn heads(&mut self, layer: usize) -> Result<Heads> {
        let (config, b) = (self.config, self.buffers);
        let mut heads = Heads {
            params: kernels::RopeKvParams {
                has_norm: config.has_qk_norm().into(),
                eps: config.rms_norm_eps,
                ..kernels::RopeKvParams::default()
            },
            adjustments: None,
            apart: Vec::new(),
        };
        let mut adjustments = Vec::new();
        if config.has_qk_norm() {
            for part in ["q_norm", "k_norm"] {
                let name = format!("model.layers.{layer}.self_attn.{part}.weight");
                adjustments.extend(self.tensors.read_all(&name)?);
            }
        }
        let wrapped = self.adapter.filter(|_| self.dims.layers.contains(&layer));
        if let Some((delta, source)) = wrapped {
            let (q, kv) = (config.q_size(), config.kv_size());
            let n_reads = delta.n_rows();
            let params = &mut heads.params;
            for (head, offset, n, is_corrected) in [
                (DeltaHead::Q, 0, q, &mut params.corrects_q),
                (DeltaHead::K, q, kv, &mut params.corrects_k),
                (DeltaHead::V, q + kv, kv, &mut params.corrects_v),
            ] {
                if !delta.delta_heads.contains(&head) {
                    continue;
                }
                let matrix = correction(layer, head, delta, source)?;
                if n_reads.is_multiple_of(4) {
                    *is_corrected = 1;
                    params.n_reads = n_reads as u32;
                    adjustments.extend(matrix);
                    continue;
                }
                let low_rank = kernels::LowRankAddParams {
                    n: n as u32,
                    n_rows: n_reads as u32,
                    y_stride: (q + 2 * kv) as u32,
                    y_offset: offset as u32,
                    accumulate: 1,
                };
                let gpu = self.upload.gpu();
                let matrix = gpu.storage_with("correction", &matrix).await?;
                let kernels = &mut self.kernels;
                let op = kernels::low_rank_add(kernels, gpu, low_rank, &matrix, &b.reads, &b.qkv)
                    .await?;
                heads.apart.push(op);
            }
        }
        if !adjustments.is_empty() {
            let gpu = self.upload.gpu();
            heads.adjustments = Some(gpu.storage_with("adjustments of heads", &adjustments).await?);
        }
        Ok(heads)
    }

    async fn head(&mut self, embedding: Matrix) -> Result<Head> {
        let (config, b) = (self.config, self.buffers);
        let weight = match config.tie_word_embeddings {
            true => embedding,
            false => {
                self.matrix(&[("lm_head.weight", config.vocab_size)], config.hidden_size).await?
            }
        };
        let norm = "model.norm.weight";
        let norm_all = self.hidden_norm(norm, &b.final_normed, false).await?;
        let norm_last = self.hidden_norm(norm, &b.final_normed, true).await?;
        let target = LinearTarget {
            y: &b.logits,
            y_stride: config.vocab_size,
            accumulate: false,
            gated: false,
            beside: Beside::Nothing,
        };
        let logits_all = self.linear(&weight, &b.final_normed, target).await?;
        let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
        let logits_last =
            kernels::matvec(kernels, gpu, &weight, &b.final_normed, target, true).await?;
        Ok(Head { norm_all, logits_all, norm_last, logits_last, choice: Choice::default() })
    }
}

impl Model {
    /// Makes the operations on the last token's logits that a call wants, unless they are there.
    pub(super) async fn prepare_choice(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let (kernels, gpu, b) = (&mut self.kernels, &self.gpu, &self.buffers);
        let (choice, logits) = (&mut self.head.choice, &self.buffers.logits);
        let vocab_size = self.config.vocab_size;
        let n = vocab_size as u32;
        if wanted.repetition.is_some() && choice.penalty.is_none() {
            let ids = &b.penalty_ids;
            let op = kernels::repetition_penalty(kernels, gpu, vocab_size, ids, logits);
            choice.penalty = Some(op.await?);
        }
        if wanted.mask.is_some() && choice.mask.is_none() {
            let params = kernels::MaskLogitsParams { n };
            let op = kernels::mask_logits(kernels, gpu, params, &b.mask, logits);
            choice.mask = Some(op.await?);
        }
        if wanted.logits == WantedLogits::Argmax && choice.argmax.is_none() {
            let params = kernels::ArgmaxParams { n };
            let op = kernels::argmax(kernels, gpu, params, logits, &b.argmax);
            choice.argmax = Some(op.await?);
        }
        if matches!(wanted.logits, WantedLogits::TopK { .. }) && choice.top_k.is_none() {
            let params = kernels::TopKParams { n };
            let settings = &b.top_k_settings;
            let op = kernels::top_k(kernels, gpu, params, logits, settings, &b.top_k);
            choice.top_k = Some(op.await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_in_8_bits_needs_heads_of_whole_quads() {
        let of = |head_dim: usize| {
            let json = format!(
                r#"{{"model_type": "qwen3", "hidden_size": 16, "intermediate_size": 16,
                "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                "head_dim": {head_dim}, "vocab_size": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
                "max_position_embeddings": 64, "tie_word_embeddings": true}}"#
            );
            ModelConfig::from_json(json.as_bytes(), "config.json").expect("a configuration")
        };
        let check =
            |kv, head_dim| LoadOptions { kv, ..LoadOptions::default() }.check_kv(&of(head_dim));
        assert!(check(Storage::Q8, 8).is_ok() && check(Storage::F16, 6).is_ok());
        assert_eq!(check(Storage::Q8, 6).expect_err("a refusal").code(), "setting");
        assert_eq!(check(Storage::Q4, 8).expect_err("a refusal").code(), "setting");
    }
}
