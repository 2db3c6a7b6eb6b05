//! What the memory makes of a question: the odds of an answer's first token, with nothing in the
//! context. Owns that asking leaves no trace.

use super::Session;
use crate::chat::{Message, Role};
use crate::engine::{Call, Wanted, WantedLogits};
use crate::error::{Error, Result};

impl Session {
    /// The logits `[vocab_size]` of the token that would begin the answer to `text`, given the memory
    /// and, of the conversation, only what it began with. Nothing is written: it is how a read-only
    /// turn begins. Conversation and context are left as they are.
    ///
    /// # Errors
    /// [`Error::Messages`] for an empty text, [`Error::ContextFull`], those of the template and of
    /// the device.
    pub async fn probe(&mut self, text: &str) -> Result<Vec<f32>> {
        if text.trim().is_empty() {
            return Err(Error::Messages { reason: "the text is empty".into() });
        }
        let mut messages = self.talk.messages[..self.talk.n_pinned].to_vec();
        messages.push(Message::new(Role::User, text));
        let options = self.talk.render.with_generation_prompt(true);
        let rendered = self.model.template.render(&messages, &options)?;
        let tokens = self.model.tokenizer.encode(&rendered)?;
        let call =
            Call { tokens: &tokens, message_ids: None, sentence_ids: None, write_enabled: false };
        let wanted = Wanted { logits: WantedLogits::Last, ..Wanted::default() };
        let engine = &mut self.model.engine;
        let parked = engine.park().await?;
        engine.reset_context();
        let outputs = engine.forward(&call, wanted).await;
        engine.adopt(&parked)?;
        Ok(outputs?.logits)
    }
}
