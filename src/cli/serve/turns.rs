//! Digests of histories. Owns what makes two histories the same for a server that is sent whole
//! ones: the messages after the system's, a reply without its thoughts, calls without their ids.

use deltamem::chat::{Message, Role, answer_part};
use deltamem::store::MAX_TURN_DIGESTS;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{HashSet, VecDeque};

/// Messages at the beginning that are from the system.
pub fn n_system(history: &[Message]) -> usize {
    history.iter().take_while(|message| message.role == Role::System).count()
}

/// For each message after the system's a digest of the history up to and with it. The system
/// message is not in it: many clients put the time there.
pub fn digests(history: &[Message]) -> Vec<u64> {
    let mut chain = Sha256::digest(b"deltamem turns 1");
    let messages = &history[n_system(history)..];
    let next = |message: &Message| {
        let answer = answer_part(&message.content);
        let content = match message.role {
            // the calls are what there is; what was said beside them some clients leave out
            Role::Assistant if !message.tool_calls.is_empty() => "",
            Role::Assistant => answer.trim(),
            _ => message.content.as_str(),
        };
        let calls: Vec<_> =
            message.tool_calls.iter().map(|call| json!([call.name, call.arguments])).collect();
        let text = json!([message.role.name(), content, calls]).to_string();
        chain = Sha256::new().chain_update(chain).chain_update(text).finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&chain[..8]);
        u64::from_be_bytes(first)
    };
    messages.iter().map(next).collect()
}

/// How many messages are not the model's own.
pub fn n_questions(history: &[Message]) -> usize {
    let messages = &history[n_system(history)..];
    messages.iter().filter(|message| message.role != Role::Assistant).count()
}

/// How many digests two histories share at the beginning.
pub fn n_common(a: &[u64], b: &[u64]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The turns that a memory has read: never to be written again.
#[derive(Debug, Clone, Default)]
pub struct KnownTurns {
    order: VecDeque<u64>,
    known: HashSet<u64>,
    /// Of a memory that was forgotten: they are not to return, and are kept nowhere else.
    forgotten: HashSet<u64>,
}

impl KnownTurns {
    /// Adds digests, oldest first.
    pub fn add(&mut self, digests: impl IntoIterator<Item = u64>) {
        for digest in digests {
            if !self.forgotten.contains(&digest) && self.known.insert(digest) {
                self.order.push_back(digest);
            }
            if self.order.len() > MAX_TURN_DIGESTS
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Takes digests of turns out that the memory has unlearnt.
    pub fn remove(&mut self, digests: &[u64]) {
        for digest in digests {
            self.known.remove(digest);
        }
        self.order.retain(|digest| self.known.contains(digest));
    }

    /// The memory was forgotten. What it had read is not read into the next one either.
    pub fn forget(&mut self) {
        self.order.clear();
        if self.forgotten.len() > 4 * MAX_TURN_DIGESTS {
            self.forgotten.clear();
        }
        self.forgotten.extend(self.known.drain());
    }

    /// What is to be kept with the memory, oldest first.
    pub fn to_vec(&self) -> Vec<u64> {
        self.order.iter().copied().collect()
    }

    /// How many messages at the beginning of a history were read before, the system's included;
    /// what came after the last reply is new in any case.
    pub fn n_settled(&self, history: &[Message]) -> usize {
        let n_system = n_system(history);
        let last_reply = history.iter().rposition(|message| message.role == Role::Assistant);
        let n_answered = last_reply.map_or(0, |at| (at + 1).saturating_sub(n_system));
        let digests = digests(history);
        let is_known = |d: &u64| self.known.contains(d) || self.forgotten.contains(d);
        let n_known = digests[..n_answered].iter().rposition(is_known);
        n_known.map_or(0, |at| n_system + at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltamem::chat::ToolCall;

    fn said(role: Role, text: &str) -> Message {
        Message::new(role, text)
    }

    fn history(texts: &[&str]) -> Vec<Message> {
        let roles = [Role::User, Role::Assistant];
        texts.iter().enumerate().map(|(n, text)| said(roles[n % 2], text)).collect()
    }

    #[test]
    fn a_reply_is_the_same_without_thoughts_and_under_another_system_message() {
        let plain = digests(&history(&["Hello.", "Hi.", "Go on."]));
        let thinking = digests(&history(&["Hello.", "<think>\nHm.\n</think>\n\nHi. ", "Go on."]));
        assert_eq!(plain, thinking);
        let mut other = history(&["Hello.", "Hi.", "Go on."]);
        other.insert(0, said(Role::System, "It is noon."));
        assert_eq!(digests(&other), plain);
        let other = digests(&history(&["Hello.", "Hi!", "Go on."]));
        assert_eq!(n_common(&other, &plain), 1);
        assert_ne!(other[2], plain[2]);
        // who says it matters, and where one message ends
        assert_ne!(digests(&[said(Role::Tool, "a")]), digests(&[said(Role::User, "a")]));
        let two = [said(Role::User, "a"), said(Role::User, "b")];
        assert_ne!(digests(&two)[1], digests(&[said(Role::User, "ab")])[0]);
    }

    #[test]
    fn calls_are_the_same_whatever_their_ids() {
        let call = |id: &str, city: &str| {
            let arguments = json!({ "city": city }).as_object().unwrap().clone();
            let call = ToolCall { name: "weather".into(), arguments, id: Some(id.into()) };
            Message { tool_calls: vec![call], ..said(Role::Assistant, id) }
        };
        assert_eq!(digests(&[call("a", "Oslo")]), digests(&[call("b", "Oslo")]));
        assert_ne!(digests(&[call("a", "Oslo")]), digests(&[call("a", "Rome")]));
    }

    #[test]
    fn only_what_was_answered_is_settled() {
        let mut known = KnownTurns::default();
        known.add(digests(&history(&["One.", "1", "Two.", "2"])));
        let n = |texts: &[&str]| known.n_settled(&history(texts));
        assert_eq!(n(&["One."]), 0);
        assert_eq!(n(&["One.", "1", "Two."]), 2);
        assert_eq!(n(&["One.", "1", "Two.", "2", "Three."]), 4);
        // another reply: the question was read
        assert_eq!(n(&["One.", "one", "Two.", "2", "Three."]), 1);
        assert_eq!(n(&["Two.", "2", "Three."]), 0);
        let mut with_system = history(&["One.", "1", "Two."]);
        with_system.insert(0, said(Role::System, "Be brief."));
        assert_eq!(known.n_settled(&with_system), 3);
        known.remove(&digests(&history(&["One.", "1", "Two.", "2"]))[2..]);
        assert_eq!(known.n_settled(&history(&["One.", "1", "Two.", "2", "Three."])), 2);
        let answered = history(&["One.", "1", "Two."]);
        known.forget();
        known.add(digests(&answered));
        assert_eq!((known.n_settled(&answered), known.to_vec().len()), (2, 1));
        known.add(0..2 * MAX_TURN_DIGESTS as u64);
        assert_eq!(known.to_vec().len(), MAX_TURN_DIGESTS);
    }
}
