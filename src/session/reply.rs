//! A reply as it forms: text in, pieces of thought and answer out. Owns what of it is shown when, and
//! what it comes to; which tokens it has is `generate.rs`'s.

use super::StopReason;
use crate::chat::{ThinkPiece, ThinkSplitter};
use crate::sampler::StopStrings;
use crate::tool_calls::ToolCallSplitter;
use std::ops::ControlFlow;

pub(super) struct Reply<'a> {
    /// Everything generated, tags included: what the history will hold.
    pub text: String,
    pub generated_ids: Vec<u32>,
    pub stop_reason: StopReason,
    pub splitter: ThinkSplitter,
    pub stops: StopStrings,
    /// Set if calls of tools are taken out of the answer.
    pub tools: Option<ToolCallSplitter>,
    pub thoughts: String,
    pub answer: String,
    pub on_piece: &'a mut dyn FnMut(&ThinkPiece) -> ControlFlow<()>,
    pub is_cancelled: bool,
}

impl Reply<'_> {
    /// Takes the text that a token completes, before the token is fed.
    pub fn push(&mut self, text: &str) {
        let shown = self.stops.push(text);
        self.show(&shown);
    }

    fn show(&mut self, text: &str) {
        self.text.push_str(text);
        for piece in self.splitter.push(text) {
            self.take(piece);
        }
    }

    fn take(&mut self, piece: ThinkPiece) {
        match (piece, &mut self.tools) {
            (ThinkPiece::Answer(text), Some(tools)) => {
                let shown = tools.push(&text);
                self.emit(ThinkPiece::Answer(shown));
            }
            (piece, _) => self.emit(piece),
        }
    }

    fn emit(&mut self, piece: ThinkPiece) {
        match &piece {
            ThinkPiece::Thought(text) | ThinkPiece::Answer(text) if text.is_empty() => return,
            ThinkPiece::Thought(text) => self.thoughts.push_str(text),
            ThinkPiece::Answer(text) => self.answer.push_str(text),
        }
        self.is_cancelled |= (self.on_piece)(&piece).is_break();
    }

    /// Calls of tools that are whole.
    pub fn n_calls(&self) -> usize {
        self.tools.as_ref().map_or(0, |tools| tools.calls().len())
    }

    /// What was held back, when no more tokens come.
    pub fn finish(&mut self, rest: &str) {
        self.push(rest);
        if !self.stops.is_stopped() {
            let held = self.stops.finish();
            self.show(&held);
        }
        let splitter = std::mem::replace(&mut self.splitter, ThinkSplitter::new(""));
        for piece in splitter.finish() {
            self.take(piece);
        }
        if let Some(tools) = &mut self.tools {
            let held = tools.finish();
            self.emit(ThinkPiece::Answer(held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces; what was shown, and the reply.
    fn shown(pieces: &[&str], tools: Option<ToolCallSplitter>) -> (Vec<ThinkPiece>, usize, String) {
        let mut all = Vec::new();
        let mut on_piece = |piece: &ThinkPiece| {
            all.push(piece.clone());
            ControlFlow::Continue(())
        };
        let mut reply = Reply {
            text: String::new(),
            generated_ids: Vec::new(),
            stop_reason: StopReason::MaxTokens,
            splitter: ThinkSplitter::new(""),
            stops: StopStrings::new(Vec::new()).unwrap(),
            tools,
            thoughts: String::new(),
            answer: String::new(),
            on_piece: &mut on_piece,
            is_cancelled: false,
        };
        pieces.iter().for_each(|piece| reply.push(piece));
        reply.finish("");
        assert_eq!(reply.text, pieces.concat());
        let n_calls = reply.tools.as_ref().map_or(0, |tools| tools.calls().len());
        let answer = reply.answer;
        (all, n_calls, answer)
    }

    #[test]
    fn calls_are_held_back_from_the_answer_and_only_there() {
        let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
        let reply = format!("<think>{call}</think>Now {call}.");
        let letters: Vec<String> = reply.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let tools = ToolCallSplitter::new(&[serde_json::json!({ "name": "now" })]);
        let (pieces, n_calls, answer) = shown(&letters, Some(tools));
        assert_eq!((n_calls, answer.as_str()), (1, "Now ."));
        let joined: String = pieces
            .iter()
            .filter_map(|piece| match piece {
                ThinkPiece::Thought(text) => Some(text.as_str()),
                ThinkPiece::Answer(_) => None,
            })
            .collect();
        assert_eq!(joined, call);
        assert!(!pieces.contains(&ThinkPiece::Answer(String::new())));
        // without tools it is text
        let (_, n_calls, answer) = shown(&letters, None);
        assert_eq!((n_calls, answer), (0, format!("Now {call}.")));
        // the beginning of a call that never came
        let tools = ToolCallSplitter::new(&[]);
        assert_eq!(shown(&["a <tool", "_ca"], Some(tools)).2, "a <tool_ca");
    }
}
