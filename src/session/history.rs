//! Histories that a caller sends whole, as stateless interfaces do. Owns how messages are recognised
//! that the session holds already, so that nothing is fed or written twice.

use super::{Session, Turn, TurnOptions, leading_system_messages};
use crate::chat::{CivilDate, Message, Role, ThinkPiece, ToolCall, answer_part};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// How replies were reported, by the text that the history holds: a caller knows a reply without
/// its thoughts, and its calls apart from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Replies(HashMap<String, Reported>);

#[derive(Debug, Clone)]
struct Reported {
    answer: String,
    tool_calls: Vec<ToolCall>,
}

impl Replies {
    pub fn insert(&mut self, content: &str, answer: &str, tool_calls: &[ToolCall]) {
        let reported = Reported { answer: answer.to_string(), tool_calls: tool_calls.to_vec() };
        self.0.insert(content.to_string(), reported);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// True if `given` is what a caller makes of `held`.
    pub fn is_same(&self, held: &Message, given: &Message) -> bool {
        if held.role != given.role {
            return false;
        }
        if held.role != Role::Assistant {
            return held.content == given.content;
        }
        let text = given.content.trim();
        if are_same_calls(&held.tool_calls, &given.tool_calls)
            && (held.content.trim() == text || answer_part(&held.content).trim() == text)
        {
            return true;
        }
        self.0.get(&held.content).is_some_and(|reported| {
            are_same_calls(&reported.tool_calls, &given.tool_calls)
                && (reported.answer.trim() == text
                    || (text.is_empty() && !given.tool_calls.is_empty()))
        })
    }
}

/// Callers number calls as they like.
fn are_same_calls(a: &[ToolCall], b: &[ToolCall]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.name == b.name && a.arguments == b.arguments)
}

impl Session {
    /// Begins another conversation, of `date`, in an empty context; the memory stays. It begins with
    /// `settled`: messages that the memory has already, which the next turn reads without writing
    /// them. Nothing is fed before that turn, so a history of any length can be settled.
    ///
    /// # Errors
    /// [`Error::Template`]; those of the device.
    pub async fn begin(&mut self, settled: Vec<Message>, date: CivilDate) -> Result<()> {
        self.clear_cache();
        let talk = &mut self.talk;
        talk.render.date = date;
        talk.left.clear();
        talk.replies.clear();
        talk.n_kept = 0;
        talk.n_pinned = leading_system_messages(&settled);
        let n_messages = settled.len();
        talk.messages = settled;
        let n_tokens = match n_messages {
            0 => 0,
            _ => self.render_tokens(false)?.1.len(),
        };
        self.settle(n_messages, n_tokens).await
    }

    /// Answers a whole history, its system message included. What was processed already is
    /// recognised (an answer also without its thoughts) and neither fed nor written again; where the
    /// history is another one, the session goes back as [`super::Rollback`] says.
    ///
    /// # Errors
    /// As [`Session::turn`].
    pub async fn turn_from(
        &mut self,
        history: Vec<Message>,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    ) -> Result<Turn> {
        check_prompt(&history)?;
        self.cancel.reset();
        let mark = self.mark().await?;
        let (messages, n_kept) = self.recognise(history);
        let talk = &mut self.talk;
        talk.n_pinned = talk.n_pinned.min(n_kept).max(leading_system_messages(&messages));
        if n_kept < talk.n_pinned {
            talk.left.clear();
        }
        talk.n_settled = talk.n_settled.min(n_kept);
        talk.n_kept = n_kept;
        talk.messages = messages;
        let turn = self.answer(options, on_piece, mark.memory.norm(), usize::MAX).await;
        self.or_restore(turn, mark).await
    }

    /// The history with the messages at its beginning as they are held, and how many those are.
    fn recognise(&self, mut history: Vec<Message>) -> (Vec<Message>, usize) {
        let talk = &self.talk;
        let count = |held: &mut dyn Iterator<Item = &Message>| {
            let pairs = held.zip(&history);
            pairs.take_while(|(held, given)| talk.replies.is_same(held, given)).count()
        };
        let (pinned, later) = talk.messages.split_at(talk.n_pinned);
        // the caller may remember what has left our window
        let mut n_same = count(&mut pinned.iter().chain(&talk.left).chain(later));
        if n_same >= pinned.len() + talk.left.len() {
            history.drain(pinned.len()..pinned.len() + talk.left.len());
            n_same -= talk.left.len();
        } else {
            n_same = count(&mut talk.messages.iter());
        }
        let held = talk.messages[..n_same].iter().cloned();
        let messages = held.chain(history.into_iter().skip(n_same)).collect();
        (messages, n_same)
    }
}

/// Refuses what cannot be answered.
pub(super) fn check_prompt(messages: &[Message]) -> Result<()> {
    let refuse = |reason: &str| Err(Error::Messages { reason: reason.into() });
    match messages.last() {
        None => refuse("there is no message"),
        Some(last) if last.role == Role::User && last.content.trim().is_empty() => {
            refuse("the message is empty")
        }
        Some(last) if !matches!(last.role, Role::User | Role::Tool) => {
            refuse("the last message is neither from the user nor from a tool")
        }
        Some(_) => Ok(()),
    }
}
