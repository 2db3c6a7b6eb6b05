//! Which message and which sentence each token belongs to: the write ids of δ-mem. Owns the rules
//! of SPEC.md section 7, "Write ids" and "Sentence ids"; what the ids do is the engine's.

use crate::chat::{ChatTemplate, Message, RenderOptions, Role};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use std::ops::Range;

/// Most tokens that a longer rendering may take back from a shorter one.
pub const MAX_ROLLBACK: usize = 16;

/// The ids of a token list; both lists are as long as it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteIds {
    /// 0, 1, 2, … for the messages that are not from the system, −1 for other tokens.
    pub message_ids: Vec<i64>,
    /// Counted through the whole list, −1 outside of sentences; all −1 if not asked for.
    pub sentence_ids: Vec<i64>,
    /// The message id of a reply that is decoded next.
    pub next_message_id: i64,
    /// Its sentence id.
    pub next_sentence_id: i64,
}

/// How the messages were rendered, and whether sentence ids are needed.
#[derive(Debug, Clone, Copy)]
pub struct SpanOptions<'a> {
    /// `add_generation_prompt` is ignored.
    pub render: &'a RenderOptions,
    pub with_sentences: bool,
}

/// The ids of `full_ids`, the tokens of all `messages` with or without a generation prompt.
///
/// # Errors
/// [`Error::Messages`] if the template renders history differently as it grows, by more than
/// [`MAX_ROLLBACK`] tokens; [`Error::Template`] and [`Error::Tokenizer`] as they come.
pub fn write_ids(
    messages: &[Message],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    full_ids: &[u32],
    options: SpanOptions<'_>,
) -> Result<WriteIds> {
    SpanCache::default().write_ids(messages, template, tokenizer, full_ids, options)
}

/// Computes write ids for a conversation that grows, rendering each prefix once. Use one for one
/// template and tokenizer.
#[derive(Debug, Clone, Default)]
pub struct SpanCache {
    messages: Vec<Message>,
    render: Option<RenderOptions>,
    /// Tokens of the rendering of all `messages`.
    tokens: Vec<u32>,
    /// Where each message's tokens end; they start where the previous ones end.
    ends: Vec<usize>,
}

impl SpanCache {
    /// As [`write_ids`], starting from the messages it saw before if they are still the first.
    ///
    /// # Errors
    /// As [`write_ids`].
    pub fn write_ids(
        &mut self,
        messages: &[Message],
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        full_ids: &[u32],
        options: SpanOptions<'_>,
    ) -> Result<WriteIds> {
        let render = options.render.with_generation_prompt(false);
        if self.render.as_ref() != Some(&render) || !messages.starts_with(&self.messages) {
            *self = SpanCache::default();
        }
        for count in self.messages.len() + 1..=messages.len() {
            let tokens = tokenizer.encode(&template.render(&messages[..count], &render)?)?;
            self.append(&messages[count - 1], tokens)?;
        }
        self.render = Some(render);
        self.assign(tokenizer, full_ids, options.with_sentences)
    }

    /// Gives `message` the tokens that it adds, and those it changes at the end.
    fn append(&mut self, message: &Message, tokens: Vec<u32>) -> Result<()> {
        let common = common_prefix(&self.tokens, &tokens);
        check_rollback(self.tokens.len() - common, self.messages.len())?;
        for end in &mut self.ends {
            *end = (*end).min(common);
        }
        self.ends.push(tokens.len());
        self.messages.push(message.clone());
        self.tokens = tokens;
        Ok(())
    }

    fn assign(
        &self,
        tokenizer: &Tokenizer,
        full_ids: &[u32],
        with_sentences: bool,
    ) -> Result<WriteIds> {
        // What comes after the last message is the generation prompt, −1.
        let common = common_prefix(&self.tokens, full_ids);
        check_rollback(self.tokens.len() - common, self.messages.len())?;
        let mut ids = WriteIds {
            message_ids: vec![-1; full_ids.len()],
            sentence_ids: vec![-1; full_ids.len()],
            ..WriteIds::default()
        };
        let mut start = 0;
        for (message, &end) in self.messages.iter().zip(&self.ends) {
            let range = start.min(common)..end.min(common);
            start = end;
            if message.role == Role::System {
                continue;
            }
            ids.message_ids[range.clone()].fill(ids.next_message_id);
            ids.next_message_id += 1;
            if with_sentences {
                for (range, id) in sentences(tokenizer, &message.content, &full_ids[range.clone()])?
                    .into_iter()
                    .map(|s| s.start + range.start..s.end + range.start)
                    .zip(ids.next_sentence_id..)
                {
                    ids.sentence_ids[range].fill(id);
                    ids.next_sentence_id = id + 1;
                }
            }
        }
        Ok(ids)
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn check_rollback(rolled_back: usize, n_messages: usize) -> Result<()> {
    match rolled_back <= MAX_ROLLBACK {
        true => Ok(()),
        false => Err(Error::Messages {
            reason: format!(
                "the chat template renders the first {n_messages} messages differently when more follow: {rolled_back} tokens change, at most {MAX_ROLLBACK} may"
            ),
        }),
    }
}

/// Token ranges of the sentences of `content` inside the tokens of its message.
fn sentences(tokenizer: &Tokenizer, content: &str, message: &[u32]) -> Result<Vec<Range<usize>>> {
    let tokens = tokenizer.encode(content)?;
    let Some(start) = find(message, &tokens) else {
        return Ok(Vec::new());
    };
    let end = start + tokens.len();
    let mut ranges = Vec::new();
    let mut at = start;
    for chunk in split_sentences(content) {
        let chunk = tokenizer.encode(chunk)?;
        if !message[at..end].starts_with(&chunk) {
            at = start;
            break;
        }
        if !chunk.is_empty() {
            ranges.push(at..at + chunk.len());
        }
        at += chunk.len();
    }
    // Chunks that tokenise differently on their own do not say where a sentence ends.
    if at != end {
        ranges.clear();
        ranges.push(start..end);
    }
    Ok(ranges)
}

/// Where `needle` first occurs in `haystack`; nowhere if it is empty. Linear (Knuth–Morris–Pratt),
/// as a message may be long and repetitive.
fn find(haystack: &[u32], needle: &[u32]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    // Per needle length: the longest proper prefix that is also a suffix.
    let mut borders = vec![0; needle.len()];
    let mut matched = 0;
    for at in 1..needle.len() {
        while matched > 0 && needle[at] != needle[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(needle[at] == needle[matched]);
        borders[at] = matched;
    }
    matched = 0;
    for (at, token) in haystack.iter().enumerate() {
        while matched > 0 && *token != needle[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(*token == needle[matched]);
        if matched == needle.len() {
            return Some(at + 1 - matched);
        }
    }
    None
}

/// Cuts before each match of `\n{2,}|(?<=[.!?;:])["')\]”’]*\s+`; the match starts the next chunk.
/// Written out because the regex crate has no look-behind.
pub fn split_sentences(text: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut previous = None;
    while let Some(character) = text[at..].chars().next() {
        let len = separator_len(&text[at..], previous);
        if len > 0 {
            chunks.push(&text[start..at]);
            start = at;
            at += len;
            previous = text[..at].chars().next_back();
        } else {
            at += character.len_utf8();
            previous = Some(character);
        }
    }
    chunks.push(&text[start..]);
    chunks
}

/// Bytes of the separator at the start of `rest`, 0 if there is none.
fn separator_len(rest: &str, previous: Option<char>) -> usize {
    let newlines = rest.bytes().take_while(|&b| b == b'\n').count();
    if newlines >= 2 {
        return newlines;
    }
    if !previous.is_some_and(|c| matches!(c, '.' | '!' | '?' | ';' | ':')) {
        return 0;
    }
    let is_closing = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '”' | '’');
    let after_closing = rest.trim_start_matches(is_closing);
    let after_space = after_closing.trim_start_matches(is_python_space);
    match after_space.len() == after_closing.len() {
        true => 0,
        false => rest.len() - after_space.len(),
    }
}

/// `\s` of Python's `re`: Unicode white space and four ASCII separators.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests;
