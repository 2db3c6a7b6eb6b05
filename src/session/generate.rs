//! One turn: ingest the prompt, decode the reply, ingest what closes it.

use super::history::check_prompt;
use super::window::CLOSING_TOKENS;
use super::{Ingest, Overflow, Session};
use crate::chat::{Message, Role, ThinkPiece, ThinkSplitter, ToolCall};
use crate::engine::{Gauge, Outputs, RepetitionPenalty, Wanted};
use crate::error::{Error, Result};
use crate::sampler::{Draw, Sampler, SamplingOptions, StopStrings, repetition_ids};
use std::ops::ControlFlow;
use web_time::{Duration, Instant};

/// How one turn is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnOptions {
    pub sampling: SamplingOptions,
    pub max_new_tokens: usize,
    /// The reply ends before the first of these.
    pub stop: Vec<String>,
    /// False reads the memory and leaves it as it is.
    pub write_enabled: bool,
    pub overflow: Overflow,
    /// Reports [`Turn::gauges`].
    pub gauges: bool,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model said so.
    EndOfSequence,
    /// A stop string came.
    StopString,
    /// `max_new_tokens` were generated.
    MaxTokens,
    /// The caller had enough.
    Cancelled,
    /// The window has no room for more.
    ContextFull,
}

/// A finished turn.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The reply without its thoughts.
    pub answer: String,
    /// What stood between `<think>` and `</think>`.
    pub thoughts: String,
    pub generated_ids: Vec<u32>,
    pub stop_reason: StopReason,
    /// What the prompt came to.
    pub prompt: Ingest,
    /// What closing the reply came to; `None` if the window had no room for it.
    pub closing: Option<Ingest>,
    /// From the call to the first token.
    pub prompt_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
    /// Frobenius norm of the memory before and after.
    pub memory_norms: (f32, f32),
    /// Messages that left the context, oldest first, because the window was full.
    pub evicted_messages: usize,
    /// What the reply asks the caller to do.
    pub tool_calls: Vec<ToolCall>,
    /// How much the memory had its say in the last token of the reply (of the prompt, if the reply
    /// is empty), if asked for.
    pub gauges: Option<Vec<Gauge>>,
}

/// The reply as it forms.
struct Reply<'a> {
    /// Everything generated, tags included: what the history will hold.
    text: String,
    generated_ids: Vec<u32>,
    stop_reason: StopReason,
    splitter: ThinkSplitter,
    stops: StopStrings,
    thoughts: String,
    answer: String,
    on_piece: &'a mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    is_cancelled: bool,
}

impl Reply<'_> {
    /// Takes the text that a token completes, before the token is fed.
    fn push(&mut self, text: &str) {
        let shown = self.stops.push(text);
        self.show(&shown);
    }

    fn show(&mut self, text: &str) {
        self.text.push_str(text);
        for piece in self.splitter.push(text) {
            self.emit(piece);
        }
    }

    fn emit(&mut self, piece: ThinkPiece) {
        match &piece {
            ThinkPiece::Thought(text) => self.thoughts.push_str(text),
            ThinkPiece::Answer(text) => self.answer.push_str(text),
        }
        self.is_cancelled |= (self.on_piece)(&piece).is_break();
    }

    /// What was held back, when no more tokens come.
    fn finish(&mut self, rest: &str) {
        self.push(rest);
        if !self.stops.is_stopped() {
            let held = self.stops.finish();
            self.show(&held);
        }
        let splitter = std::mem::replace(&mut self.splitter, ThinkSplitter::new(""));
        for piece in splitter.finish() {
            self.emit(piece);
        }
    }
}

impl Session {
    /// The options that the model's files recommend; replies of at most 512 tokens if they are
    /// silent.
    pub fn default_turn_options(&self) -> TurnOptions {
        TurnOptions {
            sampling: self.model.sampling.clone(),
            max_new_tokens: self.model.max_new_tokens.unwrap_or(512),
            stop: Vec::new(),
            write_enabled: true,
            overflow: Overflow::Error,
            gauges: false,
        }
    }

    /// Answers a user's text; see [`Session::turn`].
    ///
    /// # Errors
    /// As [`Session::turn`].
    pub async fn ask(
        &mut self,
        user: &str,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    ) -> Result<Turn> {
        self.turn(vec![Message::new(Role::User, user)], options, on_piece).await
    }

    /// Answers new messages, of which the last is from the user or a tool. `on_piece` gets the reply
    /// as it comes and can end it.
    ///
    /// # Errors
    /// [`Error::Messages`] for an empty or another last message, [`Error::Setting`],
    /// [`Error::Template`], [`Error::ContextFull`], [`Error::Cancelled`], or those of the device.
    /// After an error the conversation and the memory are what they were before the turn; what was
    /// taken out of the context in the meantime is read again by the next one.
    pub async fn turn(
        &mut self,
        messages: Vec<Message>,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    ) -> Result<Turn> {
        check_prompt(&messages)?;
        self.cancel.reset();
        let mark = self.mark().await?;
        let n_kept = self.talk.messages.len();
        self.talk.n_kept = n_kept;
        self.talk.messages.extend(messages);
        let turn = self.answer(options, on_piece, mark.memory.norm(), n_kept).await;
        self.or_restore(turn, mark).await
    }

    /// Answers the conversation. Of the messages before index `limit` some may leave it.
    pub(super) async fn answer(
        &mut self,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
        norm_before: f32,
        limit: usize,
    ) -> Result<Turn> {
        let write_enabled = options.write_enabled && !self.talk.is_write_paused;
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let stops = StopStrings::new(options.stop.clone())?;
        let begin = Instant::now();
        let window = self.model.engine.context_window();
        let room = options.max_new_tokens.min(window / 4) + CLOSING_TOKENS;
        let fitting = self.fit(true, room, options.overflow, limit).await?;
        let full = &fitting.tokens;
        let is_new = self.talk.n_kept < self.talk.messages.len();
        if is_new && self.talk.processed.starts_with(full) {
            return Err(Error::Messages {
                reason: "the template adds nothing for this message".into(),
            });
        }
        let penalised = penalised(&options.sampling, full, None);
        let wanted = wanted(&sampler, options, &penalised);
        let ids = self.write_ids(full)?;
        let next_ids = ids.as_ref().map(|ids| (ids.next_message_id, ids.next_sentence_id));
        let (prompt, outputs) = self.ingest(full, ids, write_enabled, true, wanted).await?;
        let prompt = fitting.with_refed(prompt);
        self.checkpoint(false).await?;
        let first = self.pick(&mut sampler, &outputs).await?;
        let prompt_time = begin.elapsed();

        let begin = Instant::now();
        let mut reply = Reply {
            text: String::new(),
            generated_ids: Vec::new(),
            stop_reason: StopReason::MaxTokens,
            splitter: ThinkSplitter::new(&fitting.text),
            stops,
            thoughts: String::new(),
            answer: String::new(),
            on_piece,
            is_cancelled: false,
        };
        self.decode(first, &mut sampler, options, write_enabled, next_ids, &mut reply).await?;
        let decode_time = begin.elapsed();

        let gauges = match options.gauges {
            true => Some(self.model.engine.last_gauges().await?),
            false => None,
        };
        let tool_calls = Vec::new();
        self.talk.replies.insert(&reply.text, &reply.answer, &tool_calls);
        self.talk.messages.push(Message::new(Role::Assistant, reply.text.clone()));
        let closing = match self.close(write_enabled).await {
            Ok(ingest) => Some(ingest),
            // the reply is there and remembered; only its end tag is not
            Err(Error::ContextFull { .. }) => None,
            Err(e) => return Err(e),
        };
        self.talk.counters.turns += 1;
        self.checkpoint(true).await?;
        let norm_after = self.norm_here().unwrap_or(norm_before);
        Ok(Turn {
            answer: reply.answer,
            thoughts: reply.thoughts,
            generated_ids: reply.generated_ids,
            stop_reason: reply.stop_reason,
            prompt,
            closing,
            prompt_time,
            decode_time,
            memory_norms: (norm_before, norm_after),
            evicted_messages: fitting.evicted_messages,
            tool_calls,
            gauges,
        })
    }

    /// Norm of the memory at a checkpoint that was just made.
    fn norm_here(&self) -> Option<f32> {
        self.memory_at(self.talk.processed.len()).map(|memory| memory.norm())
    }

    /// Feeds one generated token after the other; every token of the reply is fed, also the last.
    async fn decode(
        &mut self,
        first: u32,
        sampler: &mut Sampler,
        options: &TurnOptions,
        write_enabled: bool,
        next_ids: Option<(i64, i64)>,
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let window = self.model.engine.context_window();
        let tokenizer = self.model.tokenizer.clone();
        let mut decoder = tokenizer.decode_stream();
        let mut next = first;
        for n in 0..options.max_new_tokens {
            if self.model.eos_token_ids.contains(&next) {
                reply.stop_reason = StopReason::EndOfSequence;
                break;
            }
            if self.talk.processed.len() + CLOSING_TOKENS >= window {
                reply.stop_reason = StopReason::ContextFull;
                break;
            }
            reply.push(&decoder.push(next));
            reply.is_cancelled |= self.cancel.is_cancelled();
            if reply.stops.is_stopped() {
                reply.stop_reason = StopReason::StopString;
                break;
            }
            reply.generated_ids.push(next);
            let is_last = n + 1 == options.max_new_tokens || reply.is_cancelled;
            let penalised = penalised(&options.sampling, &self.talk.processed, Some(next));
            let wanted = match is_last {
                true => Wanted { gauges: options.gauges, ..Wanted::default() },
                false => wanted(sampler, options, &penalised),
            };
            let ids = next_ids.map(|(message, sentence)| ([message], [sentence]));
            let ids = ids.as_ref().map(|(message, sentence)| (&message[..], &sentence[..]));
            let outputs = self.feed(&[next], ids, write_enabled, wanted).await?;
            if reply.is_cancelled {
                reply.stop_reason = StopReason::Cancelled;
                break;
            }
            if !is_last {
                next = self.pick(sampler, &outputs).await?;
            }
        }
        reply.finish(&decoder.finish());
        Ok(())
    }

    /// The tokens that end the reply, as the history will render them.
    async fn close(&mut self, write_enabled: bool) -> Result<Ingest> {
        let full = self.render_tokens(false)?.1;
        let ids = self.write_ids(&full)?;
        Ok(self.ingest(&full, ids, write_enabled, false, Wanted::default()).await?.0)
    }

    async fn pick(&self, sampler: &mut Sampler, outputs: &Outputs) -> Result<u32> {
        if let Some(token) = outputs.argmax {
            return Ok(token);
        }
        match &outputs.top_k {
            None => sampler.sample_full(&outputs.logits),
            Some(top_k) => match sampler.sample(top_k)? {
                Draw::Token(token) => Ok(token),
                Draw::NeedsFullLogits => {
                    sampler.sample_full(&self.model.engine.last_logits().await?)
                }
            },
        }
    }
}

fn wanted<'a>(sampler: &Sampler, options: &TurnOptions, penalised: &'a [u32]) -> Wanted<'a> {
    let penalty = options.sampling.repetition_penalty;
    Wanted {
        logits: sampler.wanted(),
        repetition: (!penalised.is_empty())
            .then_some(RepetitionPenalty { ids: penalised, penalty }),
        gauges: options.gauges,
        ..Wanted::default()
    }
}

/// Distinct tokens of the context and of the one about to be fed, if they are penalised at all.
fn penalised(sampling: &SamplingOptions, context: &[u32], next: Option<u32>) -> Vec<u32> {
    if sampling.repetition_penalty == 1.0 {
        return Vec::new();
    }
    let tokens: Vec<u32> = context.iter().copied().chain(next).collect();
    repetition_ids(&tokens, None)
}
