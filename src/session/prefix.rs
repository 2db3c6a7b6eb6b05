//! What conversations have in common at their beginning: the header of the template, tools, the system
//! message. Owns contexts that were read that far, and when one may stand for reading it again.
//!
//! With δ-mem a token's keys and values depend on the memory that it read, and reading may write. So
//! what a context is kept under is everything that feeding depends on: the model, the memory before, the
//! tokens, and whether they are written. The memory after them comes back with the context.

use super::Session;
use super::ingest::{Feed, TOKENS_BETWEEN_LOOKS, common_prefix};
use crate::engine::{ParkedContext, Wanted};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};

/// Contexts by what they are kept under; the one used last is the last.
#[derive(Default)]
pub(super) struct Prefixes {
    entries: Vec<Entry>,
    capacity: usize,
}

struct Entry {
    key: [u8; 32],
    context: ParkedContext,
    /// What reading it added to the memory's counters: tokens seen, tokens written, writes.
    added: [u64; 3],
}

impl Session {
    /// Keeps the contexts of so many beginnings (template's header, tools, pinned messages), each as
    /// large as its tokens' keys and values. A conversation that begins with the same tokens, the same
    /// memory and the same writing goes on from there, with the very numbers that reading would give.
    /// 0, as in the beginning, keeps none.
    pub fn keep_prefixes(&mut self, n: usize) {
        self.prefixes.capacity = n;
        let n_over = self.prefixes.entries.len().saturating_sub(n);
        self.prefixes.entries.drain(..n_over);
    }

    /// Puts the beginning of a conversation into the empty cache, from a kept context if there is one,
    /// and keeps it if there is none. Gives how many tokens were not fed.
    pub(super) async fn begin_with_prefix(&mut self, feed: &Feed<'_>) -> Result<usize> {
        let Some(n_tokens) = self.prefix_tokens(feed)? else { return Ok(0) };
        let key = self.prefix_key(feed, n_tokens).await?;
        if let Some(at) = self.prefixes.entries.iter().position(|entry| entry.key == key) {
            let entry = self.prefixes.entries.remove(at);
            let adopted = self.model.engine.adopt(&entry.context);
            let [seen, written, writes] = entry.added;
            self.prefixes.entries.push(entry);
            adopted?;
            let talk = &mut self.talk;
            talk.processed = feed.tokens[..n_tokens].to_vec();
            talk.written = feed.flags[..n_tokens].to_vec();
            talk.counters.tokens_seen += seen;
            talk.counters.tokens_written += written;
            talk.counters.writes += writes;
            return Ok(n_tokens);
        }
        let before = self.talk.counters;
        let part =
            Feed { tokens: &feed.tokens[..n_tokens], flags: &feed.flags[..n_tokens], ..*feed };
        self.feed_from(0, &part, Wanted::default()).await?;
        let after = &self.talk.counters;
        let added = [
            after.tokens_seen - before.tokens_seen,
            after.tokens_written - before.tokens_written,
            after.writes - before.writes,
        ];
        match self.model.engine.park().await {
            Ok(context) => {
                let Prefixes { entries, capacity } = &mut self.prefixes;
                entries.drain(..(entries.len() + 1).saturating_sub(*capacity));
                entries.push(Entry { key, context, added });
            }
            // it is only faster with them
            Err(Error::OutOfMemory { .. }) => self.prefixes.entries.clear(),
            Err(error) => return Err(error),
        }
        Ok(0)
    }

    /// How many tokens at the beginning are worth keeping and can be cut off: whole pieces, so that the
    /// rest is fed in the same pieces as without.
    fn prefix_tokens(&self, feed: &Feed<'_>) -> Result<Option<usize>> {
        let Some(&is_written) = feed.flags.first() else { return Ok(None) };
        let is_whole = feed.ids.is_some() && is_written;
        if self.prefixes.capacity == 0 || is_whole || !self.talk.processed.is_empty() {
            return Ok(None);
        }
        let talk = &self.talk;
        let Some(first) = talk.messages.get(talk.n_pinned) else { return Ok(None) };
        // up to where the first message's own text begins
        let mut other = talk.messages[..=talk.n_pinned].to_vec();
        let marked = if first.content.starts_with('\u{2}') { "\u{3}" } else { "\u{2}" };
        other[talk.n_pinned].content = marked.into();
        let common = common_prefix(&self.tokens_of(&other, false)?, feed.tokens);
        let run = feed.flags.iter().take_while(|flag| **flag == is_written).count();
        let pieces = common.min(run) / TOKENS_BETWEEN_LOOKS;
        Ok((pieces > 0).then_some(pieces * TOKENS_BETWEEN_LOOKS))
    }

    async fn prefix_key(&self, feed: &Feed<'_>, n_tokens: usize) -> Result<[u8; 32]> {
        let identity = self.model.identity.as_ref().map(|identity| identity.digest());
        let memory = self.model.engine.read_memory().await?;
        let mut hash = Sha256::new();
        hash.update(identity.unwrap_or_default());
        for value in &memory.values {
            hash.update(value.to_bits().to_le_bytes());
        }
        hash.update([u8::from(feed.flags[0])]);
        for token in &feed.tokens[..n_tokens] {
            hash.update(token.to_le_bytes());
        }
        Ok(hash.finalize().into())
    }
}
