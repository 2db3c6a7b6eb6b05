//! Texts that go on without a conversation: what OpenAI's older interface calls a completion. Owns that
//! no template, no tags and no memory's writes come into it, and that nothing of it stays.

use super::{Session, Turn, TurnOptions};
use crate::chat::{Message, Role, ThinkPiece};
use crate::error::{Error, Result};
use std::ops::ControlFlow;

impl Session {
    /// Goes on with a text as it stands, in an empty context without a chat template. The memory is read
    /// and never written. The conversation of before is dropped (whoever wants it back parks it), and so
    /// is this one. Thoughts and calls of tools are text here.
    ///
    /// # Errors
    /// [`Error::Messages`] for a text without a word, [`Error::Unsupported`] for a constraint, else as
    /// [`Session::turn`].
    pub async fn complete(
        &mut self,
        text: &str,
        options: &TurnOptions,
        on_piece: &mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    ) -> Result<Turn> {
        if options.constraint.is_some() {
            let reason = "a text that goes on is held to none".into();
            return Err(Error::Unsupported { what: "a constraint".into(), reason });
        }
        let (date, render) = (self.date(), self.talk.render.clone());
        self.begin(Vec::new(), date).await?;
        self.talk.is_plain = true;
        // what is described to no template is not called
        self.talk.render.tools = None;
        self.talk.render.extra.clear();
        let options =
            TurnOptions { write_enabled: false, continue_final_message: false, ..options.clone() };
        let turn = self.turn(vec![Message::new(Role::User, text)], &options, on_piece).await;
        self.talk.render = render;
        self.begin(Vec::new(), date).await?;
        turn
    }
}
