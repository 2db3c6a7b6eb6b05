//! Replies that are decoded without the host choosing each token: begin, take tokens as they come,
//! end with as many as are wanted. Owns the request; `model/decoding.rs` and `reference/decoding.rs`
//! do it.

use super::{Call, Engine, MAX_TOP_K, RepetitionPenalty, Wanted, WantedLogits};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, SamplingOptions};
use web_time::Duration;

/// A reply to be decoded.
#[derive(Debug, Clone, Copy)]
pub struct Decoding<'a> {
    /// Fed first; chosen from the logits of the prompt.
    pub first: u32,
    /// Message and sentence id of every token, as [`super::Call`] has them.
    pub ids: Option<(i64, i64)>,
    /// False reads the memory and leaves it as it is.
    pub write_enabled: bool,
    pub sampling: &'a SamplingOptions,
    /// Distinct tokens that a repetition penalty begins with; those that are fed join them.
    pub penalised: &'a [u32],
    /// Tokens that end the reply; they are not fed.
    pub stop_ids: &'a [u32],
    /// How long tokens may be gathered before they are handed out; [`BATCH_TIME`] if in doubt.
    pub batch_time: Duration,
}

/// What comes out looks fluent, a cancelled reply ends soon, and a page's frames are not held up for
/// long.
pub const BATCH_TIME: Duration = Duration::from_millis(60);

/// What decoding has come to since it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// Each was chosen after one more token was fed: the first after [`Decoding::first`], the second
    /// after the first, and so on. One that ends the reply is the last.
    pub tokens: Vec<u32>,
    /// Nothing more comes because a decision is too close for f32. Whoever wants to go on ends the
    /// decoding, feeds the last token himself and draws from its logits.
    pub is_undecided: bool,
}

impl Decoding<'_> {
    /// Whether tokens can be chosen this way at all: not from more candidates than
    /// [`WantedLogits::TopK`] gives.
    pub fn can_choose(sampling: &SamplingOptions) -> bool {
        sampling.temperature == 0.0 || sampling.top_k < MAX_TOP_K
    }

    /// Which logits it chooses from.
    pub(crate) fn wanted_logits(&self) -> WantedLogits {
        match self.sampling {
            SamplingOptions { temperature: 0.0, .. } => WantedLogits::Argmax,
            SamplingOptions { temperature, top_k, .. } => WantedLogits::TopK {
                k: if *top_k == 0 { MAX_TOP_K } else { *top_k },
                temperature: *temperature,
            },
        }
    }

    /// What a call that chooses the same way wants.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        let penalty = self.sampling.repetition_penalty;
        let repetition = RepetitionPenalty { ids: self.penalised, penalty };
        Wanted {
            logits: self.wanted_logits(),
            repetition: (penalty != 1.0).then_some(repetition),
            ..Wanted::default()
        }
    }

    /// The call that feeds the first token, for `of`.
    pub(crate) fn first_call<T>(&self, of: impl FnOnce(&Call<'_>) -> T) -> T {
        let ids = self.ids.map(|(message, sentence)| ([message], [sentence]));
        of(&Call {
            tokens: &[self.first],
            message_ids: ids.as_ref().map(|ids| &ids.0[..]),
            sentence_ids: ids.as_ref().map(|ids| &ids.1[..]),
            write_enabled: self.write_enabled,
        })
    }

    /// Checks the settings against a model with `n_past` tokens in its cache.
    pub(crate) fn check(&self, config: &ModelConfig, n_past: usize, window: usize) -> Result<()> {
        self.first_call(|call| call.check(config, n_past, window))?;
        self.sampling.check()?;
        if !Decoding::can_choose(self.sampling) {
            let reason = format!("from {MAX_TOP_K} on, the host has to choose");
            return Err(Error::Setting { name: "top_k", reason });
        }
        self.wanted().check(config)
    }
}

impl Engine {
    /// Begins to decode a reply after what is in the KV cache. Until [`Engine::end_decoding`] the engine
    /// may be ahead of what it has handed out, so nothing should be read from it; a call that changes
    /// cache or memory ends decoding with the tokens handed out so far.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::TokenOutOfRange`], [`Error::ContextFull`]; device errors.
    pub async fn begin_decoding(&mut self, decoding: &Decoding<'_>) -> Result<()> {
        match self {
            Engine::Gpu(model) => model.begin_decoding(decoding).await,
            Engine::Cpu(model) => model.begin_decoding(decoding),
        }
    }

    /// The next tokens, at least one unless the reply is over; no more than `at_most` are fed beyond
    /// those handed out before. The uniform numbers are the sampler's, which is then as if it had
    /// picked the tokens itself.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing was begun, [`Error::ContextFull`]; device errors.
    pub async fn decode(&mut self, at_most: usize, sampler: &mut Sampler) -> Result<Decoded> {
        match self {
            Engine::Gpu(model) => model.decode(at_most, sampler).await,
            Engine::Cpu(model) => model.decode(at_most, sampler),
        }
    }

    /// Ends decoding: KV cache and memory are as after the first `n_kept` tokens that were fed, bit
    /// for bit. Those handed out by the last [`Engine::decode`] can be taken back, and one more. No
    /// effect if nothing was begun.
    ///
    /// # Errors
    /// [`Error::Setting`] for less; device errors.
    pub fn end_decoding(&mut self, n_kept: usize) -> Result<()> {
        match self {
            Engine::Gpu(model) => model.end_decoding(n_kept),
            Engine::Cpu(model) => model.end_decoding(n_kept),
        }
    }
}

/// What asking for tokens of no reply is answered with.
pub(crate) fn not_decoding() -> Error {
    Error::Setting { name: "decoding", reason: "no reply was begun".into() }
}

/// What taking back too much is answered with.
pub(crate) fn too_far_back(n_tokens: usize) -> Error {
    let reason = format!("{n_tokens} tokens back is further than is remembered");
    Error::Setting { name: "decoding", reason }
}
