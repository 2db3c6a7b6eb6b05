//! What conversations have in common at their beginning: the header of the template, tools, the system
//! message. Owns contexts that were read that far, and when one may stand for reading it again.
//!
//! With δ-mem a token's keys and values depend on the memory that it read, and reading may write. So
//! what a context is kept under is everything that feeding depends on: the model, how it computes, the
//! memory before, the tokens, and whether they are written. The memory after them comes back with the
//! context. `prefix_store.rs` has the files that outlive a model.

use super::Session;
use super::ingest::{Feed, TOKENS_BETWEEN_LOOKS, common_prefix};
use super::prefix_store::AnyPrefixStore;
use crate::engine::{Call, ParkedContext, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::memory::MemoryState;
use crate::memory_file::MemoryCounters;
use sha2::{Digest, Sha256};

/// Contexts by what they are kept under; the one used last is the last.
#[derive(Default)]
pub(super) struct Prefixes {
    entries: Vec<Entry>,
    capacity: usize,
    /// Those that outlive the model.
    pub store: Option<AnyPrefixStore>,
    /// What else results depend on, for the keys of `store`; empty without one.
    fingerprint: Vec<u8>,
}

struct Entry {
    key: [u8; 32],
    context: ParkedContext,
    added: Added,
}

/// What reading a context added to the memory's counters: tokens seen, tokens written, writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Added(pub [u64; 3]);

impl Added {
    fn between(before: &MemoryCounters, after: &MemoryCounters) -> Added {
        Added([
            after.tokens_seen - before.tokens_seen,
            after.tokens_written - before.tokens_written,
            after.writes - before.writes,
        ])
    }
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

    /// Keeps contexts of beginnings in files too, so that they outlive this session, and takes them
    /// from there; with and without [`Session::keep_prefixes`]. A context is found again only by a
    /// model that computes the very same numbers: same weights, adapter and settings, same version of
    /// this crate, same device and driver. That is looked up and tried out here, with one short call.
    ///
    /// # Errors
    /// [`Error::Setting`] if the context is not empty; those of the device.
    pub async fn store_prefixes(&mut self, store: AnyPrefixStore) -> Result<()> {
        if self.model.engine.n_past() > 0 {
            let reason = "the conversation has begun".into();
            return Err(Error::Setting { name: "prefix_cache", reason });
        }
        self.prefixes.fingerprint = self.fingerprint().await?;
        self.prefixes.entries.clear();
        self.prefixes.store = Some(store);
        Ok(())
    }

    /// Drops the contexts that were kept, and removes the files of all. They were read with memories, and
    /// what was read can still encode something of those: whoever forgets a memory calls this too.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that stays.
    pub async fn forget_prefixes(&mut self) -> Result<()> {
        self.prefixes.entries.clear();
        match &mut self.prefixes.store {
            Some(store) => store.clear().await,
            None => Ok(()),
        }
    }

    /// What a result depends on besides tokens and memory, as a name for it: what the model is said
    /// to be, and, bit by bit, what it answers to a fixed call with
    /// an empty memory. The latter also tells weights apart
    /// that a fingerprint of samples does not, and drivers that round otherwise.
    pub(super) async fn fingerprint(&mut self) -> Result<Vec<u8>> {
        let engine = &mut self.model.engine;
        let held = engine.read_memory().await?;
        engine.write_memory(&MemoryState::zeros(held.dims.clone()))?;
        let vocab_size = engine.config().vocab_size;
        let n_tokens = TOKENS_BETWEEN_LOOKS.min(engine.context_window());
        let tokens: Vec<u32> = (0..n_tokens).map(|i| (i * vocab_size / n_tokens) as u32).collect();
        let call =
            Call { tokens: &tokens, message_ids: None, sentence_ids: None, write_enabled: false };
        let wanted = Wanted { logits: WantedLogits::Last, ..Wanted::default() };
        let outputs = engine.forward(&call, wanted).await;
        engine.reset_context();
        engine.write_memory(&held)?;
        let mut hash = Sha256::new();
        for logit in outputs?.logits {
            hash.update(logit.to_bits().to_le_bytes());
        }
        for text in [&self.model.fingerprint, &self.model.engine.arithmetic()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Ok(hash.finalize().to_vec())
    }

    /// Puts the beginning of a conversation into the empty cache, from a kept context if there is one,
    /// and keeps it if there is none. Gives how many tokens were not fed.
    pub(super) async fn begin_with_prefix(&mut self, feed: &Feed<'_>) -> Result<usize> {
        let Some(n_tokens) = self.prefix_tokens(feed)? else { return Ok(0) };
        let key = self.prefix_key(feed, n_tokens).await?;
        if let Some(at) = self.prefixes.entries.iter().position(|entry| entry.key == key) {
            let entry = self.prefixes.entries.remove(at);
            let adopted = self.model.engine.adopt(&entry.context);
            let added = entry.added;
            self.prefixes.entries.push(entry);
            adopted?;
            self.book_prefix(feed, n_tokens, added);
            return Ok(n_tokens);
        }
        if let Some(added) = self.load_prefix(&key, n_tokens).await? {
            self.book_prefix(feed, n_tokens, added);
            self.keep_prefix(key, added).await?;
            return Ok(n_tokens);
        }
        let before = self.talk.counters;
        let part =
            Feed { tokens: &feed.tokens[..n_tokens], flags: &feed.flags[..n_tokens], ..*feed };
        self.feed_from(0, &part, Wanted::default()).await?;
        let added = Added::between(&before, &self.talk.counters);
        self.keep_prefix(key, added).await?;
        self.save_prefix(&key, n_tokens, added).await?;
        Ok(0)
    }

    /// The books of tokens that were put into the cache without being fed.
    fn book_prefix(&mut self, feed: &Feed<'_>, n_tokens: usize, Added(added): Added) {
        let talk = &mut self.talk;
        talk.processed = feed.tokens[..n_tokens].to_vec();
        talk.written = feed.flags[..n_tokens].to_vec();
        let [seen, written, writes] = added;
        talk.counters.tokens_seen = talk.counters.tokens_seen.saturating_add(seen);
        talk.counters.tokens_written = talk.counters.tokens_written.saturating_add(written);
        talk.counters.writes = talk.counters.writes.saturating_add(writes);
    }

    /// Keeps a copy of the context on the device.
    async fn keep_prefix(&mut self, key: [u8; 32], added: Added) -> Result<()> {
        if self.prefixes.capacity == 0 {
            return Ok(());
        }
        match self.model.engine.park().await {
            Ok(context) => {
                let Prefixes { entries, capacity, .. } = &mut self.prefixes;
                entries.drain(..(entries.len() + 1).saturating_sub(*capacity));
                entries.push(Entry { key, context, added });
            }
            // it is only faster with them
            Err(Error::OutOfMemory { .. }) => self.prefixes.entries.clear(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How many tokens at the beginning are worth keeping and can be cut off: whole pieces, so that the
    /// rest is fed in the same pieces as without.
    fn prefix_tokens(&self, feed: &Feed<'_>) -> Result<Option<usize>> {
        let Some(&is_written) = feed.flags.first() else { return Ok(None) };
        let is_whole = feed.ids.is_some() && is_written;
        let keeps_none = self.prefixes.capacity == 0 && self.prefixes.store.is_none();
        if keeps_none || is_whole || !self.talk.processed.is_empty() {
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
        let memory = self.model.engine.read_memory().await?;
        let mut hash = Sha256::new();
        hash.update(b"deltamem prefix 1");
        hash.update(&self.prefixes.fingerprint);
        hash.update((memory.values.len() as u64).to_le_bytes());
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
