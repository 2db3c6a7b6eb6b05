//! One turn: ingest the prompt, decode the reply, ingest what closes it.

use super::ahead::Ahead;
use super::guide::Guide;
use super::history::check_prompt;
use super::ingest::End;
use super::reply::Reply;
use super::window::CLOSING_TOKENS;
use super::{Ingest, Overflow, Session};
use crate::chat::{Message, Role, ThinkPiece, ThinkSplitter, ToolCall};
use crate::constraint::{Constraint, ConstraintMatcher};
use crate::engine::{Gauge, Outputs, RepetitionPenalty, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::sampler::{Draw, Sampler, SamplingOptions, StopStrings, repetition_ids};
use crate::tool_calls::{MalformedCall, ToolCallSplitter};
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
    /// What the reply must match, unless it ends before it is whole (by length, a stop string or
    /// its caller). After thoughts it begins behind `</think>`; tools are not called then, unless
    /// calls are what it must be.
    pub constraint: Option<Constraint>,
    /// The reply ends with so many calls of tools.
    pub max_tool_calls: usize,
    /// The last message is the assistant's, and the reply goes on in it instead of beginning another.
    /// What of a reply is streamed, reported, constrained and ended is then what is added.
    pub continue_final_message: bool,
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
    /// The reply without its thoughts and without calls of tools.
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
    /// What the reply asks the caller to do; empty without tools.
    pub tool_calls: Vec<ToolCall>,
    /// What looked like calls and was none; part of the answer.
    pub malformed_calls: Vec<MalformedCall>,
    /// How much the memory had its say in the last token of the reply (of the prompt, if the reply
    /// is empty), if asked for.
    pub gauges: Option<Vec<Gauge>>,
}

/// What goes on from token to token.
pub(super) struct State {
    pub sampler: Sampler,
    /// Holds the reply to a constraint.
    pub guide: Option<Guide>,
    /// Message and sentence id of the reply's tokens.
    pub next_ids: Option<(i64, i64)>,
    /// Tokens that the engine chose by itself.
    pub ahead: Ahead,
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
            constraint: None,
            max_tool_calls: usize::MAX,
            continue_final_message: false,
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
    /// as it comes and can end it. With [`TurnOptions::continue_final_message`] the last is the
    /// assistant's; without messages the conversation's last reply is gone on with.
    ///
    /// # Errors
    /// [`Error::Messages`] for an empty or another last message, [`Error::Setting`],
    /// [`Error::Constraint`], [`Error::Template`], [`Error::ContextFull`], [`Error::Cancelled`], or those of the device.
    /// After an error the conversation and the memory are what they were before the turn; what was
    /// taken out of the context in the meantime is read again by the next one.
    pub async fn turn(
        &mut self,
        messages: Vec<Message>,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    ) -> Result<Turn> {
        let last = match messages.last() {
            None if options.continue_final_message => self.talk.messages.last(),
            last => last,
        };
        check_prompt(last, options)?;
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
        let matcher = self.matcher(options)?;
        let begin = Instant::now();
        let window = self.model.engine.context_window();
        let room = options.max_new_tokens.min(window / 4) + CLOSING_TOKENS;
        let goes_on = options.continue_final_message;
        let end = if goes_on { End::Unfinished } else { End::Prompt };
        let fitting = self.fit(end, room, options.overflow, limit).await?;
        let full = &fitting.tokens;
        // a reply that is gone on with may be the beginning of one that is held
        let is_new = !goes_on && self.talk.n_kept < self.talk.messages.len();
        if is_new && self.talk.processed.starts_with(full) {
            return Err(Error::Messages {
                reason: "the template adds nothing for this message".into(),
            });
        }
        let penalised = penalised(&options.sampling, full, None);
        let splitter = self.think_splitter(&fitting.text, goes_on, matcher.is_some());
        let mut guide = match matcher {
            Some(matcher) => {
                let may_think = !goes_on && self.may_think(&fitting.text)?;
                let (tokenizer, splitter) = (&self.model.tokenizer, splitter.clone());
                Some(Guide::new(matcher, tokenizer, &fitting.text, splitter, may_think))
            }
            None => None,
        };
        let mask = guide.as_mut().map(Guide::mask).transpose()?;
        let wanted = wanted(&sampler, options, &penalised, mask);
        let ids = self.write_ids(full)?;
        let next_ids = ids.as_ref().map(|ids| match goes_on {
            true => (ids.next_message_id - 1, (ids.next_sentence_id - 1).max(0)),
            false => (ids.next_message_id, ids.next_sentence_id),
        });
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
            splitter,
            stops,
            tools: self.tool_call_splitter(options),
            thoughts: String::new(),
            answer: String::new(),
            on_piece,
            is_cancelled: false,
        };
        let ahead = Ahead::new(&options.sampling, guide.is_some());
        let mut state = State { sampler, guide, next_ids, ahead };
        self.decode(first, &mut state, options, write_enabled, &mut reply).await?;
        let decode_time = begin.elapsed();

        let gauges = match options.gauges {
            true => Some(self.model.engine.last_gauges().await?),
            false => None,
        };
        let tools = reply.tools.map(ToolCallSplitter::into_parts);
        let (tool_calls, malformed_calls) = tools.unwrap_or_default();
        self.talk.add_reply(&reply.text, &reply.answer, &tool_calls, goes_on);
        let closing = match self.close(write_enabled).await {
            Ok(ingest) => Some(ingest),
            // the reply is there and remembered; only its end tag is not
            Err(Error::ContextFull { .. }) => None,
            Err(e) => return Err(e),
        };
        self.talk.counters.turns += 1;
        if goes_on && self.talk.n_settled >= self.talk.messages.len() {
            // a settled message is longer now, and the memory has all of it
            self.settle_here().await?;
        } else {
            self.checkpoint(true).await?;
        }
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
            malformed_calls,
            gauges,
        })
    }

    /// Norm of the memory at a checkpoint that was just made.
    fn norm_here(&self) -> Option<f32> {
        self.memory_at(self.talk.processed.len()).map(|memory| memory.norm())
    }

    fn matcher(&self, options: &TurnOptions) -> Result<Option<ConstraintMatcher>> {
        let Some(constraint) = &options.constraint else { return Ok(None) };
        constraint.matcher(self.model.constraint_vocabulary()?).map(Some)
    }

    /// Takes the thoughts out of the reply to `prompt`; `is_leading` takes them at its beginning only.
    pub(super) fn think_splitter(
        &self,
        prompt: &str,
        goes_on: bool,
        is_leading: bool,
    ) -> ThinkSplitter {
        let new = if is_leading { ThinkSplitter::leading } else { ThinkSplitter::new };
        match self.talk.messages.last() {
            // tags behind an answer are text
            _ if self.talk.is_plain => ThinkSplitter::leading("").within("x"),
            Some(last) if goes_on => new("").within(&last.content),
            _ => new(prompt),
        }
    }

    /// Whether the reply to `prompt` may begin with thoughts, as far as the template goes: flags in a
    /// system message win over the switch where the template reads them, as SmolLM3's does.
    pub(super) fn may_think(&self, prompt: &str) -> Result<bool> {
        if self.talk.render.enable_thinking != Some(false) {
            return Ok(true);
        }
        let template = &self.model.template;
        if !template.reads_enable_thinking() {
            return Ok(false);
        }
        let mut options = self.talk.render.with_generation_prompt(true);
        options.enable_thinking = Some(true);
        Ok(template.render(&self.talk.messages, &options)? == prompt)
    }

    /// Takes calls out of the answer if the model knows of tools and may write what it wants.
    fn tool_call_splitter(&self, options: &TurnOptions) -> Option<ToolCallSplitter> {
        let may_call = options.constraint.as_ref().is_none_or(Constraint::is_calls);
        let tools = self.talk.render.described_tools();
        (may_call && !tools.is_empty()).then(|| ToolCallSplitter::new(&tools))
    }

    /// Feeds one generated token after the other; every token of the reply is fed, also the last.
    async fn decode(
        &mut self,
        first: u32,
        state: &mut State,
        options: &TurnOptions,
        write_enabled: bool,
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
            let text = decoder.push(next);
            if let Some(guide) = &mut state.guide {
                guide.accept(next, &text)?;
                if guide.is_answering() {
                    reply.splitter.begin_answer();
                }
            }
            reply.push(&text);
            reply.is_cancelled |= self.cancel.is_cancelled();
            if reply.stops.is_stopped() {
                reply.stop_reason = StopReason::StopString;
                break;
            }
            reply.generated_ids.push(next);
            let is_complete = state.guide.as_ref().is_some_and(Guide::is_complete)
                || reply.n_calls() >= options.max_tool_calls;
            let is_last = n + 1 == options.max_new_tokens || reply.is_cancelled || is_complete;
            if is_last {
                self.end_ahead(&mut state.ahead, 0)?;
                let wanted = Wanted { gauges: options.gauges, ..Wanted::default() };
                self.feed_next(next, state.next_ids, write_enabled, wanted).await?;
                reply.stop_reason = match (reply.is_cancelled, is_complete) {
                    (true, _) => StopReason::Cancelled,
                    (false, true) => StopReason::EndOfSequence,
                    (false, false) => StopReason::MaxTokens,
                };
                break;
            }
            // what may be fed before the loop would end
            let room = window - CLOSING_TOKENS - self.talk.processed.len();
            let at_most = room.min(options.max_new_tokens - 1 - n);
            next = match self.next_ahead(next, state, options, write_enabled, at_most).await? {
                Some(token) => token,
                None => self.choose_next(next, state, options, write_enabled).await?,
            };
        }
        self.end_decoding(state, options, write_enabled).await?;
        reply.finish(&decoder.finish());
        Ok(())
    }

    /// Feeds a token and picks the next from its logits.
    async fn choose_next(
        &mut self,
        token: u32,
        state: &mut State,
        options: &TurnOptions,
        write_enabled: bool,
    ) -> Result<u32> {
        let penalised = penalised(&options.sampling, &self.talk.processed, Some(token));
        let mask = state.guide.as_mut().map(Guide::mask).transpose()?;
        let wanted = wanted(&state.sampler, options, &penalised, mask);
        let outputs = self.feed_next(token, state.next_ids, write_enabled, wanted).await?;
        self.pick(&mut state.sampler, &outputs).await
    }

    /// Feeds one token of a reply.
    pub(super) async fn feed_next(
        &mut self,
        token: u32,
        ids: Option<(i64, i64)>,
        write_enabled: bool,
        wanted: Wanted<'_>,
    ) -> Result<Outputs> {
        let ids = ids.map(|(message, sentence)| ([message], [sentence]));
        let ids = ids.as_ref().map(|(message, sentence)| (&message[..], &sentence[..]));
        self.feed(&[token], ids, write_enabled, wanted).await
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

fn wanted<'a>(
    sampler: &Sampler,
    options: &TurnOptions,
    penalised: &'a [u32],
    mask: Option<&'a [u32]>,
) -> Wanted<'a> {
    let penalty = options.sampling.repetition_penalty;
    let n_allowed = mask.map(|mask| mask.iter().map(|word| word.count_ones() as usize).sum());
    Wanted {
        logits: match (sampler.wanted(), n_allowed) {
            // with more candidates than may come, all that may not would tie for the last places
            (WantedLogits::TopK { k, temperature }, Some(n)) => {
                WantedLogits::TopK { k: k.min(n), temperature }
            }
            (logits, _) => logits,
        },
        mask,
        repetition: (!penalised.is_empty())
            .then_some(RepetitionPenalty { ids: penalised, penalty }),
        gauges: options.gauges,
        ..Wanted::default()
    }
}

/// Distinct tokens of the context and of the one about to be fed, if they are penalised at all.
pub(super) fn penalised(
    sampling: &SamplingOptions,
    context: &[u32],
    next: Option<u32>,
) -> Vec<u32> {
    if sampling.repetition_penalty == 1.0 {
        return Vec::new();
    }
    let tokens: Vec<u32> = context.iter().copied().chain(next).collect();
    repetition_ids(&tokens, None)
}
