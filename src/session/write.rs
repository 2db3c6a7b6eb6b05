//! Text for the memory alone. Owns how it is fed: as a message from the user after what the context
//! holds, or, if it is too long for that, in pieces after the pinned messages; then the cache is
//! what it was.

use super::ingest::{Feed, common_prefix};
use super::{Session, no_memory};
use crate::chat::{Message, Role};
use crate::engine::Wanted;
use crate::error::{Error, Result};
use crate::spans::split_sentences;

/// Shortest piece that is worth a message of its own, in tokens.
const MIN_PIECE: usize = 16;
/// Tokens that a text may take more inside a message than on its own.
const SLACK: usize = 4;

impl Session {
    /// Writes a text into the memory; the context stays as it is. Gives how many tokens were
    /// written. What the memory was before does not come back by [`Session::undo_turn`].
    ///
    /// # Errors
    /// [`Error::Messages`] for an empty text, [`Error::Unsupported`] without δ-mem,
    /// [`Error::Setting`] while writing is paused, [`Error::ContextFull`] if the pinned messages
    /// leave no room, [`Error::Cancelled`], [`Error::Template`], those of the device. After an error
    /// the memory is what it was.
    pub async fn write_text(&mut self, text: &str) -> Result<u64> {
        if text.trim().is_empty() {
            return Err(Error::Messages { reason: "the text is empty".into() });
        }
        if self.model.engine.delta_config().is_none() {
            return Err(no_memory());
        }
        if self.talk.is_write_paused {
            return Err(Error::Setting { name: "write", reason: "writing is paused".into() });
        }
        self.cancel.reset();
        let mark = self.mark().await?;
        let (processed, before) = (mark.processed.clone(), mark.counters);
        let written = self.write_pieces(text).await;
        let start = self.or_restore(written, mark).await?;
        let n_written = self.talk.counters.tokens_written - before.tokens_written;
        self.bring_back(&processed, start).await?;
        self.settle_here().await?;
        Ok(n_written)
    }

    /// Gives up to which token the cache was left alone.
    pub(super) async fn write_pieces(&mut self, text: &str) -> Result<usize> {
        let window = self.model.engine.context_window();
        let room = |session: &Session, context: &[Message]| -> Result<usize> {
            let around = session.tokens_of(&with_text(context, ""), false)?.len() + SLACK;
            Ok(window.saturating_sub(around))
        };
        let whole = self.talk.messages.clone();
        let n_tokens = self.model.tokenizer.encode(text)?.len();
        if n_tokens <= room(self, &whole)? {
            return self.write_piece(&whole, text).await;
        }
        let context = &whole[..self.talk.n_pinned];
        let room = room(self, context)?;
        if room < MIN_PIECE.min(n_tokens) {
            return Err(Error::ContextFull { needed: window - room + MIN_PIECE, window });
        }
        let count = |text: &str| Ok(self.model.tokenizer.encode(text)?.len());
        let mut start = usize::MAX;
        for piece in pieces(text, room, &count)? {
            start = start.min(self.write_piece(context, &piece).await?);
        }
        Ok(start)
    }

    /// Feeds `text` as a message after `context`; only its own tokens are written. Gives
    /// up to which token the cache was left alone.
    async fn write_piece(&mut self, context: &[Message], text: &str) -> Result<usize> {
        let held = std::mem::replace(&mut self.talk.messages, with_text(context, text));
        let spans = self.talk.spans.clone();
        let result = self.feed_last_message().await;
        self.talk.messages = held;
        self.talk.spans = spans;
        result
    }

    async fn feed_last_message(&mut self) -> Result<usize> {
        let full = self.render_tokens(false)?.1;
        let window = self.model.engine.context_window();
        if full.len() > window {
            return Err(Error::ContextFull { needed: full.len(), window });
        }
        let start = self.message_start(&full, self.talk.messages.len() - 1)?;
        let ids = self.write_ids(&full)?;
        let mut flags = vec![false; start];
        flags.resize(full.len(), true);
        let common = common_prefix(&self.talk.processed, &full).min(start);
        self.cut_cache(common);
        let feed = Feed { tokens: &full, flags: &flags, ids: ids.as_ref(), is_cancellable: true };
        self.feed_from(common, &feed, Wanted::default()).await?;
        Ok(common)
    }

    /// Makes the cache hold `processed` again, without writing; up to `start` it does.
    async fn bring_back(&mut self, processed: &[u32], start: usize) -> Result<()> {
        let common = common_prefix(&self.talk.processed, processed).min(start);
        self.cut_cache(common);
        let flags = vec![false; processed.len()];
        let feed = Feed { tokens: processed, flags: &flags, ids: None, is_cancellable: false };
        self.feed_from(common, &feed, Wanted::default()).await?;
        Ok(())
    }
}

fn with_text(context: &[Message], text: &str) -> Vec<Message> {
    let mut messages = context.to_vec();
    messages.push(Message::new(Role::User, text));
    messages
}

/// Cuts a text between sentences, and long sentences between words, into pieces of at most `most`
/// tokens as `count` counts them.
fn pieces(text: &str, most: usize, count: &dyn Fn(&str) -> Result<usize>) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for sentence in split_sentences(text) {
        match count(sentence)? <= most {
            true => parts.push(sentence),
            false => halve(sentence, most, count, &mut parts)?,
        }
    }
    let mut pieces: Vec<String> = Vec::new();
    for part in parts {
        let joined = pieces.last().map(|last| format!("{last}{part}"));
        match joined {
            Some(joined) if count(&joined)? <= most => {
                pieces.pop();
                pieces.push(joined);
            }
            _ => pieces.push(part.to_string()),
        }
    }
    pieces.retain(|piece| !piece.trim().is_empty());
    Ok(pieces)
}

/// Halves until every part is short enough, before white space near the middle if there is any.
fn halve<'a>(
    text: &'a str,
    most: usize,
    count: &dyn Fn(&str) -> Result<usize>,
    parts: &mut Vec<&'a str>,
) -> Result<()> {
    let mut characters = text.char_indices().map(|(at, _)| at).skip(1);
    if count(text)? <= most || characters.next().is_none() {
        parts.push(text);
        return Ok(());
    }
    let middle = (text.len() / 2..text.len()).find(|&at| text.is_char_boundary(at));
    let middle = middle.filter(|&at| at > 0).unwrap_or(0);
    let spaces = text.char_indices().filter(|(at, c)| c.is_whitespace() && *at > 0);
    let nearest = spaces.map(|(at, _)| at).min_by_key(|at| at.abs_diff(middle));
    let at = nearest.filter(|at| at.abs_diff(middle) <= text.len() / 4).unwrap_or(middle);
    let first = text.char_indices().nth(1).map_or(text.len(), |(at, _)| at);
    let (left, right) = text.split_at(at.max(first));
    halve(left, most, count, parts)?;
    halve(right, most, count, parts)
}
