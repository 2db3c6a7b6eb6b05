//! The points that a session can go back to, each with the memory as it was there.

use crate::memory::MemoryState;
use crate::memory_file::MemoryCounters;

/// Most checkpoints that are kept: 32 turns.
const MAX_CHECKPOINTS: usize = 64;
/// Most bytes of states that they may hold together.
const MAX_BYTES: usize = 64 << 20;

/// A moment between two calls of the engine.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    /// Tokens in the cache.
    pub n_tokens: usize,
    /// Messages of the conversation.
    pub n_messages: usize,
    /// Between turns; else between a prompt and its reply.
    pub is_turn_boundary: bool,
    pub memory: MemoryState,
    pub counters: MemoryCounters,
}

/// Checkpoints in ascending order of tokens. The first is kept always: what comes before it is
/// settled, so its memory is also the one for any point before it.
#[derive(Debug, Clone, Default)]
pub(super) struct Checkpoints(Vec<Checkpoint>);

impl Checkpoints {
    pub fn push(&mut self, checkpoint: Checkpoint) {
        let bytes = 4 * checkpoint.memory.values.len().max(1);
        self.0.push(checkpoint);
        if self.0.len() > MAX_CHECKPOINTS.min(MAX_BYTES / bytes).max(2) {
            self.0.remove(1);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Begins anew with this one.
    pub fn begin(&mut self, first: Checkpoint) {
        self.0.clear();
        self.0.push(first);
    }

    /// The first one.
    pub fn first(&self) -> Option<&Checkpoint> {
        self.0.first()
    }

    /// Moves the first one to where its point is in a history that has changed before it.
    pub fn move_first(&mut self, n_tokens: usize, n_messages: usize) {
        if let Some(first) = self.0.first_mut() {
            (first.n_tokens, first.n_messages) = (n_tokens, n_messages);
        }
    }

    /// Forgets those beyond `n_tokens`, but for the first.
    pub fn drop_after(&mut self, n_tokens: usize) {
        let mut index = 0;
        self.0.retain(|checkpoint| {
            index += 1;
            index == 1 || checkpoint.n_tokens <= n_tokens
        });
    }

    /// The latest one with at most `n_tokens`, else the first.
    pub fn last_at_or_before(&self, n_tokens: usize) -> Option<&Checkpoint> {
        let last = self.0.iter().rfind(|checkpoint| checkpoint.n_tokens <= n_tokens);
        last.or(self.first())
    }

    /// The point between turns before the turn that ended with `n_messages` messages.
    pub fn turn_before(&self, n_messages: usize) -> Option<&Checkpoint> {
        let mut before = self.0.iter().rev();
        before.find(|checkpoint| checkpoint.is_turn_boundary && checkpoint.n_messages < n_messages)
    }
}
