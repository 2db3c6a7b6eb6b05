use super::*;

/// Byte-level with the whole byte alphabet as ids 0–255, `merges` after it and special tokens last.
fn document(merges: &[(&str, &str)]) -> Value {
    let mut vocab = Map::new();
    for character in byte_alphabet() {
        vocab.insert(character.to_string(), json!(vocab.len()));
    }
    for (left, right) in merges {
        vocab.insert(format!("{left}{right}"), json!(vocab.len()));
    }
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": special})
    };
    json!({
        "version": "1.0",
        "added_tokens": [
            added(vocab.len() + 10, "<|im_start|>", true),
            added(vocab.len() + 11, "<|im_end|>", true),
            added(vocab.len() + 12, "<think>", false),
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [266],
                               "tokens": ["<|im_start|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
                  "merges": merges.iter().map(|(l, r)| format!("{l} {r}")).collect::<Vec<_>>()},
    })
}

fn read(document: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(document.to_string().as_bytes())
}

/// One token a byte.
pub(crate) fn byte_tokenizer() -> Tokenizer {
    read(&document(&[])).unwrap()
}

const MERGES: [(&str, &str); 5] = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ã", "©")];

#[test]
fn merges_apply_by_rank_and_special_tokens_are_found() {
    let tokenizer = read(&document(&MERGES)).unwrap();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    assert_eq!(
        tokenizer.encode("in the<|im_end|>é<think>").unwrap(),
        [id("in"), id("Ġthe"), id("<|im_end|>"), id("Ã©"), id("<think>")]
    );
    assert_eq!(id("<|im_end|>"), 256 + 5 + 11);
    assert_eq!(tokenizer.vocab_size(), 256 + 5 + 13);
    assert_eq!(tokenizer.special_ids(), [271, 272]);
    assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
    assert_eq!(tokenizer.token_id("absent"), None);
}

#[test]
fn decoding_is_the_inverse() {
    let tokenizer = read(&document(&MERGES)).unwrap();
    let text = "the  thé\n\n🦊 漢字\u{0}\t<|im_start|>x<think>";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), text);
    assert_eq!(tokenizer.decode(&ids, true), text.replace("<|im_start|>", ""));
    // Ids without a token, inside and outside of the table.
    assert_eq!(tokenizer.decode(&[263, 100_000, u32::MAX], false), "");
}

#[test]
fn streaming_gives_whole_characters() {
    let tokenizer = byte_tokenizer();
    let text = "aé🦊<|im_end|>b漢";
    let ids = tokenizer.encode(text).unwrap();
    let mut stream = tokenizer.decode_stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{pieces:?}");
    assert_eq!(pieces[..4], ["a", "", "é", ""]);
    assert_eq!(pieces.concat() + &stream.finish(), tokenizer.decode(&ids, true));
}

#[test]
fn streaming_broken_bytes_equals_decoding_them() {
    let tokenizer = byte_tokenizer();
    let alphabet = byte_alphabet();
    let bytes = b"a\xf0\x9f\xa6b\xffc\xe6\xbc";
    let ids: Vec<u32> = bytes
        .iter()
        .map(|&b| tokenizer.token_id(&alphabet[b as usize].to_string()).unwrap())
        .collect();
    let mut stream = tokenizer.decode_stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    assert_eq!(text, String::from_utf8_lossy(bytes));
    assert_eq!(text, tokenizer.decode(&ids, true));
}

#[test]
fn ids_need_not_be_dense_and_bytes_may_lack() {
    let mut document = document(&[]);
    let vocab = document["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|token, _| token.len() == 1);
    for (at, id) in vocab.values_mut().enumerate() {
        *id = json!(1000 - 7 * at);
    }
    let a = vocab["a"].as_u64().unwrap() as u32;
    let tokenizer = read(&document).unwrap();
    assert_eq!(tokenizer.encode("aéa<|im_end|>").unwrap(), [a, a, 267]);
    assert_eq!(tokenizer.decode(&[a, 267, a], false), "a<|im_end|>a");
    assert_eq!(tokenizer.vocab_size(), 1001);
}

#[test]
fn the_normaliser_and_split_of_qwen3_work() {
    let mut document = document(&[]);
    document["normalizer"] = json!({"type": "NFC"});
    document["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
    ]});
    let tokenizer = read(&document).unwrap();
    let ids = tokenizer.encode("e\u{301}").unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "é");
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a+)+$");
    assert!(read(&document).is_err(), "a pattern without an engine");
}

#[test]
fn truncated_files_are_refused() {
    let text = document(&MERGES).to_string();
    for len in (0..text.len()).step_by(97) {
        let error = Tokenizer::from_json(&text.as_bytes()[..len]).unwrap_err();
        assert_eq!(error.code(), "tokenizer");
    }
    assert!(Tokenizer::from_json(&[0xff, 0xfe, 0]).is_err());
    assert!(Tokenizer::from_json("[".repeat(1 << 20).as_bytes()).is_err());
    assert!(Tokenizer::from_json(&vec![b' '; MAX_TOKENIZER_BYTES + 1]).is_err());
}

#[test]
fn every_wrong_type_is_refused_or_harmless() {
    // Replaces each node of the document in turn by values of other types.
    fn paths(value: &Value, at: String, out: &mut Vec<String>) {
        out.push(at.clone());
        match value {
            Value::Object(map) => map
                .iter()
                .filter(|(key, _)| !at.ends_with("/vocab") || key.as_str() < "b")
                .for_each(|(k, v)| {
                    paths(v, format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), out)
                }),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, v)| paths(v, format!("{at}/{i}"), out))
            }
            _ => {}
        }
    }
    let original = document(&MERGES);
    let mut all = Vec::new();
    paths(&original, String::new(), &mut all);
    let hostile = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!(4294967295u32),
        json!(""),
        json!("x y z"),
        json!([]),
        json!([[[1]]]),
        json!({}),
        json!({"type": "Sequence"}),
        json!(true),
        json!(0),
    ];
    for path in &all {
        for value in &hostile {
            let mut document = original.clone();
            if let Some(node) = document.pointer_mut(path) {
                *node = value.clone();
            }
            if let Ok(tokenizer) = read(&document) {
                let ids = tokenizer.encode("the inn\u{e9} <|im_end|> 12").unwrap();
                tokenizer.decode(&ids, true);
            }
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut document = document(&MERGES);
        edit(&mut document);
        read(&document).map(|_| ()).unwrap_err().to_string()
    };
    let merge = |merge: Value| change(&move |d| d["model"]["merges"][0] = merge.clone());
    assert!(merge(json!("Ġ zzz")).contains("outside the vocabulary"));
    assert!(merge(json!(["q", "q"])).contains("outside the vocabulary"));
    assert!(merge(json!(["", ""])).contains("outside the vocabulary"));
    assert!(merge(json!(7)).contains("not a pair"));
    let message = change(&|d| d["model"]["vocab"]["a"] = d["model"]["vocab"]["b"].clone());
    assert!(message.contains("two tokens"), "{message}");
    let message = change(&|d| d["model"]["vocab"]["a"] = json!(4_000_000_000u32));
    assert!(message.contains("no id below"), "{message}");
    let message = change(&|d| d["added_tokens"][1]["id"] = d["added_tokens"][0]["id"].clone());
    assert!(message.contains("occurs twice"), "{message}");
    let message = change(&|d| d["added_tokens"][0]["id"] = json!(0));
    assert!(message.contains("belongs to"), "{message}");
    let message = change(&|d| d["model"]["type"] = json!("Unigram"));
    assert!(message.contains("BPE"), "{message}");
}

#[test]
fn more_grid_merges_than_the_crate_can_index_are_refused() {
    let letters: Vec<char> = byte_alphabet().into_iter().filter(|c| c.is_alphabetic()).collect();
    let letters: Vec<char> =
        letters.into_iter().chain(('\u{4e00}'..'\u{9fff}').take(190)).collect();
    let pairs: Vec<(String, String)> = letters
        .iter()
        .flat_map(|a| letters.iter().map(move |b| (a.to_string(), b.to_string())))
        .collect();
    let merges: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let mut document = document(&[]);
    let vocab = document["model"]["vocab"].as_object_mut().unwrap();
    for letter in &letters {
        let id = json!(vocab.len() + 1000);
        vocab.entry(letter.to_string()).or_insert(id);
    }
    for (a, b) in &merges {
        vocab.insert(format!("{a}{b}"), json!(vocab.len() + 1000));
    }
    document["model"]["merges"] = json!(merges);
    assert!(merges.len() > 65_536);
    let error = read(&document).unwrap_err();
    assert!(error.to_string().contains("too many merges"), "{error}");
}
