//! Decoding on the device: token, position and end of a reply live in buffers that `next_step` counts
//! on, so that several steps go into one submission, and the next one is recorded while it runs. Owns
//! how many steps that are, what is read back, and how tokens that were fed in vain are taken back:
//! the memory as it was before each of the last steps is kept on the device.

use super::{Model, record_all, words};
use crate::engine::{
    Decoded, Decoding, RepetitionPenalty, WantedLogits, not_decoding, too_far_back,
};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, PendingRead};
use crate::kernels::{self, EMPTY_STEP, NextStepBuffers, Op, Step, UNDECIDED};
use crate::sampler::Sampler;
use crate::write_plan::WritePlan;
use std::collections::VecDeque;
use web_time::{Duration, Instant};

/// Most steps of a submission.
const MAX_BATCH: usize = 16;
/// Steps of a reply's first submission: one token is to be seen soon.
const FIRST_BATCH: usize = 1;
/// Submissions under way: one runs while the next is recorded.
const IN_FLIGHT: usize = 2;
/// Steps whose results and memories are kept: those of the submissions under way, those just handed
/// out, and one before.
const MAX_SLOTS: usize = 64;
/// What the kept memories may take, unless they are so large that three take more.
const HISTORY_BYTES: u64 = 4 << 20;

/// Steps whose memories are kept while a reply is decoded, for memories of so many bytes.
fn history_slots(state_bytes: u64) -> u64 {
    let n_slots = HISTORY_BYTES.checked_div(state_bytes).unwrap_or(u64::MAX);
    n_slots.clamp(3, MAX_SLOTS as u64)
}

/// Bytes of the memories that are kept while a reply is decoded.
pub(crate) fn history_bytes(state_bytes: u64) -> u64 {
    history_slots(state_bytes) * state_bytes
}

/// What decoding on the device needs beside a step's own buffers and operations; made when first used.
#[derive(Debug)]
pub(super) struct DeviceLoop {
    /// Steps go round through so many places.
    n_slots: usize,
    /// `[n_slots]` u32
    results: wgpu::Buffer,
    /// `[n_slots]` f32
    uniforms: wgpu::Buffer,
    /// `[2]` u32: steps done, slots.
    progress: wgpu::Buffer,
    /// `[ceil(vocab / 32)]` u32, a bit a token that ends the reply.
    stops: wgpu::Buffer,
    /// The tokens that have one.
    stop_ids: Vec<u32>,
    /// `[n_slots, wrapped layers, H_s, r, r]` f32: S before each of the last steps.
    history: Option<wgpu::Buffer>,
    next_step: Op,
    /// Made when first used.
    choose: Option<Op>,
    note_token: Option<Op>,
    /// What a step took last.
    step_time: Option<Duration>,
}

/// A reply that is being decoded.
#[derive(Debug)]
pub(super) struct Run {
    plan: WritePlan,
    n_groups: usize,
    logits: WantedLogits,
    is_penalised: bool,
    /// Tokens in the KV cache before it.
    start: usize,
    n_submitted: usize,
    /// Tokens known to be fed: one for each that was handed out, and one for an undecided one.
    n_fed: usize,
    /// Steps of the next submission.
    batch: usize,
    batch_time: Duration,
    in_flight: VecDeque<Batch>,
    /// When the last results came.
    last_results: Option<Instant>,
    is_over: bool,
    is_undecided: bool,
}

/// A submission whose results have not been read.
#[derive(Debug)]
struct Batch {
    n_steps: usize,
    submitted: Instant,
    read: PendingRead,
}

impl DeviceLoop {
    async fn new(gpu: &Gpu, model: &mut Model) -> Result<DeviceLoop> {
        let state_bytes = 4 * model.dims.len() as u64;
        let n_slots = history_slots(state_bytes);
        let history = match state_bytes {
            0 => None,
            _ => Some(gpu.storage("earlier memories", n_slots * state_bytes).await?),
        };
        let results = gpu.storage("decoded tokens", 4 * n_slots).await?;
        let uniforms = gpu.storage("uniform numbers", 4 * n_slots).await?;
        let progress = gpu.storage("decoding progress", 8).await?;
        let n_words = model.config.vocab_size.div_ceil(32) as u64;
        let stops = gpu.storage("tokens that end a reply", 4 * n_words).await?;
        let buffers = NextStepBuffers {
            chosen: &model.buffers.argmax,
            stops: &stops,
            tokens: &model.buffers.tokens,
            results: &results,
            progress: &progress,
        };
        Ok(DeviceLoop {
            next_step: kernels::next_step(&mut model.kernels, gpu, buffers).await?,
            n_slots: n_slots as usize,
            results,
            uniforms,
            progress,
            stops,
            stop_ids: Vec::new(),
            history,
            choose: None,
            note_token: None,
            step_time: None,
        })
    }

    /// Makes what this reply uses and uploads what stays the same for it.
    async fn prepare(
        &mut self,
        gpu: &Gpu,
        model: &mut Model,
        decoding: &Decoding<'_>,
    ) -> Result<()> {
        let (kernels, b) = (&mut model.kernels, &model.buffers);
        let sampling = decoding.sampling;
        if let WantedLogits::TopK { k, .. } = decoding.wanted_logits() {
            if self.choose.is_none() {
                let inputs = kernels::ChooseInputs {
                    top_k: &b.top_k,
                    settings: &b.top_k_settings,
                    uniforms: &self.uniforms,
                    progress: &self.progress,
                };
                self.choose = Some(kernels::choose(kernels, gpu, inputs, &b.argmax).await?);
            }
            let settings = [
                k as u32,
                sampling.top_k as u32,
                sampling.top_p.to_bits(),
                sampling.min_p.to_bits(),
            ];
            gpu.queue.write_buffer(&b.top_k_settings, 0, bytemuck::cast_slice(&settings));
        }
        if sampling.repetition_penalty != 1.0 && self.note_token.is_none() {
            let note = kernels::note_token(kernels, gpu, &b.tokens, &b.penalty_ids);
            self.note_token = Some(note.await?);
        }
        if self.stop_ids != decoding.stop_ids {
            let mut bits = vec![0u32; model.config.vocab_size.div_ceil(32)];
            for id in decoding.stop_ids {
                // others cannot be chosen
                if let Some(word) = bits.get_mut(*id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
            gpu.queue.write_buffer(&self.stops, 0, bytemuck::cast_slice(&bits));
            self.stop_ids = decoding.stop_ids.to_vec();
        }
        gpu.queue.write_buffer(&self.progress, 0, bytemuck::cast_slice(&[0, self.n_slots as u32]));
        Ok(())
    }

    /// Most steps of a submission that the slots allow.
    fn most_steps(&self) -> usize {
        MAX_BATCH.min((self.n_slots - 1) / IN_FLIGHT)
    }

    /// Steps of a submission that follows one of `n_steps`.
    fn next_batch(&self, n_steps: usize, batch_time: Duration) -> usize {
        let fitting = self.step_time.map_or(1, |step_time| {
            (batch_time.as_secs_f64() / step_time.as_secs_f64().max(1e-9)) as usize
        });
        fitting.min(2 * n_steps).clamp(1, self.most_steps())
    }
}

impl Model {
    /// See [`crate::engine::Engine::begin_decoding`].
    ///
    /// # Errors
    /// As there.
    pub async fn begin_decoding(&mut self, decoding: &Decoding<'_>) -> Result<()> {
        self.settle_decoding();
        decoding.check(&self.config, self.n_past, self.context_window)?;
        let plan = decoding.first_call(|call| WritePlan::new(self.delta.as_ref(), call));
        let n_groups = match &plan {
            WritePlan::Groups { n_groups, .. } => *n_groups,
            _ => 0,
        };
        if n_groups > 0 {
            self.make_room_for_groups(n_groups).await?;
        }
        self.prepare_choice(&decoding.wanted()).await?;
        let gpu = self.gpu.clone();
        let mut device_loop = match self.device_loop.take() {
            Some(device_loop) => device_loop,
            None => DeviceLoop::new(&gpu, self).await?,
        };
        let prepared = device_loop.prepare(&gpu, self, decoding).await;
        self.device_loop = Some(device_loop);
        prepared?;
        let penalty = decoding.sampling.repetition_penalty;
        if penalty != 1.0 {
            self.upload_penalty(RepetitionPenalty { ids: decoding.penalised, penalty });
        }
        let logits = decoding.wanted_logits();
        let step = Step {
            n_tokens: 1,
            n_past: self.n_past as u32,
            n_groups: n_groups as u32,
            inverse_temperature: inverse_temperature(logits),
        };
        self.upload_step(&step, &[decoding.first], &plan);
        self.last_logits_row = None;
        self.run = Some(Run {
            plan,
            n_groups,
            logits,
            is_penalised: penalty != 1.0,
            start: self.n_past,
            n_submitted: 0,
            n_fed: 0,
            batch: FIRST_BATCH,
            batch_time: decoding.batch_time,
            in_flight: VecDeque::new(),
            last_results: None,
            is_over: false,
            is_undecided: false,
        });
        Ok(())
    }

    /// See [`crate::engine::Engine::decode`].
    ///
    /// # Errors
    /// As there.
    pub async fn decode(&mut self, at_most: usize, sampler: &mut Sampler) -> Result<Decoded> {
        let run = self.run.as_ref().ok_or_else(not_decoding)?;
        let room = self.context_window - run.start - run.n_fed;
        if room == 0 && !run.is_over {
            let (needed, window) = (self.context_window + 1, self.context_window);
            return Err(Error::ContextFull { needed, window });
        }
        let limit = run.n_fed + at_most.min(room);
        while self.submit_batch(limit, sampler).await? {}
        let Some(run) = self.run.as_mut() else { return Err(not_decoding()) };
        let is_undecided = run.is_undecided;
        let Some(batch) = run.in_flight.pop_front() else {
            return Ok(Decoded { tokens: Vec::new(), is_undecided });
        };
        let read = self.gpu.finish_read(batch.read).await?;
        self.note_time(batch.n_steps, batch.submitted);
        Ok(self.take_results(words(&read), sampler))
    }

    /// Submits some steps; false if enough are under way or `limit` steps are reached.
    async fn submit_batch(&mut self, limit: usize, sampler: &mut Sampler) -> Result<bool> {
        let (Some(device_loop), Some(run)) = (&self.device_loop, &self.run) else {
            return Err(not_decoding());
        };
        let (first, n_slots) = (run.n_submitted, device_loop.n_slots);
        if run.is_over || run.in_flight.len() == IN_FLIGHT || first >= limit {
            return Ok(false);
        }
        let slot = first % n_slots;
        let n_steps = run.batch.min(limit - first).min(n_slots - slot);
        if matches!(run.logits, WantedLogits::TopK { .. }) {
            let ahead = first - run.n_fed;
            let uniforms: Vec<f32> =
                (ahead..ahead + n_steps).map(|ahead| sampler.uniform(ahead) as f32).collect();
            self.gpu.queue.write_buffer(
                &device_loop.uniforms,
                4 * slot as u64,
                bytemuck::cast_slice(&uniforms),
            );
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for index in first..first + n_steps {
            self.record_decode_step(&mut encoder, device_loop, run, index);
        }
        let (offset, n_bytes) = (4 * slot as u64, 4 * n_steps as u64);
        let submitted = Instant::now();
        let read = self.gpu.submit_to_read(encoder, &device_loop.results, offset, n_bytes).await?;
        let next_batch = device_loop.next_batch(n_steps, run.batch_time);
        if let Some(run) = &mut self.run {
            run.n_submitted += n_steps;
            run.batch = next_batch;
            run.in_flight.push_back(Batch { n_steps, submitted, read });
        }
        Ok(true)
    }

    /// Everything that one token takes, `index` steps after the first.
    fn record_decode_step(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        device_loop: &DeviceLoop,
        run: &Run,
        index: usize,
    ) {
        // sizes of dispatches; the shaders read the device's own numbers
        let step = Step {
            n_tokens: 1,
            n_past: (run.start + index) as u32,
            n_groups: run.n_groups as u32,
            inverse_temperature: 0.0,
        };
        if let Some(history) = device_loop.history.as_ref().filter(|_| run.writes()) {
            let bytes = 4 * self.dims.len() as u64;
            let to = (index % device_loop.n_slots) as u64 * bytes;
            encoder.copy_buffer_to_buffer(&self.buffers.state, 0, history, to, bytes);
        }
        if let Some(groups) = self.groups.as_ref().filter(|_| run.n_groups > 0) {
            encoder.clear_buffer(&groups.mean, 0, None);
        }
        self.record_layers(encoder, &step, &run.plan, None, 0, None);
        if run.n_groups > 0 {
            self.record_group_writes(encoder, &step);
        }
        let mut pass = encoder.begin_compute_pass(&Default::default());
        self.head.norm_last.record(&mut pass, &step);
        record_all(&self.head.logits_last, &mut pass, &step);
        let choice = &self.head.choice;
        if let Some(note_token) = device_loop.note_token.as_ref().filter(|_| run.is_penalised) {
            note_token.record(&mut pass, &step);
            record_all(&choice.penalty, &mut pass, &step);
        }
        match (&device_loop.choose, run.logits) {
            (Some(choose), WantedLogits::TopK { .. }) => {
                record_all(&choice.top_k, &mut pass, &step);
                choose.record(&mut pass, &step);
            }
            _ => record_all(&choice.argmax, &mut pass, &step),
        }
        device_loop.next_step.record(&mut pass, &step);
    }

    /// What a step takes, from when its results came or, for the first, from its submission.
    fn note_time(&mut self, n_steps: usize, submitted: Instant) {
        let now = Instant::now();
        if let (Some(device_loop), Some(run)) = (&mut self.device_loop, &mut self.run) {
            let since = run.last_results.replace(now).unwrap_or(submitted).max(submitted);
            device_loop.step_time = Some((now - since) / n_steps as u32);
        }
    }

    fn take_results(
        &mut self,
        results: impl Iterator<Item = u32>,
        sampler: &mut Sampler,
    ) -> Decoded {
        let mut decoded = Decoded::default();
        let (Some(device_loop), Some(run)) = (&self.device_loop, &mut self.run) else {
            return decoded;
        };
        for result in results.take_while(|result| *result != EMPTY_STEP) {
            run.n_fed += 1;
            match result {
                UNDECIDED => run.is_undecided = true,
                token => {
                    decoded.tokens.push(token);
                    if matches!(run.logits, WantedLogits::TopK { .. }) {
                        sampler.skip(1);
                    }
                }
            }
            run.is_over |= run.is_undecided || device_loop.stop_ids.contains(&result);
        }
        decoded.is_undecided = run.is_undecided;
        self.n_past = run.start + run.n_fed;
        decoded
    }

    /// See [`crate::engine::Engine::end_decoding`].
    ///
    /// # Errors
    /// As there.
    pub fn end_decoding(&mut self, n_kept: usize) -> Result<()> {
        let (Some(run), Some(device_loop)) = (&self.run, &self.device_loop) else {
            return Ok(());
        };
        let n_back = run.n_submitted.saturating_sub(n_kept);
        if n_kept > run.n_submitted || n_back > device_loop.n_slots {
            return Err(too_far_back(n_back));
        }
        if let Some(history) = device_loop.history.as_ref().filter(|_| n_back > 0 && run.writes()) {
            let bytes = 4 * self.dims.len() as u64;
            let from = (n_kept % device_loop.n_slots) as u64 * bytes;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(history, from, &self.buffers.state, 0, bytes);
            self.gpu.queue.submit([encoder.finish()]);
        }
        // else they are of a token that is taken back
        self.last_logits_row = (n_kept > 0 && n_back == 0).then_some(0);
        self.n_past = run.start + n_kept;
        self.run = None;
        self.gpu.check()
    }

    /// Ends decoding with what was handed out, if somebody asks for something else in the middle.
    pub(super) fn settle_decoding(&mut self) {
        if let Some(run) = &self.run {
            // what was handed out is always remembered; a device's error stays for the next call
            let _ = self.end_decoding(run.n_fed);
            self.run = None;
        }
    }
}

impl Run {
    /// Whether its steps change the memory.
    fn writes(&self) -> bool {
        self.plan != WritePlan::ReadOnly
    }
}

/// What `top_k` multiplies with.
pub(super) fn inverse_temperature(logits: WantedLogits) -> f32 {
    match logits {
        // finite, so that 0 · inverse stays 0
        WantedLogits::TopK { temperature, .. } => (1.0 / temperature).min(f32::MAX),
        _ => 1.0,
    }
}
