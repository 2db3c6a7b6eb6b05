//! The vocabulary in a GGUF file's metadata as the `tokenizer.json` that it was made from. Owns what
//! the names of pre-tokenizers stand for; what such a file may say is `tokenizer.rs`'s.

use super::metadata::{Metadata, Texts};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Splits text into letters with one character before them, up to three digits, punctuation with
/// the line ends behind it, and white space: Llama 3's pattern, as its tokenizer.json has it.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits: Qwen's pattern.
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What one name of a pre-tokenizer stands for.
struct Pre {
    name: &'static str,
    pattern: &'static str,
    /// A piece that is a token stays one, whatever the merges say.
    ignore_merges: bool,
    /// Text is composed (NFC) first.
    is_composed: bool,
}

/// `smaug-bpe` is what the converter calls Llama 3's tokenizer without a token in front, SmolLM3's.
const PRE_TOKENIZERS: [Pre; 3] = [
    Pre { name: "llama-bpe", pattern: LLAMA_3, ignore_merges: true, is_composed: false },
    Pre { name: "smaug-bpe", pattern: LLAMA_3, ignore_merges: true, is_composed: false },
    Pre { name: "qwen2", pattern: QWEN_2, ignore_merges: false, is_composed: true },
];

/// GGUF's name for a way to split text, `None` if it has none. `begins_with_token` tells Llama 3's
/// tokenizer from the same one without a token in front.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn pre_tokenizer_name(
    pattern: &str,
    ignore_merges: bool,
    is_composed: bool,
    begins_with_token: bool,
) -> Option<&'static str> {
    let is_it = |pre: &&Pre| {
        pre.pattern == pattern
            && (pre.ignore_merges, pre.is_composed) == (ignore_merges, is_composed)
            && begins_with_token == (pre.name == "llama-bpe")
    };
    PRE_TOKENIZERS.iter().find(is_it).map(|pre| pre.name)
}

/// What a name stands for: the pattern, whether merges are ignored, whether text is composed first.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn pre_tokenizer(name: &str) -> Option<(&'static str, bool, bool)> {
    let pre = PRE_TOKENIZERS.iter().find(|pre| pre.name == name)?;
    Some((pre.pattern, pre.ignore_merges, pre.is_composed))
}

/// Values of `tokenizer.ggml.token_type`.
mod token_type {
    /// Special. The converter also gives this to tokens that only look special (`<|…|>`), so a few
    /// that tokenizer.json would leave in decoded text are left out of it.
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
    /// Fills the vocabulary up; no text gives it.
    pub const UNUSED: i64 = 5;
}

/// `tokenizer.json`, or `None` for a file without a vocabulary.
///
/// # Errors
/// [`Error::Unsupported`] for another kind of vocabulary or pre-tokenizer, [`Error::Config`] for a
/// value of another type, [`Error::Tokenizer`] for lists that contradict each other.
pub fn tokenizer_json(metadata: &Metadata) -> Result<Option<Vec<u8>>> {
    let Some(model) = metadata.text("tokenizer.ggml.model")? else { return Ok(None) };
    let unsupported = |what: String, supported: String| Error::Unsupported {
        what: format!("{}: {what}", metadata.label()),
        reason: format!("tokenizers are read from {supported}"),
    };
    match model {
        "gpt2" => {}
        // `no_vocab` is what the converter writes where there is none.
        "none" | "no_vocab" => return Ok(None),
        other => {
            let supported = "gpt2 (byte-level BPE)".into();
            return Err(unsupported(format!("tokenizer model {other:?}"), supported));
        }
    }
    let name = metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let pre = PRE_TOKENIZERS.iter().find(|pre| pre.name == name).ok_or_else(|| {
        let names = PRE_TOKENIZERS.map(|pre| pre.name).join(", ");
        let supported = format!("{names}; a tokenizer.json beside the file is used instead");
        unsupported(format!("pre-tokenizer {name:?}"), supported)
    })?;
    let needed =
        |key: &str| metadata.texts(key)?.ok_or_else(|| metadata.error(key, "it is missing"));
    let tokens = needed("tokenizer.ggml.tokens")?;
    let merges = needed("tokenizer.ggml.merges")?;
    let key = "tokenizer.ggml.token_type";
    let types = metadata.integers(key)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        let reason = format!("{} types for {} tokens", types.len(), tokens.len());
        return Err(metadata.error(key, reason));
    }
    Ok(Some(document(pre, tokens, types, merges)?.into_bytes()))
}

/// Written piece by piece: as a tree, a large vocabulary would take ten times its text.
fn document(pre: &Pre, tokens: &Texts, types: &[i64], merges: &Texts) -> Result<String> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                            "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": pre.pattern}, "behavior": "Isolated",
                       "invert": false});
    let normalizer = if pre.is_composed { json!({"type": "NFC"}) } else { Value::Null };
    let mut vocab = Joined::default();
    let mut added = Joined::default();
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        let ty = types.get(id).copied().unwrap_or_default();
        if ty == token_type::UNUSED {
            continue;
        }
        if !seen.insert(token) {
            return Err(Error::Tokenizer { reason: format!("token {token:?} has two ids") });
        }
        match ty {
            token_type::CONTROL | token_type::USER_DEFINED => added.push(&json!({
                "id": id, "content": token, "special": ty == token_type::CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })),
            _ => {
                vocab.push(&json!(token));
                vocab.0.push_str(&format!(":{id}"));
            }
        }
    }
    let mut pairs = Joined::default();
    for merge in merges.iter() {
        pairs.push(&json!(merge));
    }
    Ok(format!(
        r#"{{"version":"1.0","added_tokens":[{}],"normalizer":{normalizer},"pre_tokenizer":{{"type":"Sequence","pretokenizers":[{split},{byte_level}]}},"post_processor":null,"decoder":{{"type":"ByteLevel"}},"model":{{"type":"BPE","ignore_merges":{},"vocab":{{{}}},"merges":[{}]}}}}"#,
        added.0, pre.ignore_merges, vocab.0, pairs.0
    ))
}

/// JSON values with commas between them.
#[derive(Default)]
struct Joined(String);

impl Joined {
    fn push(&mut self, value: &Value) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&value.to_string());
    }
}
