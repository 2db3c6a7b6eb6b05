//! The forward pass on the GPU, in the order of SPEC.md sections 1 to 3. Owns what a call does:
//! chunks, write plan, dispatch order, read-back. `load.rs` makes the operations it records.

mod buffers;
mod decoding;
mod gauges;
mod kv_bytes;
mod load;
mod park;

pub(crate) use decoding::history_bytes;
pub(crate) use load::bytes_spared;
pub use load::{DEFAULT_CHUNK, DEFAULT_CONTEXT, LoadOptions, context_window};
pub use park::ParkedContext;

use crate::config::{DeltaConfig, ModelConfig};
use crate::engine::{Call, MAX_TOP_K, Outputs, RepetitionPenalty, TopK, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tier};
use crate::kernels::{Op, Step};
use crate::kv_cache::KvCache;
use crate::memory::{MemoryDims, MemoryState};
use crate::reference;
use crate::shader::TOP_K_CAPACITY;
use crate::write_plan::WritePlan;
use buffers::Buffers;
use decoding::{DeviceLoop, Run, inverse_temperature};
use gauges::Gauges;
use load::GroupWrites;
use std::sync::Arc;

/// A loaded model with its KV cache and its memory.
#[derive(Debug)]
pub struct Model {
    gpu: Gpu,
    config: ModelConfig,
    delta: Option<DeltaConfig>,
    dims: MemoryDims,
    options: LoadOptions,
    context_window: usize,
    /// Tokens in the KV cache.
    n_past: usize,
    /// Where the last token's logits are, once a call computed some.
    last_logits_row: Option<usize>,
    kernels: crate::kernels::Kernels,
    buffers: Buffers,
    cache: KvCache,
    embed: Vec<Op>,
    layers: Vec<Layer>,
    head: Head,
    groups: Option<GroupWrites>,
    /// Made when a call first wants them.
    gauges: Option<Gauges>,
    /// Made when a reply is first decoded on the device.
    device_loop: Option<DeviceLoop>,
    /// The reply that is being decoded there.
    run: Option<Run>,
    /// Tells this model from others.
    identity: Arc<()>,
}

/// Operations of one decoder layer.
#[derive(Debug)]
struct Layer {
    input_norm: Op,
    qkv: Linear,
    attend: Attend,
    memory: Option<MemoryLayer>,
    output: Linear,
    post_norm: Op,
    /// With silu(gate)·up.
    gate_up: Linear,
    down: Linear,
}

/// What lies between the products of a layer, from q, k, v to what attention gathers: the memory's reads
/// and Δq, Δk, Δv, rotation, attention, the memory's writes.
#[derive(Debug)]
struct Attend {
    /// The same two for one token, where the memory can ride along with the others.
    one: Option<One>,
    /// Tokens are written one by one.
    writing: Linear,
    /// The memory stays as it is; in a bare layer the same.
    reading: Linear,
}

/// What [`Attend`] has for one token.
#[derive(Debug)]
struct One {
    writing: Vec<Op>,
    reading: Vec<Op>,
}

/// What else δ-mem has in a wrapped layer, beside what others take along: the linear rows m_q, m_k,
/// m_v, β and λ come with q, k, v, and Δo with o.
#[derive(Debug)]
struct MemoryLayer {
    /// o and Δo (through its norm if there is one) into the residual stream one after the other, for
    /// who looks between them.
    output_apart: (Linear, Vec<Op>),
    bias: wgpu::Buffer,
}

/// Operations in two forms, for a few tokens and for many.
#[derive(Debug, Clone)]
struct Linear {
    few: Vec<Op>,
    many: Vec<Op>,
    /// From how many tokens on the second form is taken.
    many_from: u32,
}

/// See `Linear::many_from`.
pub(crate) const MANY_ON_GPUS: u32 = 8;

impl Linear {
    /// From how many tokens on products of many are faster: measured where a CPU plays the GPU
    /// (BENCHMARKS.md), a guess for GPUs.
    fn many_from(tier: &Tier) -> u32 {
        if tier.software { 3 } else { MANY_ON_GPUS }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let ops = if step.n_tokens < self.many_from { &self.few } else { &self.many };
        record_all(ops, pass, step);
    }
}

/// Operations after the last layer.
#[derive(Debug)]
struct Head {
    norm_all: Op,
    logits_all: Linear,
    norm_last: Op,
    logits_last: Vec<Op>,
    choice: Choice,
}

/// What becomes of the last token's logits; each is made when a call first wants it, so that no model
/// waits for shaders that it does not use.
#[derive(Debug, Default)]
struct Choice {
    penalty: Option<Op>,
    mask: Option<Op>,
    argmax: Option<Op>,
    top_k: Option<Op>,
}

fn record_all<'a>(
    ops: impl IntoIterator<Item = &'a Op>,
    pass: &mut wgpu::ComputePass<'_>,
    step: &Step,
) {
    for op in ops {
        op.record(pass, step);
    }
}

impl Model {
    /// The backbone's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The adapter's configuration, `None` for a bare backbone.
    pub fn delta_config(&self) -> Option<&DeltaConfig> {
        self.delta.as_ref()
    }

    /// The device that it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How it was loaded.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Which states it has; empty without δ-mem.
    pub fn memory_dims(&self) -> &MemoryDims {
        &self.dims
    }

    /// Tokens in the KV cache.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Most tokens that the KV cache holds.
    pub fn context_window(&self) -> usize {
        self.context_window
    }

    /// Forgets the KV cache from position `n` on; the memory stays.
    pub fn truncate(&mut self, n: usize) {
        self.settle_decoding();
        self.n_past = self.n_past.min(n);
    }

    /// Takes it that the KV cache holds `n` tokens; see [`crate::engine::Engine::assume_context`].
    pub(crate) fn assume_past(&mut self, n: usize) {
        assert!(n <= self.context_window, "{n} tokens in a window of {}", self.context_window);
        self.n_past = n;
    }

    /// One call (SPEC.md section 3). Long calls are cut into chunks, which changes no result.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::ContextFull`] or [`Error::Messages`] (no tokens) before
    /// anything has changed; [`Error::Gpu`] or [`Error::OutOfMemory`] from the device.
    pub async fn forward(&mut self, call: &Call<'_>, wanted: Wanted<'_>) -> Result<Outputs> {
        self.settle_decoding();
        self.check(call, &wanted)?;
        let plan = WritePlan::new(self.delta.as_ref(), call);
        let n_groups = match &plan {
            WritePlan::Groups { n_groups, .. } => *n_groups,
            _ => 0,
        };
        if n_groups > 0 {
            self.make_room_for_groups(n_groups).await?;
        }
        self.prepare_choice(&wanted).await?;
        if wanted.gauges && self.gauges.is_none() {
            self.gauges = Some(Gauges::new(&self.gpu, self).await?);
        }
        let capture = match wanted.intermediates {
            true => Some(Capture::new(&self.gpu, self, call.tokens.len()).await?),
            false => None,
        };
        let chunk = match wanted.logits {
            WantedLogits::All => self.options.chunk.min(self.options.logits_rows),
            _ => self.options.chunk,
        };
        if let Some(repetition) = wanted.repetition {
            self.upload_penalty(repetition);
        }
        if let Some(mask) = wanted.mask {
            self.gpu.queue.write_buffer(&self.buffers.mask, 0, bytemuck::cast_slice(mask));
        }

        let mut outputs = Outputs::default();
        let n_tokens = call.tokens.len();
        for start in (0..n_tokens).step_by(chunk) {
            let end = (start + chunk).min(n_tokens);
            let step = Step {
                n_tokens: (end - start) as u32,
                n_past: self.n_past as u32,
                n_groups: n_groups as u32,
                inverse_temperature: inverse_temperature(wanted.logits),
            };
            let chunk_plan = plan.slice(start..end);
            self.upload_step(&step, &call.tokens[start..end], &chunk_plan);
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            if start == 0
                && n_groups > 0
                && let Some(groups) = &self.groups
            {
                encoder.clear_buffer(&groups.mean, 0, None);
            }
            let gauges = self.gauges.as_ref().filter(|_| wanted.gauges && end == n_tokens);
            self.record_layers(&mut encoder, &step, &chunk_plan, capture.as_ref(), start, gauges);
            if end == n_tokens && n_groups > 0 {
                self.record_group_writes(&mut encoder, &step);
            }
            self.record_head(&mut encoder, &step, &wanted, end == n_tokens);
            self.n_past += end - start;
            let is_wanted = end == n_tokens || wanted.logits == WantedLogits::All;
            let result = self.result_range(&wanted, step.n_tokens).filter(|_| is_wanted);
            match result {
                None => {
                    self.gpu.queue.submit([encoder.finish()]);
                }
                Some((buffer, n_bytes)) => {
                    let read = self.gpu.submit_and_read(encoder, buffer, 0, n_bytes).await?;
                    self.take_result(&wanted, &read, &mut outputs).await?;
                }
            }
        }
        if let Some(capture) = capture {
            capture.read(&self.gpu, self, &mut outputs).await?;
        }
        self.gpu.check()?;
        Ok(outputs)
    }

    /// The last call's logits of its last token (after a repetition penalty and a mask), `[vocab_size]`.
    ///
    /// # Errors
    /// [`Error::Setting`] if no call has computed any; [`Error::Gpu`] from the device.
    pub async fn last_logits(&self) -> Result<Vec<f32>> {
        let row = self.last_logits_row.ok_or_else(|| Error::Setting {
            name: "logits",
            reason: "no call has computed any yet".into(),
        })?;
        let bytes = 4 * self.config.vocab_size as u64;
        let read = self.gpu.read(&self.buffers.logits, row as u64 * bytes, bytes).await?;
        Ok(floats(&read).collect())
    }

    /// Waits until everything submitted is computed, by reading a few bytes behind it: that works
    /// natively and in a page.
    ///
    /// # Errors
    /// [`Error::Gpu`] from the device.
    pub async fn finish(&self) -> Result<()> {
        self.gpu.read(&self.buffers.argmax, 0, 4).await.map(drop)
    }

    /// The memory as it stands.
    ///
    /// # Errors
    /// [`Error::Gpu`] from the device.
    pub async fn read_memory(&self) -> Result<MemoryState> {
        let bytes = 4 * self.dims.len() as u64;
        let read = self.gpu.read(&self.buffers.state, 0, bytes).await?;
        Ok(MemoryState { dims: self.dims.clone(), values: floats(&read).collect() })
    }

    /// Replaces the memory; the KV cache stays.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] for other dimensions; nothing has changed then.
    pub fn write_memory(&mut self, memory: &MemoryState) -> Result<()> {
        memory.check_dims(&self.dims)?;
        self.settle_decoding();
        if !memory.values.is_empty() {
            let bytes = bytemuck::cast_slice(&memory.values);
            self.gpu.queue.write_buffer(&self.buffers.state, 0, bytes);
        }
        Ok(())
    }

    fn check(&self, call: &Call<'_>, wanted: &Wanted<'_>) -> Result<()> {
        call.check(&self.config, self.n_past, self.context_window)?;
        wanted.check(&self.config)
    }

    fn upload_step(&self, step: &Step, tokens: &[u32], plan: &WritePlan) {
        let gpu = &self.gpu;
        gpu.queue.write_buffer(&self.kernels.step, 0, bytemuck::bytes_of(step));
        gpu.queue.write_buffer(&self.buffers.tokens, 0, bytemuck::cast_slice(tokens));
        if let WritePlan::Groups { group_of_token, weight, .. } = plan {
            let groups: Vec<u32> = group_of_token.iter().map(|g| g.unwrap_or(u32::MAX)).collect();
            gpu.queue.write_buffer(&self.buffers.group_of_token, 0, bytemuck::cast_slice(&groups));
            gpu.queue.write_buffer(&self.buffers.weight_of_token, 0, bytemuck::cast_slice(weight));
        }
    }

    fn upload_penalty(&self, repetition: RepetitionPenalty<'_>) {
        let mut words = vec![repetition.ids.len() as u32, repetition.penalty.to_bits()];
        words.extend(repetition.ids);
        let bytes = bytemuck::cast_slice(&words);
        self.gpu.queue.write_buffer(&self.buffers.penalty_ids, 0, bytes);
    }

    fn record_layers(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: &Step,
        plan: &WritePlan,
        capture: Option<&Capture>,
        first_token: usize,
        gauges: Option<&Gauges>,
    ) {
        // one pass for all layers, unless something is copied out between them
        let mut pass = encoder.begin_compute_pass(&Default::default());
        record_all(&self.embed, &mut pass, step);
        for (index, layer) in self.layers.iter().enumerate() {
            self.record_attention(&mut pass, layer, index, step, plan);
            match (gauges, &layer.memory) {
                (Some(gauges), Some(memory)) => {
                    drop(pass);
                    gauges.record(encoder, self, memory, index, step);
                    pass = encoder.begin_compute_pass(&Default::default());
                }
                _ => layer.output.record(&mut pass, step),
            }
            self.record_feed_forward(&mut pass, layer, step);
            if let Some(capture) = capture {
                drop(pass);
                capture.record(encoder, self, index, first_token, step.n_tokens as usize);
                pass = encoder.begin_compute_pass(&Default::default());
            }
        }
    }

    /// The first part of a decoder layer; with the other two it reads like SPEC.md section 1 with
    /// section 2 between its lines.
    fn record_attention(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &Layer,
        index: usize,
        step: &Step,
        plan: &WritePlan,
    ) {
        layer.input_norm.record(pass, step);
        layer.qkv.record(pass, step);
        let attend = &layer.attend;
        let one = attend.one.as_ref().filter(|_| step.n_tokens == 1);
        match (plan, one) {
            (WritePlan::PerToken, Some(one)) => record_all(&one.writing, pass, step),
            (WritePlan::PerToken, None) => attend.writing.record(pass, step),
            (_, Some(one)) => record_all(&one.reading, pass, step),
            (_, None) => attend.reading.record(pass, step),
        }
        if let WritePlan::Groups { .. } = plan
            && let Some(groups) = &self.groups
            && layer.memory.is_some()
        {
            groups.accumulate[self.wrapped_index(index)].record(pass, step);
        }
    }

    fn record_feed_forward(&self, pass: &mut wgpu::ComputePass<'_>, layer: &Layer, step: &Step) {
        layer.post_norm.record(pass, step);
        layer.gate_up.record(pass, step);
        layer.down.record(pass, step);
    }

    /// The writes that had to wait for the end of the call: one a group, in ascending order.
    fn record_group_writes(&self, encoder: &mut wgpu::CommandEncoder, step: &Step) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        if let Some(groups) = &self.groups {
            for (project, scan) in &groups.write {
                project.record(&mut pass, step);
                scan.record(&mut pass, step);
            }
        }
    }

    fn record_head(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        step: &Step,
        wanted: &Wanted<'_>,
        is_last_chunk: bool,
    ) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        match wanted.logits {
            WantedLogits::None => {}
            WantedLogits::All => {
                self.head.norm_all.record(&mut pass, step);
                self.head.logits_all.record(&mut pass, step);
            }
            WantedLogits::Argmax | WantedLogits::TopK { .. } | WantedLogits::Last => {
                if !is_last_chunk {
                    return;
                }
                self.head.norm_last.record(&mut pass, step);
                record_all(&self.head.logits_last, &mut pass, step);
                self.last_logits_row = Some(0);
                let choice = &self.head.choice;
                if wanted.repetition.is_some() {
                    record_all(&choice.penalty, &mut pass, step);
                }
                if wanted.mask.is_some() {
                    record_all(&choice.mask, &mut pass, step);
                }
                match wanted.logits {
                    WantedLogits::Argmax => record_all(&choice.argmax, &mut pass, step),
                    WantedLogits::TopK { k, .. } => {
                        let k = [k as u32];
                        let settings = &self.buffers.top_k_settings;
                        self.gpu.queue.write_buffer(settings, 0, bytemuck::cast_slice(&k));
                        record_all(&choice.top_k, &mut pass, step);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Where the results of a chunk lie, and how many bytes they are.
    fn result_range(&self, wanted: &Wanted<'_>, n_tokens: u32) -> Option<(&wgpu::Buffer, u64)> {
        let row_bytes = 4 * self.config.vocab_size as u64;
        match wanted.logits {
            WantedLogits::None => None,
            WantedLogits::All => Some((&self.buffers.logits, u64::from(n_tokens) * row_bytes)),
            WantedLogits::Last => Some((&self.buffers.logits, row_bytes)),
            WantedLogits::Argmax => Some((&self.buffers.argmax, 4)),
            WantedLogits::TopK { k, .. } => {
                Some((&self.buffers.top_k, 16 + 8 * top_k_room(k) as u64))
            }
        }
    }

    async fn take_result(
        &mut self,
        wanted: &Wanted<'_>,
        read: &[u8],
        outputs: &mut Outputs,
    ) -> Result<()> {
        match wanted.logits {
            WantedLogits::None => {}
            WantedLogits::Last => outputs.logits = floats(read).collect(),
            WantedLogits::All => {
                outputs.logits.extend(floats(read));
                self.last_logits_row = (read.len() / 4 / self.config.vocab_size).checked_sub(1);
            }
            WantedLogits::Argmax => outputs.argmax = words(read).next(),
            WantedLogits::TopK { k, temperature } => {
                let read: Vec<u32> = words(read).collect();
                outputs.top_k = Some(match read[0] as usize {
                    count if count <= top_k_room(k) => TopK::from_words(&read),
                    _ => {
                        let logits = self.last_logits().await?;
                        reference::top_k(&logits, k, temperature)
                    }
                });
            }
        }
        Ok(())
    }

    /// Index among the wrapped layers of a layer that is one of them.
    fn wrapped_index(&self, layer: usize) -> usize {
        self.dims.layers.partition_point(|&l| l < layer)
    }
}

/// Candidates that are read back: as many as asked for and a few ties; the rest of the room is
/// rarely filled.
fn top_k_room(k: usize) -> usize {
    (k + 16).min(TOP_K_CAPACITY as usize)
}

impl TopK {
    /// From `top_k.wgsl`'s result: count, bits of the sum, bits of the maximum, 0, then pairs.
    fn from_words(words: &[u32]) -> TopK {
        let pairs = words[4..].chunks_exact(2).take(words[0] as usize);
        let mut candidates: Vec<(u32, f32)> =
            pairs.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        candidates.truncate(MAX_TOP_K); // ties may lie beyond
        TopK { candidates, sum_exp: f32::from_bits(words[1]) }
    }
}

/// Copies of reads and hidden states of a whole call, made between layers for replay.
struct Capture {
    n_tokens: usize,
    /// `[wrapped layers, tokens, R]` f32
    reads: wgpu::Buffer,
    /// `[layers, tokens, ceil(h/4)·4]` f32
    hidden: wgpu::Buffer,
}

impl Capture {
    async fn new(gpu: &Gpu, model: &Model, n_tokens: usize) -> Result<Capture> {
        let reads = model.dims.layers.len() * n_tokens * model.n_read_rows();
        let hidden = model.config.n_layers * n_tokens * model.hidden_stride();
        Ok(Capture {
            n_tokens,
            reads: gpu.storage("captured reads", 4 * reads as u64).await?,
            hidden: gpu.storage("captured hidden states", 4 * hidden as u64).await?,
        })
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        model: &Model,
        layer: usize,
        first_token: usize,
        n_tokens: usize,
    ) {
        let mut copy = |from: &wgpu::Buffer, to: &wgpu::Buffer, index: usize, row: usize| {
            let at = 4 * ((index * self.n_tokens + first_token) * row) as u64;
            encoder.copy_buffer_to_buffer(from, 0, to, at, 4 * (n_tokens * row) as u64);
        };
        copy(&model.buffers.x, &self.hidden, layer, model.hidden_stride());
        if model.layers[layer].memory.is_some() {
            let index = model.wrapped_index(layer);
            copy(&model.buffers.reads, &self.reads, index, model.n_read_rows());
        }
    }

    async fn read(&self, gpu: &Gpu, model: &Model, outputs: &mut Outputs) -> Result<()> {
        let (stride, h) = (model.hidden_stride(), model.config.hidden_size);
        let bytes = gpu.read(&self.hidden, 0, self.hidden.size()).await?;
        let hidden: Vec<f32> = floats(&bytes).collect();
        let layers = hidden.chunks_exact(self.n_tokens * stride);
        outputs.hidden = layers
            .map(|layer| layer.chunks_exact(stride).flat_map(|row| &row[..h]).copied().collect())
            .collect();
        if !model.dims.is_empty() {
            let bytes = gpu.read(&self.reads, 0, self.reads.size()).await?;
            let reads: Vec<f32> = floats(&bytes).collect();
            let layers = reads.chunks_exact(self.n_tokens * model.n_read_rows());
            outputs.reads = layers.map(<[f32]>::to_vec).collect();
        }
        Ok(())
    }
}

impl Model {
    fn n_read_rows(&self) -> usize {
        self.dims.num_state_heads * self.dims.rank
    }

    fn hidden_stride(&self) -> usize {
        self.config.hidden_size.next_multiple_of(4)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned)
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    words(bytes).map(f32::from_bits)
}
