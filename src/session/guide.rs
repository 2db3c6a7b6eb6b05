//! Keeps a reply to its constraint, from the first token to the last. Owns where in a reply the
//! constraint begins: at once or, with thoughts, behind `</think>`; what it allows is
//! `constraint.rs`'s.

use crate::chat::{THINK_CLOSE, THINK_OPEN, ThinkSplitter};
use crate::constraint::ConstraintMatcher;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use std::sync::Arc;

/// Which tokens may come next in a reply.
pub(super) struct Guide {
    matcher: ConstraintMatcher,
    place: Place,
    splitter: ThinkSplitter,
    /// `<think>`, where the reply may begin with it.
    think_id: Option<u32>,
    tokenizer: Arc<Tokenizer>,
    /// For what the matcher knows nothing of.
    mask: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No token yet: thoughts may follow, or the answer.
    Beginning,
    Thoughts,
    Answer,
}

impl Guide {
    /// For the reply to `prompt`, inside of thoughts if `splitter` is. With `may_think` it may begin with
    /// thoughts of its own accord, if the prompt does not end with some and the tokenizer has `<think>`
    /// as one token.
    pub fn new(
        matcher: ConstraintMatcher,
        tokenizer: &Arc<Tokenizer>,
        prompt: &str,
        splitter: ThinkSplitter,
        may_think: bool,
    ) -> Guide {
        let may_think = may_think && !prompt.trim_end().ends_with(THINK_CLOSE);
        let think_id = tokenizer.token_id(THINK_OPEN).filter(|_| may_think);
        Guide {
            mask: vec![0; matcher.n_words()],
            matcher,
            place: match (splitter.is_thinking(), think_id) {
                (true, _) => Place::Thoughts,
                (false, Some(_)) => Place::Beginning,
                (false, None) => Place::Answer,
            },
            splitter,
            think_id,
            tokenizer: tokenizer.clone(),
        }
    }

    /// Which tokens may come next, as [`crate::engine::Wanted::mask`] has it.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`].
    pub fn mask(&mut self) -> Result<&[u32]> {
        match self.place {
            Place::Answer => return self.matcher.mask(),
            Place::Beginning => {
                self.mask.copy_from_slice(self.matcher.mask()?);
                if let Some(id) = self.think_id {
                    self.mask[id as usize / 32] |= 1 << (id % 32);
                }
            }
            Place::Thoughts => {
                // anything but the end, which would leave the constraint unfulfilled, and tokens
                // with which `</think>` would take a piece of an answer along
                self.mask.fill(u32::MAX);
                let n_held = self.splitter.held().len();
                let over = match n_held {
                    0 => Vec::new(),
                    n => self.longer_tokens(&THINK_CLOSE.as_bytes()[n..]),
                };
                for id in over.iter().chain(self.matcher.eos_token_ids()) {
                    self.mask[*id as usize / 32] &= !(1 << (id % 32));
                }
            }
        }
        Ok(&self.mask)
    }

    /// Goes on with a picked token and the text that it completes.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`].
    pub fn accept(&mut self, token: u32, text: &str) -> Result<()> {
        let is_thought = match self.place {
            Place::Beginning => self.think_id == Some(token),
            place => place == Place::Thoughts,
        };
        self.place = Place::Answer;
        if !is_thought {
            return self.matcher.accept(token);
        }
        self.splitter.push(text);
        if self.splitter.is_thinking() {
            self.place = Place::Thoughts;
        }
        Ok(())
    }

    /// True once the thoughts, if any, are over.
    pub fn is_answering(&self) -> bool {
        self.place == Place::Answer
    }

    /// True once nothing but the end can come.
    pub fn is_complete(&self) -> bool {
        self.is_answering() && self.matcher.is_complete()
    }

    /// Tokens that begin with `bytes` and go on.
    fn longer_tokens(&self, bytes: &[u8]) -> Vec<u32> {
        let is_longer = |id: &u32| {
            let token = self.tokenizer.token_bytes(*id);
            token.len() > bytes.len() && token.starts_with(bytes)
        };
        (0..self.tokenizer.vocab_size() as u32).filter(is_longer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::{Constraint, ConstraintVocabulary};
    use crate::nano;

    /// Ends a reply in these tests.
    const END: &str = "<|im_end|>";

    fn guide(pattern: &str, prompt: &str, may_think: bool) -> (Guide, Arc<Tokenizer>) {
        let tokenizer = Arc::new(Tokenizer::from_json(nano::TOKENIZER).unwrap());
        let n_rows = tokenizer.vocab_size();
        let vocabulary =
            ConstraintVocabulary::new(&tokenizer, &[id(&tokenizer, END)], n_rows).unwrap();
        let constraint = Constraint::Regex(pattern.into());
        let matcher = constraint.matcher(&vocabulary).unwrap();
        let splitter = ThinkSplitter::leading(prompt);
        let guide = Guide::new(matcher, &tokenizer, prompt, splitter, may_think);
        (guide, tokenizer)
    }

    fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
        tokenizer.token_id(token).unwrap()
    }

    fn allows(guide: &mut Guide, id: u32) -> bool {
        guide.mask().unwrap()[id as usize / 32] >> (id % 32) & 1 == 1
    }

    #[test]
    fn thoughts_come_first_or_not_at_all() {
        let (mut guide, tokenizer) = guide("a|<", "assistant\n", true);
        let end = id(&tokenizer, END);
        let id = |text: &str| tokenizer.encode(text).unwrap()[0];
        let [think, close] = [THINK_OPEN, THINK_CLOSE].map(id);
        let (a, b, less) = (id("a"), id("b"), id("<"));
        for (token, is_allowed) in [(think, true), (a, true), (less, true), (b, false)] {
            assert_eq!(allows(&mut guide, token), is_allowed, "{token}");
        }
        assert!(!allows(&mut guide, end) && !allows(&mut guide, close));
        guide.accept(think, THINK_OPEN).unwrap();
        // everything but the end
        for token in [think, a, b, close] {
            assert!(allows(&mut guide, token));
        }
        assert!(!allows(&mut guide, end) && !guide.is_answering());
        guide.accept(b, "b").unwrap();
        guide.accept(close, THINK_CLOSE).unwrap();
        assert!(guide.is_answering() && !guide.is_complete());
        assert!(allows(&mut guide, a) && allows(&mut guide, less));
        assert!(!allows(&mut guide, think) && !allows(&mut guide, b));
        guide.accept(a, "a").unwrap();
        assert!(guide.is_complete() && allows(&mut guide, end));
    }

    #[test]
    fn a_prompt_decides_whether_thoughts_can_come() {
        for (prompt, may_think, begins_with_thoughts) in [
            ("assistant\n", true, true),
            ("assistant\n", false, false),
            ("assistant\n<think>\n\n</think>\n", true, false),
        ] {
            let (mut guide, tokenizer) = guide("a", prompt, may_think);
            let think = id(&tokenizer, THINK_OPEN);
            assert_eq!(allows(&mut guide, think), begins_with_thoughts, "{prompt:?}");
        }
        let (mut guide, tokenizer) = guide("a", "assistant\n<think>\n", false);
        assert!(!guide.is_answering() && allows(&mut guide, tokenizer.encode("b").unwrap()[0]));
    }

    #[test]
    fn no_token_closes_the_thoughts_and_begins_the_answer() {
        let (mut guide, tokenizer) = guide("a", "<think>", true);
        let longer: Vec<u32> = (0..tokenizer.vocab_size() as u32)
            .filter(|id| tokenizer.token_bytes(*id).starts_with(b"i"))
            .filter(|id| tokenizer.token_bytes(*id).len() > 1)
            .collect();
        assert!(!longer.is_empty());
        // the tag letter by letter, as a tokenizer without it has to
        let i = tokenizer.encode("i").unwrap()[0];
        guide.splitter = ThinkSplitter::leading("<think>");
        guide.splitter.push("x</th");
        assert!(longer.iter().all(|id| allows(&mut guide, *id)), "</thi may go on otherwise");
        guide.splitter.push("ink");
        let end = tokenizer.encode(">").unwrap()[0];
        assert!(allows(&mut guide, end) && allows(&mut guide, i));
        let over = guide.longer_tokens(b">");
        assert!(over.iter().all(|id| !allows(&mut guide, *id)));
        let over = guide.longer_tokens(b"i");
        assert_eq!(over, longer);
        guide.accept(end, ">").unwrap();
        assert!(guide.is_answering());
    }
}
