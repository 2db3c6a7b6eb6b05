//! One model call, on the GPU or on the CPU twin. Owns the request and result types that session,
//! replay and bench share, and the choice between the two implementations.

use crate::config::{DeltaConfig, ModelConfig};
use crate::error::Result;
use crate::memory::{MemoryDims, MemoryState};
use crate::reference;

/// A loaded model with its KV cache and memory.
pub enum Engine {
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
            Engine::Cpu(model) => model.forward(call, wanted),
        }
    }

    /// All logits of the last token fed, without penalty; empty before the first call and after
    /// the context was cut.
    ///
    /// # Errors
    /// Device errors.
    pub async fn last_logits(&self) -> Result<Vec<f32>> {
        match self {
            Engine::Cpu(model) => Ok(model.last_logits()),
        }
    }

    /// Tokens in the KV cache.
    pub fn n_past(&self) -> usize {
        match self {
            Engine::Cpu(model) => model.n_past(),
        }
    }

    /// Drops the KV cache from position `n` on; the memory stays. No effect if it is shorter.
    pub fn truncate(&mut self, n: usize) {
        match self {
            Engine::Cpu(model) => model.truncate(n),
        }
    }

    /// Drops the whole KV cache; the memory stays.
    pub fn reset_context(&mut self) {
        match self {
            Engine::Cpu(model) => model.reset_context(),
        }
    }

    /// The memory as it is now.
    ///
    /// # Errors
    /// Device errors.
    pub async fn read_memory(&self) -> Result<MemoryState> {
        match self {
            Engine::Cpu(model) => Ok(model.memory()),
        }
    }

    /// Replaces the memory.
    ///
    /// # Errors
    /// [`crate::Error::MemoryMismatch`] for other dimensions; the memory then stays as it was.
    pub fn write_memory(&mut self, memory: &MemoryState) -> Result<()> {
        match self {
            Engine::Cpu(model) => model.set_memory(memory),
        }
    }

    /// The dimensions of the memory, without layers for a bare backbone.
    pub fn memory_dims(&self) -> &MemoryDims {
        match self {
            Engine::Cpu(model) => model.memory_dims(),
        }
    }

    /// The backbone's configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Engine::Cpu(model) => model.config(),
        }
    }

    /// The adapter's configuration, `None` for a bare backbone.
    pub fn delta_config(&self) -> Option<&DeltaConfig> {
        match self {
            Engine::Cpu(model) => model.delta_config(),
        }
    }
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
