//! The turn loop: messages in, reply out, memory written on the way. Owns the conversation, what of
//! it is in the KV cache, and the checkpoints that a diverging history goes back to. Source:
//! SPEC.md section 7, without the defects of section 9.
//!
//! The memory is never lost silently. Where the reference drops cache *and* memory as soon as the
//! rendered history differs from what was processed, a session goes back to the last checkpoint
//! before the difference: the cache is cut there, the memory is what it was there, and the rest is
//! fed again. In a read-only turn the memory is left as it is. Both are reported ([`Rollback`]).

mod cancel;
mod checkpoint;
mod generate;
mod probe;
#[cfg(test)]
mod tests;

pub use cancel::Cancel;
pub use generate::{StopReason, Turn, TurnOptions};

use crate::chat::{CivilDate, Message, RenderOptions, Role};
use crate::config::WriteGranularity;
use crate::engine::{Call, Outputs, Wanted};
use crate::error::{Error, Result};
use crate::loaded::LoadedModel;
use crate::memory::MemoryState;
use crate::memory_file::{MemoryCounters, MemoryFile, MemoryHeader};
use crate::spans::{SpanCache, SpanOptions, WriteIds};
use crate::write_plan::WritePlan;
use checkpoint::{Checkpoint, Checkpoints};

/// What stays the same for a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionOptions {
    /// The system message.
    pub system: Option<String>,
    /// Passed to the template; `None` takes what the model's name suggests.
    pub enable_thinking: Option<bool>,
    /// The day that the template writes into its header. Fixed for the conversation: another day
    /// is another prefix.
    pub date: CivilDate,
}

/// What feeding a rendered conversation came to; counts are tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Ingest {
    /// In the cache before.
    pub prev_tokens: usize,
    /// In the rendered conversation.
    pub full_tokens: usize,
    /// Kept in the cache.
    pub prefix_tokens: usize,
    /// Fed now.
    pub suffix_tokens: usize,
    /// If the history did not continue what was in the cache.
    pub rollback: Option<Rollback>,
}

/// How a session went back because the rendered history had changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rollback {
    /// Tokens that the old and the new history share.
    pub common_tokens: usize,
    /// Tokens that were taken out of the cache again.
    pub dropped_tokens: usize,
    /// What became of the memory.
    pub memory: RollbackMemory,
}

/// The memory after a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackMemory {
    /// As it was at the checkpoint; everything after it is written anew.
    Restored,
    /// Left as it was: the turn is read-only, or no checkpoint reaches back that far.
    Kept,
}

/// A conversation with a loaded model.
pub struct Session {
    model: LoadedModel,
    render: RenderOptions,
    messages: Vec<Message>,
    /// The tokens in the KV cache, and for each whether it was fed with writing on.
    processed: Vec<u32>,
    written: Vec<bool>,
    spans: SpanCache,
    checkpoints: Checkpoints,
    counters: MemoryCounters,
    created_ms: u64,
    is_write_paused: bool,
    cancel: Cancel,
}

/// Tokens of a prompt between two looks at [`Cancel`].
const TOKENS_BETWEEN_LOOKS: usize = 64;

impl Session {
    /// Begins a conversation with an empty context and the memory that the engine holds (zeros
    /// after loading).
    ///
    /// # Errors
    /// Those of the device.
    pub async fn new(model: LoadedModel, options: SessionOptions) -> Result<Session> {
        let mut render = RenderOptions::new(options.date);
        render.enable_thinking = options.enable_thinking.or(model.enable_thinking);
        let system = options.system.map(|text| Message::new(Role::System, text));
        let mut session = Session {
            model,
            render,
            messages: system.into_iter().collect(),
            processed: Vec::new(),
            written: Vec::new(),
            spans: SpanCache::default(),
            checkpoints: Checkpoints::default(),
            counters: MemoryCounters::default(),
            created_ms: 0,
            is_write_paused: false,
            cancel: Cancel::default(),
        };
        session.new_context().await?;
        Ok(session)
    }

    /// The model that answers.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// The conversation so far, the system message included.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Tokens in the context window.
    pub fn processed_tokens(&self) -> &[u32] {
        &self.processed
    }

    /// The memory as it was when the context held exactly `n_tokens`, if a checkpoint remembers.
    pub fn memory_at(&self, n_tokens: usize) -> Option<&MemoryState> {
        let checkpoint = self.checkpoints.last_at_or_before(n_tokens)?;
        (checkpoint.n_tokens == n_tokens).then_some(&checkpoint.memory)
    }

    /// What was done to the memory since it was empty.
    pub fn counters(&self) -> &MemoryCounters {
        &self.counters
    }

    /// Passed to the template.
    pub fn enable_thinking(&self) -> Option<bool> {
        self.render.enable_thinking
    }

    /// Switches thinking; the history is rendered anew, so the next turn rolls back.
    pub fn set_enable_thinking(&mut self, enable: Option<bool>) {
        self.render.enable_thinking = enable;
    }

    /// A handle that ends the running turn.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// True while no turn writes.
    pub fn is_write_paused(&self) -> bool {
        self.is_write_paused
    }

    /// Pauses writing, or goes on; reading is not affected.
    pub fn set_write_paused(&mut self, paused: bool) {
        self.is_write_paused = paused;
    }

    /// Forgets the conversation (but for the system message) and empties the context; the memory
    /// stays: recall without context.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn new_context(&mut self) -> Result<()> {
        self.messages.retain(|message| message.role == Role::System);
        self.clear_cache();
        self.checkpoint(true).await
    }

    /// Continues a conversation of before: its messages are fed without writing, because the
    /// memory at hand has them already.
    ///
    /// # Errors
    /// As [`Session::turn`]; the conversation is empty then.
    pub async fn resume(&mut self, messages: Vec<Message>) -> Result<Ingest> {
        self.clear_cache();
        self.messages = messages;
        match self.feed_history().await {
            Ok(ingest) => {
                self.checkpoints.clear();
                self.checkpoint(true).await?;
                Ok(ingest)
            }
            Err(e) => {
                self.new_context().await?;
                Err(e)
            }
        }
    }

    async fn feed_history(&mut self) -> Result<Ingest> {
        if self.messages.is_empty() {
            return Ok(Ingest::default());
        }
        let full = self.render_tokens(false)?.1;
        Ok(self.ingest(&full, None, false, false, Wanted::default()).await?.0)
    }

    /// Takes the last turn back: its messages, its tokens and what it wrote. False if there is
    /// none, or none that a checkpoint remembers.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn undo_turn(&mut self) -> Result<bool> {
        let n_messages = self.messages.len();
        let Some(before) = self.checkpoints.turn_before(n_messages) else {
            return Ok(false);
        };
        let before = before.clone();
        self.go_back_to(&before)?;
        self.messages.truncate(before.n_messages);
        Ok(true)
    }

    /// The memory with all that a file of it says; a memory that came from no file is created when
    /// this is first called.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without δ-mem; those of the device.
    pub async fn memory(&mut self, now_ms: u64) -> Result<MemoryFile> {
        let identity = self.model.identity.clone().ok_or_else(|| Error::Unsupported {
            what: "a memory".into(),
            reason: "the model was loaded without a δ-mem adapter".into(),
        })?;
        if self.created_ms == 0 {
            self.created_ms = now_ms;
        }
        Ok(MemoryFile {
            state: self.model.engine.read_memory().await?,
            header: MemoryHeader {
                identity,
                counters: self.counters,
                created_ms: self.created_ms,
                updated_ms: now_ms,
            },
        })
    }

    /// Replaces the memory by a stored one; the context stays as it is.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] if it belongs to another model; nothing has changed then.
    pub async fn set_memory(&mut self, file: &MemoryFile) -> Result<()> {
        let identity = self.model.identity.as_ref().ok_or_else(|| Error::MemoryMismatch {
            field: "adapter",
            expected: "none".into(),
            found: file.header.identity.adapter_hash.clone(),
        })?;
        file.check_fits(identity)?;
        self.replace_memory(&file.state, file.header.counters, file.header.created_ms).await
    }

    /// Empties the memory; the context stays as it is. A history that changes later is written anew
    /// where it differs, so whoever wants nothing to return drops the context too
    /// ([`Session::new_context`]), as the program and the page do.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn forget(&mut self) -> Result<()> {
        let empty = MemoryState::zeros(self.model.engine.memory_dims().clone());
        self.replace_memory(&empty, MemoryCounters::default(), 0).await
    }

    async fn replace_memory(
        &mut self,
        memory: &MemoryState,
        counters: MemoryCounters,
        created_ms: u64,
    ) -> Result<()> {
        self.model.engine.write_memory(memory)?;
        self.counters = counters;
        self.created_ms = created_ms;
        // no older state may come back: a rollback to before this point keeps the memory
        self.checkpoints.clear();
        self.checkpoint(true).await
    }

    fn clear_cache(&mut self) {
        self.model.engine.reset_context();
        self.processed.clear();
        self.written.clear();
        self.spans = SpanCache::default();
        self.checkpoints.clear();
    }

    /// Remembers this point: between turns, or after a prompt.
    async fn checkpoint(&mut self, is_turn_boundary: bool) -> Result<()> {
        self.checkpoints.push(Checkpoint {
            n_tokens: self.processed.len(),
            n_messages: self.messages.len(),
            is_turn_boundary,
            memory: self.model.engine.read_memory().await?,
            counters: self.counters,
        });
        Ok(())
    }

    fn go_back_to(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.model.engine.write_memory(&checkpoint.memory)?;
        self.counters = checkpoint.counters;
        self.cut_cache(checkpoint.n_tokens);
        Ok(())
    }

    fn cut_cache(&mut self, n_tokens: usize) {
        self.model.engine.truncate(n_tokens);
        self.processed.truncate(n_tokens);
        self.written.truncate(n_tokens);
        self.checkpoints.drop_after(n_tokens);
    }

    /// The conversation as text and tokens.
    fn render_tokens(&self, add_generation_prompt: bool) -> Result<(String, Vec<u32>)> {
        let options = self.render.with_generation_prompt(add_generation_prompt);
        let text = self.model.template.render(&self.messages, &options)?;
        let tokens = self.model.tokenizer.encode(&text)?;
        Ok((text, tokens))
    }

    /// Message and sentence ids, if this write mode looks at them.
    fn write_ids(&mut self, full: &[u32]) -> Result<Option<WriteIds>> {
        let granularity = self.model.engine.delta_config().map(|d| d.write_granularity);
        let with_sentences = match granularity {
            None | Some(WriteGranularity::Token) => return Ok(None),
            Some(granularity) => granularity == WriteGranularity::SentenceMean,
        };
        let options = SpanOptions { render: &self.render, with_sentences };
        let (template, tokenizer) = (&self.model.template, &self.model.tokenizer);
        let ids = self.spans.write_ids(&self.messages, template, tokenizer, full, options)?;
        Ok(Some(ids))
    }

    /// Brings the cache to exactly the tokens `full` (SPEC.md section 7, "Ingest").
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything has changed; [`Error::Cancelled`]; those of the engine.
    async fn ingest(
        &mut self,
        full: &[u32],
        ids: Option<WriteIds>,
        write_enabled: bool,
        is_cancellable: bool,
        wanted: Wanted<'_>,
    ) -> Result<(Ingest, Outputs)> {
        let window = self.model.engine.context_window();
        if full.len() > window {
            return Err(Error::ContextFull { needed: full.len(), window });
        }
        let prev_tokens = self.processed.len();
        let common = self.processed.iter().zip(full).take_while(|(a, b)| a == b).count();
        let old_flags = self.written.clone();
        let rollback = match common < prev_tokens {
            true => Some(self.roll_back(common, write_enabled)?),
            false => None,
        };
        let start = self.processed.len();
        // What was read-only before stays unwritten when it has to be fed again.
        let mut flags = old_flags;
        flags.truncate(common);
        flags.resize(full.len(), write_enabled);
        let mut outputs = Outputs::default();
        let mut from = start;
        while from < full.len() {
            let run = flags[from..].iter().take_while(|flag| **flag == flags[from]).count();
            // Writes of whole messages must not be cut; anything else can be, without a difference.
            let is_whole = ids.is_some() && flags[from];
            let to = from + if is_whole { run } else { run.min(TOKENS_BETWEEN_LOOKS) };
            if is_cancellable && self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let wanted = if to == full.len() { wanted } else { Wanted::default() };
            let ids = ids.as_ref().map(|ids| ids.slice(from..to));
            outputs = self.feed(&full[from..to], ids, flags[from], wanted).await?;
            if is_cancellable && to < full.len() {
                // else all pieces would be queued before anyone could cancel
                self.model.engine.finish().await?;
            }
            from = to;
        }
        let ingest = Ingest {
            prev_tokens,
            full_tokens: full.len(),
            prefix_tokens: start,
            suffix_tokens: full.len() - start,
            rollback,
        };
        Ok((ingest, outputs))
    }

    /// One call of the engine, and the books that go with it.
    async fn feed(
        &mut self,
        tokens: &[u32],
        ids: Option<(&[i64], &[i64])>,
        write_enabled: bool,
        wanted: Wanted<'_>,
    ) -> Result<Outputs> {
        let call = Call {
            tokens,
            message_ids: ids.map(|ids| ids.0),
            sentence_ids: ids.map(|ids| ids.1),
            write_enabled,
        };
        let outputs = self.model.engine.forward(&call, wanted).await?;
        self.processed.extend_from_slice(tokens);
        self.written.resize(self.processed.len(), write_enabled);
        let n_tokens = tokens.len() as u64;
        self.counters.tokens_seen += n_tokens;
        match WritePlan::new(self.model.engine.delta_config(), &call) {
            WritePlan::ReadOnly => {}
            WritePlan::PerToken => {
                self.counters.tokens_written += n_tokens;
                self.counters.writes += n_tokens;
            }
            WritePlan::Groups { group_of_token, n_groups, .. } => {
                self.counters.tokens_written += group_of_token.iter().flatten().count() as u64;
                self.counters.writes += n_groups as u64;
            }
        }
        Ok(outputs)
    }

    /// The history differs from what was processed after `common` tokens.
    fn roll_back(&mut self, common: usize, write_enabled: bool) -> Result<Rollback> {
        let dropped_from = self.processed.len();
        let checkpoint = match write_enabled {
            true => self.checkpoints.last_at_or_before(common).cloned(),
            false => None,
        };
        let memory = match checkpoint {
            Some(checkpoint) => {
                self.go_back_to(&checkpoint)?;
                RollbackMemory::Restored
            }
            None => {
                self.cut_cache(common);
                RollbackMemory::Kept
            }
        };
        Ok(Rollback {
            common_tokens: common,
            dropped_tokens: dropped_from - self.processed.len(),
            memory,
        })
    }
}

impl WriteIds {
    /// Message and sentence ids of some of the tokens.
    fn slice(&self, range: std::ops::Range<usize>) -> (&[i64], &[i64]) {
        (&self.message_ids[range.clone()], &self.sentence_ids[range])
    }
}
