//! Replies that are calls of tools and nothing else. Owns their way from part to part: the beginning
//! with the tool's name, the arguments by that tool's schema, the end, and perhaps one more. Each part
//! has a grammar of its own, so that a schema stays the root of its references.

use super::{
    Constraint, ConstraintVocabulary, MAX_REGEX_BYTES, bad, json_grammar, object_schema,
    regex_grammar,
};
use crate::error::{Error, Result};
use crate::tool_calls::{JSON_CLOSE, JSON_OPEN, name_of, schema_of};
use llguidance::Matcher;
use llguidance::toktrie::TokEnv;
use serde_json::{Value, json};

/// Most tools that a reply can be held to.
pub const MAX_TOOLS: usize = 128;

pub(super) struct CallSteps {
    tokens: TokEnv,
    /// At the beginning of each part.
    begin: Matcher,
    /// By what stands for the tool's name in the beginning.
    arguments: Vec<(String, Matcher)>,
    end: Matcher,
    /// The reply may end with it, or go on with another call.
    end_or_more: Matcher,
    step: Step,
    n_left: usize,
    /// The present beginning, as far as it has come.
    text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    Arguments,
    End,
}

impl CallSteps {
    /// For one to `most` calls of these tools, and the matcher to begin with.
    pub fn new(
        tools: &[Value],
        most: usize,
        vocabulary: &ConstraintVocabulary,
    ) -> Result<(CallSteps, Matcher)> {
        if tools.is_empty() || tools.len() > MAX_TOOLS {
            return Err(bad(format!("a call is of one of 1 to {MAX_TOOLS} tools")));
        }
        // together no more than one schema may be: each is compiled before anything is fed
        let together: Vec<Value> = tools.iter().filter_map(schema_of).cloned().collect();
        object_schema(&json!({ "anyOf": together }))?;
        let mut arguments = Vec::new();
        for tool in tools {
            let Some(name) = name_of(tool) else { return Err(bad("a tool has no name")) };
            let of_tool = |error| match error {
                Error::Constraint { reason } => bad(format!("the tool {name}: {reason}")),
                other => other,
            };
            let schema = arguments_schema(schema_of(tool)).map_err(of_tool)?;
            let matcher = vocabulary.json_matcher(schema).map_err(of_tool)?;
            arguments.push((json!(name).to_string(), matcher));
        }
        let names: Vec<String> = arguments.iter().map(|(name, _)| regex::escape(name)).collect();
        let begin = format!(r#"{JSON_OPEN}\n\{{"name": ({}), "arguments": "#, names.join("|"));
        if begin.len() > MAX_REGEX_BYTES {
            return Err(bad("the names of the tools are too long"));
        }
        let end = format!(r"\}}\n{JSON_CLOSE}");
        let parser = |pattern: &str| vocabulary.parser(|| regex_grammar(pattern));
        let begin = parser(&begin)?;
        let steps = CallSteps {
            tokens: vocabulary.factory.tok_env().clone(),
            arguments,
            end: parser(&end)?,
            end_or_more: parser(&format!(r"{end}\n?"))?,
            step: Step::Begin,
            n_left: most.max(1),
            text: Vec::new(),
            begin: begin.deep_clone(),
        };
        Ok((steps, begin))
    }

    /// A token of the present part came.
    pub fn accept(&mut self, token: u32) {
        if self.step == Step::Begin {
            self.text.extend(self.tokens.tok_trie().token(token));
        }
    }

    /// What comes behind a part that is complete; `None` at the end of the reply.
    pub fn next(&mut self) -> Option<Matcher> {
        let (step, matcher) = match self.step {
            Step::Begin => {
                let text = String::from_utf8_lossy(&self.text).into_owned();
                self.text.clear();
                let named = |(name, _): &&(String, Matcher)| text.contains(&format!(": {name}, "));
                (Step::Arguments, &self.arguments.iter().find(named)?.1)
            }
            Step::Arguments => {
                self.n_left -= 1;
                (Step::End, if self.n_left == 0 { &self.end } else { &self.end_or_more })
            }
            Step::End if self.n_left == 0 => return None,
            Step::End => (Step::Begin, &self.begin),
        };
        self.step = step;
        Some(matcher.deep_clone())
    }
}

/// Arguments are an object, whatever else a schema says; without one any object is.
fn arguments_schema(schema: Option<&Value>) -> Result<Value> {
    let mut schema = match schema {
        None | Some(Value::Null) => json!({}),
        Some(schema) => object_schema(schema)?,
    };
    match schema.get("type") {
        None => schema["type"] = "object".into(),
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(bad("arguments are an object, its schema says otherwise")),
    }
    Ok(schema)
}

impl Constraint {
    /// Whether the reply is calls of tools.
    pub(crate) fn is_calls(&self) -> bool {
        matches!(self, Constraint::ToolCalls { .. })
    }
}

impl ConstraintVocabulary {
    /// A matcher of JSON that a checked schema accepts.
    pub(super) fn json_matcher(&self, schema: Value) -> Result<Matcher> {
        if !schema.to_string().is_ascii() {
            // The crate cuts what it cites in messages about misplaced values anywhere, even inside a
            // character, which panics. Without such characters the same fault is only an error.
            self.parser(|| Ok(json_grammar(super::ascii(&schema))))?;
        }
        self.parser(|| Ok(json_grammar(schema)))
    }
}
