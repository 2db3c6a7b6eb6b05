//! Conversations that are kept ready. Owns to which of them a history belongs, and which is in the
//! model while the others are parked.

use super::turns::{n_common, n_questions, n_system};
use crate::cli::output::note;
use deltamem::Result;
use deltamem::chat::Message;
use deltamem::memory_file::MemoryFile;
use deltamem::session::{Parked, Session};

/// What is known of a conversation without asking the model.
pub struct Conversation {
    pub profile: String,
    /// The messages at its beginning that are from the system.
    pub system: Vec<Message>,
    /// Of the messages after them.
    pub digests: Vec<u64>,
    /// How many of those are not the model's own.
    pub n_questions: usize,
    /// The memory as it was on disk when this conversation was last in step with it.
    pub memory: Option<MemoryFile>,
}

/// Which conversation a history belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The one in the model.
    Current,
    /// A parked one, by its place.
    Parked(usize),
    /// None of those at hand.
    New,
}

/// The conversation in the model, and parked ones.
pub struct Conversations {
    current: Option<Conversation>,
    /// The one that was used last is the last.
    parked: Vec<(Conversation, Parked)>,
    capacity: usize,
}

impl Conversations {
    /// Room for so many, the one in the model included.
    pub fn new(capacity: usize) -> Conversations {
        Conversations { current: None, parked: Vec::new(), capacity }
    }

    /// The conversation in the model.
    pub fn current(&mut self) -> Option<&mut Conversation> {
        self.current.as_mut()
    }

    /// Which conversation `history` goes on with, or is a changed version of. One that begins with
    /// another question is another conversation, and so is one that is back at its first question
    /// after several.
    pub fn choose(&self, profile: &str, history: &[Message], digests: &[u64]) -> Choice {
        let parked = self.parked.iter().enumerate();
        let parked = parked.map(|(index, (conversation, _))| (Choice::Parked(index), conversation));
        let current = self.current.iter().map(|conversation| (Choice::Current, conversation));
        let fitting = parked.chain(current).filter_map(|(choice, conversation)| {
            Some((conversation.fit(profile, history, digests)?, choice))
        });
        // of equals the one that was used last
        fitting.max_by_key(|(fit, _)| *fit).map_or(Choice::New, |(_, choice)| choice)
    }

    /// Brings a conversation into the model, after the one that is there was parked. For a new one
    /// the model's context has to be begun, and [`Conversations::begin`] called.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn switch(&mut self, choice: &Choice, session: &mut Session) -> Result<()> {
        if *choice == Choice::Current {
            return Ok(());
        }
        let chosen = match choice {
            Choice::Parked(index) => Some(self.parked.remove(*index)),
            _ => None,
        };
        // one that was never answered is not worth a place
        let current = self.current.take().filter(|current| !current.digests.is_empty());
        if let Some(current) = current
            && self.capacity > 1
        {
            while self.parked.len() + 2 > self.capacity {
                self.parked.remove(0);
            }
            match session.park().await {
                Ok(parked) => self.parked.push((current, parked)),
                // it is read again when its history comes
                Err(error) => {
                    note!("conversations are not kept ready for want of memory: {error}");
                    self.parked.clear();
                }
            }
        }
        if let Some((conversation, parked)) = chosen {
            session.adopt(parked)?;
            self.current = Some(conversation);
        }
        Ok(())
    }

    /// The model has another conversation now.
    pub fn begin(&mut self, conversation: Conversation) {
        self.current = Some(conversation);
    }

    /// What is in the model belongs to no history any more.
    pub fn drop_current(&mut self) {
        self.current = None;
    }

    /// Drops all conversations of a profile.
    pub fn drop_profile(&mut self, profile: &str) {
        self.parked.retain(|(conversation, _)| conversation.profile != profile);
        if self.current.as_ref().is_some_and(|current| current.profile == profile) {
            self.current = None;
        }
    }
}

impl Conversation {
    /// How well a history fits, `None` if it is another conversation's: whether it goes on where
    /// this one ended, and how much of it is known.
    fn fit(&self, profile: &str, history: &[Message], digests: &[u64]) -> Option<(bool, usize)> {
        let is_own = self.profile == profile && self.system[..] == history[..n_system(history)];
        if !is_own {
            return None;
        }
        let n_same = n_common(&self.digests, digests);
        if n_same == self.digests.len() && n_same < digests.len() {
            return Some((true, n_same));
        }
        let is_begun_anew = n_questions(history) == 1 && self.n_questions > 1;
        (n_same > 0 && !is_begun_anew).then_some((false, n_same))
    }
}

#[cfg(test)]
mod tests {
    use super::super::turns::digests;
    use super::*;
    use deltamem::chat::Role;

    fn history(system: &str, texts: &[&str]) -> Vec<Message> {
        let roles = [Role::User, Role::Assistant];
        let said = texts.iter().enumerate().map(|(n, text)| Message::new(roles[n % 2], *text));
        std::iter::once(Message::new(Role::System, system)).chain(said).collect()
    }

    fn fit(held: &[&str], given: &[&str]) -> Option<(bool, usize)> {
        let held = history("Be brief.", held);
        let conversation = Conversation {
            profile: "ada".into(),
            system: held[..1].to_vec(),
            digests: digests(&held),
            n_questions: n_questions(&held),
            memory: None,
        };
        let given = history("Be brief.", given);
        let found = conversation.fit("ada", &given, &digests(&given));
        // neither another profile's nor another system message's
        assert_eq!(conversation.fit("bob", &given, &digests(&given)), None);
        let mut other = given.clone();
        other[0].content = "Be long.".into();
        assert_eq!(conversation.fit("ada", &other, &digests(&other)), None);
        found
    }

    #[test]
    fn a_history_goes_on_with_its_conversation_or_changes_it() {
        assert_eq!(fit(&["a", "1"], &["a", "1", "b"]), Some((true, 2)));
        assert_eq!(fit(&["a", "1"], &["a"]), Some((false, 1)));
        assert_eq!(fit(&["a", "1", "b", "2"], &["a", "1", "c"]), Some((false, 2)));
        assert_eq!(fit(&["a", "1", "b", "2"], &["a", "1", "b"]), Some((false, 3)));
        assert_eq!(fit(&["a", "1", "b", "2"], &["a"]), None);
        assert_eq!(fit(&["a", "1"], &["b"]), None);
        assert_eq!(fit(&["a", "1"], &["b", "1", "a"]), None);
    }

    #[test]
    fn what_fits_best_is_chosen() {
        let mut conversations = Conversations::new(3);
        assert_eq!(conversations.choose("ada", &history("", &["a"]), &[1]), Choice::New);
        let held = history("", &["a", "1"]);
        conversations.begin(Conversation {
            profile: "ada".into(),
            system: held[..1].to_vec(),
            digests: digests(&held),
            n_questions: 1,
            memory: None,
        });
        let given = history("", &["a", "1", "b"]);
        let digests = digests(&given);
        assert_eq!(conversations.choose("ada", &given, &digests), Choice::Current);
        assert_eq!(conversations.choose("bob", &given, &digests), Choice::New);
        conversations.drop_profile("bob");
        assert!(conversations.current().is_some());
        conversations.drop_profile("ada");
        assert_eq!(conversations.choose("ada", &given, &digests), Choice::New);
    }
}
