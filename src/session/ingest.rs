//! Brings the KV cache to the tokens of a rendered conversation, and the memory with it. Owns what
//! is fed again, from which checkpoint, and what of it is written (SPEC.md section 7, "Ingest").

use super::{Checkpoint, Session};
use crate::config::WriteGranularity;
use crate::engine::{Call, Outputs, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::spans::{MAX_ROLLBACK, SpanCache, SpanOptions, WriteIds};
use crate::write_plan::WritePlan;

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
    /// Left as it was: the turn is read-only.
    Kept,
}

/// Tokens of a prompt between two looks at [`super::Cancel`].
pub(super) const TOKENS_BETWEEN_LOOKS: usize = 64;

/// Where a rendered conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With what closes the last message.
    Message,
    /// With the header of the assistant's next message.
    Prompt,
    /// Within the last message, which a reply goes on with.
    Unfinished,
}

/// Tokens to be fed, all of a rendered conversation.
pub(super) struct Feed<'a> {
    pub tokens: &'a [u32],
    /// For each token whether it is written.
    pub flags: &'a [bool],
    pub ids: Option<&'a WriteIds>,
    pub is_cancellable: bool,
}

impl Session {
    /// Brings the cache to exactly the tokens `full`. With logits wanted at least one token is fed.
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything has changed; [`Error::Cancelled`]; those of the engine.
    pub(super) async fn ingest(
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
        let prev_tokens = self.talk.processed.len();
        let mut common = common_prefix(&self.talk.processed, full);
        if common == full.len() && wanted.logits != WantedLogits::None {
            common = common.saturating_sub(1);
        }
        // What was read-only before stays unwritten when it has to be fed again, and so does what
        // was settled.
        let mut flags = self.talk.written[..common].to_vec();
        let settled = self.settled_tokens(full, common)?;
        flags.resize(settled.max(common), false);
        flags.resize(full.len(), write_enabled);
        let rollback = match common < prev_tokens {
            true => Some(self.roll_back(full, common, settled, write_enabled).await?),
            false => None,
        };
        let feed = Feed { tokens: full, flags: &flags, ids: ids.as_ref(), is_cancellable };
        let start = match self.talk.processed.len() {
            0 => self.begin_with_prefix(&feed).await?,
            n => n,
        };
        let outputs = self.feed_from(self.talk.processed.len(), &feed, wanted).await?;
        let ingest = Ingest {
            prev_tokens,
            full_tokens: full.len(),
            prefix_tokens: start,
            suffix_tokens: full.len() - start,
            rollback,
        };
        Ok((ingest, outputs))
    }

    /// Feeds the tokens from position `start` on, which is where the cache ends; hands back what is
    /// wanted of the last.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; those of the engine.
    pub(super) async fn feed_from(
        &mut self,
        start: usize,
        feed: &Feed<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Outputs> {
        let (tokens, flags) = (feed.tokens, feed.flags);
        let mut outputs = Outputs::default();
        let mut from = start;
        while from < tokens.len() {
            let run = flags[from..].iter().take_while(|flag| **flag == flags[from]).count();
            // Writes of whole messages must not be cut; anything else can be, without a difference.
            let is_whole = feed.ids.is_some() && flags[from];
            let to = from + if is_whole { run } else { run.min(TOKENS_BETWEEN_LOOKS) };
            if feed.is_cancellable && self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let wanted = if to == tokens.len() { wanted } else { Wanted::default() };
            let ids = feed.ids.map(|ids| ids.slice(from..to));
            outputs = self.feed(&tokens[from..to], ids, flags[from], wanted).await?;
            if feed.is_cancellable && to < tokens.len() {
                // else all pieces would be queued before anyone could cancel
                self.model.engine.finish().await?;
            }
            from = to;
        }
        Ok(outputs)
    }

    /// One call of the engine, and the books that go with it.
    pub(super) async fn feed(
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
        self.book(&call);
        Ok(outputs)
    }

    /// The books of a call that was made.
    pub(super) fn book(&mut self, call: &Call<'_>) {
        let talk = &mut self.talk;
        talk.processed.extend_from_slice(call.tokens);
        talk.written.resize(talk.processed.len(), call.write_enabled);
        let n_tokens = call.tokens.len() as u64;
        talk.counters.tokens_seen += n_tokens;
        match WritePlan::new(self.model.engine.delta_config(), call) {
            WritePlan::ReadOnly => {}
            WritePlan::PerToken => {
                talk.counters.tokens_written += n_tokens;
                talk.counters.writes += n_tokens;
            }
            WritePlan::Groups { group_of_token, n_groups, .. } => {
                talk.counters.tokens_written += group_of_token.iter().flatten().count() as u64;
                talk.counters.writes += n_groups as u64;
            }
        }
    }

    /// The history differs from what was processed after `common` tokens.
    async fn roll_back(
        &mut self,
        full: &[u32],
        common: usize,
        settled: usize,
        write_enabled: bool,
    ) -> Result<Rollback> {
        let dropped_from = self.talk.processed.len();
        let memory = if write_enabled {
            if let Some(checkpoint) = self.talk.checkpoints.last_at_or_before(common).cloned() {
                self.go_back_to(&checkpoint, checkpoint.n_tokens.min(common))?;
                if common < checkpoint.n_tokens {
                    let n_messages = self.talk.n_settled.max(self.talk.n_pinned);
                    self.talk.checkpoints.move_first(settled.max(common), n_messages);
                }
            }
            RollbackMemory::Restored
        } else {
            self.cut_cache(common);
            // the memory has everything from before this turn, so none of that is written again
            let n_kept = self.talk.n_kept;
            self.settle(n_kept, self.message_start(full, n_kept)?).await?;
            RollbackMemory::Kept
        };
        Ok(Rollback {
            common_tokens: common,
            dropped_tokens: dropped_from - self.talk.processed.len(),
            memory,
        })
    }

    /// How many tokens of `full` belong to settled messages, if those are to be fed again.
    fn settled_tokens(&self, full: &[u32], common: usize) -> Result<usize> {
        match self.talk.checkpoints.first() {
            Some(first) if common < first.n_tokens => self.message_start(full, self.talk.n_settled),
            _ => Ok(0),
        }
    }

    /// Where in the rendered conversation `full` the tokens of the message `n` begin; its end if
    /// there is no such message.
    pub(super) fn message_start(&self, full: &[u32], n: usize) -> Result<usize> {
        let messages = &self.talk.messages;
        match n {
            0 => return Ok(0),
            n if n >= messages.len() => return Ok(full.len()),
            _ => {}
        }
        let before = self.tokens_of(&messages[..n], false)?;
        let common = common_prefix(&before, full);
        if before.len() - common <= MAX_ROLLBACK {
            return Ok(common);
        }
        // The template shows earlier messages otherwise as more follow. Then what changes with the
        // message is its own: all but its header.
        let mut changed = messages.clone();
        let shown = &mut changed[n].content;
        *shown = if shown.starts_with('\u{2}') { "\u{3}".into() } else { "\u{2}".into() };
        Ok(common_prefix(&self.tokens_of(&changed, false)?, full))
    }

    /// Goes back to a checkpoint, with `n_tokens` in the cache.
    pub(super) fn go_back_to(&mut self, checkpoint: &Checkpoint, n_tokens: usize) -> Result<()> {
        self.model.engine.write_memory(&checkpoint.memory)?;
        self.talk.counters = checkpoint.counters;
        self.cut_cache(n_tokens);
        Ok(())
    }

    pub(super) fn cut_cache(&mut self, n_tokens: usize) {
        self.model.engine.truncate(n_tokens);
        self.talk.processed.truncate(n_tokens);
        self.talk.written.truncate(n_tokens);
        self.talk.checkpoints.drop_after(n_tokens);
    }

    pub(super) fn clear_cache(&mut self) {
        self.cut_cache(0);
        self.talk.spans = SpanCache::default();
    }

    /// Remembers this point: between turns, or after a prompt.
    pub(super) async fn checkpoint(&mut self, is_turn_boundary: bool) -> Result<()> {
        let checkpoint = self.checkpoint_at(self.talk.processed.len(), is_turn_boundary).await?;
        self.talk.checkpoints.push(checkpoint);
        Ok(())
    }

    async fn checkpoint_at(&self, n_tokens: usize, is_turn_boundary: bool) -> Result<Checkpoint> {
        Ok(Checkpoint {
            n_tokens,
            n_messages: self.talk.messages.len(),
            is_turn_boundary,
            memory: self.model.engine.read_memory().await?,
            counters: self.talk.counters,
        })
    }

    /// From here on the memory is what it is now for the first `n_messages`, with `n_tokens` when
    /// rendered: nothing goes back behind it, and they are not written (again) if they have to be
    /// fed.
    pub(super) async fn settle(&mut self, n_messages: usize, n_tokens: usize) -> Result<()> {
        let mut first = self.checkpoint_at(n_tokens, true).await?;
        first.n_messages = n_messages.max(self.talk.n_pinned).min(first.n_messages);
        self.talk.checkpoints.begin(first);
        self.talk.n_settled = n_messages;
        Ok(())
    }

    /// Settles the conversation as it stands.
    pub(super) async fn settle_here(&mut self) -> Result<()> {
        // messages may have been settled that are not in the cache at the moment
        let first = self.talk.checkpoints.first().map_or(0, |first| first.n_tokens);
        let n_tokens = self.talk.processed.len().max(first);
        let n_messages = if n_tokens == 0 { 0 } else { self.talk.messages.len() };
        self.settle(n_messages, n_tokens).await
    }

    /// Settles the first `n_messages` with the memory as it is, and feeds them.
    pub(super) async fn feed_settled(&mut self, n_messages: usize) -> Result<Ingest> {
        let later = self.talk.messages.split_off(n_messages);
        let fed = self.feed_all_settled().await;
        self.talk.messages.extend(later);
        fed
    }

    async fn feed_all_settled(&mut self) -> Result<Ingest> {
        if self.talk.messages.is_empty() {
            self.cut_cache(0);
            self.settle(0, 0).await?;
            return Ok(Ingest::default());
        }
        let full = self.render_tokens(false)?.1;
        let window = self.model.engine.context_window();
        if full.len() > window {
            return Err(Error::ContextFull { needed: full.len(), window });
        }
        let common = common_prefix(&self.talk.processed, &full);
        self.cut_cache(common);
        self.settle(self.talk.messages.len(), full.len()).await?;
        Ok(self.ingest(&full, None, false, true, Wanted::default()).await?.0)
    }

    /// The conversation as text and tokens.
    pub(super) fn render_tokens(&self, add_generation_prompt: bool) -> Result<(String, Vec<u32>)> {
        let end = if add_generation_prompt { End::Prompt } else { End::Message };
        self.render_to(&self.talk.messages, end)
    }

    /// Messages as text and tokens, up to `end`.
    pub(super) fn render_to(
        &self,
        messages: &[crate::chat::Message],
        end: End,
    ) -> Result<(String, Vec<u32>)> {
        let options = self.talk.render.with_generation_prompt(end == End::Prompt);
        let template = &self.model.template;
        let text = match end {
            _ if self.talk.is_plain => messages.iter().map(|m| m.content.as_str()).collect(),
            End::Unfinished => template.render_unfinished(messages, &options)?,
            End::Message | End::Prompt => template.render(messages, &options)?,
        };
        let tokens = self.model.tokenizer.encode(&text)?;
        Ok((text, tokens))
    }

    /// The tokens of some messages.
    pub(super) fn tokens_of(
        &self,
        messages: &[crate::chat::Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let end = if add_generation_prompt { End::Prompt } else { End::Message };
        Ok(self.render_to(messages, end)?.1)
    }

    /// Message and sentence ids of the conversation, if this write mode looks at them.
    pub(super) fn write_ids(&mut self, full: &[u32]) -> Result<Option<WriteIds>> {
        let granularity = self.model.engine.delta_config().map(|d| d.write_granularity);
        let with_sentences = match granularity {
            None | Some(WriteGranularity::Token) => return Ok(None),
            // nothing of a plain text is written
            Some(_) if self.talk.is_plain => return Ok(None),
            Some(granularity) => granularity == WriteGranularity::SentenceMean,
        };
        let talk = &mut self.talk;
        let options = SpanOptions { render: &talk.render, with_sentences };
        let (template, tokenizer) = (&self.model.template, &self.model.tokenizer);
        let ids = talk.spans.write_ids(&talk.messages, template, tokenizer, full, options)?;
        Ok(Some(ids))
    }
}

/// How many tokens two lists share at the beginning.
pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl WriteIds {
    /// Message and sentence ids of some of the tokens.
    fn slice(&self, range: std::ops::Range<usize>) -> (&[i64], &[i64]) {
        (&self.message_ids[range.clone()], &self.sentence_ids[range])
    }
}
