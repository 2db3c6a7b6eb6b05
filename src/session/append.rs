//! Messages that nobody answers, and what every call does when it fails: the conversation and the
//! memory are what they were before.

use super::ingest::{End, common_prefix};
use super::left::Left;
use super::{Ingest, Session, TurnOptions};
use crate::chat::Message;
use crate::engine::Wanted;
use crate::error::{Error, Result};
use crate::memory::MemoryState;
use crate::memory_file::MemoryCounters;

/// What adding messages came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub ingest: Ingest,
    /// Messages that left the context, because the window was full.
    pub evicted_messages: usize,
}

/// A conversation as it was before a call.
pub(super) struct Mark {
    messages: Vec<Message>,
    left: Left,
    n_pinned: usize,
    n_settled: usize,
    /// Where the first checkpoint was.
    first_tokens: usize,
    pub processed: Vec<u32>,
    pub counters: MemoryCounters,
    pub memory: MemoryState,
}

impl Session {
    /// Adds messages to the conversation and reads them, as a turn reads its prompt, without
    /// answering. [`Session::undo_turn`] takes them back as a turn of their own. Of the options
    /// only writing and overflow matter.
    ///
    /// # Errors
    /// [`Error::Messages`] without messages, [`Error::Template`], [`Error::ContextFull`],
    /// [`Error::Cancelled`], or those of the device. After an error the conversation and the memory
    /// are what they were.
    pub async fn append(
        &mut self,
        messages: Vec<Message>,
        options: &TurnOptions,
    ) -> Result<Appended> {
        if messages.is_empty() {
            return Err(Error::Messages { reason: "there is no message".into() });
        }
        self.cancel.reset();
        let mark = self.mark().await?;
        self.talk.n_kept = self.talk.messages.len();
        self.talk.messages.extend(messages);
        let appended = self.read_messages(options).await;
        self.or_restore(appended, mark).await
    }

    async fn read_messages(&mut self, options: &TurnOptions) -> Result<Appended> {
        let write_enabled = options.write_enabled && !self.talk.is_write_paused;
        let fitting = self.fit(End::Message, 0, options.overflow, self.talk.n_kept).await?;
        let ids = self.write_ids(&fitting.tokens)?;
        let read = self.ingest(&fitting.tokens, ids, write_enabled, true, Wanted::default());
        let ingest = fitting.with_refed(read.await?.0);
        self.checkpoint(true).await?;
        Ok(Appended { ingest, evicted_messages: fitting.evicted_messages })
    }

    /// Remembers what [`Session::or_restore`] needs.
    pub(super) async fn mark(&self) -> Result<Mark> {
        let talk = &self.talk;
        Ok(Mark {
            messages: talk.messages.clone(),
            left: talk.left.clone(),
            n_pinned: talk.n_pinned,
            n_settled: talk.n_settled,
            first_tokens: talk.checkpoints.first().map_or(0, |first| first.n_tokens),
            processed: talk.processed.clone(),
            counters: talk.counters,
            memory: self.model.engine.read_memory().await?,
        })
    }

    /// Goes back to the mark if the call failed. What was taken out of the cache in the meantime is
    /// fed again by the next call, without writing.
    pub(super) async fn or_restore<T>(&mut self, result: Result<T>, mark: Mark) -> Result<T> {
        if result.is_ok() {
            self.talk.replies.retain(&self.talk.messages);
            return result;
        }
        let common = common_prefix(&self.talk.processed, &mark.processed);
        self.cut_cache(common);
        self.model.engine.write_memory(&mark.memory)?;
        let talk = &mut self.talk;
        talk.messages = mark.messages;
        talk.left = mark.left;
        talk.n_pinned = mark.n_pinned;
        talk.counters = mark.counters;
        let first_tokens = talk.checkpoints.first().map_or(0, |first| first.n_tokens);
        let is_whole = common == mark.processed.len() && first_tokens == mark.first_tokens;
        if is_whole {
            talk.n_settled = mark.n_settled;
        } else {
            let n_tokens = mark.processed.len().max(mark.first_tokens);
            let n_messages = if n_tokens == 0 { 0 } else { talk.messages.len() };
            // the device may be the reason; the first error says more
            let _ = self.settle(n_messages, n_tokens).await;
        }
        result
    }
}
