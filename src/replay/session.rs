//! The session part of a fixture: the same turns through [`Session`], with the folder's tokenizer
//! and template, compared with what the reference's session did.
//!
//! One deviation is on purpose. Where the reference rebuilds (drops cache and memory, feeds the
//! whole history again), a session rolls back to a checkpoint. With per-token writes both lead to
//! the same memory, so the recording is the expectation all the same. Where they do not (grouped
//! writes, read-only turns, a history with read-only parts), the CPU twin's session is the
//! expectation from there on.

use super::case::{Case, FORMAT};
use super::{SessionReport, Worst, relative_error};
use crate::chat::CivilDate;
use crate::config::{WriteGranularity, token_ids};
use crate::error::{Error, Result};
use crate::loaded::{Device, LoadedModel};
use crate::memory::MemoryState;
use crate::model::LoadOptions;
use crate::model_folder::{Adapter, ModelFolder};
use crate::sampler::SamplingOptions;
use crate::session::{
    Ingest, RollbackMemory, Session, SessionOptions, StopReason, Turn, TurnOptions,
};
use crate::shader::Storage;
use crate::weights::TensorSource;
use serde::Deserialize;
use std::ops::ControlFlow;

/// What case.json records of a session.
#[derive(Debug, Clone, Deserialize)]
pub struct SessionCase {
    pub system: Option<String>,
    #[serde(default)]
    pub eos_token_id: serde_json::Value,
    #[serde(default)]
    pub chat_template_kwargs: TemplateArguments,
    pub turns: Vec<TurnCase>,
}

/// What the template was passed besides the messages.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TemplateArguments {
    pub enable_thinking: Option<bool>,
}

/// One recorded turn.
#[derive(Debug, Clone, Deserialize)]
pub struct TurnCase {
    pub user: String,
    pub prompt_text: String,
    pub max_new_tokens: usize,
    pub write_enabled: bool,
    pub assistant: String,
    pub generated_ids: Vec<u32>,
    pub stopped_on_eos: bool,
    pub prompt_ingest: IngestCase,
    pub materialize_ingest: IngestCase,
    pub processed_input_ids_after: Vec<u32>,
}

/// One recorded ingest.
#[derive(Debug, Clone, Deserialize)]
pub struct IngestCase {
    pub full_ids: Vec<u32>,
    pub stats: StatsCase,
    /// Names of the steps it made.
    pub steps: Vec<String>,
}

/// Token counts of a recorded ingest.
#[derive(Debug, Clone, Deserialize)]
pub struct StatsCase {
    pub prev_tokens: usize,
    pub full_tokens: usize,
    pub prefix_tokens: usize,
    pub suffix_tokens: usize,
    pub rebuilt: bool,
}

/// A session folder, ready to be played on a device.
pub struct SessionReplay<'a> {
    pub case: &'a Case,
    pub session: &'a SessionCase,
    pub folder: &'a ModelFolder,
    pub adapter: Option<&'a Adapter>,
    /// What the reference computed.
    pub expected: &'a dyn TensorSource,
}

/// What is known while turns are played.
struct Run<'a> {
    replay: &'a SessionReplay<'a>,
    report: SessionReport,
    failures: Vec<String>,
    /// Plays along from the start if some ingest will need it.
    twin: Option<Session>,
    /// The recording is no longer the expectation.
    is_apart: bool,
    /// A read-only turn has been played: a rebuild that writes is not what a rollback is.
    had_read_only: bool,
}

impl SessionReplay<'_> {
    /// Plays all turns.
    ///
    /// # Errors
    /// What loading the model or a turn gives; a wrong result is no error.
    pub async fn run(&self, device: &Device, options: &LoadOptions) -> Result<SessionReport> {
        let mut session = self.session(device, options).await?;
        let mut run = Run {
            replay: self,
            report: SessionReport::default(),
            failures: Vec::new(),
            twin: None,
            is_apart: false,
            had_read_only: false,
        };
        if self.parts_from_recording() && matches!(device, Device::Gpu(_)) {
            let exact = LoadOptions { weights: Storage::F32, kv: Storage::F32, ..options.clone() };
            run.twin = Some(self.session(&Device::Cpu, &exact).await?);
        }
        for (index, case) in self.session.turns.iter().enumerate() {
            run.turn(index, case, &mut session).await?;
        }
        let mut report = run.report;
        report.passed = run.failures.is_empty()
            && report.state.as_ref().is_none_or(|worst| worst.error < self.case.tolerance.value);
        report.turns = self.session.turns.len();
        report.failures = run.failures;
        Ok(report)
    }

    async fn session(&self, device: &Device, options: &LoadOptions) -> Result<Session> {
        let most = self.folder.config.max_position_embeddings;
        let options = LoadOptions {
            // the turn loop keeps a few positions free for the end of a reply
            context_window: Some((self.case.context_window() + 64).min(most)),
            ..options.clone()
        };
        let mut model =
            LoadedModel::load(self.folder, self.adapter, device, &options, &mut |_, _| {}).await?;
        if let Some(ids) = token_ids(Some(&self.session.eos_token_id)) {
            model.eos_token_ids = ids;
        }
        let options = SessionOptions {
            system: self.session.system.clone(),
            enable_thinking: self.session.chat_template_kwargs.enable_thinking,
            date: CivilDate::from_unix_seconds(0),
        };
        Session::new(model, options).await
    }

    fn writes_per_token(&self) -> bool {
        let granularity = self.adapter.map(|a| a.config.write_granularity);
        matches!(granularity, None | Some(WriteGranularity::Token))
    }

    /// True if some rebuild of the recording is not what a rollback leads to.
    fn parts_from_recording(&self) -> bool {
        let mut had_read_only = false;
        self.session.turns.iter().any(|turn| {
            had_read_only |= !turn.write_enabled;
            let rebuilt = turn.prompt_ingest.stats.rebuilt || turn.materialize_ingest.stats.rebuilt;
            rebuilt && (had_read_only || !self.writes_per_token())
        })
    }
}

impl Run<'_> {
    async fn turn(&mut self, index: usize, case: &TurnCase, session: &mut Session) -> Result<()> {
        let options = TurnOptions {
            sampling: SamplingOptions::default(),
            max_new_tokens: case.max_new_tokens,
            stop: Vec::new(),
            write_enabled: case.write_enabled,
            ..session.default_turn_options()
        };
        let before = session.processed_tokens().to_vec();
        let turn = session.ask(&case.user, &options, &mut |_| ControlFlow::Continue(())).await?;
        let twin = match &mut self.twin {
            Some(twin) => {
                Some(twin.ask(&case.user, &options, &mut |_| ControlFlow::Continue(())).await?)
            }
            None => None,
        };
        self.had_read_only |= !case.write_enabled;

        let name = format!("turn {}", index + 1);
        let reply_start = case.prompt_ingest.full_ids.len();
        self.ingest(&format!("{name} prompt"), &turn.prompt, &case.prompt_ingest, &before, case);
        self.memory(session, reply_start, &case.prompt_ingest)?;
        self.reply(&name, &turn, twin.as_ref(), case);
        let mut processed = case.prompt_ingest.full_ids.clone();
        processed.extend(&turn.generated_ids);
        match &turn.closing {
            Some(closing) => {
                let recorded = &case.materialize_ingest;
                self.ingest(&format!("{name} closing"), closing, recorded, &processed, case);
            }
            None => self.failures.push(format!("{name}: the reply could not be closed")),
        }
        let end = session.processed_tokens().len();
        self.memory(session, end, &case.materialize_ingest)?;
        if !self.is_apart {
            if session.messages().last().map(|m| &m.content) != Some(&case.assistant) {
                self.failures.push(format!("{name}: another text than {:?}", case.assistant));
            }
            if session.processed_tokens() != case.processed_input_ids_after {
                self.failures.push(format!("{name}: other tokens are in the context afterwards"));
            }
        }
        Ok(())
    }

    fn reply(&mut self, name: &str, turn: &Turn, twin: Option<&Turn>, case: &TurnCase) {
        let expected = match (self.is_apart, twin) {
            (false, _) => &case.generated_ids,
            (true, Some(twin)) => &twin.generated_ids,
            (true, None) => return,
        };
        if turn.generated_ids != *expected {
            let found = &turn.generated_ids;
            self.failures.push(format!("{name}: generated {found:?}, expected {expected:?}"));
        }
        let ended = turn.stop_reason == StopReason::EndOfSequence;
        if !self.is_apart && ended != case.stopped_on_eos {
            self.failures.push(format!("{name}: stopped by {:?}", turn.stop_reason));
        }
    }

    /// Compares the counts, and a rollback with what is expected of one.
    fn ingest(
        &mut self,
        name: &str,
        found: &Ingest,
        recorded: &IngestCase,
        before: &[u32],
        case: &TurnCase,
    ) {
        if self.is_apart {
            return;
        }
        let stats = &recorded.stats;
        let mut agrees =
            found.prev_tokens == stats.prev_tokens && found.full_tokens == stats.full_tokens;
        match (&found.rollback, stats.rebuilt) {
            (None, false) => {
                agrees &= found.prefix_tokens == stats.prefix_tokens
                    && found.suffix_tokens == stats.suffix_tokens;
            }
            (Some(rollback), true) => {
                let pairs = before.iter().zip(&recorded.full_ids);
                let common = pairs.take_while(|(a, b)| a == b).count();
                let memory = match case.write_enabled {
                    true => RollbackMemory::Restored,
                    false => RollbackMemory::Kept,
                };
                agrees &= rollback.common_tokens == common
                    && rollback.memory == memory
                    && found.prefix_tokens <= common;
                self.is_apart = !self.replay.writes_per_token() || self.had_read_only;
                let expectation = match (self.is_apart, &self.twin) {
                    (false, _) => "the memory must be the recorded one all the same",
                    (true, Some(_)) => "from here on the CPU twin's session is the expectation",
                    (true, None) => "from here on nothing recorded can be compared",
                };
                self.report.deviations.push(format!(
                    "{name}: the reference rebuilds from token 0 and zeroes the memory; we go back to token {} with the memory {memory:?}; {expectation}",
                    found.prefix_tokens
                ));
            }
            _ => agrees = false,
        }
        if !agrees {
            self.failures.push(format!("{name}: {found:?}, recorded {stats:?}"));
        }
    }

    /// Compares the memory at a checkpoint with the recorded state after an ingest's last step.
    fn memory(&mut self, session: &Session, n_tokens: usize, recorded: &IngestCase) -> Result<()> {
        let Some(step) = recorded.steps.last() else {
            return Ok(());
        };
        let missing = || Error::format("case.json", FORMAT, format!("no memory after `{step}`"));
        let memory = session.memory_at(n_tokens).ok_or_else(missing)?;
        if self.is_apart {
            if let Some(twin) = &self.twin {
                let expected = twin.memory_at(n_tokens).ok_or_else(missing)?.values.clone();
                self.compare(memory, &expected, format!("{step} on the twin"));
            }
            return Ok(());
        }
        let mut expected = Vec::new();
        for layer in &memory.dims.layers {
            expected.extend(self.replay.expected.read_all(&format!("{step}.state.{layer}"))?);
        }
        self.compare(memory, &expected, format!("{step}.state"));
        Ok(())
    }

    fn compare(&mut self, found: &MemoryState, expected: &[f32], tensor: String) {
        let error = relative_error(&found.values, expected);
        if self.report.state.as_ref().is_none_or(|worst| error > worst.error) {
            self.report.state = Some(Worst { error, tensor });
        }
    }
}
