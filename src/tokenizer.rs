//! Text to token ids and back. Owns the check of `tokenizer.json` and streaming decoding; the
//! byte-pair merging itself is the `tokenizers` crate's.
//!
//! Source: the Hugging Face `tokenizer.json` format, byte-level BPE as SmolLM3 and Qwen3 use it.
//! The crate indexes its tables unchecked, so a file is validated here and handed over renumbered
//! (dense ids, added tokens last); [`Tokenizer`] translates back to the ids the file declares.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

/// Largest `tokenizer.json` accepted, in bytes. A 256k vocabulary takes about 35 MB.
pub const MAX_TOKENIZER_BYTES: usize = 64 << 20;
/// Ids must be smaller than this, as `vocab_size` in config.json.
const MAX_TOKEN_ID: u64 = 1 << 22;
const MAX_TOKEN_BYTES: usize = 4096;
const MAX_ADDED_TOKENS: usize = 1 << 16;
/// The crate keeps merges between its first 512 symbols in a grid with 16-bit indices.
const GRID_SYMBOLS: usize = 512;
const MAX_GRID_MERGES: usize = 1 << 15;
/// Marks a crate id that stands for no token: a byte which the file's vocabulary lacks.
const NO_TOKEN: u32 = u32::MAX;

/// A byte-level BPE tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    /// Ids of the crate to ids of the file.
    file_ids: Vec<u32>,
    /// All token bytes, one after the other.
    bytes: Vec<u8>,
    /// Per id of the file: the end of its bytes; they start where the previous ones end.
    ends: Vec<u32>,
    ids: HashMap<Box<str>, u32>,
    /// Ascending.
    special_ids: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.vocab_size())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for anything but a consistent byte-level BPE tokenizer.
    pub fn from_json(bytes: &[u8]) -> Result<Tokenizer> {
        if bytes.len() > MAX_TOKENIZER_BYTES {
            return Err(bad(format!(
                "{} bytes, at most {MAX_TOKENIZER_BYTES} are read",
                bytes.len()
            )));
        }
        let root: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let mut root = match root {
            Value::Object(map) => map,
            _ => return Err(bad("tokenizer.json is not a JSON object")),
        };
        check_components(&root)?;
        let added = AddedToken::read_all(root.remove("added_tokens"))?;
        let mut model = match root.remove("model") {
            Some(Value::Object(model)) => model,
            _ => return Err(bad("`model` is missing or not an object")),
        };
        check_model_options(&model)?;
        let vocab = read_vocab(model.remove("vocab"))?;
        let merges = read_merges(model.remove("merges"), &vocab)?;
        let ignore_merges = flag(&model, "ignore_merges")?.unwrap_or(false);

        // The file's tokens by rising id, then a stand-in for each byte without a token of its
        // own, then the added tokens: exactly the ids which the crate will assign.
        let mut tokens: Vec<(&str, u32)> = vocab.iter().map(|(t, &id)| (t.as_str(), id)).collect();
        tokens.sort_unstable_by_key(|&(_, id)| id);
        let alphabet = byte_alphabet();
        let mut crate_vocab = Map::new();
        let mut file_ids = Vec::with_capacity(tokens.len() + alphabet.len() + added.len());
        for &(token, id) in &tokens {
            crate_vocab.insert(token.to_string(), json!(file_ids.len()));
            file_ids.push(id);
        }
        for character in alphabet {
            if !vocab.contains_key(character.encode_utf8(&mut [0; 4]) as &str) {
                crate_vocab.insert(character.to_string(), json!(file_ids.len()));
                file_ids.push(NO_TOKEN);
            }
        }
        if file_ids.contains(&NO_TOKEN) && model.get("unk_token").is_some_and(|t| !t.is_null()) {
            return Err(bad("an `unk_token` beside an incomplete byte alphabet is not supported"));
        }
        let mut crate_added = Vec::with_capacity(added.len());
        for token in &added {
            let id = match vocab.get(token.content.as_str()) {
                Some(&id) if id == token.id => crate_vocab[&token.content].clone(),
                Some(&id) => {
                    return Err(bad(format!(
                        "added token {:?} has id {}, the vocabulary says {id}",
                        token.content, token.id
                    )));
                }
                None if crate_vocab.contains_key(&token.content) => {
                    return Err(bad(format!(
                        "added token {:?} is a byte that the vocabulary lacks",
                        token.content
                    )));
                }
                None => {
                    file_ids.push(token.id);
                    json!(file_ids.len() - 1)
                }
            };
            let mut entry = token.flags.clone();
            entry.insert("id".into(), id);
            entry.insert("content".into(), json!(token.content));
            crate_added.push(Value::Object(entry));
        }

        let mut document = json!({
            "added_tokens": crate_added,
            "normalizer": root.remove("normalizer"),
            "pre_tokenizer": root.remove("pre_tokenizer"),
            "model": {
                "type": "BPE",
                "vocab": crate_vocab,
                "merges": merges,
                "ignore_merges": ignore_merges,
            },
        });
        let pipeline = build_pipeline(&mut document)?;
        drop(document);
        let mut tokenizer = Tokenizer {
            pipeline,
            file_ids,
            bytes: Vec::new(),
            ends: Vec::new(),
            ids: HashMap::new(),
            special_ids: Vec::new(),
        };
        tokenizer.index_tokens(&tokens, &added)?;
        // The crate reports a split pattern that it does not know only when it meets text.
        tokenizer.encode("a 1")?;
        Ok(tokenizer)
    }

    /// Fills the tables by id of the file.
    fn index_tokens(&mut self, tokens: &[(&str, u32)], added: &[AddedToken]) -> Result<()> {
        let mut by_id: Vec<(u32, &str, bool)> =
            tokens.iter().map(|&(t, id)| (id, t, false)).collect();
        for token in added {
            match tokens.binary_search_by_key(&token.id, |&(_, id)| id) {
                Ok(at) if tokens[at].0 == token.content => by_id[at].2 = true,
                Ok(at) => {
                    return Err(bad(format!(
                        "id {} belongs to {:?} and to the added token {:?}",
                        token.id, tokens[at].0, token.content
                    )));
                }
                Err(_) => by_id.push((token.id, &token.content, true)),
            }
        }
        by_id.sort_unstable();
        let bytes_of: HashMap<char, u8> = byte_alphabet().into_iter().zip(0..=255).collect();
        for (id, text, is_added) in by_id {
            self.ends.resize(id as usize, self.bytes.len() as u32);
            let start = self.bytes.len();
            // An added token is stored as it reads; so is one with characters that stand for no
            // byte.
            let raw = is_added || text.chars().any(|c| !bytes_of.contains_key(&c));
            if raw {
                self.bytes.extend_from_slice(text.as_bytes());
            } else {
                self.bytes.extend(text.chars().map(|c| bytes_of[&c]));
            }
            debug_assert!(self.bytes.len() > start);
            self.ends.push(self.bytes.len() as u32);
            self.ids.insert(text.into(), id);
        }
        self.special_ids = added.iter().filter(|t| t.special).map(|t| t.id).collect();
        self.special_ids.sort_unstable();
        Ok(())
    }

    /// The ids of `text`, as `tokenizer(text, add_special_tokens=False)` gives them: special
    /// tokens inside the text become their ids, nothing is added around it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the crate refuses the text (longer than 4 GiB).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens: Vec<PipelineToken> = Vec::new();
        self.pipeline
            .encode_into(text, &EncodeOptions::no_specials(), &mut tokens)
            .map_err(|e| bad(e.to_string()))?;
        // A byte that the vocabulary lacks is dropped, as the reference's tokenizer does without
        // an unknown token.
        Ok(tokens
            .into_iter()
            .map(|token| self.file_ids[token.id() as usize])
            .filter(|&id| id != NO_TOKEN)
            .collect())
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD, unknown ids nothing.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            if !(skip_special_tokens && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// A decoder that takes one id at a time and leaves special tokens out.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, pending: Vec::new() }
    }

    /// One more than the largest id; the model's vocabulary must be at least this large.
    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    /// The id of a token as tokenizer.json spells it, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The ids of all special tokens, ascending.
    pub fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    /// True for a token that decoding leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    /// The bytes a token stands for, not necessarily UTF-8; empty for an unknown id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else {
            return &[];
        };
        let start = match id {
            0 => 0,
            _ => self.ends[id as usize - 1],
        };
        &self.bytes[start as usize..end as usize]
    }
}

/// Turns ids into text piece by piece; see [`Tokenizer::decode_stream`]. The pieces and the last
/// one of [`DecodeStream::finish`] together are what [`Tokenizer::decode`] gives.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The beginning of a character; at most three bytes between calls.
    pending: Vec<u8>,
}

impl DecodeStream<'_> {
    /// The text that `id` completes; empty while a character is still forming.
    pub fn push(&mut self, id: u32) -> String {
        if !self.tokenizer.is_special(id) {
            self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        }
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, tail) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = tail;
                    match e.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[len..];
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left when no more ids come: a cut character shows as U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

struct AddedToken {
    id: u32,
    content: String,
    special: bool,
    /// The five flags, as the file has them.
    flags: Map<String, Value>,
}

impl AddedToken {
    /// By rising id.
    fn read_all(value: Option<Value>) -> Result<Vec<AddedToken>> {
        let list = match value {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= MAX_ADDED_TOKENS => list,
            Some(Value::Array(list)) => {
                return Err(bad(format!("{} added tokens are too many", list.len())));
            }
            Some(_) => return Err(bad("`added_tokens` is not a list")),
        };
        let mut tokens = Vec::with_capacity(list.len());
        let (mut ids, mut contents) = (HashSet::new(), HashSet::new());
        for entry in &list {
            let Value::Object(entry) = entry else {
                return Err(bad("an added token is not an object"));
            };
            let content = match entry.get("content") {
                Some(Value::String(s)) if !s.is_empty() && s.len() <= MAX_TOKEN_BYTES => s.clone(),
                _ => return Err(bad("an added token has no usable `content`")),
            };
            let id = token_id(entry.get("id"), &content)?;
            if !ids.insert(id) || !contents.insert(content.clone()) {
                return Err(bad(format!("added token {content:?} (id {id}) occurs twice")));
            }
            let mut flags = Map::new();
            for name in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
                flags.insert(name.into(), json!(flag(entry, name)?.unwrap_or(false)));
            }
            tokens.push(AddedToken {
                id,
                special: flags["special"] == json!(true),
                content,
                flags,
            });
        }
        tokens.sort_unstable_by_key(|t| t.id);
        Ok(tokens)
    }
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Tokenizer { reason: reason.into() }
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<Option<bool>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(b)) => Ok(Some(*b)),
        Some(v) => Err(bad(format!("`{key}` is {v}, expected true or false"))),
    }
}

fn token_id(value: Option<&Value>, token: &str) -> Result<u32> {
    value.and_then(Value::as_u64).filter(|&id| id < MAX_TOKEN_ID).map(|id| id as u32).ok_or_else(
        || {
            let mut token = token.to_string();
            token.truncate(token.floor_char_boundary(64));
            bad(format!("token {token:?} has no id below {MAX_TOKEN_ID}"))
        },
    )
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("(none)")
}

/// Only what byte-level BPE models ship is let through to the crate.
fn check_components(root: &Map<String, Value>) -> Result<()> {
    match root.get("normalizer") {
        None | Some(Value::Null) => {}
        Some(n) if kind(n) == "NFC" => {}
        Some(n) => return Err(bad(format!("the normalizer {} is not supported", kind(n)))),
    }
    let only_byte_level = || bad("only byte-level tokenizers are supported");
    let pre = root.get("pre_tokenizer").ok_or_else(only_byte_level)?;
    let members = match pre.get("pretokenizers") {
        Some(Value::Array(list)) if kind(pre) == "Sequence" => list.as_slice(),
        _ => std::slice::from_ref(pre),
    };
    let (last, splits) = members.split_last().ok_or_else(only_byte_level)?;
    if kind(last) != "ByteLevel" || last.get("add_prefix_space") != Some(&json!(false)) {
        return Err(only_byte_level());
    }
    for split in splits {
        let pattern = split.get("pattern").and_then(|p| p.get("Regex"));
        match kind(split) {
            "Digits" => {}
            "Split" if pattern.and_then(Value::as_str).is_some_and(|p| !p.is_empty()) => {}
            other => return Err(bad(format!("the pre-tokenizer {other} is not supported"))),
        }
    }
    match root.get("decoder") {
        None | Some(Value::Null) => Ok(()),
        Some(d) if kind(d) == "ByteLevel" => Ok(()),
        Some(d) => Err(bad(format!("the decoder {} is not supported", kind(d)))),
    }
}

fn check_model_options(model: &Map<String, Value>) -> Result<()> {
    if model.get("type").is_some_and(|t| t != "BPE") {
        return Err(bad("only `BPE` models are supported"));
    }
    if flag(model, "byte_fallback")?.unwrap_or(false) {
        return Err(bad("`byte_fallback` is not supported"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.get(key).is_some_and(|v| !v.is_null() && v != "") {
            return Err(bad(format!("`{key}` is not supported")));
        }
    }
    match model.get("dropout") {
        None | Some(Value::Null) => Ok(()),
        Some(p) if p.as_f64() == Some(0.0) => Ok(()),
        Some(_) => Err(bad("`dropout` is not supported")),
    }
}

fn read_vocab(value: Option<Value>) -> Result<HashMap<String, u32>> {
    let Some(Value::Object(entries)) = value else {
        return Err(bad("`model.vocab` is missing or not an object"));
    };
    let mut vocab = HashMap::with_capacity(entries.len());
    let mut seen = HashSet::with_capacity(entries.len());
    for (token, id) in entries {
        let id = token_id(Some(&id), &token)?;
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(bad(format!("token {id} is empty or too long")));
        }
        if !seen.insert(id) {
            return Err(bad(format!("id {id} belongs to two tokens")));
        }
        vocab.insert(token, id);
    }
    Ok(vocab)
}

/// Checks that every merge joins two tokens of the vocabulary to a third, and that the crate's
/// table of the most frequent ones can hold them.
fn read_merges(value: Option<Value>, vocab: &HashMap<String, u32>) -> Result<Vec<Value>> {
    let Some(Value::Array(list)) = value else {
        return Err(bad("`model.merges` is missing or not a list"));
    };
    let mut merges = Vec::with_capacity(list.len());
    let mut pairs = HashSet::with_capacity(list.len());
    // First rank of each product.
    let mut products: HashMap<u32, usize> = HashMap::new();
    for (rank, merge) in list.into_iter().enumerate() {
        let (left, right) = match &merge {
            Value::String(s) if s.starts_with("#version") => continue,
            Value::String(s) => s.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => {
                    Some((left.as_str(), right.as_str()))
                }
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| bad(format!("merge {rank} is not a pair of tokens")))?;
        let id = |token: &str| {
            vocab
                .get(token)
                .copied()
                .ok_or_else(|| bad(format!("merge {rank} names a token outside the vocabulary")))
        };
        let (a, b, product) = (id(left)?, id(right)?, id(&format!("{left}{right}"))?);
        if pairs.insert((a, b)) {
            products.entry(product).or_insert(rank);
        }
        merges.push(json!([left, right]));
    }
    // The crate numbers symbols: tokens that no merge makes, by id, then products by rank. Bytes
    // without a token come among the former and can only push others out of the grid.
    let mut symbols: Vec<(usize, u32)> =
        vocab.values().map(|id| (products.get(id).map_or(0, |rank| rank + 1), *id)).collect();
    symbols.sort_unstable();
    let grid: HashSet<u32> = symbols.iter().take(GRID_SYMBOLS).map(|s| s.1).collect();
    let in_grid = |(a, b): &&(u32, u32)| grid.contains(a) && grid.contains(b);
    if pairs.iter().filter(in_grid).count() > MAX_GRID_MERGES {
        return Err(bad("too many merges between single characters"));
    }
    Ok(merges)
}

fn build_pipeline(document: &mut Value) -> Result<PipelineTokenizer> {
    tokenizers::canonicalize_value(document).map_err(|e| bad(e.to_string()))?;
    let text = document.to_string();
    let build = || tokenizers::from_json(&text).map_err(|e| bad(e.to_string()));
    // The crate asserts on what it calls astronomically unlikely (hash collisions). Where panics
    // unwind, even a file made for that is an error.
    #[cfg(not(target_arch = "wasm32"))]
    return std::panic::catch_unwind(build)
        .unwrap_or_else(|_| Err(bad("the vocabulary cannot be indexed")));
    #[cfg(target_arch = "wasm32")]
    build()
}

/// The printable character that stands for each byte in a byte-level vocabulary (GPT-2).
pub(crate) fn byte_alphabet() -> [char; 256] {
    let mut alphabet = ['\0'; 256];
    let mut next = 256;
    for (byte, character) in (0u32..).zip(alphabet.iter_mut()) {
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
            _ => {
                next += 1;
                next - 1
            }
        };
        *character = char::from_u32(code).unwrap_or('\0');
    }
    alphabet
}

#[cfg(test)]
pub(crate) mod tests;
