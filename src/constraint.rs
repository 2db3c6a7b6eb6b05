//! Replies that must match something: a JSON Schema, any JSON object, a regular expression. Owns what
//! a caller can ask for, its limits, and which tokens may come next; the grammars themselves are the
//! `llguidance` crate's. Where in a reply a constraint begins is `session/guide.rs`'s.
//!
//! Constraints come from a page's own code or from its users, so work and memory are bounded: text
//! that asks for too much is refused, when it is compiled or while the reply forms.

mod calls;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use calls::CallSteps;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::derivre::RegexAst;
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::earley::{Grammar, SymbolProps};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, panic_utils, regex_to_lark};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Longest regular expression accepted, in bytes.
pub const MAX_REGEX_BYTES: usize = 16 << 10;
/// Largest schema accepted, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema's JSON.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// Most work that a schema's lists of properties and alternatives may come to. A list of n takes n²
/// steps, about a second for what is allowed.
const MAX_SCHEMA_WORK: u64 = 1 << 20;
/// Longer tokens never come in a constrained reply.
const MAX_TOKEN_BYTES: usize = 256;
/// The crate's prefix tree counts its nodes, at most one a byte, in 22 bits.
const MAX_VOCABULARY_BYTES: usize = (1 << 22) - 1;
/// What may stand between the parts of JSON; a weak model must not get lost in white space.
const JSON_SPACE: &str = r" |\n[ \t]{0,20}";
/// Longest message that is passed on from the crate.
const MAX_MESSAGE_BYTES: usize = 500;

/// What a whole reply must match. After thoughts it begins behind `</think>`.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// JSON that this schema accepts. Properties come in the schema's order.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that matches this regular expression as a whole: JavaScript's syntax without
    /// look-around, back-references and word boundaries; `^` and `$` at the ends say nothing.
    Regex(String),
    /// Calls of tools as `<tool_call>` has them: at least one, at most `most`, of `tools` (JSON
    /// descriptions, OpenAI's or bare), with the arguments that their schemas accept.
    ToolCalls { tools: Vec<Value>, most: usize },
}

/// A model's tokens as a prefix tree: made once, used by every constrained reply.
pub struct ConstraintVocabulary {
    factory: ParserFactory,
    /// Tokens that end a reply, in range.
    eos: Vec<u32>,
    n_rows: usize,
}

impl std::fmt::Debug for ConstraintVocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConstraintVocabulary({} rows)", self.n_rows)
    }
}

impl ConstraintVocabulary {
    /// For a model with `n_rows` logits. Special tokens and those of `eos_token_ids` stand for no
    /// text.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a vocabulary beyond what the grammars can index.
    pub fn new(
        tokenizer: &Tokenizer,
        eos_token_ids: &[u32],
        n_rows: usize,
    ) -> Result<ConstraintVocabulary> {
        let rows = 0..n_rows as u32;
        let eos: Vec<u32> = eos_token_ids.iter().copied().filter(|id| rows.contains(id)).collect();
        let text = |id: u32| match tokenizer.token_bytes(id) {
            bytes if bytes.len() > MAX_TOKEN_BYTES => Vec::new(),
            _ if tokenizer.is_special(id) || eos.contains(&id) => Vec::new(),
            bytes => bytes.to_vec(),
        };
        let words: Vec<Vec<u8>> = rows.map(text).collect();
        if words.iter().map(Vec::len).sum::<usize>() > MAX_VOCABULARY_BYTES {
            return Err(bad("the model's vocabulary is too large for constraints"));
        }
        let make = || {
            let info = TokRxInfo::new(n_rows as u32, eos.first().copied().unwrap_or(u32::MAX));
            let mut trie = TokTrie::from(&info, &words);
            if !eos.is_empty() {
                trie = trie.with_eos_tokens(&eos);
            }
            let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            // Slices of the vocabulary for common cases cost more memory and time here than they
            // save later.
            let mut factory =
                ParserFactory::new(&environment, InferenceCapabilities::default(), &[])?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(factory)
        };
        let factory = panic_utils::catch_unwind(AssertUnwindSafe(make)).map_err(refused)?;
        Ok(ConstraintVocabulary { factory, eos, n_rows })
    }
}

/// What one grammar and one token may take; roughly 50,000 lexer steps or 20,000 items a millisecond.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // one or two kilobytes each
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        // a message with the parser's whole state helps no caller
        verbose_errors: false,
    }
}

impl Constraint {
    /// A matcher at the beginning of a reply.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a schema or an expression that is wrong, too large, never matches,
    /// or says something that cannot be held to.
    pub fn matcher(&self, vocabulary: &ConstraintVocabulary) -> Result<ConstraintMatcher> {
        let any_object = || json!({ "type": "object" });
        let (inner, calls) = match self {
            Constraint::Regex(pattern) => {
                if pattern.len() > MAX_REGEX_BYTES {
                    return Err(bad(format!(
                        "the regular expression has {} bytes, at most {MAX_REGEX_BYTES} are read",
                        pattern.len()
                    )));
                }
                (vocabulary.parser(|| regex_grammar(pattern))?, None)
            }
            Constraint::JsonObject => (vocabulary.parser(|| Ok(json_grammar(any_object())))?, None),
            Constraint::JsonSchema(schema) => {
                (vocabulary.json_matcher(object_schema(schema)?)?, None)
            }
            Constraint::ToolCalls { tools, most } => {
                let (steps, begin) = CallSteps::new(tools, *most, vocabulary)?;
                (begin, Some(steps))
            }
        };
        let mut matcher = ConstraintMatcher {
            inner,
            calls,
            eos: vocabulary.eos.clone(),
            mask: vec![0; vocabulary.n_rows.div_ceil(32)],
        };
        matcher.mask()?;
        Ok(matcher)
    }
}

impl ConstraintVocabulary {
    fn parser(&self, grammar: impl FnOnce() -> anyhow::Result<GrammarInit>) -> Result<Matcher> {
        let make = || self.factory.create_parser_from_init(grammar()?, 0, 0);
        let parser = panic_utils::catch_unwind(AssertUnwindSafe(make)).map_err(refused)?;
        Ok(Matcher::new(Ok(parser)))
    }
}

/// A reply's way through a grammar, token by token.
pub struct ConstraintMatcher {
    inner: Matcher,
    /// What comes after it, where a reply has several parts.
    calls: Option<CallSteps>,
    eos: Vec<u32>,
    mask: Vec<u32>,
}

impl ConstraintMatcher {
    /// Which tokens may come next, `[ceil(n_rows / 32)]`, token i at bit i mod 32 of word i / 32;
    /// tokens that end a reply are among them where it may end.
    ///
    /// # Errors
    /// [`Error::Constraint`] if finding them takes too much, or if no token can go on.
    pub fn mask(&mut self) -> Result<&[u32]> {
        let allowed = self.inner.compute_mask_or_eos().map_err(refused)?;
        let words = allowed.as_slice();
        let n = self.mask.len().min(words.len());
        self.mask.fill(0);
        self.mask[..n].copy_from_slice(&words[..n]);
        match self.mask.iter().all(|word| *word == 0) {
            // a model that cannot end a reply ends it with its grammar, see `is_complete`
            true if !(self.is_complete() && self.eos.is_empty()) => {
                Err(bad("no token of this model can begin or continue such a reply"))
            }
            _ => Ok(&self.mask),
        }
    }

    /// Words of a mask.
    pub fn n_words(&self) -> usize {
        self.mask.len()
    }

    /// Tokens that end a reply.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Goes on with a token that the mask allowed.
    ///
    /// # Errors
    /// [`Error::Constraint`] for another token; the matcher is of no use then.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        self.inner.consume_token(token).map_err(refused)?;
        if let Some(calls) = &mut self.calls {
            calls.accept(token);
            if self.inner.is_stopped()
                && let Some(next) = calls.next()
            {
                self.inner = next;
            }
        }
        Ok(())
    }

    /// True once nothing but the end can come.
    pub fn is_complete(&self) -> bool {
        self.inner.is_stopped()
    }
}

/// The grammar of one expression that the whole reply matches.
fn regex_grammar(pattern: &str) -> anyhow::Result<GrammarInit> {
    let mut lexer = LexerSpec::new()?;
    lexer.regex_builder.unicode(true).utf8(true);
    let grammar_id = lexer.setup_lexeme_class(RegexAst::NoMatch)?;
    // `\d` and `\w` are ASCII in JavaScript
    let pattern = RegexAst::Regex(regex_to_lark(pattern, "dw"));
    let lexeme = lexer.add_greedy_lexeme("reply".into(), pattern, false, None, usize::MAX)?;
    let mut grammar = Grammar::new(None);
    let properties = SymbolProps { grammar_id, ..SymbolProps::default() };
    let start = SymbolProps { is_start: true, ..properties.clone() };
    let start = grammar.fresh_symbol_ext("start", start);
    let reply = grammar.fresh_symbol_ext("reply", properties);
    grammar.make_terminal(reply, lexeme, &lexer)?;
    grammar.add_rule(start, vec![reply])?;
    Ok(GrammarInit::Internal(grammar, lexer))
}

/// The grammar of JSON that an object schema accepts.
fn json_grammar(mut schema: Value) -> GrammarInit {
    // a key of the schema that would change these is replaced
    let options =
        JsonCompileOptions { whitespace_pattern: Some(JSON_SPACE.into()), ..Default::default() };
    options.apply_to(&mut schema);
    GrammarInit::Serialized(TopLevelGrammar::from_json_schema(schema))
}

/// The same schema as an object, if it is one and within bounds.
fn object_schema(schema: &Value) -> Result<Value> {
    fn depth_within(value: &Value, left: usize) -> bool {
        left > 0
            && match value {
                Value::Array(list) => list.iter().all(|item| depth_within(item, left - 1)),
                Value::Object(map) => map.values().all(|item| depth_within(item, left - 1)),
                _ => true,
            }
    }
    let schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(bad("the schema `false` accepts nothing")),
        _ => return Err(bad("a schema is a JSON object")),
    };
    if !depth_within(&schema, MAX_SCHEMA_DEPTH) {
        return Err(bad(format!("the schema is nested deeper than {MAX_SCHEMA_DEPTH}")));
    }
    if work(&schema, "") > MAX_SCHEMA_WORK {
        return Err(bad("the schema has too many properties or alternatives side by side"));
    }
    let n_bytes = schema.to_string().len();
    if n_bytes > MAX_SCHEMA_BYTES {
        let limit = format!("at most {MAX_SCHEMA_BYTES} are read");
        return Err(bad(format!("the schema has {n_bytes} bytes, {limit}")));
    }
    Ok(schema)
}

/// Steps that the crate takes for what it compares pair by pair; `key` is where the value stands.
fn work(value: &Value, key: &str) -> u64 {
    let square = |n: usize| (n as u64).saturating_mul(n as u64);
    let (own, inside): (u64, u64) = match value {
        Value::Object(map) => {
            let weight = if key == "patternProperties" { 100 } else { 1 };
            (weight * square(map.len()), map.iter().map(|(key, value)| work(value, key)).sum())
        }
        Value::Array(list) => {
            let is_compared = matches!(key, "allOf" | "oneOf");
            let own = if is_compared { square(list.len()) } else { 0 };
            (own, list.iter().map(|value| work(value, "")).sum())
        }
        _ => (0, 0),
    };
    own + inside
}

/// The same shape with ASCII text: different words stay different, and references stay whole.
fn ascii(value: &Value) -> Value {
    let text = |text: &str| -> String {
        let letter = |c: char| match c.is_ascii() {
            true => c.to_string(),
            false => format!("x{:x}", u32::from(c)),
        };
        text.chars().map(letter).collect()
    };
    match value {
        Value::String(s) => Value::String(text(s)),
        Value::Array(list) => list.iter().map(ascii).collect(),
        Value::Object(map) => map.iter().map(|(key, v)| (text(key), ascii(v))).collect(),
        other => other.clone(),
    }
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Constraint { reason: reason.into() }
}

/// The crate's message without what is for its developers.
fn refused(error: anyhow::Error) -> Error {
    let text = format!("{error:#}");
    let text = text.split("\n<").next().unwrap_or_default();
    let mut text = text.strip_suffix("<non-verbose/>").unwrap_or(text).trim().to_string();
    if text.len() > MAX_MESSAGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
        text.push('…');
    }
    bad(text)
}

#[cfg(test)]
mod tests;
