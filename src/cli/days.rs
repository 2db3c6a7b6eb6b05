//! On which day conversations began. Owns how one is recognised: by its first two messages, the
//! system's apart.

use super::serve::turns::digests;
use deltamem::chat::{CivilDate, Message};
use deltamem::store::MAX_DAYS;

/// Days by the digests of beginnings, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Days {
    days: Vec<(u64, CivilDate)>,
    is_changed: bool,
}

impl Days {
    /// As they were kept.
    pub fn new(days: Vec<(u64, CivilDate)>) -> Days {
        Days { days, is_changed: false }
    }

    /// When the conversation with these messages began, if that is known.
    pub fn of(&self, messages: &[Message]) -> Option<CivilDate> {
        let key = key(messages)?;
        self.days.iter().rev().find(|(digest, _)| *digest == key).map(|(_, day)| *day)
    }

    /// The conversation with these messages began on `day`.
    pub fn note(&mut self, messages: &[Message], day: CivilDate) {
        let Some(key) = key(messages) else { return };
        if self.of(messages) == Some(day) {
            return;
        }
        self.days.retain(|(digest, _)| *digest != key);
        self.days.push((key, day));
        self.days.drain(..self.days.len().saturating_sub(MAX_DAYS));
        self.is_changed = true;
    }

    /// What is to be kept, if it is not what was kept.
    pub fn changed(&mut self) -> Option<&[(u64, CivilDate)]> {
        std::mem::take(&mut self.is_changed).then_some(&self.days[..])
    }

    /// The memory was forgotten, and when was what with it.
    pub fn forget(&mut self) {
        *self = Days::default();
    }
}

/// Conversations begin alike, and are answered differently; one without an answer is not begun.
fn key(messages: &[Message]) -> Option<u64> {
    digests(messages).get(1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltamem::chat::Role;

    #[test]
    fn a_conversation_keeps_its_day() {
        let said = |texts: &[&str]| -> Vec<Message> {
            let roles = [Role::System, Role::User, Role::Assistant, Role::User];
            texts.iter().zip(roles).map(|(text, role)| Message::new(role, *text)).collect()
        };
        let day = |n: i64| CivilDate::from_unix_seconds(n * 86_400);
        let mut days = Days::default();
        days.note(&said(&["", "Hello."]), day(1));
        assert!(days.changed().is_none());
        days.note(&said(&["It is noon.", "Hello.", "Hi."]), day(1));
        days.note(&said(&["", "Hello.", "Hey."]), day(2));
        assert_eq!(days.changed().map(<[_]>::len), Some(2));
        assert_eq!(days.of(&said(&["It is one.", "Hello.", " Hi.", "So?"])), Some(day(1)));
        assert_eq!(days.of(&said(&["", "Hello.", "Hey."])), Some(day(2)));
        assert_eq!(days.of(&said(&["", "Hello."])), None);
        days.note(&said(&["", "Hello.", "Hey."]), day(2));
        assert!(days.changed().is_none());
        days.note(&said(&["", "Hello.", "Hey."]), day(3));
        assert_eq!(days.of(&said(&["", "Hello.", "Hey."])), Some(day(3)));
        assert_eq!(days.changed().map(<[_]>::len), Some(2));
        days.forget();
        assert_eq!(days.of(&said(&["", "Hello.", "Hey."])), None);
    }
}
