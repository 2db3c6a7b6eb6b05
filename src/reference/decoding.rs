//! Decoding as the device does it, a step at a time.

use super::{ChooseSettings, DecodeStep, Model, choose, next_step, note_token};
use crate::engine::{
    Call, Decoded, Decoding, RepetitionPenalty, Wanted, WantedLogits, not_decoding, too_far_back,
};
use crate::error::Result;
use crate::kernels::UNDECIDED;
use crate::memory::MemoryState;
use crate::sampler::{Sampler, SamplingOptions};
use std::collections::VecDeque;

/// Steps that can be taken back: the one just handed out, and one more.
const MAX_BACK: usize = 2;

/// A reply that is being decoded.
pub(super) struct Run {
    step: DecodeStep,
    ids: Option<(i64, i64)>,
    write_enabled: bool,
    logits: WantedLogits,
    sampling: SamplingOptions,
    penalised: Vec<u32>,
    stop_ids: Vec<u32>,
    /// Tokens in the KV cache before it.
    start: usize,
    n_fed: usize,
    /// Before each of the last steps.
    memories: VecDeque<MemoryState>,
    is_undecided: bool,
}

impl Model {
    /// See [`crate::engine::Engine::begin_decoding`].
    ///
    /// # Errors
    /// As there.
    pub fn begin_decoding(&mut self, decoding: &Decoding<'_>) -> Result<()> {
        self.run = None;
        decoding.check(&self.config, self.n_past, self.context_window())?;
        self.run = Some(Run {
            step: DecodeStep {
                n_tokens: 1,
                n_past: self.n_past as u32,
                n_groups: 0, // the calls count their own
                token: decoding.first,
            },
            ids: decoding.ids,
            write_enabled: decoding.write_enabled,
            logits: decoding.wanted_logits(),
            sampling: decoding.sampling.clone(),
            penalised: decoding.penalised.to_vec(),
            stop_ids: decoding.stop_ids.to_vec(),
            start: self.n_past,
            n_fed: 0,
            memories: VecDeque::new(),
            is_undecided: false,
        });
        Ok(())
    }

    /// See [`crate::engine::Engine::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&mut self, at_most: usize, sampler: &mut Sampler) -> Result<Decoded> {
        let mut run = self.run.take().ok_or_else(not_decoding)?;
        let is_over = run.step.n_tokens == 0 || at_most == 0;
        let decoded = match is_over {
            true => Ok(Decoded { tokens: Vec::new(), is_undecided: run.is_undecided }),
            false => self.decode_step(&mut run, sampler),
        };
        self.run = Some(run);
        decoded
    }

    fn decode_step(&mut self, run: &mut Run, sampler: &mut Sampler) -> Result<Decoded> {
        let memory = self.memory();
        let token = run.step.token;
        let penalty = run.sampling.repetition_penalty;
        if penalty != 1.0 {
            note_token(&mut run.penalised, token);
        }
        let ids = run.ids.map(|(message, sentence)| ([message], [sentence]));
        let call = Call {
            tokens: &[token],
            message_ids: ids.as_ref().map(|ids| &ids.0[..]),
            sentence_ids: ids.as_ref().map(|ids| &ids.1[..]),
            write_enabled: run.write_enabled,
        };
        let wanted = Wanted {
            logits: run.logits,
            repetition: (penalty != 1.0)
                .then_some(RepetitionPenalty { ids: &run.penalised, penalty }),
            ..Wanted::default()
        };
        let outputs = self.forward_call(&call, wanted)?;
        run.memories.push_back(memory);
        if run.memories.len() > MAX_BACK {
            run.memories.pop_front();
        }
        run.n_fed += 1;
        let chosen = match (&outputs.top_k, outputs.argmax) {
            (Some(top), _) => {
                let settings = ChooseSettings {
                    top_k: run.sampling.top_k,
                    top_p: run.sampling.top_p,
                    min_p: run.sampling.min_p,
                    inverse_temperature: 1.0 / run.sampling.temperature,
                };
                let chosen = choose(top, &settings, sampler.uniform(0) as f32);
                if chosen.is_some() {
                    sampler.skip(1);
                }
                chosen.unwrap_or(UNDECIDED)
            }
            (None, argmax) => argmax.unwrap_or(UNDECIDED),
        };
        run.is_undecided = next_step(&mut run.step, chosen, &run.stop_ids) == UNDECIDED;
        let tokens = if run.is_undecided { Vec::new() } else { vec![chosen] };
        Ok(Decoded { tokens, is_undecided: run.is_undecided })
    }

    /// See [`crate::engine::Engine::end_decoding`].
    ///
    /// # Errors
    /// As there.
    pub fn end_decoding(&mut self, n_kept: usize) -> Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let n_back = run.n_fed.saturating_sub(n_kept);
        if n_kept > run.n_fed || n_back > run.memories.len() {
            self.run = Some(run);
            return Err(too_far_back(n_back));
        }
        if n_back > 0 {
            self.memory = run.memories[run.memories.len() - n_back].clone();
            self.truncate(run.start + n_kept);
        }
        Ok(())
    }
}
