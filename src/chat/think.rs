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

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Splits a reply that comes in pieces; the tags themselves are dropped, everything else is kept
/// as it is.
#[derive(Debug, Clone)]
pub struct ThinkSplitter {
    is_thinking: bool,
    /// May be the beginning of a tag.
    held: String,
}

impl ThinkSplitter {
    /// A splitter for the reply to `prompt`: it starts inside if the prompt leaves a `<think>`
    /// open at its end.
    pub fn new(prompt: &str) -> ThinkSplitter {
        ThinkSplitter { is_thinking: prompt.trim_end().ends_with(OPEN), held: String::new() }
    }

    /// True between the tags.
    pub fn is_thinking(&self) -> bool {
        self.is_thinking
    }

    /// Takes the next piece of text and gives the parts it completes, in order.
    pub fn push(&mut self, piece: &str) -> Vec<ThinkPiece> {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        loop {
            let tag = if self.is_thinking { CLOSE } else { OPEN };
            match rest.find(tag) {
                Some(at) => {
                    self.add(&mut parts, &rest[..at]);
                    rest = &rest[at + tag.len()..];
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
    let mut splitter = ThinkSplitter { is_thinking, held: String::new() };
    let mut parts = splitter.push(reply);
    parts.extend(splitter.finish());
    let answers = parts.iter().filter_map(|part| match part {
        ThinkPiece::Answer(text) => Some(text.as_str()),
        ThinkPiece::Thought(_) => None,
    });
    answers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thoughts and answers, each joined.
    fn split(prompt: &str, pieces: &[&str]) -> (String, String) {
        let mut splitter = ThinkSplitter::new(prompt);
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
    fn the_answer_of_a_whole_reply_is_outside_of_the_tags() {
        assert_eq!(answer_part("hi"), "hi");
        assert_eq!(answer_part("<think>hm</think>\n\nhi"), "\n\nhi");
        assert_eq!(answer_part("hm</think>hi"), "hi");
        assert_eq!(answer_part("hi <think>hm"), "hi ");
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
