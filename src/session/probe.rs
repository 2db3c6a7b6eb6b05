//! What the memory makes of a question: the odds of an answer's first token, with nothing in the
//! context. Owns that asking leaves no trace.

use super::Session;
use crate::chat::{Message, Role};
use crate::engine::{Call, Wanted, WantedLogits};
use crate::error::{Error, Result};

impl Session {
    /// The logits `[vocab_size]` of the token that would begin the answer to `text`, given the memory
    /// and, of the conversation, only the system message. Nothing is written: it is how a read-only
    /// turn begins.
    ///
    /// # Errors
    /// [`Error::Messages`] for an empty text, [`Error::Setting`] if the context is not empty,
    /// [`Error::ContextFull`], those of the template and of the device.
    pub async fn probe(&mut self, text: &str) -> Result<Vec<f32>> {
        if text.trim().is_empty() {
            return Err(Error::Messages { reason: "the text is empty".into() });
        }
        if !self.processed.is_empty() {
            let reason = "it is only asked with an empty context; begin a new one first".into();
            return Err(Error::Setting { name: "probe", reason });
        }
        let system = self.messages.iter().filter(|message| message.role == Role::System);
        let mut messages: Vec<Message> = system.cloned().collect();
        messages.push(Message::new(Role::User, text));
        let options = self.render.with_generation_prompt(true);
        let rendered = self.model.template.render(&messages, &options)?;
        let tokens = self.model.tokenizer.encode(&rendered)?;
        let call =
            Call { tokens: &tokens, message_ids: None, sentence_ids: None, write_enabled: false };
        let wanted = Wanted { logits: WantedLogits::Last, ..Wanted::default() };
        let outputs = self.model.engine.forward(&call, wanted).await;
        self.model.engine.reset_context();
        Ok(outputs?.logits)
    }
}
