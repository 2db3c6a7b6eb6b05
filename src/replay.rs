//! Replays recorded runs of the reference and reports how far we are from them. Owns the fixture
//! format (SPEC.md section 10) apart from its session part; runs on any [`Engine`].

mod case;
mod files;
mod fixture;
mod session;
#[cfg(test)]
mod tests;

pub use case::{Case, MAX_CASE_BYTES, Recipe, Step, StepKind, Tolerance};
pub use files::FixtureFiles;
pub use fixture::Fixture;
pub use session::{SessionCase, SessionReplay};

use crate::config::{DeltaConfig, WriteGranularity};
use crate::engine::{BATCH_TIME, Call, Decoding, Engine, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::memory::MemoryState;
use crate::reference::argmax;
use crate::sampler::{Sampler, SamplingOptions};
use crate::weights::TensorSource;
use serde::Serialize;
use std::collections::HashSet;

/// Most numbers of one kind that a step may compute (2 GiB as f32).
const MAX_ACTIVATIONS: u64 = 1 << 29;

/// What a run was made with; only repeated in the report.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Labels {
    /// The GPU adapter, or "cpu".
    pub adapter: String,
    /// How weights are held: f32, f16, q8 or q4.
    pub weights: String,
    /// How keys and values are held: f32 or f16.
    pub kv: String,
    /// Most tokens computed at once, if limited.
    pub chunk: Option<usize>,
}

/// The outcome of one folder; serialises to one JSON line.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayReport {
    pub name: String,
    /// Everything within the tolerance, every argmax right, and the session, if replayed, too.
    pub passed: bool,
    /// Worst relative error, by kind; `None` if the case records none.
    pub logits: Option<Worst>,
    pub state: Option<Worst>,
    pub reads: Option<Worst>,
    pub hidden: Option<Worst>,
    /// Greedy tokens that we chose too, "n/m".
    pub greedy: String,
    /// The same as numbers.
    #[serde(skip)]
    pub greedy_matching: usize,
    #[serde(skip)]
    pub greedy_tokens: usize,
    /// Where another token has the largest logit.
    pub argmax_failures: Vec<String>,
    pub tolerance: f64,
    #[serde(flatten)]
    pub labels: Labels,
    pub notes: Vec<String>,
    /// For session folders, once their turns were replayed.
    pub session: Option<SessionReport>,
}

/// The outcome of a session folder's turns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SessionReport {
    pub passed: bool,
    /// Turns replayed.
    pub turns: usize,
    /// Worst relative error of the memory after an ingest.
    pub state: Option<Worst>,
    /// Where we do something else than the reference on purpose, and what was expected instead.
    pub deviations: Vec<String>,
    /// What differs and should not.
    pub failures: Vec<String>,
}

/// The largest max|a−b| / max|expected| among tensors of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// Infinite, null in JSON, if a computed value is not finite.
    pub error: f64,
    pub tensor: String,
}

/// Runs the steps of a case on a freshly loaded engine and compares with what was recorded.
///
/// # Errors
/// [`Error::MissingTensor`] or [`Error::TensorShape`] if `expected` does not belong to the case;
/// whatever the engine returns. A wrong result is no error, see [`ReplayReport::passed`].
pub async fn replay(
    case: &Case,
    expected: &dyn TensorSource,
    engine: &mut Engine,
    labels: Labels,
) -> Result<ReplayReport> {
    let mut run = Run {
        layers: engine.memory_dims().layers.clone(),
        report: ReplayReport {
            name: case.name.clone(),
            passed: false,
            logits: None,
            state: None,
            reads: None,
            hidden: None,
            greedy: String::new(),
            greedy_matching: 0,
            greedy_tokens: 0,
            argmax_failures: Vec::new(),
            tolerance: case.tolerance.value,
            labels,
            notes: Vec::new(),
            session: None,
        },
        expected,
        last_argmax: None,
        used: HashSet::new(),
    };
    // The recorded shapes bound what the steps may ask for, so check them all before the first.
    for step in &case.steps {
        run.check_shapes(step, engine)?;
    }
    for step in &case.steps {
        run.step(step, engine).await?;
    }
    let mut report = run.report;
    for name in expected.names() {
        if !run.used.contains(name) {
            report.notes.push(format!("`{name}` was recorded, but belongs to no step"));
        }
    }
    report.greedy = format!("{}/{}", report.greedy_matching, report.greedy_tokens);
    let worst = [&report.logits, &report.state, &report.reads, &report.hidden];
    let is_close = |worst: &Worst| worst.error < report.tolerance;
    report.passed = worst.into_iter().flatten().all(is_close)
        && report.argmax_failures.is_empty()
        && report.greedy_matching == report.greedy_tokens;
    Ok(report)
}

struct Run<'a> {
    expected: &'a dyn TensorSource,
    /// Wrapped layers, ascending.
    layers: Vec<usize>,
    report: ReplayReport,
    /// Of the last logits row.
    last_argmax: Option<u32>,
    /// Names of the recorded tensors that were compared or loaded.
    used: HashSet<String>,
}

impl Run<'_> {
    /// The recorded tensors of a step have the shapes that the model implies.
    fn check_shapes(&self, step: &Step, engine: &Engine) -> Result<()> {
        let (config, dims) = (engine.config(), engine.memory_dims());
        let n_tokens = step.input_ids.len();
        let widest = [
            config.vocab_size,
            config.q_size(),
            config.intermediate_size,
            config.n_layers * (config.hidden_size + 2 * config.kv_size()),
        ];
        let widest = widest.into_iter().max().unwrap_or(0);
        if n_tokens as u64 * widest as u64 > MAX_ACTIVATIONS {
            return Err(Error::Unsupported {
                what: format!("step `{}` of {n_tokens} tokens", step.name),
                reason: format!("a model with {widest} numbers a token would take too much memory"),
            });
        }
        let n_rows = step.logit_rows.as_ref().map_or(n_tokens, Vec::len);
        let (name, expected) = (&step.name, self.expected);
        expected.check_shape(&format!("{name}.logits"), &[n_rows, config.vocab_size])?;
        for &layer in &self.layers {
            let mut shape = match step.kind {
                StepKind::Prefill => vec![],
                StepKind::Decode => vec![n_tokens],
            };
            shape.extend(state_shape(dims.num_state_heads, dims.rank));
            expected.check_shape(&format!("{name}.state.{layer}"), &shape)?;
            let reads = format!("{name}.reads.{layer}");
            if expected.info(&reads).is_some() {
                expected.check_shape(&reads, &[n_tokens, dims.num_state_heads * dims.rank])?;
            }
            if let Some(loaded) = &step.load_state {
                let shape = state_shape(dims.num_state_heads, dims.rank);
                expected.check_shape(&format!("{loaded}.state.{layer}"), &shape)?;
            }
        }
        for layer in 0..config.n_layers {
            let hidden = format!("{name}.hidden.{layer}");
            if expected.info(&hidden).is_some() {
                expected.check_shape(&hidden, &[n_tokens, config.hidden_size])?;
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step, engine: &mut Engine) -> Result<()> {
        if step.reset_kv {
            engine.reset_context();
        }
        if step.reset_state {
            engine.write_memory(&MemoryState::zeros(engine.memory_dims().clone()))?;
        }
        if let Some(source) = &step.load_state {
            let mut memory = MemoryState::zeros(engine.memory_dims().clone());
            for (index, layer) in self.layers.iter().enumerate() {
                let name = format!("{source}.state.{layer}");
                self.expected.read_f32(&name, 0, memory.layer_mut(index))?;
                self.used.insert(name);
            }
            engine.write_memory(&memory)?;
        }
        let before = (engine.n_past(), engine.read_memory().await?, self.report.greedy_matching);
        // One call, or one a token; results are gathered as they are recorded, [T, …].
        let n_tokens = step.input_ids.len();
        let call_len = match step.kind {
            StepKind::Prefill => n_tokens,
            StepKind::Decode => 1,
        };
        let vocab_size = engine.config().vocab_size;
        let mut logits = Vec::new();
        let mut states = vec![Vec::new(); self.layers.len()];
        let mut reads = vec![Vec::new(); self.layers.len()];
        let mut hidden = vec![Vec::new(); engine.config().n_layers];
        for start in (0..n_tokens).step_by(call_len) {
            let range = start..start + call_len;
            if step.greedy && self.last_argmax.is_some() {
                self.report.greedy_tokens += 1;
                let agrees = self.last_argmax == Some(step.input_ids[start]);
                self.report.greedy_matching += usize::from(agrees);
            }
            let ids = |ids: &'_ Option<Vec<i64>>| -> Option<Vec<i64>> {
                let ids = ids.as_ref()?;
                Some(match step.kind {
                    StepKind::Prefill => ids.clone(),
                    StepKind::Decode => ids[range.clone()].to_vec(),
                })
            };
            let (message_ids, sentence_ids) = (ids(&step.message_ids), ids(&step.sentence_ids));
            let call = Call {
                tokens: &step.input_ids[range.clone()],
                message_ids: message_ids.as_deref(),
                sentence_ids: sentence_ids.as_deref(),
                write_enabled: step.write_enabled,
            };
            let wanted =
                Wanted { logits: WantedLogits::All, intermediates: true, ..Wanted::default() };
            let outputs = engine.forward(&call, wanted).await?;
            self.last_argmax = outputs.logits.chunks(vocab_size).next_back().map(argmax);
            logits.extend(outputs.logits);
            let memory = engine.read_memory().await?;
            for index in 0..self.layers.len() {
                states[index].extend_from_slice(memory.layer(index));
                reads[index].extend_from_slice(&outputs.reads[index]);
            }
            for (all, new) in hidden.iter_mut().zip(outputs.hidden) {
                all.extend(new);
            }
        }
        let n_agreeing = self.report.greedy_matching - before.2;
        if step.kind == StepKind::Decode
            && step.greedy
            && n_agreeing + 1 >= n_tokens
            && let Some(ids) = reply_ids(step, engine.delta_config())
        {
            engine.truncate(before.0);
            engine.write_memory(&before.1)?;
            self.decode(step, ids, engine).await?;
        }
        if let Some(rows) = &step.logit_rows {
            let rows = rows.iter().map(|row| &logits[row * vocab_size..][..vocab_size]);
            logits = rows.flatten().copied().collect();
        }

        let name = &step.name;
        self.compare(|r| &mut r.logits, format!("{name}.logits"), &logits)?;
        for (index, layer) in self.layers.clone().into_iter().enumerate() {
            let tensor = format!("{name}.state.{layer}");
            self.compare(|r| &mut r.state, tensor, &states[index])?;
            let tensor = format!("{name}.reads.{layer}");
            self.compare(|r| &mut r.reads, tensor, &reads[index])?;
        }
        for (layer, hidden) in hidden.iter().enumerate() {
            let tensor = format!("{name}.hidden.{layer}");
            self.compare(|r| &mut r.hidden, tensor, hidden)?;
        }
        if self.last_argmax != Some(step.next_argmax) {
            self.report.argmax_failures.push(format!(
                "{name}: expected {}, found {:?}",
                step.next_argmax, self.last_argmax
            ));
        }
        Ok(())
    }

    /// The greedy tokens of a step once more as replies are made, where the engine chooses each token
    /// by itself.
    async fn decode(
        &mut self,
        step: &Step,
        ids: Option<(i64, i64)>,
        engine: &mut Engine,
    ) -> Result<()> {
        let sampling = SamplingOptions::default();
        let mut sampler = Sampler::new(sampling.clone())?;
        let decoding = Decoding {
            first: step.input_ids[0],
            ids,
            write_enabled: step.write_enabled,
            sampling: &sampling,
            penalised: &[],
            stop_ids: &[],
            batch_time: BATCH_TIME,
        };
        engine.begin_decoding(&decoding).await?;
        let n_tokens = step.input_ids.len();
        let mut found = vec![step.input_ids[0]];
        while found.len() <= n_tokens {
            let at_most = n_tokens + 1 - found.len();
            found.extend(engine.decode(at_most, &mut sampler).await?.tokens);
        }
        engine.end_decoding(n_tokens)?;
        let expected = step.input_ids.iter().chain([&step.next_argmax]);
        if !found.iter().eq(expected) {
            let failure = format!("{}: decoded by itself: {found:?}", step.name);
            self.report.argmax_failures.push(failure);
        }
        let memory = engine.read_memory().await?;
        for (index, layer) in self.layers.clone().into_iter().enumerate() {
            let tensor = format!("{}.state.{layer}", step.name);
            let found = memory.layer(index);
            let recorded = self.expected.read_all(&tensor)?;
            let error = relative_error(found, &recorded[recorded.len() - found.len()..]);
            self.note(|r| &mut r.state, format!("{tensor}, decoded"), error);
        }
        Ok(())
    }

    /// Keeps the worse of the worst error of a kind and that of one tensor; a tensor that was not
    /// recorded counts for nothing.
    fn compare(
        &mut self,
        kind: impl Fn(&mut ReplayReport) -> &mut Option<Worst>,
        tensor: String,
        found: &[f32],
    ) -> Result<()> {
        if self.expected.info(&tensor).is_none() {
            return Ok(());
        }
        let error = relative_error(found, &self.expected.read_all(&tensor)?);
        self.used.insert(tensor.clone());
        self.note(kind, tensor, error);
        Ok(())
    }

    fn note(
        &mut self,
        kind: impl Fn(&mut ReplayReport) -> &mut Option<Worst>,
        tensor: String,
        error: f64,
    ) {
        let worst = kind(&mut self.report);
        if worst.as_ref().is_none_or(|worst| error > worst.error) {
            *worst = Some(Worst { error, tensor });
        }
    }
}

/// The ids that a reply of these tokens would have, which are the same for each; `None` if they differ.
fn reply_ids(step: &Step, delta: Option<&DeltaConfig>) -> Option<Option<(i64, i64)>> {
    let by_sentence =
        delta.is_some_and(|delta| delta.write_granularity == WriteGranularity::SentenceMean);
    let same = |ids: &[i64]| ids.iter().all(|id| *id == ids[0]).then_some(ids[0]);
    match (&step.message_ids, &step.sentence_ids) {
        (None, None) => Some(None),
        (Some(messages), Some(sentences)) => Some(Some((same(messages)?, same(sentences)?))),
        // nobody looks at the sentence then
        (Some(messages), None) if !by_sentence => Some(Some((same(messages)?, -1))),
        _ => None,
    }
}

/// `[r, r]` for one state head, `[H_s, r, r]` for several.
fn state_shape(num_state_heads: usize, rank: usize) -> Vec<usize> {
    match num_state_heads {
        1 => vec![rank, rank],
        n => vec![n, rank, rank],
    }
}

/// max|a−b| / max|b|; infinite if something is not finite or the lengths differ.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut difference, mut largest) = (0f64, 1e-30f64);
    for (&found, &expected) in found.iter().zip(expected) {
        let (found, expected) = (f64::from(found), f64::from(expected));
        if !(found - expected).is_finite() {
            return f64::INFINITY;
        }
        difference = difference.max((found - expected).abs());
        largest = largest.max(expected.abs());
    }
    difference / largest
}
