//! The twin's model: weights, KV cache and memory, and one linear `forward` to be read beside
//! SPEC.md sections 1 to 3.

use super::adapter::Adapter;
use super::decoding::Run;
use super::memory::raw_width;
use super::*;
use crate::config::{DeltaConfig, DeltaHead, ModelConfig};
use crate::engine::{Call, Gauge, Outputs, Wanted, WantedLogits, foreign_context};
use crate::error::{Error, Result};
use crate::memory::{MemoryDims, MemoryState};
use crate::rope::RopeTable;
use crate::shader::Storage;
use crate::weights::TensorSource;
use crate::weights::quantize::round_trip;
use crate::write_plan::WritePlan;
use std::sync::Arc;

/// How a model is loaded and run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of the KV cache.
    pub context_window: usize,
    /// Most tokens computed at once; `None` = a whole call. Never changes a result.
    pub chunk: Option<usize>,
    /// Rounds the backbone's matrices to what this storage keeps of them.
    pub weights: Storage,
    /// Rounds keys and values likewise; f32 or f16.
    pub kv: Storage,
}

impl Default for Options {
    fn default() -> Options {
        Options { context_window: 4096, chunk: None, weights: Storage::F32, kv: Storage::F32 }
    }
}

/// A backbone with its adapter, KV cache and memory, all in f32.
pub struct Model {
    pub(super) config: ModelConfig,
    delta: Option<DeltaConfig>,
    options: Options,
    /// `[vocab, h]`
    embed_tokens: Vec<f32>,
    layers: Vec<Layer>,
    /// `[h]`
    norm: Vec<f32>,
    /// `[vocab, h]`; `None` = the embedding matrix.
    lm_head: Option<Vec<f32>>,
    rope: RopeTable,
    pub(super) kv: Vec<KvCache>,
    pub(super) n_past: usize,
    pub(super) memory: MemoryState,
    /// The last token's logits in the last call that computed any, after penalty and mask. `[vocab]`
    pub(super) last_logits: Option<Vec<f32>>,
    /// Of the last token in the last call that wanted gauges.
    last_gauges: Option<Vec<Gauge>>,
    /// The reply that is being decoded.
    pub(super) run: Option<Run>,
    /// Tells this model from others.
    identity: Arc<()>,
}

/// KV cache and memory of a [`Model`] at one moment.
pub struct ParkedContext {
    kv: Vec<KvCache>,
    n_past: usize,
    memory: MemoryState,
    identity: Arc<()>,
}

/// One decoder layer's weights; matrices are `[out, in]`.
struct Layer {
    /// `[h]`
    input_norm: Vec<f32>,
    /// `[n_q·d, h]`
    q: Vec<f32>,
    /// `[n_kv·d, h]`
    k: Vec<f32>,
    /// `[n_kv·d, h]`
    v: Vec<f32>,
    /// q_norm and k_norm, `[d]` each.
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    /// `[h, n_q·d]`
    o: Vec<f32>,
    /// `[h]`
    post_norm: Vec<f32>,
    /// `[i, h]`
    gate: Vec<f32>,
    /// `[i, h]`
    up: Vec<f32>,
    /// `[h, i]`
    down: Vec<f32>,
    adapter: Option<Adapter>,
}

impl Model {
    /// Reads backbone and adapter into memory as f32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorShape`] where a source does not hold what its
    /// configuration says; whatever reading it returns.
    pub fn load(
        config: &ModelConfig,
        weights: &dyn TensorSource,
        adapter: Option<(&DeltaConfig, &dyn TensorSource)>,
        options: Options,
    ) -> Result<Model> {
        for (name, shape) in config.tensor_shapes() {
            weights.check_shape(&name, &shape)?;
        }
        let dims = match adapter {
            None => MemoryDims::default(),
            Some((delta, source)) => {
                for (name, shape) in delta.tensor_shapes(config)? {
                    source.check_shape(&name, &shape)?;
                }
                delta.memory_dims(config)?
            }
        };
        let matrix = |name: &str| -> Result<Vec<f32>> {
            let name = format!("model.{name}.weight");
            read_matrix(weights, &name, options.weights)
        };
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let matrix = |name: &str| matrix(&format!("layers.{layer}.{name}"));
            let vector =
                |name: &str| weights.read_all(&format!("model.layers.{layer}.{name}.weight"));
            layers.push(Layer {
                input_norm: vector("input_layernorm")?,
                q: matrix("self_attn.q_proj")?,
                k: matrix("self_attn.k_proj")?,
                v: matrix("self_attn.v_proj")?,
                qk_norm: match config.has_qk_norm() {
                    true => Some((vector("self_attn.q_norm")?, vector("self_attn.k_norm")?)),
                    false => None,
                },
                o: matrix("self_attn.o_proj")?,
                post_norm: vector("post_attention_layernorm")?,
                gate: matrix("mlp.gate_proj")?,
                up: matrix("mlp.up_proj")?,
                down: matrix("mlp.down_proj")?,
                adapter: match (adapter, dims.layers.binary_search(&layer)) {
                    (Some((delta, source)), Ok(index)) => {
                        Some(Adapter::load(delta, source, layer, index)?)
                    }
                    _ => None,
                },
            });
        }
        Ok(Model {
            embed_tokens: matrix("embed_tokens")?,
            norm: weights.read_all("model.norm.weight")?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(read_matrix(weights, "lm_head.weight", options.weights)?),
            },
            layers,
            rope: RopeTable::of(config, options.context_window),
            kv: vec![KvCache::default(); config.n_layers],
            n_past: 0,
            memory: MemoryState::zeros(dims),
            last_logits: None,
            last_gauges: None,
            run: None,
            identity: Arc::new(()),
            config: config.clone(),
            delta: adapter.map(|(delta, _)| delta.clone()),
            options,
        })
    }

    /// One pass over the call's tokens: appends them to the KV cache, reads and writes the memory.
    ///
    /// # Errors
    /// Those of [`Call::check`] and [`Wanted::check`], before anything has changed.
    pub fn forward(&mut self, call: &Call, wanted: Wanted) -> Result<Outputs> {
        // whoever asks for something else in the middle of a reply has what was handed out
        self.run = None;
        self.forward_call(call, wanted)
    }

    pub(super) fn forward_call(&mut self, call: &Call, wanted: Wanted) -> Result<Outputs> {
        self.check(call, &wanted)?;
        let plan = WritePlan::new(self.delta.as_ref(), call);
        let mut means = self.empty_means(&plan);
        let mut outputs = Outputs::default();
        if wanted.intermediates {
            outputs.reads = vec![Vec::new(); self.memory.dims.layers.len()];
            outputs.hidden = vec![Vec::new(); self.config.n_layers];
        }
        let (n_tokens, hidden_size) = (call.tokens.len(), self.config.hidden_size);
        let chunk = self.options.chunk.unwrap_or(n_tokens).max(1);
        for start in (0..n_tokens).step_by(chunk) {
            let range = start..n_tokens.min(start + chunk);
            let tokens = &call.tokens[range.clone()];
            let plan = plan.slice(range.clone());
            let mut x = embed(tokens, &self.embed_tokens, hidden_size);
            let mut gauges = wanted.gauges.then(Vec::new);
            for layer in 0..self.config.n_layers {
                let reads = self.layer(layer, &mut x, &plan, &mut means, gauges.as_mut());
                if wanted.intermediates {
                    outputs.hidden[layer].extend_from_slice(&x);
                    if let Some((index, reads)) = reads {
                        outputs.reads[index].extend(reads);
                    }
                }
            }
            if gauges.is_some() {
                self.last_gauges = gauges;
            }
            self.n_past += tokens.len();
            match wanted.logits {
                WantedLogits::None => {}
                WantedLogits::All => outputs.logits.extend(self.head(&x)),
                _ if range.end == n_tokens => {
                    let logits = self.head(&x[x.len() - hidden_size..]);
                    self.take_last(&wanted, logits, &mut outputs);
                }
                _ => {}
            }
        }
        if wanted.logits == WantedLogits::All {
            let last = outputs.logits.len() - self.config.vocab_size;
            self.last_logits = Some(outputs.logits[last..].to_vec());
        }
        self.write_means(&plan, &means);
        Ok(outputs)
    }

    /// Decoder layer `index` over x `[T, h]`; the wrapped layer's index and reads `[T, R]`.
    fn layer(
        &mut self,
        index: usize,
        x: &mut [f32],
        plan: &WritePlan,
        means: &mut [Vec<f32>],
        gauges: Option<&mut Vec<Gauge>>,
    ) -> Option<(usize, Vec<f32>)> {
        let (config, layer) = (&self.config, &self.layers[index]);
        let (h, eps, n_past) = (config.hidden_size, config.rms_norm_eps, self.n_past);
        let n_tokens = x.len() / h;

        let mut n = vec![0.0; x.len()];
        rms_norm(x, &layer.input_norm, eps, &mut n, Output::Store);
        let mut q = vec![0.0; n_tokens * config.q_size()];
        let mut k = vec![0.0; n_tokens * config.kv_size()];
        let mut v = vec![0.0; n_tokens * config.kv_size()];
        matmul(&n, &layer.q, h, &mut q, Output::Store);
        matmul(&n, &layer.k, h, &mut k, Output::Store);
        matmul(&n, &layer.v, h, &mut v, Output::Store);

        let mut reads = None;
        let mut beta = Vec::new();
        if let (Some(delta), Some(adapter)) = (&self.delta, &layer.adapter) {
            let width = raw_width(delta);
            let mut raw = vec![0.0; n_tokens * width];
            matmul(&n, &adapter.rows, h, &mut raw, Output::Store);
            let projected = adapter.project(delta, &raw);
            let state = self.memory.layer_mut(adapter.index);
            let rho = match plan {
                WritePlan::ReadOnly => memory_read(state, &projected.q, delta.rank),
                WritePlan::PerToken => memory_scan(state, &projected, delta.rank),
                WritePlan::Groups { group_of_token, weight, .. } => {
                    let means = &mut means[adapter.index];
                    segment_mean(&raw, width, group_of_token, weight, means);
                    memory_read(state, &projected.q, delta.rank)
                }
            };
            for (target, head) in
                [(&mut q, DeltaHead::Q), (&mut k, DeltaHead::K), (&mut v, DeltaHead::V)]
            {
                if let Some(d) = &adapter.corrections[head as usize] {
                    low_rank_add(target, d, &rho, delta.n_rows());
                }
            }
            reads = Some((adapter.index, rho));
            beta = projected.write;
        }

        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            q = normed_heads(&q, q_norm, eps);
            k = normed_heads(&k, k_norm, eps);
        }
        if config.use_rope[index] {
            rope(&mut q, config.n_heads, &self.rope, n_past);
            rope(&mut k, config.n_kv_heads, &self.rope, n_past);
        }
        let (n_heads, n_kv_heads) = (config.n_heads, config.n_kv_heads);
        kv_write(&mut self.kv[index], &k, &v, self.options.kv, config.head_dim);
        let attended = attention(&q, &self.kv[index], n_past, n_heads, n_kv_heads, config.head_dim);
        let last = x.len() - h;
        let before = gauges.is_some().then(|| x[last..].to_vec());
        matmul(&attended, &layer.o, config.q_size(), x, Output::Add);
        if let (Some(adapter), Some((_, rho))) = (&layer.adapter, &reads) {
            let with_o = gauges.is_some().then(|| x[last..].to_vec());
            adapter.add_delta_o(rho, x);
            if let (Some(gauges), Some(before), Some(with_o)) = (gauges, before, with_o) {
                let is_corrected = adapter.corrections[DeltaHead::O as usize].is_some();
                let residual = is_corrected.then_some([&before[..], &with_o[..], &x[last..]]);
                let beta = &beta[beta.len() - adapter.n_rows..];
                gauges.push(Gauge::new(index, beta, residual));
            }
        }

        rms_norm(x, &layer.post_norm, eps, &mut n, Output::Store);
        let mut gate = vec![0.0; n_tokens * config.intermediate_size];
        let mut up = gate.clone();
        matmul(&n, &layer.gate, h, &mut gate, Output::Store);
        matmul(&n, &layer.up, h, &mut up, Output::Store);
        silu_mul(&mut gate, &up);
        matmul(&gate, &layer.down, config.intermediate_size, x, Output::Add);
        reads
    }

    /// Zero means `[n_groups, 3R + G (+ G)]` of each wrapped layer, if the plan has groups.
    fn empty_means(&self, plan: &WritePlan) -> Vec<Vec<f32>> {
        match (plan, &self.delta) {
            (WritePlan::Groups { n_groups, .. }, Some(delta)) => {
                vec![vec![0.0; n_groups * raw_width(delta)]; self.memory.dims.layers.len()]
            }
            _ => Vec::new(),
        }
    }

    /// At the end of a call with groups: one write a group, in ascending order.
    fn write_means(&mut self, plan: &WritePlan, means: &[Vec<f32>]) {
        let (WritePlan::Groups { .. }, Some(delta)) = (plan, &self.delta) else {
            return;
        };
        for adapter in self.layers.iter().filter_map(|l| l.adapter.as_ref()) {
            let projected = adapter.project(delta, &means[adapter.index]);
            memory_scan(self.memory.layer_mut(adapter.index), &projected, delta.rank);
        }
    }

    /// Logits `[T, vocab]` of the last layer's x `[T, h]`.
    fn head(&self, x: &[f32]) -> Vec<f32> {
        let (h, vocab_size) = (self.config.hidden_size, self.config.vocab_size);
        let mut normed = vec![0.0; x.len()];
        rms_norm(x, &self.norm, self.config.rms_norm_eps, &mut normed, Output::Store);
        let mut logits = vec![0.0; x.len() / h * vocab_size];
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        matmul(&normed, head, h, &mut logits, Output::Store);
        logits
    }

    /// What is wanted of the last token's logits.
    fn take_last(&mut self, wanted: &Wanted, mut logits: Vec<f32>, outputs: &mut Outputs) {
        if let Some(repetition) = &wanted.repetition {
            repetition_penalty(&mut logits, repetition);
        }
        if let Some(mask) = wanted.mask {
            mask_logits(&mut logits, mask);
        }
        match wanted.logits {
            WantedLogits::Argmax => outputs.argmax = Some(argmax(&logits)),
            WantedLogits::TopK { k, temperature } => {
                outputs.top_k = Some(top_k(&logits, k, temperature));
            }
            _ => outputs.logits = logits.clone(),
        }
        self.last_logits = Some(logits);
    }

    fn check(&self, call: &Call, wanted: &Wanted) -> Result<()> {
        call.check(&self.config, self.n_past, self.options.context_window)?;
        wanted.check(&self.config)
    }

    /// The last call's logits of its last token (after a repetition penalty and a mask), `[vocab_size]`.
    ///
    /// # Errors
    /// [`Error::Setting`] if no call has computed any.
    pub fn last_logits(&self) -> Result<Vec<f32>> {
        self.last_logits.clone().ok_or_else(|| Error::Setting {
            name: "logits",
            reason: "no call has computed any yet".into(),
        })
    }

    /// The gauges of the last token in the last call that wanted them.
    ///
    /// # Errors
    /// [`Error::Setting`] if no call wanted them.
    pub fn last_gauges(&self) -> Result<Vec<Gauge>> {
        self.last_gauges.clone().ok_or_else(|| Error::Setting {
            name: "gauges",
            reason: "no call has wanted any yet".into(),
        })
    }

    /// A copy of KV cache and memory as they are now.
    pub fn park(&self) -> ParkedContext {
        ParkedContext {
            kv: self.kv.clone(),
            n_past: self.n_past,
            memory: self.memory.clone(),
            identity: self.identity.clone(),
        }
    }

    /// Puts a copy in the place of KV cache and memory.
    ///
    /// # Errors
    /// [`Error::Setting`] if another model made the copy; nothing has changed then.
    pub fn adopt(&mut self, parked: &ParkedContext) -> Result<()> {
        if !Arc::ptr_eq(&self.identity, &parked.identity) {
            return Err(foreign_context());
        }
        self.run = None;
        self.kv.clone_from(&parked.kv);
        self.n_past = parked.n_past;
        self.memory = parked.memory.clone();
        self.last_logits = None;
        Ok(())
    }

    /// How it was loaded.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Most tokens that the KV cache holds.
    pub fn context_window(&self) -> usize {
        self.options.context_window
    }

    /// Tokens in the KV cache.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Drops the KV cache from position `n` on; the memory stays. No effect if it is shorter.
    pub fn truncate(&mut self, n: usize) {
        self.run = None;
        if n >= self.n_past {
            return;
        }
        for cache in &mut self.kv {
            cache.k.truncate(n * self.config.kv_size());
            cache.v.truncate(n * self.config.kv_size());
        }
        self.n_past = n;
    }

    /// Drops the whole KV cache; the memory stays.
    pub fn reset_context(&mut self) {
        self.truncate(0);
    }

    /// The memory as it is now.
    pub fn memory(&self) -> MemoryState {
        self.memory.clone()
    }

    /// The dimensions of the memory, without layers for a bare backbone.
    pub fn memory_dims(&self) -> &MemoryDims {
        &self.memory.dims
    }

    /// Replaces the memory.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] for other dimensions; the memory then stays as it was.
    pub fn set_memory(&mut self, memory: &MemoryState) -> Result<()> {
        memory.check_dims(&self.memory.dims)?;
        self.run = None;
        self.memory = memory.clone();
        Ok(())
    }

    /// The backbone's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The adapter's configuration, `None` for a bare backbone.
    pub fn delta_config(&self) -> Option<&DeltaConfig> {
        self.delta.as_ref()
    }
}

/// RMSNorm over each head.
fn normed_heads(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    rms_norm(x, weight, eps, &mut y, Output::Store);
    y
}

/// A matrix `[out, in]`, each row rounded to a storage unless the source has one of its own.
pub(crate) fn read_matrix(
    source: &dyn TensorSource,
    name: &str,
    storage: Storage,
) -> Result<Vec<f32>> {
    let mut matrix = source.read_all(name)?;
    if storage != Storage::F32 && source.own_storage(name).is_none() {
        let n_in = source.info(name).map_or(1, |info| info.shape[1]);
        for_each_row(&mut matrix, n_in, |_, row| round_trip(storage, row, n_in));
    }
    Ok(matrix)
}
