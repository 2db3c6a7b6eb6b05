//! Conversations held for a measurement, on one loaded model. Owns how they go: replies are generated,
//! always the most probable token, without thoughts; a session that ended leaves nothing but the
//! memory, as the bytes that a profile keeps.

use crate::chat::{CivilDate, Message, Role};
use crate::error::{Error, Result};
use crate::loaded::LoadedModel;
use crate::memory_file::MemoryFile;
use crate::session::{Overflow, Session, SessionOptions, TurnOptions};
use std::ops::ControlFlow;

/// Tokens that a turn takes besides its message and its reply, with room to spare.
const TURN_TOKENS: usize = 32;

/// A memory as it is kept between sessions: the bytes of a memory file.
pub struct KeptMemory(Vec<u8>);

/// Somebody who talks with a model.
pub struct Talker {
    session: Session,
    turn: TurnOptions,
}

impl Talker {
    /// Talks with `model` on a day, with the settings that its files recommend.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without δ-mem; those of the device.
    pub async fn new(model: LoadedModel, date: CivilDate) -> Result<Talker> {
        if model.identity.is_none() {
            return Err(Error::Unsupported {
                what: "measuring a memory".into(),
                reason: "the model was loaded without a δ-mem adapter".into(),
            });
        }
        let options = SessionOptions { system: None, enable_thinking: Some(false), date };
        let session = Session::new(model, options).await?;
        let mut turn = session.default_turn_options();
        turn.sampling.temperature = 0.0;
        Ok(Talker { session, turn })
    }

    /// Tells a new profile everything, a session after the other; gives the memory of it.
    ///
    /// # Errors
    /// Those of [`Session::ask`].
    pub async fn tell(&mut self, sessions: &[Vec<String>]) -> Result<KeptMemory> {
        self.begin(None).await?;
        for messages in sessions {
            for message in messages {
                self.make_room(message).await?;
                self.say(message, true).await?;
            }
            self.session.new_context().await?;
        }
        // when it was made matters to nobody here
        Ok(KeptMemory(self.session.memory(0).await?.encode()?))
    }

    /// Asks a profile in an empty context.
    ///
    /// # Errors
    /// Those of [`Session::ask`] and [`MemoryFile::decode`].
    pub async fn ask(&mut self, memory: &KeptMemory, question: &str) -> Result<String> {
        self.begin(Some(memory)).await?;
        self.say(question, true).await
    }

    /// Asks the second of two profiles in the program where the first was in use.
    ///
    /// # Errors
    /// As [`Talker::ask`].
    pub async fn ask_other(
        &mut self,
        first: &KeptMemory,
        second: Option<&KeptMemory>,
        question: &str,
    ) -> Result<String> {
        self.begin(Some(first)).await?;
        self.begin(second).await?;
        self.say(question, true).await
    }

    /// Asks in an empty context with the memory off: empty and not written, which leaves the bare
    /// backbone.
    ///
    /// # Errors
    /// Those of [`Session::ask`].
    pub async fn ask_without_memory(&mut self, question: &str) -> Result<String> {
        self.begin(None).await?;
        self.say(question, false).await
    }

    /// Tells everything in one session and asks in it, with the memory off.
    ///
    /// # Errors
    /// Those of [`Session::ask`].
    pub async fn ask_in_context(
        &mut self,
        sessions: &[Vec<String>],
        question: &str,
    ) -> Result<String> {
        self.begin(None).await?;
        for message in sessions.iter().flatten() {
            self.say(message, false).await?;
        }
        self.say(question, false).await
    }

    /// An empty context, and this memory or an empty one.
    async fn begin(&mut self, memory: Option<&KeptMemory>) -> Result<()> {
        self.session.new_context().await?;
        match memory {
            None => self.session.forget().await,
            Some(memory) => {
                self.session.set_memory(&MemoryFile::decode(&memory.0, "a memory")?).await
            }
        }
    }

    /// Drops the context where a session has become too long for another turn, as a person would who
    /// begins a new chat; the memory goes on.
    async fn make_room(&mut self, message: &str) -> Result<()> {
        let model = self.session.model();
        let needed =
            model.tokenizer.encode(message)?.len() + self.turn.max_new_tokens + TURN_TOKENS;
        let n_past = self.session.processed_tokens().len();
        if n_past > 0 && n_past + needed > model.engine.context_window() {
            self.session.new_context().await?;
        }
        Ok(())
    }

    async fn say(&mut self, message: &str, write_enabled: bool) -> Result<String> {
        self.turn.write_enabled = write_enabled;
        // a long session with the memory off loses its beginning instead
        self.turn.overflow = if write_enabled { Overflow::Error } else { Overflow::Evict };
        let message = vec![Message::new(Role::User, message)];
        let mut go_on = |_: &_| ControlFlow::Continue(());
        let turn = self.session.turn(message, &self.turn, &mut go_on).await?;
        Ok(turn.answer.trim().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::{Device, built_in};
    use crate::model::LoadOptions;

    const QUESTION: &str = "Where do I live?";

    fn model(has_adapter: bool, context_window: Option<usize>) -> LoadedModel {
        let (folder, adapter) = built_in().unwrap();
        let adapter = has_adapter.then_some(&adapter);
        let options = LoadOptions { context_window, ..LoadOptions::default() };
        let mut progress = |_, _| {};
        let load = LoadedModel::load(&folder, adapter, &Device::Cpu, &options, &mut progress);
        pollster::block_on(load).unwrap()
    }

    fn talker(context_window: Option<usize>) -> Talker {
        let date = CivilDate::new(2026, 12, 1).unwrap();
        let mut talker =
            pollster::block_on(Talker::new(model(true, context_window), date)).unwrap();
        // noise need not be long
        talker.turn.max_new_tokens = 12;
        talker
    }

    fn sessions(messages: &[&str]) -> Vec<Vec<String>> {
        vec![messages.iter().map(|message| message.to_string()).collect()]
    }

    #[test]
    fn memory_off_is_the_bare_backbone() {
        pollster::block_on(async {
            let mut talker = talker(None);
            let date = CivilDate::new(2026, 12, 1).unwrap();
            let options = SessionOptions { system: None, enable_thinking: Some(false), date };
            let mut bare = Session::new(model(false, None), options).await.unwrap();
            let turn = bare.ask(QUESTION, &talker.turn, &mut |_| ControlFlow::Continue(())).await;
            let expected = turn.unwrap().answer.trim().to_string();

            talker.tell(&sessions(&["I live in Lisbon."])).await.unwrap();
            assert_eq!(talker.ask_without_memory(QUESTION).await.unwrap(), expected);
            // nothing told: the session of the question alone
            assert_eq!(talker.ask_in_context(&[], QUESTION).await.unwrap(), expected);
        });
    }

    #[test]
    fn a_reply_depends_on_the_profile_alone() {
        pollster::block_on(async {
            let mut talker = talker(None);
            let lisbon = talker.tell(&sessions(&["I live in Lisbon."])).await.unwrap();
            let oslo = talker.tell(&sessions(&["My home is Oslo."])).await.unwrap();
            let nobody = talker.tell(&[]).await.unwrap();
            assert_ne!(lisbon.0, oslo.0);
            let before = talker.ask(&oslo, QUESTION).await.unwrap();
            let empty = talker.ask(&nobody, QUESTION).await.unwrap();
            assert_eq!(talker.ask_other(&lisbon, Some(&oslo), QUESTION).await.unwrap(), before);
            assert_eq!(talker.ask_other(&lisbon, None, QUESTION).await.unwrap(), empty);
            let again = talker.tell(&sessions(&["I live in Lisbon."])).await.unwrap();
            assert_eq!(lisbon.0, again.0);
        });
    }

    #[test]
    fn a_session_may_be_longer_than_the_window() {
        pollster::block_on(async {
            let mut talker = talker(Some(192));
            let many = sessions(&["I live in Lisbon, and I have a cat."; 12]);
            talker.tell(&many).await.unwrap();
            talker.ask_in_context(&many, QUESTION).await.unwrap();
        });
    }

    #[test]
    fn a_model_without_memory_is_refused() {
        let date = CivilDate::new(2026, 12, 1).unwrap();
        let refused = pollster::block_on(Talker::new(model(false, None), date));
        assert_eq!(refused.err().unwrap().code(), "unsupported");
    }
}
