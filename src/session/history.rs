//! Histories that a caller sends whole, as stateless interfaces do. Owns how messages are recognised
//! that the session holds already, so that nothing is fed or written twice.

use super::left::{Reported, is_same};
use super::{Session, Turn, TurnOptions, leading_system_messages};
use crate::chat::{CivilDate, Message, Role, ThinkPiece, ToolCall};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// How replies were reported, by the text that the history holds: a caller knows a reply without
/// its thoughts, and its calls apart from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Replies(HashMap<String, Reported>);

impl Replies {
    pub fn insert(&mut self, content: &str, answer: &str, tool_calls: &[ToolCall]) {
        let reported = Reported { answer: answer.to_string(), tool_calls: tool_calls.to_vec() };
        self.0.insert(content.to_string(), reported);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets replies that are not among `messages`: they left the window, or were taken back.
    pub fn retain(&mut self, messages: &[Message]) {
        let replies = messages.iter().filter(|message| message.role == Role::Assistant);
        let held: HashSet<&str> = replies.map(|message| message.content.as_str()).collect();
        self.0.retain(|content, _| held.contains(content.as_str()));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if `given` is what a caller makes of `held`.
    pub fn is_same(&self, held: &Message, given: &Message) -> bool {
        is_same(held, self.of(held), given)
    }

    /// How this message was reported, if it was.
    pub fn of(&self, held: &Message) -> Option<&Reported> {
        self.0.get(&held.content).filter(|_| held.role == Role::Assistant)
    }
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
        talk.is_plain = false;
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
        check_prompt(history.last(), options)?;
        self.cancel.reset();
        let mark = self.mark().await?;
        let unfinished = history.last().filter(|_| options.continue_final_message).cloned();
        let (mut messages, mut n_kept) = self.recognise(history);
        // a reply goes on in the very words of its caller, who knows no thoughts and may trim
        if let (Some(given), Some(held)) = (unfinished, messages.last_mut())
            && *held != given
            && n_kept > 0
        {
            *held = given;
            n_kept = n_kept.min(messages.len() - 1);
        }
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
    fn recognise(&mut self, mut history: Vec<Message>) -> (Vec<Message>, usize) {
        let talk = &mut self.talk;
        let (n_pinned, n_left) = (talk.n_pinned, talk.left.len());
        let count = |held: &[Message], given: &[Message]| {
            let pairs = held.iter().zip(given);
            pairs.take_while(|(held, given)| talk.replies.is_same(held, given)).count()
        };
        let n_same_pinned = count(&talk.messages[..n_pinned], &history);
        // the caller may remember what has left our window
        let has_left = n_same_pinned == n_pinned && talk.left.is_at_start_of(&history[n_pinned..]);
        if has_left {
            history.drain(n_pinned..n_pinned + n_left);
        }
        let n_same = count(&talk.messages, &history);
        if !has_left {
            // what leaves from now on follows the pinned messages of this history
            talk.left.clear();
        }
        let held = talk.messages[..n_same].iter().cloned();
        let messages = held.chain(history.into_iter().skip(n_same)).collect();
        (messages, n_same)
    }
}

/// Refuses what cannot be answered, or gone on with.
pub(super) fn check_prompt(last: Option<&Message>, options: &TurnOptions) -> Result<()> {
    let refuse = |reason: &str| Err(Error::Messages { reason: reason.into() });
    match last {
        None => refuse("there is no message"),
        Some(last) if options.continue_final_message => match last.role {
            Role::Assistant if last.tool_calls.is_empty() => Ok(()),
            Role::Assistant => refuse("the last message calls tools, so no reply goes on in it"),
            _ => refuse("the last message is not the assistant's, so no reply goes on in it"),
        },
        Some(last) if last.role == Role::User && last.content.trim().is_empty() => {
            refuse("the message is empty")
        }
        Some(last) if !matches!(last.role, Role::User | Role::Tool) => {
            refuse("the last message is neither from the user nor from a tool")
        }
        Some(_) => Ok(()),
    }
}
