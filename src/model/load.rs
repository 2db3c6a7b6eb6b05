//! Makes a [`Model`]: uploads the weights, allocates the buffers, builds every operation of a step.

use super::buffers::{Buffers, MemorySizes};
use super::{Choice, Head, Layer, Linear, MemoryLayer, Model};
use crate::config::{
    DeltaConfig, DeltaHead, ModelConfig, StateUpdateMode, WriteGranularity, adapter_tensor_name,
};
use crate::engine::{Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::{self, Kernels, LinearTarget, RmsNormParams};
use crate::kv_cache::KvCache;
use crate::matrix::{Matrix, Uploader};
use crate::memory::MemoryDims;
use crate::shader::Storage;
use crate::weights::TensorSource;
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
        let kernels = Kernels::new(&gpu, options.kv, dims.rank, config.head_dim).await?;
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
        let kernels = loader.kernels;
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
    workgroups.min(workgroups.saturating_mul(kernels::ELEMENTWISE as usize) / n_rows.max(1))
}

fn project_params(
    delta: &DeltaConfig,
    sizes: &MemorySizes,
    layer: usize,
    over_groups: bool,
) -> kernels::MemoryProjectParams {
    kernels::MemoryProjectParams {
        num_state_heads: delta.num_state_heads as u32,
        raw_stride: sizes.raw_stride as u32,
        normalize_qk: delta.normalize_qk.into(),
        gates_per_head: if delta.rankwise_gates { delta.rank as u32 } else { 1 },
        lambda_mode: match delta.state_update_mode {
            StateUpdateMode::NoLambda => 0,
            _ if delta.couple_lambda => 1,
            _ => 2,
        },
        erase_lambda: (delta.state_update_mode == StateUpdateMode::LambdaOutside).into(),
        over_groups: over_groups.into(),
        layer: layer as u32,
    }
}

fn scan_params(delta: &DeltaConfig, layer: usize, over_groups: bool) -> kernels::MemoryScanParams {
    kernels::MemoryScanParams {
        num_state_heads: delta.num_state_heads as u32,
        layer: layer as u32,
        over_groups: over_groups.into(),
    }
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
        let residual = LinearTarget { y: &b.x, y_stride: h.next_multiple_of(4), accumulate: true };

        let input_norm = self.hidden_norm(&name("input_layernorm"), &b.normed, false).await?;
        let stacked = [
            (&*name("self_attn.q_proj"), q),
            (&*name("self_attn.k_proj"), kv),
            (&*name("self_attn.v_proj"), kv),
        ];
        let qkv_weight = self.matrix(&stacked, h).await?;
        let qkv_target = LinearTarget { y: &b.qkv, y_stride: q + 2 * kv, accumulate: false };
        let qkv = self.linear(&qkv_weight, &b.normed, qkv_target).await?;
        let memory = match self.dims.layers.iter().position(|&l| l == layer) {
            Some(index) => self.memory_layer(layer, index).await?,
            None => None,
        };
        let qk_norm = match config.has_qk_norm() {
            true => self.qk_norm(layer).await?,
            false => Vec::new(),
        };
        let caches = (&self.cache.layers[layer].0, &self.cache.layers[layer].1);
        let gpu = self.upload.gpu();
        let params = kernels::RopeKvParams {
            n_heads: config.n_heads as u32,
            n_kv_heads: config.n_kv_heads as u32,
            stride: (q + 2 * kv) as u32,
            use_rope: config.use_rope[layer].into(),
        };
        let qk = if config.has_qk_norm() { &b.qk_normed } else { &b.qkv };
        let kernels = &mut self.kernels;
        let rope_kv =
            kernels::rope_kv(kernels, gpu, params, qk, &b.qkv, &b.rope_table, caches, &b.query)
                .await?;
        let params = kernels::AttentionParams {
            n_heads: config.n_heads as u32,
            n_kv_heads: config.n_kv_heads as u32,
            o_stride: q.next_multiple_of(4) as u32,
            scale: (config.head_dim as f32).powf(-0.5),
        };
        let buffers = kernels::AttentionBuffers {
            q: &b.query,
            keys: caches.0,
            values: caches.1,
            parts: &b.attention_parts,
            o: &b.attended,
        };
        let attention = Linear {
            few: kernels::attention_few(kernels, gpu, params, buffers).await?,
            many: kernels::attention(kernels, gpu, params, buffers).await?,
        };
        let output_weight = self.matrix(&[(&name("self_attn.o_proj"), h)], q).await?;
        let output = self.linear(&output_weight, &b.attended, residual).await?;

        let post_norm =
            self.hidden_norm(&name("post_attention_layernorm"), &b.normed, false).await?;
        let stacked = [(&*name("mlp.gate_proj"), ffn), (&*name("mlp.up_proj"), ffn)];
        let gate_up_weight = self.matrix(&stacked, h).await?;
        let gate_up_target = LinearTarget { y: &b.gate_up, y_stride: 2 * ffn, accumulate: false };
        let gate_up = self.linear(&gate_up_weight, &b.normed, gate_up_target).await?;
        let params = kernels::SiluMulParams {
            n: ffn as u32,
            gate_up_stride: 2 * ffn as u32,
            y_stride: ffn.next_multiple_of(4) as u32,
        };
        let silu_mul =
            kernels::silu_mul(&mut self.kernels, gpu, params, &b.gate_up, &b.activated).await?;
        let down_weight = self.matrix(&[(&name("mlp.down_proj"), h)], ffn).await?;
        let down = self.linear(&down_weight, &b.activated, residual).await?;
        Ok(Layer {
            input_norm,
            qkv,
            memory,
            qk_norm,
            rope_kv,
            attention,
            output,
            post_norm,
            gate_up,
            silu_mul,
            down,
        })
    }

    /// RMSNorm over each query and each key head, from qkv to qk_normed.
    async fn qk_norm(&mut self, layer: usize) -> Result<Vec<kernels::Op>> {
        let (config, b) = (self.config, self.buffers);
        let stride = (config.q_size() + 2 * config.kv_size()) as u32;
        let mut ops = Vec::new();
        for (part, offset, n_heads) in
            [("q_norm", 0, config.n_heads), ("k_norm", config.q_size(), config.n_kv_heads)]
        {
            let name = format!("model.layers.{layer}.self_attn.{part}.weight");
            let weight = self.upload.vector(self.tensors, &name).await?;
            let params = RmsNormParams {
                dim: config.head_dim as u32,
                x_stride: stride,
                x_offset: offset as u32,
                y_stride: stride,
                y_offset: offset as u32,
                eps: config.rms_norm_eps,
                accumulate: 0,
                last_only: 0,
            };
            let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
            ops.push(
                kernels::rms_norm(kernels, gpu, params, n_heads, &b.qkv, &weight, &b.qk_normed)
                    .await?,
            );
        }
        Ok(ops)
    }

    /// δ-mem of one wrapped layer; `index` is its place among them.
    async fn memory_layer(&mut self, layer: usize, index: usize) -> Result<Option<MemoryLayer>> {
        let Some((delta, source)) = self.adapter else {
            return Ok(None);
        };
        let (b, sizes) = (self.buffers, self.sizes);
        let (rows, gates) = (delta.n_rows(), delta.n_gates());
        let name = |part: &str| adapter_tensor_name(layer, part);
        let mut stacked = vec![
            (name("memory_q_proj"), rows),
            (name("memory_k_proj"), rows),
            (name("memory_v_proj"), rows),
            (name("beta_proj"), gates),
        ];
        let mut bias = source.read_all(&name("beta_bias"))?;
        if delta.uses_lambda() {
            stacked.push((name("lambda_proj"), gates));
            bias.extend(source.read_all(&name("lambda_bias"))?);
        } else {
            bias.resize(2 * gates, 0.0);
        }
        let h = self.config.hidden_size;
        let rows_weight = self.upload.matrix(source, &stacked, h, Storage::F32).await?;
        let target = LinearTarget { y: &b.raw, y_stride: sizes.raw_stride, accumulate: false };
        let rows = self.linear(&rows_weight, &b.normed, target).await?;
        let gpu = self.upload.gpu();
        let bias = gpu.storage_with("memory gate biases", &bias).await?;
        let kernels = &mut self.kernels;
        let params = project_params(delta, sizes, index, false);
        let project =
            kernels::memory_project(kernels, gpu, params, &b.raw, &bias, &b.projected).await?;
        let params = scan_params(delta, index, false);
        let scan =
            kernels::memory_scan(kernels, gpu, params, &b.projected, &b.state, &b.reads).await?;
        let params = kernels::MemoryReadParams {
            num_state_heads: delta.num_state_heads as u32,
            layer: index as u32,
        };
        let read =
            kernels::memory_read(kernels, gpu, params, &b.projected, &b.state, &b.reads).await?;
        Ok(Some(MemoryLayer {
            rows,
            project,
            scan,
            read,
            correct_qkv: self.correct_qkv(layer, delta, source).await?,
            correct_output: self.correct_output(layer, delta, source).await?,
            bias,
        }))
    }

    async fn correct_qkv(
        &mut self,
        layer: usize,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
    ) -> Result<Vec<kernels::Op>> {
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let mut ops = Vec::new();
        for (head, offset, n) in
            [(DeltaHead::Q, 0, q), (DeltaHead::K, q, kv), (DeltaHead::V, q + kv, kv)]
        {
            if delta.delta_heads.contains(&head) {
                let params = kernels::LowRankAddParams {
                    n: n as u32,
                    n_rows: delta.n_rows() as u32,
                    y_stride: (q + 2 * kv) as u32,
                    y_offset: offset as u32,
                    accumulate: 1,
                };
                ops.push(
                    self.low_rank_add(layer, head, delta, source, params, &self.buffers.qkv)
                        .await?,
                );
            }
        }
        Ok(ops)
    }

    async fn correct_output(
        &mut self,
        layer: usize,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
    ) -> Result<Vec<kernels::Op>> {
        if !delta.delta_heads.contains(&DeltaHead::O) {
            return Ok(Vec::new());
        }
        let (h, b) = (self.config.hidden_size as u32, self.buffers);
        let stride = h.next_multiple_of(4);
        let mut params = kernels::LowRankAddParams {
            n: h,
            n_rows: delta.n_rows() as u32,
            y_stride: stride,
            y_offset: 0,
            accumulate: 1,
        };
        let Some(eps) = delta.delta_o_rmsnorm_eps else {
            let add = self.low_rank_add(layer, DeltaHead::O, delta, source, params, &b.x).await?;
            return Ok(vec![add]);
        };
        params.accumulate = 0;
        params.y_stride = h;
        let product =
            self.low_rank_add(layer, DeltaHead::O, delta, source, params, &b.delta_output).await?;
        let name = adapter_tensor_name(layer, "delta_o_rmsnorm_weight");
        let weight = self.upload.vector(source, &name).await?;
        let params = RmsNormParams {
            dim: h,
            x_stride: h,
            x_offset: 0,
            y_stride: stride,
            y_offset: 0,
            eps,
            accumulate: 1,
            last_only: 0,
        };
        let (gpu, kernels) = (self.upload.gpu(), &mut self.kernels);
        let norm =
            kernels::rms_norm(kernels, gpu, params, 1, &b.delta_output, &weight, &b.x).await?;
        Ok(vec![product, norm])
    }

    /// y += (α / r)·m·W_Δ·ρ with the factors folded into the matrix.
    async fn low_rank_add(
        &mut self,
        layer: usize,
        head: DeltaHead,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
        params: kernels::LowRankAddParams,
        y: &wgpu::Buffer,
    ) -> Result<kernels::Op> {
        let mut matrix =
            source.read_all(&adapter_tensor_name(layer, &format!("delta_{}_proj", head.name())))?;
        let raw_scale = match delta.delta_scale {
            Some(_) => source.read_all(&adapter_tensor_name(layer, "delta_scale_raw"))?,
            None => Vec::new(),
        };
        let factor = delta.correction_scale(head, &raw_scale);
        for value in &mut matrix {
            *value *= factor;
        }
        let gpu = self.upload.gpu();
        let matrix = gpu.storage_with("correction", &matrix).await?;
        let kernels = &mut self.kernels;
        kernels::low_rank_add(kernels, gpu, params, &matrix, &self.buffers.reads, y).await
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
        let target = LinearTarget { y: &b.logits, y_stride: config.vocab_size, accumulate: false };
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
