//! What case.json says (SPEC.md section 10), checked so far that replaying it is bounded.

use super::session::SessionCase;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Largest case.json accepted, in bytes.
pub const MAX_CASE_BYTES: u64 = 16 << 20;
/// Most tokens that a case may feed without dropping the KV cache.
const MAX_CONTEXT: usize = 1 << 17;
pub(super) const FORMAT: &str = "replay case";

/// A parsed case.json.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    pub name: String,
    pub steps: Vec<Step>,
    #[serde(default)]
    pub tolerance: Tolerance,
    /// For session folders: the turns that made the steps.
    pub session: Option<SessionCase>,
    /// Seeds of weights that are not in the folder (RECIPE.md).
    pub recipe: Option<Recipe>,
    /// Factors of single embedding rows, for weights by recipe.
    #[serde(default)]
    pub embedding_row_scale: BTreeMap<u32, f32>,
    /// Keys that replace those of config.json.
    #[serde(default)]
    pub effective_config: Map<String, Value>,
    /// Keys that replace those of delta_mem_config.json.
    #[serde(default)]
    pub effective_delta_config: Map<String, Value>,
}

/// Limit of max|a−b| / max|expected|.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Tolerance {
    pub value: f64,
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance { value: 1e-4 }
    }
}

/// Seeds of recipe weights.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Recipe {
    pub base_seed: u64,
    pub adapter_seed: Option<u64>,
}

/// What a step feeds: one call, or one call a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    Prefill,
    Decode,
}

/// One step of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub name: String,
    pub kind: StepKind,
    /// Tokens in the KV cache when the step starts, after `reset_kv`.
    pub past_len: usize,
    #[serde(default)]
    pub reset_kv: bool,
    #[serde(default)]
    pub reset_state: bool,
    /// Name of the step whose recorded state is loaded first.
    pub load_state: Option<String>,
    pub input_ids: Vec<u32>,
    pub message_ids: Option<Vec<i64>>,
    pub sentence_ids: Option<Vec<i64>>,
    pub write_enabled: bool,
    /// Each id is the argmax of the logits before it.
    #[serde(default)]
    pub greedy: bool,
    pub next_argmax: u32,
    /// Rows of the logits that were recorded; all if absent.
    pub logit_rows: Option<Vec<usize>>,
}

impl Case {
    /// Parses case.json. `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for anything that cannot be replayed.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Case> {
        let bad = |reason: String| Error::format(file, FORMAT, reason);
        if bytes.len() as u64 > MAX_CASE_BYTES {
            return Err(bad(format!("{} bytes are too many", bytes.len())));
        }
        let case: Case = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if case.steps.is_empty() {
            return Err(bad("it has no steps".into()));
        }
        let mut past = 0;
        for step in &case.steps {
            let bad = |reason: String| Err(bad(format!("step `{}`: {reason}", step.name)));
            let n_tokens = step.input_ids.len();
            if n_tokens == 0 {
                return bad("it has no tokens".into());
            }
            if step.reset_kv {
                past = 0;
            }
            if step.past_len != past {
                let found = step.past_len;
                return bad(format!("past_len is {found}, the steps before give {past}"));
            }
            past += n_tokens;
            if past > MAX_CONTEXT {
                return bad(format!("more than {MAX_CONTEXT} tokens in the KV cache"));
            }
            if let Some(row) = step.logit_rows.iter().flatten().find(|&&r| r >= n_tokens) {
                return bad(format!("logit row {row} of {n_tokens} tokens"));
            }
            let ids = [&step.message_ids, &step.sentence_ids];
            let is_odd = |ids: &&Option<Vec<i64>>| {
                step.kind == StepKind::Decode && ids.as_ref().is_some_and(|i| i.len() != n_tokens)
            };
            if ids.iter().any(is_odd) {
                return bad("decoding needs one write id a token".into());
            }
        }
        Ok(case)
    }

    /// The KV cache that a replay needs, in tokens.
    pub fn context_window(&self) -> usize {
        let ends = self.steps.iter().map(|s| s.past_len + s.input_ids.len());
        ends.max().unwrap_or(0)
    }
}
