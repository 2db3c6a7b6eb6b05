//! A full window. Owns which messages leave it and what is fed again for it. The memory is left
//! exactly as it is: it has what leaves.

use super::ingest::End;
use super::{Ingest, Session};
use crate::chat::Role;
use crate::error::{Error, Result};

/// Room that a prompt leaves in the window for the tokens that close a reply.
pub(super) const CLOSING_TOKENS: usize = 8;

/// What a full window does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Refuses what does not fit.
    #[default]
    Error,
    /// Lets the oldest exchanges leave the context, but none of the pinned messages.
    Evict,
}

/// A rendered conversation that fits.
pub(super) struct Fitting {
    pub text: String,
    pub tokens: Vec<u32>,
    /// Messages that left.
    pub evicted_messages: usize,
    /// What was fed again because of that.
    pub refed: Option<Ingest>,
}

impl Fitting {
    /// What feeding the conversation came to, together with what was fed for its room.
    pub fn with_refed(&self, ingest: Ingest) -> Ingest {
        match &self.refed {
            None => ingest,
            Some(refed) => Ingest {
                prev_tokens: refed.prev_tokens,
                prefix_tokens: refed.prefix_tokens,
                suffix_tokens: ingest.full_tokens - refed.prefix_tokens,
                ..ingest
            },
        }
    }
}

impl Session {
    /// Renders the conversation, if need be after messages before index `limit` left it so that
    /// `room` tokens stay free (or as many as can be).
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything has changed; [`Error::Template`],
    /// [`Error::Cancelled`], those of the engine.
    pub(super) async fn fit(
        &mut self,
        end: End,
        room: usize,
        overflow: Overflow,
        limit: usize,
    ) -> Result<Fitting> {
        let window = self.model.engine.context_window();
        let least = CLOSING_TOKENS + 1;
        let (text, tokens) = self.render_to(&self.talk.messages, end)?;
        let mut fitting = Fitting { text, tokens, evicted_messages: 0, refed: None };
        let room = if overflow == Overflow::Evict { room.max(least) } else { least };
        if fitting.tokens.len() + room <= window {
            return Ok(fitting);
        }
        let cuts = match overflow {
            Overflow::Error => Vec::new(),
            Overflow::Evict => self.exchanges(limit),
        };
        // the fewest that make room
        let (mut few, mut many) = (0, cuts.len());
        while few < many {
            let middle = (few + many) / 2;
            match self.tokens_without(cuts[middle], end)? + room <= window {
                true => many = middle,
                false => few = middle + 1,
            }
        }
        let Some(&cut) = cuts.get(few).or(cuts.last()) else {
            let needed = fitting.tokens.len() + least;
            return match needed <= window {
                true => Ok(fitting),
                false => Err(Error::ContextFull { needed, window }),
            };
        };
        let needed = self.tokens_without(cut, end)? + least;
        if needed > window {
            return Err(Error::ContextFull { needed, window });
        }
        fitting.refed = self.evict(cut).await?;
        fitting.evicted_messages = cut - self.talk.n_pinned;
        (fitting.text, fitting.tokens) = self.render_to(&self.talk.messages, end)?;
        Ok(fitting)
    }

    /// Where exchanges begin that may become the first after the pinned messages: with what the user
    /// says, up to index `limit`.
    fn exchanges(&self, limit: usize) -> Vec<usize> {
        let (messages, n_pinned) = (&self.talk.messages, self.talk.n_pinned);
        let is_user = |index: usize| messages[index].role == Role::User;
        let indices = n_pinned + 1..messages.len().min(limit.saturating_add(1));
        indices.filter(|&index| is_user(index) && !is_user(index - 1)).collect()
    }

    /// How long the conversation is without what lies between the pinned messages and `cut`.
    fn tokens_without(&self, cut: usize, end: End) -> Result<usize> {
        let talk = &self.talk;
        let left = [&talk.messages[..talk.n_pinned], &talk.messages[cut..]].concat();
        Ok(self.render_to(&left, end)?.1.len())
    }

    /// Takes out what lies between the pinned messages and `cut`, and feeds again what remains of
    /// what was fed before.
    async fn evict(&mut self, cut: usize) -> Result<Option<Ingest>> {
        let talk = &mut self.talk;
        let n_pinned = talk.n_pinned;
        for message in talk.messages.drain(n_pinned..cut) {
            talk.left.push(&message, talk.replies.of(&message));
        }
        if talk.n_kept <= n_pinned {
            // nothing of that had been fed
            return Ok(None);
        }
        talk.n_kept = (talk.n_kept + n_pinned).saturating_sub(cut).max(n_pinned);
        let (prev_tokens, n_kept) = (talk.processed.len(), talk.n_kept);
        let refed = self.feed_settled(n_kept).await?;
        Ok(Some(Ingest { prev_tokens, ..refed }))
    }
}
