//! A `tokenizer.json` as the lists that GGUF keeps. Owns the kinds of tokens and the names of the
//! ways to split text.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::pre_tokenizer_name;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Values of `tokenizer.ggml.token_type`.
mod token_type {
    pub const NORMAL: i32 = 1;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
}

/// A byte-level BPE vocabulary.
pub(super) struct Vocabulary {
    /// GGUF's name for how text is split, if it has one.
    pub pre: Option<&'static str>,
    /// A token is put in front of every text.
    pub begins_with_token: bool,
    /// By id; `[vocab_size]`
    pub tokens: Vec<String>,
    /// `[vocab_size]`
    pub types: Vec<i32>,
    /// `left right`, the first wins.
    pub merges: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Reads `tokenizer.json` for an embedding of `vocab_size` rows.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] as [`Tokenizer::from_json`], and for ids without a row.
    pub fn read(json: &[u8], vocab_size: usize) -> Result<Vocabulary> {
        // All questions of consistency are asked there.
        Tokenizer::from_json(json)?;
        let bad = |reason: String| Error::Tokenizer { reason };
        let root: Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![token_type::UNUSED; vocab_size];
        let mut ids = HashMap::new();
        let mut put = |text: &str, id: Option<u64>, ty: i32| {
            let row = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < vocab_size);
            let Some(row) = row else {
                return Err(bad(format!(
                    "token {text:?} has no row in an embedding of {vocab_size}"
                )));
            };
            (tokens[row], types[row]) = (text.into(), ty);
            ids.insert(text.to_string(), row as u32);
            Ok(())
        };
        for (text, id) in root["model"]["vocab"].as_object().into_iter().flatten() {
            put(text, id.as_u64(), token_type::NORMAL)?;
        }
        for token in root["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let is_control = token["special"].as_bool() == Some(true) || looks_special(text);
            let ty = if is_control { token_type::CONTROL } else { token_type::USER_DEFINED };
            put(text, token["id"].as_u64(), ty)?;
        }
        let merges = root["model"]["merges"].as_array().into_iter().flatten();
        let merges = merges.map(|merge| match (merge.as_str(), &merge[0], &merge[1]) {
            (Some(pair), ..) => pair.to_string(),
            (None, left, right) => {
                format!(
                    "{} {}",
                    left.as_str().unwrap_or_default(),
                    right.as_str().unwrap_or_default()
                )
            }
        });
        let merges = merges.collect();
        let begins_with_token = begins_with_token(&root["post_processor"]);
        Ok(Vocabulary {
            pre: pre(&root, begins_with_token),
            begins_with_token,
            tokens,
            types,
            merges,
            ids,
        })
    }

    /// The id of a token.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }
}

/// Tokens that are control tokens by their looks, whatever the file says; llama.cpp does the same.
fn looks_special(text: &str) -> bool {
    (text.starts_with("<|") && text.ends_with("|>")) || matches!(text, "<pad>" | "<mask>")
}

fn begins_with_token(post_processor: &Value) -> bool {
    let parts = match post_processor["processors"].as_array() {
        Some(parts) => parts.as_slice(),
        None => std::slice::from_ref(post_processor),
    };
    parts.iter().any(|part| part["single"][0].get("SpecialToken").is_some())
}

fn pre(root: &Value, begins_with_token: bool) -> Option<&'static str> {
    let pre = &root["pre_tokenizer"];
    let parts = match pre["pretokenizers"].as_array() {
        Some(parts) => parts.as_slice(),
        None => std::slice::from_ref(pre),
    };
    let mut patterns = parts.iter().filter_map(|part| part["pattern"]["Regex"].as_str());
    let pattern = patterns.next()?;
    if patterns.next().is_some() {
        return None;
    }
    let ignore_merges = root["model"]["ignore_merges"].as_bool() == Some(true);
    let is_composed = root["normalizer"]["type"] == "NFC";
    // llama.cpp finds tokens that no merge leads to under one of the two names only; that this one
    // puts a token in front by default is taken back by `add_bos_token`.
    let as_llama_3 = begins_with_token || (ignore_merges && has_tokens_without_merge(root));
    pre_tokenizer_name(pattern, ignore_merges, is_composed, as_llama_3)
}

fn has_tokens_without_merge(root: &Value) -> bool {
    let merges = root["model"]["merges"].as_array().into_iter().flatten();
    let made: HashSet<String> = merges
        .map(|merge| match merge.as_str() {
            Some(pair) => pair.replacen(' ', "", 1),
            None => merge.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        })
        .collect();
    let tokens = root["model"]["vocab"].as_object().into_iter().flatten();
    tokens.map(|(token, _)| token).any(|t| t.chars().nth(1).is_some() && !made.contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_vocabulary_is_listed_by_id() {
        let json = crate::nano::TOKENIZER;
        let found = Vocabulary::read(json, 6144).unwrap();
        // it has whole words that no merge leads to
        assert_eq!((found.pre, found.begins_with_token), (Some("llama-bpe"), false));
        assert_eq!((found.tokens.len(), found.types.len()), (6144, 6144));
        let end = found.id("<|im_end|>").unwrap();
        assert_eq!(found.tokens[end as usize], "<|im_end|>");
        assert_eq!(found.types[end as usize], token_type::CONTROL);
        let thinks = found.id("<think>").unwrap();
        assert_ne!(found.types[thinks as usize], token_type::UNUSED);
        assert!(found.merges.len() > 500 && found.merges[0].contains(' '));
        // rows that no token has
        let unused = found.types.iter().filter(|&&ty| ty == token_type::UNUSED).count();
        assert!(found.tokens.iter().filter(|t| t.starts_with("[PAD")).count() == unused);
        let mut root: Value = serde_json::from_slice(json).unwrap();
        let merges: HashSet<String> = found.merges.iter().map(|m| m.replace(' ', "")).collect();
        let vocab = root["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|token, _| token.chars().count() == 1 || merges.contains(token));
        let pruned = Vocabulary::read(root.to_string().as_bytes(), 6144).unwrap();
        assert_eq!(pruned.pre, Some("smaug-bpe"));
        let error = Vocabulary::read(json, 6000).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "tokenizer");
    }
}
