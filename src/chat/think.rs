//! Reasoning apart from the answer. Owns when thinking is on by default (SPEC.md section 8) and
//! the split of a streamed reply at `<think>` and `</think>`.

/// Whether to pass `enable_thinking` for a model of this name, when the caller says nothing.
/// `None` passes nothing, and the template decides.
pub fn default_enable_thinking(model_name: &str) -> Option<bool> {
    let name = model_name.to_lowercase();
    let is_fixed = name.contains("thinking") || name.contains("instruct");
    if name.contains("smollm3") || (name.contains("qwen3") && !is_fixed) {
        Some(false)
    } else {
        None
    }
}

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThinkPiece {
    /// Between the tags.
    Thought(String),
    /// Outside of them.
    Answer(String),
}

pub(crate) const OPEN: &str = "<think>";
pub(crate) const CLOSE: &str = "</think>";

/// Splits a reply that comes in pieces; the tags themselves are dropped, everything else is kept
/// as it is.
#[derive(Debug, Clone)]
pub struct ThinkSplitter {
    is_thinking: bool,
    /// Tags are text once the answer has begun.
    is_leading: bool,
    is_answering: bool,
    /// May be the beginning of a tag.
    held: String,
}

impl ThinkSplitter {
    /// A splitter for the reply to `prompt`: it starts inside if the prompt leaves a `<think>`
    /// open at its end.
    pub fn new(prompt: &str) -> ThinkSplitter {
        ThinkSplitter {
            is_thinking: prompt.trim_end().ends_with(OPEN),
            is_leading: false,
            is_answering: false,
            held: String::new(),
        }
    }

    /// A splitter that takes thoughts only at the very beginning of the reply: behind them, or
    /// without them, tags are text like any other.
    pub fn leading(prompt: &str) -> ThinkSplitter {
        ThinkSplitter { is_leading: true, ..ThinkSplitter::new(prompt) }
    }

    /// The same for a reply that goes on in a message of which `content` is there already: inside if
    /// that leaves a `<think>` open.
    pub fn within(self, content: &str) -> ThinkSplitter {
        let mut splitter = self;
        splitter.push(content);
        // what may be the beginning of a tag is shown already, as text
        splitter.held.clear();
        splitter
    }

    /// True between the tags.
    pub fn is_thinking(&self) -> bool {
        self.is_thinking
    }

    /// Takes everything from here on as the answer, if this splitter takes thoughts only at the
    /// beginning and is not inside of them.
    pub fn begin_answer(&mut self) {
        self.is_answering |= self.is_leading && !self.is_thinking;
    }

    /// What may be the beginning of a tag.
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Takes the next piece of text and gives the parts it completes, in order.
    pub fn push(&mut self, piece: &str) -> Vec<ThinkPiece> {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        loop {
            let tag = if self.is_thinking { CLOSE } else { OPEN };
            let is_first = self.is_thinking || !self.is_leading;
            let is_over = !is_first && (self.is_answering || !begins(rest, tag));
            if is_over {
                self.is_answering |= !rest.is_empty();
                self.add(&mut parts, rest);
                return parts;
            }
            match rest.find(tag) {
                Some(at) => {
                    self.add(&mut parts, &rest[..at]);
                    rest = &rest[at + tag.len()..];
                    self.is_answering = self.is_thinking;
                    self.is_thinking = !self.is_thinking;
                }
                None => {
                    let held =
                        (1..tag.len()).rev().find(|&len| rest.ends_with(&tag[..len])).unwrap_or(0);
                    let (done, held) = rest.split_at(rest.len() - held);
                    self.add(&mut parts, done);
                    self.held = held.to_string();
                    return parts;
                }
            }
        }
    }

    /// What is left when no more text comes.
    pub fn finish(mut self) -> Vec<ThinkPiece> {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        self.add(&mut parts, &held);
        parts
    }

    fn add(&self, parts: &mut Vec<ThinkPiece>, text: &str) {
        if text.is_empty() {
            return;
        }
        parts.push(match self.is_thinking {
            true => ThinkPiece::Thought(text.to_string()),
            false => ThinkPiece::Answer(text.to_string()),
        });
    }
}

/// What of a whole reply stands outside of the tags. A reply that closes a tag before it opens one
/// answers a prompt that opened it.
pub fn answer_part(reply: &str) -> String {
    let open = reply.find(OPEN).unwrap_or(reply.len());
    let is_thinking = reply.find(CLOSE).is_some_and(|close| close < open);
    let mut splitter = ThinkSplitter { is_thinking, ..ThinkSplitter::new("") };
    let mut parts = splitter.push(reply);
    parts.extend(splitter.finish());
    let answers = parts.iter().filter_map(|part| match part {
        ThinkPiece::Answer(text) => Some(text.as_str()),
        ThinkPiece::Thought(_) => None,
    });
    answers.collect()
}

/// True if `text` begins with the tag or may come to.
fn begins(text: &str, tag: &str) -> bool {
    text.starts_with(tag) || tag.starts_with(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thoughts and answers, each joined.
    fn split(prompt: &str, pieces: &[&str]) -> (String, String) {
        split_with(ThinkSplitter::new(prompt), pieces)
    }

    fn split_with(mut splitter: ThinkSplitter, pieces: &[&str]) -> (String, String) {
        let mut parts: Vec<ThinkPiece> = pieces.iter().flat_map(|p| splitter.push(p)).collect();
        parts.extend(splitter.finish());
        let (mut thoughts, mut answers) = (String::new(), String::new());
        for part in parts {
            match part {
                ThinkPiece::Thought(t) => thoughts.push_str(&t),
                ThinkPiece::Answer(t) => answers.push_str(&t),
            }
        }
        (thoughts, answers)
    }

    #[test]
    fn a_reply_splits_however_it_is_cut() {
        let reply = "a <b <think>x < y é</thin k></think>\n\nanswer </think> <think";
        let expected =
            ("x < y é</thin k>".to_string(), "a <b \n\nanswer </think> <think".to_string());
        assert_eq!(split("", &[reply]), expected);
        let characters: Vec<String> = reply.chars().map(String::from).collect();
        let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(split("", &pieces), expected);
        for (cut, _) in reply.char_indices() {
            assert_eq!(split("", &[&reply[..cut], &reply[cut..]]), expected, "{cut}");
        }
    }

    #[test]
    fn the_prompt_may_have_opened_the_tag() {
        let closed = "assistant\n<think>\n\n</think>\n";
        assert_eq!(split(closed, &["hi"]), ("".into(), "hi".into()));
        let open = "assistant\n<think>\n";
        assert_eq!(split(open, &["hm", "</thi", "nk>hi"]), ("hm".into(), "hi".into()));
    }

    #[test]
    fn a_message_that_is_gone_on_with_may_have_opened_the_tag() {
        for (content, reply, thoughts, answer) in [
            ("", "<think>a</think>b", "a", "b"),
            ("One, ", "two", "", "two"),
            ("<think>\nI", " see</think>yes", " see", "yes"),
            ("<think>I see</think>", "yes", "", "yes"),
            ("<think>I see</thi", "nk>", "nk>", ""),
        ] {
            let expected = (thoughts.to_string(), answer.to_string());
            assert_eq!(split_with(ThinkSplitter::new("").within(content), &[reply]), expected);
        }
        let leading = ThinkSplitter::leading("").within("One, ");
        assert_eq!(split_with(leading, &["<think>"]), ("".into(), "<think>".into()));
    }

    #[test]
    fn the_answer_of_a_whole_reply_is_outside_of_the_tags() {
        assert_eq!(answer_part("hi"), "hi");
        assert_eq!(answer_part("<think>hm</think>\n\nhi"), "\n\nhi");
        assert_eq!(answer_part("hm</think>hi"), "hi");
        assert_eq!(answer_part("hi <think>hm"), "hi ");
    }

    #[test]
    fn a_leading_splitter_takes_thoughts_only_at_the_beginning() {
        for (prompt, reply, thoughts, answer) in [
            ("", "<think>a<think>b</think>c<think>d</think>", "a<think>b", "c<think>d</think>"),
            ("", "x<think>a</think>", "", "x<think>a</think>"),
            ("", "<thin<think>", "", "<thin<think>"),
            ("", "</think><think>a", "", "</think><think>a"),
            ("", "<thi", "", "<thi"),
            ("assistant\n<think>\n", "a</think><think>b", "a", "<think>b"),
            ("<think></think>", "\"<think>\"", "", "\"<think>\""),
        ] {
            let expected = (thoughts.to_string(), answer.to_string());
            let leading = || ThinkSplitter::leading(prompt);
            for cut in 0..=reply.len() {
                let pieces = [&reply[..cut], &reply[cut..]];
                assert_eq!(split_with(leading(), &pieces), expected, "{reply} at {cut}");
            }
        }
    }

    #[test]
    fn thinking_is_off_for_hybrid_models_by_name() {
        assert_eq!(default_enable_thinking("HuggingFaceTB/SmolLM3-3B"), Some(false));
        assert_eq!(default_enable_thinking("Qwen/Qwen3-4B"), Some(false));
        assert_eq!(default_enable_thinking("Qwen/Qwen3-4B-Instruct-2507"), None);
        assert_eq!(default_enable_thinking("Qwen3-4B-Thinking-2507"), None);
        assert_eq!(default_enable_thinking("nano"), None);
    }
}
