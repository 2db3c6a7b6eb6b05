//! One model call, on the GPU or on the CPU twin. Owns the request and result types that session,
//! replay and bench share, and the choice between the two implementations.

use crate::config::ModelConfig;
use crate::error::{Error, Result};

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
            return Err(Error::Messages {
                reason: "there is no token to process".into(),
            });
        }
        let vocab_size = config.vocab_size;
        if let Some(&id) = self.tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size });
        }
        let needed = n_past.saturating_add(self.tokens.len());
        if needed > context_window {
            return Err(Error::ContextFull {
                needed,
                window: context_window,
            });
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
        Ok(())
    }
}

/// What a call hands back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wanted<'a> {
    pub logits: WantedLogits,
    /// Applied to the last token's logits before `Argmax`, `TopK` and `Last`.
    pub repetition: Option<RepetitionPenalty<'a>>,
    /// Reads ρ of every wrapped layer and hidden states of every layer, for replay.
    pub intermediates: bool,
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
