//! Conversations side by side on one model. Owns what makes a conversation, and taking it out and
//! putting it back.

use super::checkpoint::Checkpoints;
use super::history::Replies;
use super::left::Left;
use super::{Session, leading_system_messages};
use crate::chat::{Message, RenderOptions, Role, ToolCall, answer_part};
use crate::engine::ParkedContext;
use crate::error::Result;
use crate::memory_file::MemoryCounters;
use crate::spans::SpanCache;

/// Everything about a conversation that is not in the engine.
#[derive(Debug, Clone)]
pub(super) struct Talk {
    pub render: RenderOptions,
    pub messages: Vec<Message>,
    /// How many messages at the beginning stay, whatever happens.
    pub n_pinned: usize,
    /// How many messages are from before the turn that runs.
    pub n_kept: usize,
    /// What came after the pinned messages and left the context, because the window was full.
    pub left: Left,
    /// How the replies among the messages were reported (and, while a turn runs, those that it drops).
    pub replies: Replies,
    /// The tokens in the KV cache, and for each whether it was fed with writing on.
    pub processed: Vec<u32>,
    pub written: Vec<bool>,
    pub spans: SpanCache,
    pub checkpoints: Checkpoints,
    /// How many messages at the beginning are never written (again): the memory has them, or is not
    /// to have them. Their tokens end where the first checkpoint is.
    pub n_settled: usize,
    pub counters: MemoryCounters,
    pub created_ms: u64,
    pub is_write_paused: bool,
    /// No template is used: the messages' texts follow each other.
    pub is_plain: bool,
}

impl Talk {
    pub fn new(render: RenderOptions, messages: Vec<Message>) -> Talk {
        Talk {
            render,
            n_pinned: leading_system_messages(&messages),
            n_kept: 0,
            messages,
            left: Left::default(),
            replies: Replies::default(),
            processed: Vec::new(),
            written: Vec::new(),
            spans: SpanCache::default(),
            checkpoints: Checkpoints::default(),
            n_settled: 0,
            counters: MemoryCounters::default(),
            created_ms: 0,
            is_write_paused: false,
            is_plain: false,
        }
    }
}

impl Talk {
    /// Adds a reply to the conversation, as a message or to the last one, and remembers how its
    /// caller has it: `answer` is without thoughts and calls.
    pub fn add_reply(&mut self, text: &str, answer: &str, tool_calls: &[ToolCall], goes_on: bool) {
        match self.messages.last_mut().filter(|_| goes_on) {
            Some(last) => {
                let begun = match self.replies.of(last) {
                    Some(reported) => reported.answer.clone(),
                    None => answer_part(&last.content),
                };
                last.content.push_str(text);
                self.replies.insert(&last.content, &(begun + answer), tool_calls);
            }
            None => {
                self.replies.insert(text, answer, tool_calls);
                self.messages.push(Message::new(Role::Assistant, text));
            }
        }
    }
}

/// A conversation taken out of a [`Session`]: messages, KV cache, memory, checkpoints. It stays on
/// the model's device and takes its memory there until it is dropped.
pub struct Parked {
    talk: Talk,
    context: ParkedContext,
}

impl Session {
    /// A copy of the conversation with its memory; the session goes on with its own.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] and other device errors; nothing has changed then.
    pub async fn park(&self) -> Result<Parked> {
        Ok(Parked { context: self.model.engine.park().await?, talk: self.talk.clone() })
    }

    /// Puts a conversation in the place of the present one, which is dropped with its memory.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for a conversation with another model; nothing has changed then.
    /// Device errors.
    pub fn adopt(&mut self, parked: Parked) -> Result<()> {
        self.model.engine.adopt(&parked.context)?;
        self.talk = parked.talk;
        Ok(())
    }
}
