//! A conversation that ends within its last message, for a reply that goes on in it. Owns where the text
//! is cut: as transformers' `continue_final_message` does it, at a mark that the template carries along.

use super::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result};

/// Stands where the message ends. The space at its end tells whether the template trims contents.
const MARK: &str = "DELTAMEM_GOES_ON_HERE ";

impl ChatTemplate {
    /// The text of `messages` up to the end of the last one's content, without what closes it: the
    /// prompt for a reply that goes on in that message. `add_generation_prompt` is ignored. White space
    /// at the end of the content stays if the template leaves it there.
    ///
    /// # Errors
    /// [`Error::Messages`] without messages; [`Error::Template`] if the template does not show the
    /// content of the last one, else as [`ChatTemplate::render`].
    pub fn render_unfinished(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String> {
        let Some((last, earlier)) = messages.split_last() else {
            return Err(Error::Messages { reason: "there is no message to go on in".into() });
        };
        let marked = Message { content: format!("{}{MARK}", last.content), ..last.clone() };
        let messages: Vec<Message> = earlier.iter().cloned().chain([marked]).collect();
        let mut text = self.render(&messages, &options.with_generation_prompt(false))?;
        let at = text.rfind(MARK.trim_end()).filter(|_| text.contains(last.content.trim()));
        let Some(at) = at else {
            let reason = "it does not show the last message as it is, so no reply can go on in it";
            return Err(Error::Template { reason: reason.into() });
        };
        let is_trimmed = !text[at..].starts_with(MARK);
        text.truncate(at);
        if is_trimmed {
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CivilDate, Role};
    use super::*;

    fn unfinished(template: &str, content: &str) -> Result<String> {
        let template = ChatTemplate::parse(template, None, None).unwrap();
        let messages = [Message::new(Role::User, "?"), Message::new(Role::Assistant, content)];
        template.render_unfinished(&messages, &RenderOptions::new(CivilDate::from_unix_seconds(0)))
    }

    #[test]
    fn a_text_ends_where_the_message_does() {
        let plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]\n{% endfor %}";
        assert_eq!(unfinished(plain, "One, two, ").unwrap(), "[user]?[end]\n[assistant]One, two, ");
        assert_eq!(unfinished(plain, "").unwrap(), "[user]?[end]\n[assistant]");
        let mark = format!("{MARK}and {MARK}");
        assert!(unfinished(plain, &mark).unwrap().ends_with(&mark));
        let trimming = plain.replace("m.content", "m.content.strip()");
        assert_eq!(unfinished(&trimming, " One, \n").unwrap(), "[user]?[end]\n[assistant]One,");
        for hiding in ["{{ messages[0].content }}", "{{ messages[-1].content[-22:] }}"] {
            assert_eq!(unfinished(hiding, "One, two").unwrap_err().code(), "template");
        }
        let template = ChatTemplate::parse(plain, None, None).unwrap();
        let options = RenderOptions::new(CivilDate::from_unix_seconds(0));
        assert_eq!(template.render_unfinished(&[], &options).unwrap_err().code(), "messages");
    }
}
