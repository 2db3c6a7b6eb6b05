//! A tokenizer for a model without a language: all bytes, then short words of any letters, then
//! special tokens where the real vocabulary has them. Every id has a text.

use crate::config::Architecture;
use crate::tokenizer::byte_alphabet;
use crate::weights::gguf::pre_tokenizer;
use serde_json::{Map, Value, json};

/// `tokenizer_config.json`
pub(super) const TOKENIZER_CONFIG: &[u8] =
    br#"{"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}"#;

/// Messages between their marks, and nothing else.
pub(super) const CHAT_TEMPLATE: &[u8] = b"{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

/// Special tokens by their distance from the first one.
const SMOLLM3: [(usize, &str); 6] = [
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (2, "<think>"),
    (3, "</think>"),
    (11, "<|im_start|>"),
    (12, "<|im_end|>"),
];
const QWEN3: [(usize, &str); 7] = [
    (0, "<|endoftext|>"),
    (1, "<|im_start|>"),
    (2, "<|im_end|>"),
    (14, "<tool_call>"),
    (15, "</tool_call>"),
    (24, "<think>"),
    (25, "</think>"),
];
/// Vocabulary of Qwen3, and how many of it are special or unused.
const QWEN3_VOCABULARY: (usize, usize) = (151_936, 293);

/// `tokenizer.json` with exactly `vocab_size` tokens; `None` if bytes and special tokens do not fit.
pub(super) fn tokenizer_json(architecture: Architecture, vocab_size: usize) -> Option<Vec<u8>> {
    let n_special = match vocab_size {
        n if n == QWEN3_VOCABULARY.0 => QWEN3_VOCABULARY.1,
        4096.. => 256,
        _ => 16,
    };
    let n_words = vocab_size.checked_sub(n_special + 256)?;
    let (pre, special): (_, &[(usize, &str)]) = match architecture {
        Architecture::SmolLm3 => ("smaug-bpe", &SMOLLM3),
        Architecture::Qwen3 => ("qwen2", &QWEN3),
    };
    let (pattern, ignore_merges, is_composed) = pre_tokenizer(pre)?;

    let alphabet = byte_alphabet();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut merges = Vec::with_capacity(n_words);
    // Words grow by one letter at the end, so each has exactly one way to come about.
    let mut left: Vec<String> = vec![alphabet[usize::from(b' ')].to_string()];
    left.extend(('a'..='z').map(String::from));
    while merges.len() < n_words {
        let mut longer = Vec::new();
        for word in &left {
            for letter in 'a'..='z' {
                if merges.len() == n_words {
                    break;
                }
                merges.push(json!([word, letter.to_string()]));
                longer.push(format!("{word}{letter}"));
            }
        }
        tokens.extend(longer.iter().cloned());
        left = longer;
    }
    let first = tokens.len();
    let added: Vec<Value> = (0..n_special)
        .map(|i| {
            let known = special.iter().find(|(at, _)| *at == i).map(|(_, text)| text.to_string());
            json!({
                "id": first + i,
                "content": known.unwrap_or_else(|| format!("<|reserved_special_token_{i}|>")),
                "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false,
            })
        })
        .collect();
    let vocab: Map<String, Value> =
        (0u32..).zip(tokens).map(|(id, token)| (token, id.into())).collect();
    let normalizer = if is_composed { json!({ "type": "NFC" }) } else { Value::Null };
    let document = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated",
              "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
              "use_regex": false },
        ]},
        "post_processor": null,
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab,
                   "merges": merges },
    });
    Some(document.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn every_id_has_a_text_and_marks_are_in_their_place() {
        for (architecture, vocab_size, end) in [
            (Architecture::SmolLm3, 8192, 8192 - 256 + 12),
            (Architecture::SmolLm3, 128_256, 128_012),
            (Architecture::Qwen3, 151_936, 151_645),
            (Architecture::Qwen3, 272, 272 - 16 + 2),
        ] {
            let json = tokenizer_json(architecture, vocab_size).unwrap();
            let tokenizer = Tokenizer::from_json(&json).unwrap();
            assert_eq!(tokenizer.vocab_size(), vocab_size);
            let ids = tokenizer.encode("<|im_end|>the cat").unwrap();
            assert_eq!(ids[0], end, "{architecture:?}");
            let text = tokenizer.decode(&ids[1..], false);
            assert_eq!(text, "the cat");
            assert!(vocab_size < 8192 || ids.len() < 7, "words are tokens: {ids:?}");
        }
        assert!(tokenizer_json(Architecture::Qwen3, 271).is_none());
    }
}
