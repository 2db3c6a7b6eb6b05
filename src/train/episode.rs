//! What is learnt from: chat messages as calls of the model. Owns the JSONL format and how a
//! conversation is cut: everything but the last user and assistant turn is written into the memory,
//! then only that turn is visible, and the assistant's tokens are learnt.
//!
//! Where means are written, how a conversation is cut into calls decides what is written, so the
//! context comes as a session feeds it (SPEC.md section 7): a prompt, the answer token by token, what
//! closes it. Where every token writes, one call gives the same.

use crate::chat::{ChatTemplate, CivilDate, Message, RenderOptions, Role};
use crate::config::WriteGranularity;
use crate::error::{Error, Result};
use crate::loaded::{enable_thinking, load_template, load_tokenizer};
use crate::model_folder::ModelFolder;
use crate::spans::{SpanCache, SpanOptions};
use crate::tokenizer::Tokenizer;
use serde::Deserialize;
use std::io::BufRead;
use std::path::Path;

/// Longest line of a data file.
const MAX_LINE_BYTES: u64 = 16 << 20;
const FORMAT: &str = "episode file";

/// One conversation as the calls that a model sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// In order; the memory goes through all of them.
    pub calls: Vec<EpisodeCall>,
}

/// One call of the model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EpisodeCall {
    pub tokens: Vec<u32>,
    /// As [`crate::engine::Call::message_ids`], owned.
    pub message_ids: Option<Vec<i64>>,
    /// As [`crate::engine::Call::sentence_ids`], owned.
    pub sentence_ids: Option<Vec<i64>>,
    pub write_enabled: bool,
    /// The KV cache of the call before is still there; else this one starts at position 0.
    pub continues: bool,
    /// Per token: its successor, if that is learnt. `[tokens]`
    pub targets: Vec<Option<u32>>,
}

impl Episode {
    /// Tokens of all calls.
    pub fn n_tokens(&self) -> usize {
        self.calls.iter().map(|call| call.tokens.len()).sum()
    }

    /// The calls between which the KV cache is dropped, with those that continue them.
    pub fn stretches(&self) -> impl Iterator<Item = &[EpisodeCall]> {
        self.calls.chunk_by(|_, next| next.continues)
    }

    /// Tokens that are learnt.
    pub fn n_targets(&self) -> usize {
        self.calls.iter().map(|call| call.targets.iter().flatten().count()).sum()
    }
}

/// Turns messages into episodes, by a model's own template and tokenizer.
pub struct EpisodeReader {
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub render: RenderOptions,
    pub eos_token_ids: Vec<u32>,
    pub granularity: WriteGranularity,
    /// Whether the last turn writes into the memory, as it does in a conversation.
    pub question_writes: bool,
    /// Most tokens in the KV cache at once.
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
}

impl EpisodeReader {
    /// With a model's own text files, as a conversation with it would be rendered on `date`.
    ///
    /// # Errors
    /// As [`load_tokenizer`] and [`load_template`].
    pub fn new(
        folder: &ModelFolder,
        granularity: WriteGranularity,
        date: CivilDate,
    ) -> Result<EpisodeReader> {
        Ok(EpisodeReader {
            tokenizer: load_tokenizer(folder)?,
            template: load_template(folder)?,
            render: RenderOptions {
                enable_thinking: enable_thinking(folder),
                ..RenderOptions::new(date)
            },
            eos_token_ids: folder.eos_token_ids(),
            granularity,
            question_writes: true,
            max_tokens: folder.config.max_position_embeddings,
        })
    }

    /// Reads a JSONL file: `{"messages": [{"role": …, "content": …}, …]}` a line.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`], naming the line, for what is no such object or gives no
    /// episode.
    pub fn read(&self, path: &Path) -> Result<Vec<Episode>> {
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        let mut lines = std::io::BufReader::new(file);
        let mut episodes = Vec::new();
        for number in 1.. {
            let bad = |reason: String| {
                Error::format(
                    path.display().to_string(),
                    FORMAT,
                    format!("line {number}: {reason}"),
                )
            };
            let mut line = String::new();
            let mut limited = std::io::Read::take(&mut lines, MAX_LINE_BYTES);
            let n = limited.read_line(&mut line).map_err(Error::io(path))?;
            if n as u64 == MAX_LINE_BYTES {
                return Err(bad(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            if n == 0 {
                break;
            }
            if line.trim().is_empty() {
                continue;
            }
            let Line { messages } = serde_json::from_str(&line).map_err(|e| bad(e.to_string()))?;
            episodes.push(self.episode(&messages).map_err(|e| bad(e.to_string()))?);
        }
        if episodes.is_empty() {
            return Err(Error::format(path.display().to_string(), FORMAT, "there is no episode"));
        }
        Ok(episodes)
    }

    /// The calls of one conversation. A system message at its beginning is said again before the
    /// last turn, as a new conversation with the same memory would.
    ///
    /// # Errors
    /// [`Error::Messages`] if it does not end with a user's message and an answer, or a call is too
    /// long; [`Error::Template`] and [`Error::Tokenizer`] as they come.
    pub fn episode(&self, messages: &[Message]) -> Result<Episode> {
        let bad = |reason: &str| Err(Error::Messages { reason: reason.into() });
        let n_context = match messages {
            [.., user, answer] if user.role == Role::User && answer.role == Role::Assistant => {
                messages.len() - 2
            }
            _ => return bad("the last two are not a user's message and an assistant's answer"),
        };
        let (context, last_turn) = messages.split_at(n_context);
        let system: Vec<Message> =
            context.iter().take_while(|m| m.role == Role::System).cloned().collect();
        // An empty call stands for no context, so that all episodes drop their cache alike.
        let mut calls = match context.len() > system.len() {
            true => self.context(context)?,
            false => vec![EpisodeCall { write_enabled: true, ..EpisodeCall::default() }],
        };
        let visible: Vec<Message> = system.into_iter().chain(last_turn.iter().cloned()).collect();
        self.add_last_turn(&visible, &mut calls)?;
        let episode = Episode { calls };
        for stretch in episode.stretches() {
            let n_tokens: usize = stretch.iter().map(|call| call.tokens.len()).sum();
            if n_tokens > self.max_tokens {
                let most = self.max_tokens;
                return Err(Error::Messages {
                    reason: format!("{n_tokens} tokens at once; at most {most} are allowed"),
                });
            }
        }
        Ok(episode)
    }

    /// What is written before the question.
    fn context(&self, messages: &[Message]) -> Result<Vec<EpisodeCall>> {
        if self.granularity != WriteGranularity::Token
            && let Some(calls) = self.turns(messages)?
        {
            return Ok(calls);
        }
        let whole = self.tokens(messages, false)?;
        Ok(vec![self.call(messages, whole, 0, true, &mut SpanCache::default())?])
    }

    /// A conversation as a session feeds it; `None` if the template shows an answer differently once
    /// it is history, as a session then goes back and feeds it as a whole.
    fn turns(&self, messages: &[Message]) -> Result<Option<Vec<EpisodeCall>>> {
        let mut spans = SpanCache::default();
        let mut calls: Vec<EpisodeCall> = Vec::new();
        // the tokens of all calls so far
        let mut fed: Vec<u32> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let before = &messages[..index];
            let is_answer = message.role == Role::Assistant
                && before.iter().any(|message| message.role != Role::System);
            if !is_answer && index + 1 < messages.len() {
                continue;
            }
            let whole = self.tokens(&messages[..=index], false)?;
            if is_answer {
                let prompt = self.tokens(before, true)?;
                let Some(answer) = whole.strip_prefix(&prompt[..]) else { return Ok(None) };
                if !prompt.starts_with(&fed) {
                    return Ok(None);
                }
                let end = answer.iter().position(|id| self.eos_token_ids.contains(id));
                let answer = answer[..end.unwrap_or(answer.len())].to_vec();
                let n_fed = std::mem::replace(&mut fed, [&prompt[..], &answer].concat()).len();
                calls.push(self.call(before, prompt, n_fed, true, &mut spans)?);
                calls.push(decoded(answer, true));
            }
            if !whole.starts_with(&fed) {
                return Ok(None);
            }
            let n_fed = std::mem::replace(&mut fed, whole.clone()).len();
            calls.push(self.call(&messages[..=index], whole, n_fed, true, &mut spans)?);
        }
        calls.iter_mut().skip(1).for_each(|call| call.continues = true);
        Ok(Some(calls))
    }

    /// The question, then the answer as it would be decoded: token by token. Where every token
    /// writes on its own that is the same as one call.
    fn add_last_turn(&self, visible: &[Message], calls: &mut Vec<EpisodeCall>) -> Result<()> {
        let (prompt_messages, answer) = visible.split_at(visible.len() - 1);
        let prompt = self.tokens(prompt_messages, true)?;
        let answer = self.answer(visible, &prompt, &answer[0].content)?;
        let spans = &mut SpanCache::default();
        let mut question = self.call(prompt_messages, prompt, 0, self.question_writes, spans)?;
        let last = question.tokens.len() - 1;
        question.targets[last] = Some(answer[0]);
        // The end of the answer is learnt, but never fed.
        let fed = answer[..answer.len() - 1].to_vec();
        let targets: Vec<Option<u32>> = answer[1..].iter().copied().map(Some).collect();
        if self.granularity == WriteGranularity::Token {
            question.tokens.extend(fed);
            question.targets.extend(targets);
            calls.push(question);
            return Ok(());
        }
        calls.push(question);
        calls.push(EpisodeCall { targets, continues: true, ..decoded(fed, self.question_writes) });
        Ok(())
    }

    /// The answer's tokens with the one that ends it.
    fn answer(&self, visible: &[Message], prompt: &[u32], content: &str) -> Result<Vec<u32>> {
        let whole = self.tokens(visible, false)?;
        let mut answer = match whole.strip_prefix(prompt) {
            Some(rest) => rest.to_vec(),
            // The template shows a past answer differently from one that is being written.
            None => self.tokenizer.encode(content)?,
        };
        if let Some(end) = answer.iter().position(|id| self.eos_token_ids.contains(id)) {
            answer.truncate(end + 1);
        } else if let Some(&eos) = self.eos_token_ids.first() {
            answer.push(eos);
        }
        match answer.is_empty() {
            true => Err(Error::Messages { reason: "the answer is empty".into() }),
            false => Ok(answer),
        }
    }

    fn tokens(&self, messages: &[Message], with_prompt: bool) -> Result<Vec<u32>> {
        let options = self.render.with_generation_prompt(with_prompt);
        self.tokenizer.encode(&self.template.render(messages, &options)?)
    }

    /// A call of the last of `tokens`, all of which are those of `messages`.
    fn call(
        &self,
        messages: &[Message],
        mut tokens: Vec<u32>,
        n_fed: usize,
        write_enabled: bool,
        spans: &mut SpanCache,
    ) -> Result<EpisodeCall> {
        let (mut message_ids, mut sentence_ids) = (None, None);
        if self.granularity != WriteGranularity::Token {
            let with_sentences = self.granularity == WriteGranularity::SentenceMean;
            let options = SpanOptions { render: &self.render, with_sentences };
            let (template, tokenizer) = (&self.template, &self.tokenizer);
            let mut ids = spans.write_ids(messages, template, tokenizer, &tokens, options)?;
            message_ids = Some(ids.message_ids.split_off(n_fed));
            sentence_ids = with_sentences.then(|| ids.sentence_ids.split_off(n_fed));
        }
        let tokens = tokens.split_off(n_fed);
        Ok(EpisodeCall {
            targets: vec![None; tokens.len()],
            tokens,
            message_ids,
            sentence_ids,
            write_enabled,
            continues: false,
        })
    }
}

/// Tokens that are decoded: each writes on its own, as without ids.
fn decoded(tokens: Vec<u32>, write_enabled: bool) -> EpisodeCall {
    EpisodeCall {
        targets: vec![None; tokens.len()],
        tokens,
        write_enabled,
        continues: true,
        ..EpisodeCall::default()
    }
}
