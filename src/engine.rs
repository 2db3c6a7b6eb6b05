//! One model call, on the GPU or on the CPU twin. Owns the request and result types that session,
//! replay and bench share, and the choice between the two implementations.

mod decoding;
mod kv_bytes;

pub use decoding::{BATCH_TIME, Decoded, Decoding};
pub(crate) use decoding::{not_decoding, too_far_back};

use crate::config::{DeltaConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::memory::{MemoryDims, MemoryState};
use crate::model;
use crate::reference;

/// A loaded model with its KV cache and memory.
pub enum Engine {
    /// The shaders.
    Gpu(Box<model::Model>),
    /// The CPU twin.
    Cpu(Box<reference::Model>),
}

impl Engine {
    /// One forward pass; continues the KV cache and the memory.
    ///
    /// # Errors
    /// [`crate::Error::TokenOutOfRange`] or [`crate::Error::ContextFull`] before anything has
    /// changed; device errors.
    pub async fn forward(&mut self, call: &Call<'_>, wanted: Wanted<'_>) -> Result<Outputs> {
        match self {
            Engine::Gpu(model) => model.forward(call, wanted).await,
            Engine::Cpu(model) => model.forward(call, wanted),
        }
    }

    /// All logits of the last token fed, after a repetition penalty and a mask.
    ///
    /// # Errors
    /// Device errors.
    pub async fn last_logits(&self) -> Result<Vec<f32>> {
        match self {
            Engine::Gpu(model) => model.last_logits().await,
            Engine::Cpu(model) => model.last_logits(),
        }
    }

    /// How much the memory had its say in the last token of the last call that wanted gauges.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if no call wanted them; device errors.
    pub async fn last_gauges(&self) -> Result<Vec<Gauge>> {
        match self {
            Engine::Gpu(model) => model.last_gauges().await,
            Engine::Cpu(model) => model.last_gauges(),
        }
    }

    /// A copy of KV cache and memory as they are now, on the device that computes them.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] and other device errors.
    pub async fn park(&self) -> Result<ParkedContext> {
        Ok(match self {
            Engine::Gpu(model) => ParkedContext::Gpu(model.park().await?),
            Engine::Cpu(model) => ParkedContext::Cpu(model.park()),
        })
    }

    /// Puts a copy in the place of KV cache and memory; the copy stays good for another time.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if another model made the copy; nothing has changed then. Device
    /// errors.
    pub fn adopt(&mut self, parked: &ParkedContext) -> Result<()> {
        match (self, parked) {
            (Engine::Gpu(model), ParkedContext::Gpu(parked)) => model.adopt(parked),
            (Engine::Cpu(model), ParkedContext::Cpu(parked)) => model.adopt(parked),
            _ => Err(foreign_context()),
        }
    }

    /// Waits until everything that was fed is computed; a call that hands back nothing may return
    /// before.
    ///
    /// # Errors
    /// Device errors.
    pub async fn finish(&self) -> Result<()> {
        match self {
            Engine::Gpu(model) => model.finish().await,
            Engine::Cpu(_) => Ok(()),
        }
    }

    /// Tokens in the KV cache.
    pub fn n_past(&self) -> usize {
        match self {
            Engine::Gpu(model) => model.n_past(),
            Engine::Cpu(model) => model.n_past(),
        }
    }

    /// Most tokens that the KV cache holds.
    pub fn context_window(&self) -> usize {
        match self {
            Engine::Gpu(model) => model.context_window(),
            Engine::Cpu(model) => model.context_window(),
        }
    }

    /// Drops the KV cache from position `n` on; the memory stays. No effect if it is shorter.
    pub fn truncate(&mut self, n: usize) {
        match self {
            Engine::Gpu(model) => model.truncate(n),
            Engine::Cpu(model) => model.truncate(n),
        }
    }

    /// Drops the whole KV cache; the memory stays.
    pub fn reset_context(&mut self) {
        match self {
            Engine::Gpu(model) => model.truncate(0),
            Engine::Cpu(model) => model.reset_context(),
        }
    }

    /// Takes it that there are `n` tokens in the KV cache, whatever it holds: a measurement's context,
    /// without the time that reading it would take. False, and nothing is done, on the CPU twin, whose
    /// cache grows as it is filled.
    ///
    /// # Panics
    /// If the window is smaller.
    pub fn assume_context(&mut self, n: usize) -> bool {
        match self {
            Engine::Gpu(model) => {
                model.assume_past(n);
                true
            }
            Engine::Cpu(_) => false,
        }
    }

    /// The memory as it is now.
    ///
    /// # Errors
    /// Device errors.
    pub async fn read_memory(&self) -> Result<MemoryState> {
        match self {
            Engine::Gpu(model) => model.read_memory().await,
            Engine::Cpu(model) => Ok(model.memory()),
        }
    }

    /// Replaces the memory.
    ///
    /// # Errors
    /// [`crate::Error::MemoryMismatch`] for other dimensions; the memory then stays as it was.
    pub fn write_memory(&mut self, memory: &MemoryState) -> Result<()> {
        match self {
            Engine::Gpu(model) => model.write_memory(memory),
            Engine::Cpu(model) => model.set_memory(memory),
        }
    }

    /// The dimensions of the memory, without layers for a bare backbone.
    pub fn memory_dims(&self) -> &MemoryDims {
        match self {
            Engine::Gpu(model) => model.memory_dims(),
            Engine::Cpu(model) => model.memory_dims(),
        }
    }

    /// The backbone's configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Engine::Gpu(model) => model.config(),
            Engine::Cpu(model) => model.config(),
        }
    }

    /// The adapter's configuration, `None` for a bare backbone.
    pub fn delta_config(&self) -> Option<&DeltaConfig> {
        match self {
            Engine::Gpu(model) => model.delta_config(),
            Engine::Cpu(model) => model.delta_config(),
        }
    }
}

/// KV cache and memory of an engine at one moment. Only that engine can go on from it.
pub enum ParkedContext {
    Gpu(model::ParkedContext),
    Cpu(reference::ParkedContext),
}

/// What adopting the context of another model is answered with.
pub(crate) fn foreign_context() -> Error {
    let reason = "it was parked by another model".into();
    Error::Setting { name: "conversation", reason }
}

/// One wrapped layer at one token.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gauge {
    /// Of the backbone.
    pub layer: usize,
    /// Mean of the write gate β over the rows of the state, 0 to 1.
    pub beta: f32,
    /// ‖Δo‖ / ‖o‖, o as it comes out of the output projection; `None` if o is not corrected.
    pub output_ratio: Option<f32>,
}

impl Gauge {
    /// From the gates β `[R]`, and the residual stream `[h]` before o is added, after that and
    /// after Δo is added too.
    pub fn new(layer: usize, beta: &[f32], residual: Option<[&[f32]; 3]>) -> Gauge {
        let output_ratio = residual.map(|[before, with_o, with_delta]| {
            let o = distance(before, with_o);
            if o > 0.0 { (distance(with_o, with_delta) / o) as f32 } else { 0.0 }
        });
        Gauge { layer, beta: beta.iter().sum::<f32>() / beta.len().max(1) as f32, output_ratio }
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// One forward pass over `tokens`, continuing the KV cache and the memory (SPEC.md section 3).
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub tokens: &'a [u32],
    /// Message id of each token, −1 = not written; `None` = not given.
    pub message_ids: Option<&'a [i64]>,
    /// Sentence id of each token, −1 = none; only read in sentence mode.
    pub sentence_ids: Option<&'a [i64]>,
    /// False reads the memory and leaves it as it is.
    pub write_enabled: bool,
}

impl Call<'_> {
    /// Checks the call against a model before it changes anything.
    ///
    /// # Errors
    /// [`Error::Messages`] without tokens, [`Error::TokenOutOfRange`], [`Error::ContextFull`].
    pub fn check(&self, config: &ModelConfig, n_past: usize, context_window: usize) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(Error::Messages { reason: "there is no token to process".into() });
        }
        let vocab_size = config.vocab_size;
        if let Some(&id) = self.tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size });
        }
        let needed = n_past.saturating_add(self.tokens.len());
        if needed > context_window {
            return Err(Error::ContextFull { needed, window: context_window });
        }
        Ok(())
    }
}

impl Wanted<'_> {
    /// Checks the settings against a model.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::TokenOutOfRange`].
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        if let WantedLogits::TopK { k, temperature } = self.logits {
            if !(1..=MAX_TOP_K).contains(&k) {
                return Err(Error::Setting {
                    name: "top_k",
                    reason: format!("{k} candidates; between 1 and {MAX_TOP_K} can be had"),
                });
            }
            if !(temperature > 0.0 && temperature.is_finite()) {
                return Err(Error::Setting {
                    name: "temperature",
                    reason: format!("{temperature} is not positive"),
                });
            }
        }
        if let Some(repetition) = self.repetition {
            if !(repetition.penalty > 0.0 && repetition.penalty.is_finite()) {
                return Err(Error::Setting {
                    name: "repetition_penalty",
                    reason: format!("{} is not positive", repetition.penalty),
                });
            }
            let vocab_size = config.vocab_size;
            let ids = repetition.ids;
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(Error::TokenOutOfRange { id, vocab_size });
            }
            if ids.len() > vocab_size {
                return Err(Error::Setting {
                    name: "repetition_penalty",
                    reason: "the listed tokens are not distinct".into(),
                });
            }
        }
        if let Some(mask) = self.mask {
            let vocab_size = config.vocab_size;
            let bad = |reason: String| Err(Error::Setting { name: "mask", reason });
            let n_words = vocab_size.div_ceil(32);
            if mask.len() != n_words {
                return bad(format!("{} words, {n_words} cover the vocabulary", mask.len()));
            }
            let tail = u32::MAX >> (32 * n_words - vocab_size);
            let (last, whole) = mask.split_last().map_or((0, mask), |(last, w)| (last & tail, w));
            if last == 0 && whole.iter().all(|word| *word == 0) {
                return bad("it rules out every token".into());
            }
        }
        Ok(())
    }
}

/// What a call hands back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wanted<'a> {
    pub logits: WantedLogits,
    /// Applied to the last token's logits before `Argmax`, `TopK` and `Last`.
    pub repetition: Option<RepetitionPenalty<'a>>,
    /// Which tokens the next one can be, `[ceil(vocab_size / 32)]`, token i at bit i mod 32 of word
    /// i / 32; the others get −∞, after a penalty, before `Argmax`, `TopK` and `Last`.
    pub mask: Option<&'a [u32]>,
    /// Reads ρ of every wrapped layer and hidden states of every layer, for replay.
    pub intermediates: bool,
    /// Keeps what [`Engine::last_gauges`] reads.
    pub gauges: bool,
}

/// Which logits a call hands back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum WantedLogits {
    /// None; the head is not computed.
    #[default]
    None,
    /// The index of the largest logit of the last token, lowest index on ties.
    Argmax,
    /// The largest logits of the last token, at most [`MAX_TOP_K`].
    TopK {
        /// At least this many, if the vocabulary has them; ties at the threshold come along.
        k: usize,
        /// Divides the logits inside [`TopK::sum_exp`] only.
        temperature: f32,
    },
    /// All logits of the last token.
    Last,
    /// All logits of all tokens.
    All,
}

/// Most candidates that a [`WantedLogits::TopK`] call returns.
pub const MAX_TOP_K: usize = 256;

/// Divides positive and multiplies negative logits of tokens seen before (CTRL, as in
/// transformers).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepetitionPenalty<'a> {
    /// Distinct token ids.
    pub ids: &'a [u32],
    /// 1 = off.
    pub penalty: f32,
}

/// The head of the last token's distribution, and enough to know its tail.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopK {
    /// Token ids and logits, by falling logit, then rising id.
    pub candidates: Vec<(u32, f32)>,
    /// Σ exp((logit − largest logit) / temperature) over the whole vocabulary.
    pub sum_exp: f32,
}

/// The results of one call; what was not wanted is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outputs {
    /// `[rows, vocab_size]`; one row for `Last`, one a token for `All`.
    pub logits: Vec<f32>,
    /// For `Argmax`.
    pub argmax: Option<u32>,
    /// For `TopK`.
    pub top_k: Option<TopK>,
    /// Per wrapped layer: `[tokens, R]`.
    pub reads: Vec<Vec<f32>>,
    /// Per layer, after its last residual: `[tokens, hidden_size]`.
    pub hidden: Vec<Vec<f32>>,
}
