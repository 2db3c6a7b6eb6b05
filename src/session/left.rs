//! What has left a full window, and in which forms a caller may still send it. Owns how a message is
//! recognised without its text, so that a conversation without end does not grow on the host: a
//! stateless caller sends everything again, and none of it may be read or written twice.

use crate::chat::{Message, Role, ToolCall, answer_part};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// Most messages of which digests are kept. Those that left before them are taken for the same where
/// the ones after them are: nothing has their text any more, and a history that agrees in so many
/// messages at the same places is this one.
pub(super) const MAX_DIGESTED: usize = 64;

/// Ways in which callers send a reply: as it was generated, without its thoughts, as it was reported,
/// and its calls alone.
const MAX_FORMS: usize = 4;

/// How a reply was reported to the caller.
#[derive(Debug, Clone)]
pub(super) struct Reported {
    pub answer: String,
    pub tool_calls: Vec<ToolCall>,
}

/// A message in one of the forms that are taken for the same.
#[derive(Debug, Clone, Copy)]
struct Form<'a> {
    role: Role,
    /// Of a reply without the white space around it.
    text: &'a str,
    calls: &'a [ToolCall],
}

impl<'a> Form<'a> {
    fn of(message: &'a Message) -> Form<'a> {
        let text = match message.role {
            Role::Assistant => message.content.trim(),
            _ => message.content.as_str(),
        };
        let is_calling = message.role == Role::Assistant;
        Form { role: message.role, text, calls: if is_calling { &message.tool_calls } else { &[] } }
    }

    fn digest(&self, hasher: &RandomState) -> u64 {
        // callers number calls as they like
        let calls = self.calls.iter().map(|call| (&call.name, &call.arguments));
        hasher.hash_one((self.role, self.text, calls.collect::<Vec<_>>()))
    }
}

impl PartialEq for Form<'_> {
    fn eq(&self, other: &Form<'_>) -> bool {
        let mut calls = self.calls.iter().zip(other.calls);
        self.role == other.role
            && self.text == other.text
            && self.calls.len() == other.calls.len()
            && calls.all(|(a, b)| a.name == b.name && a.arguments == b.arguments)
    }
}

/// Calls `each` with every form in which a caller may send `held`, at most [`MAX_FORMS`] times.
fn for_forms(held: &Message, reported: Option<&Reported>, each: &mut dyn FnMut(Form<'_>)) {
    let form = Form::of(held);
    each(form);
    if held.role != Role::Assistant {
        return;
    }
    each(Form { text: answer_part(&held.content).trim(), ..form });
    if let Some(Reported { answer, tool_calls }) = reported {
        each(Form { text: answer.trim(), calls: tool_calls, ..form });
        if !tool_calls.is_empty() {
            each(Form { text: "", calls: tool_calls, ..form });
        }
    }
}

/// True if `given` is what a caller makes of `held`.
pub(super) fn is_same(held: &Message, reported: Option<&Reported>, given: &Message) -> bool {
    let given = Form::of(given);
    let mut is_same = false;
    for_forms(held, reported, &mut |form| is_same |= form == given);
    is_same
}

/// The messages that left the window after the pinned ones, as far as they have to be known.
#[derive(Debug, Clone, Default)]
pub(super) struct Left {
    n_messages: usize,
    /// Of the last of them, oldest first.
    digests: VecDeque<[u64; MAX_FORMS]>,
    /// A key of its own: nobody can make up a history with the same digests.
    hasher: RandomState,
}

impl Left {
    /// How many messages left.
    pub fn len(&self) -> usize {
        self.n_messages
    }

    pub fn clear(&mut self) {
        *self = Left::default();
    }

    /// Another message left; `reported` says how a reply was reported.
    pub fn push(&mut self, held: &Message, reported: Option<&Reported>) {
        let mut digests = [0; MAX_FORMS];
        let mut n_forms = 0;
        for_forms(held, reported, &mut |form| {
            digests[n_forms] = form.digest(&self.hasher);
            n_forms += 1;
        });
        // a form twice is one that is known
        let first = digests[0];
        digests[n_forms..].fill(first);
        self.n_messages += 1;
        self.digests.push_back(digests);
        if self.digests.len() > MAX_DIGESTED {
            self.digests.pop_front();
        }
    }

    /// True if `given` begins with what left.
    pub fn is_at_start_of(&self, given: &[Message]) -> bool {
        let n_unknown = self.n_messages - self.digests.len();
        let Some(given) = given.get(n_unknown..self.n_messages) else { return false };
        let mut pairs = self.digests.iter().zip(given);
        pairs.all(|(digests, given)| digests.contains(&Form::of(given).digest(&self.hasher)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(role: Role, text: &str) -> Message {
        Message::new(role, text)
    }

    fn call(id: &str, arguments: serde_json::Value) -> ToolCall {
        let arguments = arguments.as_object().unwrap().clone();
        ToolCall { name: "weather".into(), arguments, id: Some(id.into()) }
    }

    #[test]
    fn a_reply_that_left_is_known_in_every_form_that_callers_send() {
        let raw = "<think>\nHm.\n</think>\n\nIt rains. <tool_call>{}</tool_call>";
        let held = said(Role::Assistant, raw);
        let reported = Reported {
            answer: "It rains. ".into(),
            tool_calls: vec![call("1", json!({ "city": "Oslo", "day": 1 }))],
        };
        let mut left = Left::default();
        left.push(&said(Role::User, "And today? "), None);
        left.push(&held, Some(&reported));
        let calling = |text: &str, arguments| Message {
            tool_calls: vec![call("2", arguments)],
            ..said(Role::Assistant, text)
        };
        // the order of arguments is the caller's
        let arguments = || json!({ "day": 1, "city": "Oslo" });
        for (given, is_known) in [
            (said(Role::Assistant, raw), true),
            (said(Role::Assistant, " It rains. <tool_call>{}</tool_call>"), true),
            (calling("It rains.", arguments()), true),
            (calling("", arguments()), true),
            (calling("It snows.", arguments()), false),
            (calling("", json!({ "city": "Rome", "day": 1 })), false),
            (said(Role::Assistant, "It rains."), false),
            (said(Role::Assistant, ""), false),
            (said(Role::User, raw), false),
        ] {
            assert_eq!(is_same(&held, Some(&reported), &given), is_known, "{given:?}");
            let history = [said(Role::User, "And today? "), given, said(Role::User, "So?")];
            assert_eq!(left.is_at_start_of(&history), is_known, "{history:?}");
        }
        let short = [said(Role::User, "And today? ")];
        assert!(!left.is_at_start_of(&short));
        assert!(!left.is_at_start_of(&[said(Role::User, "And today?"), held]));
    }

    #[test]
    fn what_is_known_of_it_stops_growing() {
        let message = |n: usize| said(Role::User, &format!("This is number {n}."));
        let mut left = Left::default();
        let n_messages = 10 * MAX_DIGESTED;
        (0..n_messages).for_each(|n| left.push(&message(n), None));
        assert_eq!((left.len(), left.digests.len()), (n_messages, MAX_DIGESTED));
        assert!(left.digests.capacity() <= 2 * MAX_DIGESTED);
        let mut history: Vec<Message> = (0..n_messages).map(message).collect();
        assert!(left.is_at_start_of(&history));
        assert!(!left.is_at_start_of(&history[..n_messages - 1]));
        assert!(!left.is_at_start_of(&history[1..]));
        history[n_messages - MAX_DIGESTED] = message(0);
        assert!(!left.is_at_start_of(&history));
        left.clear();
        assert!(left.is_at_start_of(&[]) && left.is_at_start_of(&history));
    }
}
