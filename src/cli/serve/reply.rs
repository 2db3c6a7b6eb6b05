//! Replies in OpenAI's shape, whole or in chunks. Owns their JSON and how they come from the model's
//! thread to a request that waits.

use super::api_error::ApiError;
use super::queue::Ticket;
use super::{Job, random_id};
use axum::response::sse::Event;
use deltamem::chat::{CivilDate, ThinkPiece};
use deltamem::session::{StopReason, Turn};
use futures_channel::{mpsc, oneshot};
use futures_core::Stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

/// What all parts of a reply repeat.
#[derive(Debug, Clone)]
pub struct Head {
    id: String,
    created_s: u64,
    model: String,
    shape: Shape,
}

/// Which of OpenAI's two interfaces a reply is for.
#[derive(Debug, Clone)]
enum Shape {
    Chat,
    /// A text that goes on.
    Text {
        /// What comes before it: the prompt, if it is to be told again.
        echo: String,
    },
}

impl Head {
    /// Of a reply that begins now.
    pub fn new(model: &str) -> Head {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Head {
            id: random_id("chatcmpl-"),
            created_s: since.map_or(0, |since| since.as_secs()),
            model: model.into(),
            shape: Shape::Chat,
        }
    }

    /// Of a text that goes on, after `echo`.
    pub fn of_text(model: &str, echo: String) -> Head {
        Head { id: random_id("cmpl-"), shape: Shape::Text { echo }, ..Head::new(model) }
    }
}

/// A finished turn, and what became of the memory.
pub struct Report<'a> {
    pub turn: &'a Turn,
    /// Empty for an answer without a memory.
    pub profile: &'a str,
    /// The generation that holds what was written; `None` if nothing was saved.
    pub generation: Option<u64>,
    /// The day in the conversation's header.
    pub date: CivilDate,
}

impl Report<'_> {
    fn finish_reason(&self) -> &'static str {
        match self.turn.stop_reason {
            _ if !self.turn.tool_calls.is_empty() => "tool_calls",
            StopReason::MaxTokens | StopReason::ContextFull => "length",
            StopReason::EndOfSequence | StopReason::StopString | StopReason::Cancelled => "stop",
        }
    }

    fn tool_calls(&self) -> Vec<Value> {
        let calls = self.turn.tool_calls.iter();
        calls
            .map(|call| {
                let arguments = Value::Object(call.arguments.clone()).to_string();
                let function = json!({ "name": call.name, "arguments": arguments });
                json!({ "id": random_id("call_"), "type": "function", "function": function })
            })
            .collect()
    }

    fn usage(&self) -> Value {
        let (prompt, reply) = (self.turn.prompt.full_tokens, self.turn.generated_ids.len());
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
            // what was recognised and not read again
            "prompt_tokens_details": { "cached_tokens": self.turn.prompt.prefix_tokens },
        })
    }

    /// Not OpenAI's: what a person may want to know.
    fn memory(&self) -> Value {
        json!({
            "profile": (!self.profile.is_empty()).then_some(self.profile),
            "generation": self.generation,
            "norm_before": self.turn.memory_norms.0,
            "norm_after": self.turn.memory_norms.1,
            "evicted_messages": self.turn.evicted_messages,
            "rollback": self.turn.prompt.rollback,
        })
    }

    /// Nor this: what the engine tells of a turn.
    fn details(&self) -> Value {
        json!({
            "stop_reason": self.turn.stop_reason,
            "date": self.date.to_string(),
            "prompt_seconds": self.turn.prompt_time.as_secs_f64(),
            "decode_seconds": self.turn.decode_time.as_secs_f64(),
            "gauges": self.turn.gauges,
        })
    }

    fn completion(&self, head: &Head) -> Value {
        if let Shape::Text { echo } = &head.shape {
            let text = format!("{echo}{}", self.turn.answer);
            let mut completion = text_chunk(head, &text, Some(self.finish_reason()));
            completion["usage"] = self.usage();
            completion["memory"] = self.memory();
            completion["deltamem"] = self.details();
            return completion;
        }
        let calls = self.tool_calls();
        let mut message =
            json!({ "role": "assistant", "content": self.turn.answer, "refusal": null });
        if !calls.is_empty() {
            if self.turn.answer.trim().is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = calls.into();
        }
        if !self.turn.thoughts.is_empty() {
            message["reasoning_content"] = self.turn.thoughts.as_str().into();
        }
        json!({
            "id": head.id,
            "object": "chat.completion",
            "created": head.created_s,
            "model": head.model,
            "choices": [{
                "index": 0,
                "message": message,
                "finish_reason": self.finish_reason(),
                "logprobs": null,
            }],
            "usage": self.usage(),
            "memory": self.memory(),
            "deltamem": self.details(),
        })
    }
}

/// A piece of a text that goes on, or all of it; OpenAI has one shape for both.
fn text_chunk(head: &Head, text: &str, finish_reason: Option<&str>) -> Value {
    json!({
        "id": head.id,
        "object": "text_completion",
        "created": head.created_s,
        "model": head.model,
        "choices": [{
            "index": 0,
            "text": text,
            "finish_reason": finish_reason,
            "logprobs": null,
        }],
    })
}

/// Where a reply goes. A request that has not been answered when it is dropped learns that the
/// server is shutting down.
pub enum Sink {
    Whole { head: Head, answer: oneshot::Sender<Result<Value, ApiError>> },
    Chunks(ChunkSink),
}

/// The sending end of a stream of chunks.
pub struct ChunkSink {
    head: Head,
    has_usage: bool,
    /// Until the reply begins an error can still have a status.
    begun: Option<oneshot::Sender<Result<(), ApiError>>>,
    chunks: mpsc::UnboundedSender<Event>,
}

impl Sink {
    /// For a reply in one piece.
    pub fn whole(head: Head) -> (Sink, oneshot::Receiver<Result<Value, ApiError>>) {
        let (answer, receiver) = oneshot::channel();
        (Sink::Whole { head, answer }, receiver)
    }

    /// For a reply in chunks: resolves when it begins, then they come.
    pub fn chunks(
        head: Head,
        has_usage: bool,
    ) -> (Sink, oneshot::Receiver<Result<(), ApiError>>, mpsc::UnboundedReceiver<Event>) {
        let (begun, has_begun) = oneshot::channel();
        let (chunks, receiver) = mpsc::unbounded();
        let sink = ChunkSink { head, has_usage, begun: Some(begun), chunks };
        (Sink::Chunks(sink), has_begun, receiver)
    }

    /// Passes on a piece of the reply; asks for its end if nobody reads it.
    pub fn piece(&mut self, piece: &ThinkPiece) -> ControlFlow<()> {
        let Sink::Chunks(sink) = self else { return ControlFlow::Continue(()) };
        sink.begin();
        let is_read = match (piece, &sink.head.shape) {
            (ThinkPiece::Answer(text) | ThinkPiece::Thought(text), Shape::Text { .. }) => {
                sink.send_text(text)
            }
            (ThinkPiece::Answer(text), _) => sink.send(json!({ "content": text }), None),
            (ThinkPiece::Thought(text), _) => sink.send(json!({ "reasoning_content": text }), None),
        };
        match is_read {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    /// The reply is whole, and its turn is saved.
    pub fn finish(self, report: &Report<'_>) {
        // whoever has gone away needs no answer
        match self {
            Sink::Whole { head, answer } => {
                let _ = answer.send(Ok(report.completion(&head)));
            }
            Sink::Chunks(mut sink) => {
                sink.begin();
                let calls = report.tool_calls().into_iter().enumerate();
                let calls: Vec<Value> = calls
                    .map(|(index, mut call)| {
                        call["index"] = index.into();
                        call
                    })
                    .collect();
                if !calls.is_empty() {
                    sink.send(json!({ "tool_calls": calls }), None);
                }
                let mut last = sink.chunk(json!({}), Some(report.finish_reason()));
                last["memory"] = report.memory();
                last["deltamem"] = report.details();
                sink.send_json(&last);
                if sink.has_usage {
                    let mut usage = sink.chunk(json!({}), None);
                    usage["choices"] = json!([]);
                    usage["usage"] = report.usage();
                    sink.send_json(&usage);
                }
                let _ = sink.chunks.unbounded_send(Event::default().data("[DONE]"));
            }
        }
    }

    /// There is no reply, or no end of it.
    pub fn fail(self, error: ApiError) {
        match self {
            Sink::Whole { answer, .. } => {
                let _ = answer.send(Err(error));
            }
            Sink::Chunks(mut sink) => match sink.begun.take() {
                Some(begun) => {
                    let _ = begun.send(Err(error));
                }
                None => {
                    sink.send_json(&error.to_json());
                }
            },
        }
    }
}

impl ChunkSink {
    fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(Ok(()));
            match &self.head.shape {
                Shape::Chat => self.send(json!({ "role": "assistant", "content": "" }), None),
                Shape::Text { echo } if echo.is_empty() => true,
                Shape::Text { echo } => self.send_text(echo),
            };
        }
    }

    fn send_text(&self, text: &str) -> bool {
        self.send_json(&self.with_usage(text_chunk(&self.head, text, None)))
    }

    /// A client that wants the usage finds the field in every chunk.
    fn with_usage(&self, mut chunk: Value) -> Value {
        if self.has_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn chunk(&self, delta: Value, finish_reason: Option<&str>) -> Value {
        if let Shape::Text { .. } = self.head.shape {
            return self.with_usage(text_chunk(&self.head, "", finish_reason));
        }
        self.with_usage(json!({
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created_s,
            "model": self.head.model,
            "choices": [{
                "index": 0,
                "delta": delta,
                "finish_reason": finish_reason,
                "logprobs": null,
            }],
        }))
    }

    fn send(&self, delta: Value, finish_reason: Option<&str>) -> bool {
        self.send_json(&self.chunk(delta, finish_reason))
    }

    /// False if nobody reads any more.
    fn send_json(&self, json: &Value) -> bool {
        // JSON in text has no line breaks, which is all that data must not have
        self.chunks.unbounded_send(Event::default().data(json.to_string())).is_ok()
    }
}

/// The receiving end; with it the request is given up.
pub struct Chunks {
    pub events: mpsc::UnboundedReceiver<Event>,
    #[expect(dead_code, reason = "dropped with the stream")]
    pub ticket: Ticket<Job>,
}

impl Stream for Chunks {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.events).poll_next(context).map(|event| event.map(Ok))
    }
}
