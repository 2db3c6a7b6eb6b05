//! The conversation of a [`WebModel`]: turns, messages, text for the memory, conversations side by
//! side, and ending what runs. Owns the JSON of turns and messages.

use super::constraint::WebConstraint;
use super::{JsResult, MAX_EXACT, WebModel, camel_case, js_error, parse};
use crate::chat::{Message, ThinkPiece, ToolFormat};
use crate::error::{Error, Result};
use crate::session::{Cancel, Overflow, Parked, Turn, TurnOptions};
use js_sys::Function;
use serde::Deserialize;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use wasm_bindgen::prelude::*;

/// What a turn can be told; what is not given comes from the model's files.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WebTurnOptions {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    /// Another one each time if not given.
    seed: Option<u64>,
    max_tokens: Option<usize>,
    stop: Vec<String>,
    /// False reads the memory and leaves it as it is.
    write: Option<bool>,
    constraint: Option<WebConstraint>,
    /// The reply ends with so many calls of tools.
    max_tool_calls: Option<usize>,
    /// The last message is the assistant's, and the reply goes on in it.
    continue_final_message: bool,
    gauges: bool,
    overflow: WebOverflow,
    /// For this turn and those that follow.
    thinking: Option<bool>,
    /// How the model is told of its tools; for this turn and those that follow.
    tool_format: Option<ToolFormat>,
}

/// What a full window does.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WebOverflow {
    #[default]
    Evict,
    Error,
}

/// A conversation taken out of a model. It takes GPU memory until it is adopted or freed.
#[wasm_bindgen]
pub struct WebConversation {
    parked: Parked,
}

/// Ends what a model runs. An object of its own, because the model is borrowed while it runs.
#[wasm_bindgen]
pub struct WebCanceller {
    cancel: Cancel,
}

#[wasm_bindgen]
impl WebCanceller {
    /// Ends the turn, append or write under way; no effect between calls.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

#[wasm_bindgen]
impl WebModel {
    /// Answers messages, given as a JSON array, of which the last is from the user or a tool (or the
    /// assistant's, with `continueFinalMessage`);
    /// resolves to the finished turn as JSON. `on_piece` gets ("answer" or "thought", text) and ends
    /// the reply by returning false; if it throws, the reply ends too and the promise is rejected
    /// with what it threw.
    pub async fn turn(
        &mut self,
        messages: String,
        options: String,
        #[wasm_bindgen(
            unchecked_param_type = "(kind: 'answer' | 'thought', text: string) => boolean"
        )]
        on_piece: Function,
    ) -> JsResult<String> {
        self.answer(&messages, &options, &on_piece, false).await
    }

    /// Answers a whole history, given as a JSON array, its system message included; what was
    /// processed already is not fed again. Else as `turn`.
    #[wasm_bindgen(js_name = turnFrom)]
    pub async fn turn_from(
        &mut self,
        history: String,
        options: String,
        #[wasm_bindgen(
            unchecked_param_type = "(kind: 'answer' | 'thought', text: string) => boolean"
        )]
        on_piece: Function,
    ) -> JsResult<String> {
        self.answer(&history, &options, &on_piece, true).await
    }

    /// Adds messages without answering them; resolves to `{fedTokens, evictedMessages}` as JSON.
    pub async fn append(&mut self, messages: String, options: String) -> JsResult<String> {
        let messages = parse_messages(&messages).map_err(js_error)?;
        let given: WebTurnOptions = parse(&options).map_err(js_error)?;
        let before = self.switch(&given);
        let options = self.turn_options(given);
        let appended = self.session.append(messages, &options).await;
        let appended = self.or_switch_back(appended, before).map_err(js_error)?;
        Ok(json!({
            "fedTokens": appended.ingest.suffix_tokens,
            "evictedMessages": appended.evicted_messages,
        })
        .to_string())
    }

    /// Writes a text into the memory; the context stays as it is. Resolves to `{tokensWritten}` as
    /// JSON.
    pub async fn write(&mut self, text: String) -> JsResult<String> {
        let n_tokens = self.session.write_text(&text).await.map_err(js_error)?;
        Ok(json!({ "tokensWritten": n_tokens }).to_string())
    }

    /// What ends the turn, append or write under way. Each of those begins uncancelled: a call that
    /// waits in a queue has to be taken out there.
    pub fn canceller(&self) -> WebCanceller {
        WebCanceller { cancel: self.session.canceller() }
    }

    /// Tells the model of functions, given as a JSON array of OpenAI's `tools` or of bare functions;
    /// an empty one takes them away.
    #[wasm_bindgen(js_name = setTools)]
    pub fn set_tools(&mut self, tools: &str) -> JsResult<()> {
        let tools = parse(tools).and_then(|tools| self.session.set_tools(tools));
        tools.map_err(js_error)
    }

    /// A copy of the conversation with its memory; the model goes on with its own.
    pub async fn park(&self) -> JsResult<WebConversation> {
        let parked = self.session.park().await.map_err(js_error)?;
        Ok(WebConversation { parked })
    }

    /// Puts a conversation in the place of the present one, which is dropped with its memory.
    pub async fn adopt(&mut self, conversation: WebConversation) -> JsResult<()> {
        self.session.adopt(conversation.parked).map_err(js_error)
    }

    /// The conversation as a JSON array.
    pub fn messages(&self) -> String {
        json!(self.session.messages()).to_string()
    }

    /// Continues a conversation of before, given as a JSON array, without writing it into the memory
    /// again. The first `pinned` messages never leave the context (the system messages at the
    /// beginning if not given). Resolves to what was fed, as JSON.
    pub async fn resume(&mut self, messages: String, pinned: Option<usize>) -> JsResult<String> {
        let messages = parse_messages(&messages).map_err(js_error)?;
        let ingest = self.session.resume(messages).await.map_err(js_error)?;
        if let Some(pinned) = pinned {
            self.session.pin_messages(pinned);
        }
        Ok(camel_case(json!(ingest)).to_string())
    }

    /// Forgets the conversation but for its pinned messages; the memory stays.
    #[wasm_bindgen(js_name = newContext)]
    pub async fn new_context(&mut self) -> JsResult<()> {
        self.session.new_context().await.map_err(js_error)
    }

    /// Takes the last turn or append back, with what it wrote; false if there is none to take back.
    #[wasm_bindgen(js_name = undoTurn)]
    pub async fn undo_turn(&mut self) -> JsResult<bool> {
        self.session.undo_turn().await.map_err(js_error)
    }

    /// Pauses writing into the memory, or goes on.
    #[wasm_bindgen(js_name = setWritePaused)]
    pub fn set_write_paused(&mut self, paused: bool) {
        self.session.set_write_paused(paused);
    }

    /// Tokens in the context window.
    #[wasm_bindgen(js_name = contextUsage)]
    pub fn context_usage(&self) -> usize {
        self.session.processed_tokens().len()
    }

    /// Tokens that this text takes.
    pub fn measure(&self, text: &str) -> JsResult<usize> {
        Ok(self.session.model().tokenizer.encode(text).map_err(js_error)?.len())
    }
}

impl WebModel {
    async fn answer(
        &mut self,
        messages: &str,
        options: &str,
        on_piece: &Function,
        is_history: bool,
    ) -> JsResult<String> {
        let messages = parse_messages(messages).map_err(js_error)?;
        let given: WebTurnOptions = parse(options).map_err(js_error)?;
        let before = self.switch(&given);
        let options = self.turn_options(given);
        let mut thrown = None;
        let mut on_piece = |piece: &ThinkPiece| {
            let (kind, text) = match piece {
                ThinkPiece::Thought(text) => ("thought", text),
                ThinkPiece::Answer(text) => ("answer", text),
            };
            match on_piece.call2(&JsValue::UNDEFINED, &kind.into(), &text.into()) {
                Ok(answer) if answer == JsValue::FALSE => ControlFlow::Break(()),
                Ok(_) => ControlFlow::Continue(()),
                Err(error) => {
                    thrown.get_or_insert(error);
                    ControlFlow::Break(())
                }
            }
        };
        let turn = match is_history {
            true => self.session.turn_from(messages, &options, &mut on_piece).await,
            false => self.session.turn(messages, &options, &mut on_piece).await,
        };
        let turn = self.or_switch_back(turn, before).map_err(js_error)?;
        match thrown {
            Some(error) => Err(error),
            None => Ok(turn_json(&turn).to_string()),
        }
    }

    /// Switches thinking and the format of tools if asked to; gives what they were.
    fn switch(&mut self, given: &WebTurnOptions) -> (Option<bool>, ToolFormat) {
        let before = (self.session.enable_thinking(), self.session.tool_format());
        if given.thinking.is_some() {
            self.session.set_enable_thinking(given.thinking);
        }
        if let Some(format) = given.tool_format {
            self.session.set_tool_format(format);
        }
        before
    }

    fn or_switch_back<T>(
        &mut self,
        result: Result<T>,
        (thinking, format): (Option<bool>, ToolFormat),
    ) -> Result<T> {
        if result.is_err() {
            self.session.set_enable_thinking(thinking);
            self.session.set_tool_format(format);
        }
        result
    }

    fn turn_options(&self, given: WebTurnOptions) -> TurnOptions {
        let mut turn = self.session.default_turn_options();
        let sampling = &mut turn.sampling;
        sampling.temperature = given.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = given.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = given.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = given.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty =
            given.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        let random_seed = || (js_sys::Math::random() * MAX_EXACT) as u64;
        sampling.seed = given.seed.unwrap_or_else(random_seed);
        turn.max_new_tokens = given.max_tokens.unwrap_or(turn.max_new_tokens);
        turn.stop = given.stop;
        turn.write_enabled = given.write.unwrap_or(true);
        turn.max_tool_calls = given.max_tool_calls.unwrap_or(turn.max_tool_calls);
        turn.constraint = given.constraint.map(Into::into);
        turn.continue_final_message = given.continue_final_message;
        turn.gauges = given.gauges;
        turn.overflow = match given.overflow {
            WebOverflow::Evict => Overflow::Evict,
            WebOverflow::Error => Overflow::Error,
        };
        turn
    }
}

fn parse_messages(messages: &str) -> Result<Vec<Message>> {
    serde_json::from_str(messages).map_err(|e| Error::Messages { reason: e.to_string() })
}

fn turn_json(turn: &Turn) -> Value {
    let mut json = camel_case(json!({
        "answer": turn.answer,
        "thoughts": turn.thoughts,
        "stopReason": turn.stop_reason,
        "generatedTokens": turn.generated_ids.len(),
        "generatedIds": turn.generated_ids,
        "promptTokens": turn.prompt.full_tokens,
        "prefixTokens": turn.prompt.prefix_tokens,
        "rollback": turn.prompt.rollback,
        "prompt": turn.prompt,
        "closing": turn.closing,
        "promptSeconds": turn.prompt_time.as_secs_f64(),
        "decodeSeconds": turn.decode_time.as_secs_f64(),
        "memoryNorms": [turn.memory_norms.0, turn.memory_norms.1],
        "evictedMessages": turn.evicted_messages,
        "gauges": turn.gauges,
    }));
    // the keys of arguments are the caller's
    json["toolCalls"] = json!(turn.tool_calls);
    json
}
