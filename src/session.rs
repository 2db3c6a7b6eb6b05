//! A conversation with a memory: messages in, replies out, memory written on the way. Owns what can
//! be asked of a session as a whole; `session/` has the parts: feeding what is new (`ingest`), a
//! turn (`generate`, and `ahead` for what the engine decodes by itself), a history that a caller
//! sends whole (`history`, `left`), messages without an answer (`append`), text for the memory alone
//! (`write`), a full window (`window`), conversations side by side (`park`). Source: SPEC.md section 7, without the defects of section 9.
//!
//! The memory is never lost silently. Where the reference drops cache *and* memory as soon as the
//! rendered history differs from what was processed, a session goes back to the last checkpoint
//! before the difference: the cache is cut there, the memory is what it was there, and the rest is
//! fed again. In a read-only turn the memory is left as it is. Both are reported ([`Rollback`]).

mod ahead;
mod append;
mod cancel;
mod checkpoint;
mod complete;
mod generate;
mod guide;
mod history;
mod ingest;
mod left;
mod park;
mod prefix;
mod prefix_store;
mod probe;
mod reply;
#[cfg(test)]
mod tests;
mod window;
mod write;

pub use append::Appended;
pub use cancel::Cancel;
pub use generate::{StopReason, Turn, TurnOptions};
pub use ingest::{Ingest, Rollback, RollbackMemory};
pub use park::Parked;
pub use prefix_store::{AnyPrefixStore, PrefixStore, StoreFuture};
pub use window::Overflow;

use crate::chat::{
    CivilDate, Message, RenderOptions, Role, ToolFormat, check_variables, tool_descriptions,
};
use crate::error::{Error, Result};
use crate::loaded::LoadedModel;
use crate::memory::MemoryState;
use crate::memory_file::{MemoryCounters, MemoryFile, MemoryHeader};
use checkpoint::Checkpoint;
use park::Talk;
use prefix::Prefixes;

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

/// A conversation with a loaded model.
pub struct Session {
    model: LoadedModel,
    talk: Talk,
    cancel: Cancel,
    prefixes: Prefixes,
}

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
        let talk = Talk::new(render, system.into_iter().collect());
        let (cancel, prefixes) = (Cancel::default(), Prefixes::default());
        let mut session = Session { model, talk, cancel, prefixes };
        session.new_context().await?;
        Ok(session)
    }

    /// The model that answers.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// The conversation so far, the system message included; without what left the context because
    /// the window was full.
    pub fn messages(&self) -> &[Message] {
        &self.talk.messages
    }

    /// Tokens in the context window.
    pub fn processed_tokens(&self) -> &[u32] {
        &self.talk.processed
    }

    /// The memory as it was when the context held exactly `n_tokens`, if a checkpoint remembers.
    pub fn memory_at(&self, n_tokens: usize) -> Option<&MemoryState> {
        let checkpoint = self.talk.checkpoints.last_at_or_before(n_tokens)?;
        (checkpoint.n_tokens == n_tokens).then_some(&checkpoint.memory)
    }

    /// What was done to the memory since it was empty.
    pub fn counters(&self) -> &MemoryCounters {
        &self.talk.counters
    }

    /// Passed to the template.
    pub fn enable_thinking(&self) -> Option<bool> {
        self.talk.render.enable_thinking
    }

    /// Switches thinking; the history is rendered anew, so the next turn rolls back.
    pub fn set_enable_thinking(&mut self, enable: Option<bool>) {
        self.talk.render.enable_thinking = enable;
    }

    /// Tells the template of functions that the model may call, each bare or in OpenAI's wrapping;
    /// none takes them away. Another list is another header, so the next turn rolls back.
    ///
    /// # Errors
    /// [`Error::Setting`] for what is no function with a name.
    pub fn set_tools(&mut self, tools: Vec<serde_json::Value>) -> Result<()> {
        let tools = tool_descriptions(tools)?;
        self.talk.render.tools = (!tools.is_empty()).then_some(tools);
        Ok(())
    }

    /// How the template is told of tools.
    pub fn tool_format(&self) -> ToolFormat {
        self.talk.render.tool_format
    }

    /// How the template is told of tools, those of [`Session::set_tools`]; another format is another
    /// header. A format that the template does not know is an error of the next turn.
    pub fn set_tool_format(&mut self, format: ToolFormat) {
        self.talk.render.tool_format = format;
    }

    /// Further variables of the template, in the place of those that were given before. Tools in
    /// SmolLM3's `xml_tools` and `python_tools` can be called like those of [`Session::set_tools`].
    ///
    /// # Errors
    /// [`Error::Setting`] for variables that have other means, as `messages` and `tools` do.
    pub fn set_template_variables(
        &mut self,
        variables: serde_json::Map<String, serde_json::Value>,
    ) -> Result<()> {
        check_variables(&variables)?;
        self.talk.render.extra = variables;
        Ok(())
    }

    /// The day that the template writes into this conversation's header.
    pub fn date(&self) -> CivilDate {
        self.talk.render.date
    }

    /// A handle that ends what runs: a turn, an append, a write. Each of them begins uncancelled, so
    /// whoever cancels one that still waits in a queue of his own has to take it out himself.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// True while no turn writes.
    pub fn is_write_paused(&self) -> bool {
        self.talk.is_write_paused
    }

    /// Pauses writing, or goes on; reading is not affected.
    pub fn set_write_paused(&mut self, paused: bool) {
        self.talk.is_write_paused = paused;
    }

    /// Marks the first `n_messages` as those that a conversation begins with: they stay when the
    /// window is full and in a new context. At first, and after [`Session::resume`], these are the
    /// system messages at the beginning.
    pub fn pin_messages(&mut self, n_messages: usize) {
        self.talk.n_pinned = n_messages.min(self.talk.messages.len());
    }

    /// Forgets the conversation (but for the messages that are pinned) and empties the context; the
    /// memory stays: recall without context.
    ///
    /// # Errors
    /// Those of the device; [`Error::Template`].
    pub async fn new_context(&mut self) -> Result<()> {
        let n_pinned = self.talk.n_pinned;
        self.talk.messages.truncate(n_pinned);
        self.talk.left.clear();
        self.talk.replies.clear();
        self.clear_cache();
        match self.talk.messages.iter().all(|message| message.role == Role::System) {
            true => self.settle(0, 0).await,
            // they were fed before and not written, or written once
            false => {
                let n_tokens = self.render_tokens(false)?.1.len();
                self.settle(n_pinned, n_tokens).await
            }
        }
    }

    /// Continues a conversation of before: its messages are fed without writing, because the
    /// memory at hand has them already.
    ///
    /// # Errors
    /// As [`Session::ask`]; the conversation is empty then.
    pub async fn resume(&mut self, messages: Vec<Message>) -> Result<Ingest> {
        let system = leading_system_messages(&self.talk.messages);
        let system = self.talk.messages[..system].to_vec();
        self.cancel.reset();
        self.clear_cache();
        self.talk.left.clear();
        self.talk.replies.clear();
        self.talk.n_pinned = leading_system_messages(&messages);
        self.talk.messages = messages;
        let fed = self.feed_settled(self.talk.messages.len()).await;
        if fed.is_err() {
            self.talk.n_pinned = system.len();
            self.talk.messages = system;
            self.new_context().await?;
        }
        fed
    }

    /// Takes the last turn or append back: its messages, its tokens and what it wrote. False if
    /// there is none, or none that a checkpoint remembers.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn undo_turn(&mut self) -> Result<bool> {
        let n_messages = self.talk.messages.len();
        let Some(before) = self.talk.checkpoints.turn_before(n_messages) else {
            return Ok(false);
        };
        let before = before.clone();
        self.go_back_to(&before, before.n_tokens)?;
        self.talk.messages.truncate(before.n_messages);
        Ok(true)
    }

    /// The memory with all that a file of it says; a memory that came from no file is created when
    /// this is first called.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without δ-mem; those of the device.
    pub async fn memory(&mut self, now_ms: u64) -> Result<MemoryFile> {
        let identity = self.model.identity.clone().ok_or_else(no_memory)?;
        if self.talk.created_ms == 0 {
            self.talk.created_ms = now_ms;
        }
        Ok(MemoryFile {
            state: self.model.engine.read_memory().await?,
            header: MemoryHeader {
                identity,
                counters: self.talk.counters,
                created_ms: self.talk.created_ms,
                updated_ms: now_ms,
            },
        })
    }

    /// Replaces the memory by a stored one; the context stays as it is, and is not written into it.
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

    /// Empties the memory; the context stays as it is. What the context says is not written anew,
    /// unless a caller changes it; whoever wants nothing to return drops the context too
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
        self.talk.counters = counters;
        self.talk.created_ms = created_ms;
        // no older state may come back
        self.settle_here().await
    }
}

/// Messages at the beginning that are from the system.
fn leading_system_messages(messages: &[Message]) -> usize {
    messages.iter().take_while(|message| message.role == Role::System).count()
}

fn no_memory() -> Error {
    Error::Unsupported {
        what: "a memory".into(),
        reason: "the model was loaded without a δ-mem adapter".into(),
    }
}
