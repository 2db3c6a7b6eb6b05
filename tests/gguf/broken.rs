//! Damaged, hostile and foreign files: every one ends in a typed error that says what is wrong, or in
//! a source whose tensors can be read; nothing panics or takes memory that the file does not pay for.

use super::builder::{Builder, list, text};
use super::{path, read};
use deltamem::Error;
use deltamem::model_folder::{BesideGguf, ModelFolder};
use deltamem::weights::TensorSource;
use deltamem::weights::bytes::Blob;
use deltamem::weights::gguf::GgufSource;
use deltamem::weights::gguf::header::Header;

fn open_all(blobs: Vec<Blob>) -> Result<ModelFolder, Error> {
    let source = GgufSource::from_blobs(blobs)?;
    for name in source.names() {
        source.read_all(name)?;
    }
    ModelFolder::from_gguf("test".into(), source, BesideGguf::default())
}

fn open_bytes(bytes: Vec<u8>) -> Result<ModelFolder, Error> {
    open_all(vec![Blob::from_bytes(bytes, "test.gguf")])
}

#[track_caller]
fn refused(bytes: Vec<u8>, code: &str, part: &str) {
    let error = open_bytes(bytes).err().unwrap_or_else(|| panic!("accepted, not {part:?}"));
    let message = error.to_string();
    assert_eq!((error.code(), message.contains(part)), (code, true), "{part:?}: {message}");
}

/// The Qwen3 of `Builder`, changed; it must be refused.
#[track_caller]
fn changed(change: impl FnOnce(&mut Builder), code: &str, part: &str) {
    let mut builder = Builder::qwen3();
    change(&mut builder);
    refused(builder.bytes(), code, part);
}

#[test]
fn what_is_changed_below_is_good() {
    let good = Builder::qwen3();
    let folder = open_bytes(good.bytes()).unwrap();
    assert_eq!((folder.config.vocab_size, folder.config.n_kv_heads), (3, 2));
    assert_eq!(folder.config.rope_theta, 10000.0);
    assert!(folder.config.tie_word_embeddings && folder.tokenizer_json.is_none());
    let down = folder.tensors.read_all("model.layers.0.mlp.down_proj.weight").unwrap();
    assert_eq!(down, (0..32).map(|i| i as f32).collect::<Vec<_>>());
    // version 2 differs in nothing, and the alignment may be another
    for (version, alignment) in [(2, 32), (3, 64), (3, 8)] {
        let mut builder = Builder { version, alignment, ..good.clone() };
        builder.u32("general.alignment", alignment as u32);
        open_bytes(builder.bytes()).unwrap();
    }
    // values of every type, and lists of lists, where nobody asks for them
    let mut builder = good;
    for kind in [0, 1, 7] {
        builder.key(&format!("x.{kind}"), kind, &[1]);
        builder.key(&format!("x.list.{kind}"), 9, &list(kind, &[vec![1], vec![0]]));
    }
    for kind in [2, 3, 4, 5, 6, 10, 11, 12] {
        let bytes = vec![1; [0, 0, 2, 2, 4, 4, 4, 0, 0, 0, 8, 8, 8][kind as usize]];
        builder.key(&format!("x.{kind}"), kind, &bytes);
        builder.key(&format!("x.list.{kind}"), 9, &list(kind, &[bytes]));
    }
    let inner = list(8, &[text("a"), text("")]);
    builder.key("x.nested", 9, &list(9, &[inner.clone(), inner]));
    open_bytes(builder.bytes()).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let name = "smollm3.gguf";
    let good = read(name);
    open_bytes(good.clone()).unwrap();
    let header = Header::read(&Blob::from_bytes(good.clone(), name)).unwrap();
    let data_start = header.tensors.iter().map(|tensor| tensor.offset).min().unwrap() as usize;
    for end in (0..=data_start).chain((data_start..good.len()).step_by(97)) {
        let result = GgufSource::from_blobs(vec![Blob::from_bytes(good[..end].to_vec(), name)]);
        let error = result.err().unwrap_or_else(|| panic!("cut at {end} it was accepted"));
        assert_eq!(error.code(), "format", "cut at {end}: {error}");
    }
}

#[test]
fn byte_flips_never_panic() {
    let mut random = 3u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n
    };
    let good = Builder::qwen3().bytes();
    let mut n_refused = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + below(3) {
            let at = below(1300); // the header
            bytes[at] = match below(3) {
                0 => bytes[at] ^ (1 << below(8)),
                1 => 0xFF,
                _ => below(256) as u8,
            };
        }
        n_refused += usize::from(open_bytes(bytes).is_err());
    }
    assert!((10_000..20_000).contains(&n_refused), "{n_refused} refused");
}

#[test]
fn other_files_are_named() {
    changed(|b| b.magic = *b"GGML", "format", "does not begin with `GGUF`");
    changed(|b| b.version = 1, "unsupported", "version 1");
    changed(|b| b.version = 4, "unsupported", "version 4");
    changed(|b| b.version = 3u32.swap_bytes(), "unsupported", "big-endian");
    changed(
        |b| b.tensors[2].ty = 23,
        "unsupported",
        "of type IQ4_XS is not supported: weights are read from F32, F16, Q4_0",
    );
    changed(|b| b.tensors[2].ty = 4, "unsupported", "type number 4");
    let architecture = |name: &'static str| {
        move |b: &mut Builder| {
            b.without("general.architecture").text("general.architecture", name);
        }
    };
    changed(
        architecture("llama"),
        "unsupported",
        "architecture \"llama\" is not supported: this crate runs smollm3 and qwen3",
    );
    changed(
        |b| {
            b.without("general.architecture");
        },
        "config",
        "general.architecture",
    );
    changed(
        |b| b.tensors[2].name = "blk.0.attn_q.bias".into(),
        "unknown_tensor",
        "blk.0.attn_q.bias",
    );
    changed(
        |b| {
            b.tensors.remove(2);
        },
        "missing_tensor",
        "self_attn.q_proj",
    );
    changed(
        |b| {
            b.tensors.remove(0);
        },
        "missing_tensor",
        "token_embd.weight",
    );
    refused(Builder::empty().bytes(), "config", "general.architecture");
}

#[test]
fn counts_and_lengths_are_bounded() {
    let huge = u64::MAX;
    changed(|b| b.n_tensors = Some(huge), "format", "tensors are too many");
    changed(|b| b.n_tensors = Some(1 << 30), "format", "tensors are too many");
    changed(|b| b.n_keys = Some(huge), "format", "metadata keys are too many");
    let long = huge.to_le_bytes();
    changed(|b| b.keys.push(long.to_vec()), "format", "a key at position");
    changed(
        |b| {
            b.key("x", 8, &long);
        },
        "format",
        "a text at position",
    );
    changed(
        |b| {
            b.key("x", 8, &(1u64 << 20).to_le_bytes());
        },
        "format",
        "ends within its header",
    );
    for kind in 0..=12u32 {
        let value = [&kind.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat();
        changed(
            |b| {
                b.key("x", 9, &value);
            },
            "format",
            "is too long",
        );
    }
    changed(
        |b| {
            b.key("x", 13, &[0]);
        },
        "format",
        "13 is not the type of a value",
    );
    changed(
        |b| {
            b.key("x", 9, &list(14, &[]));
        },
        "format",
        "14 is not the type of a value",
    );
    changed(
        |b| {
            b.key("x", 7, &[2]);
        },
        "format",
        "a truth value is 2",
    );
    changed(
        |b| {
            b.key("x", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF]);
        },
        "format",
        "not UTF-8",
    );
    let mut deep = list(0, &[]);
    for _ in 0..2000 {
        deep = list(9, &[deep]);
    }
    changed(
        |b| {
            b.key("x", 9, &deep);
        },
        "format",
        "deep in each other",
    );
    changed(
        |b| {
            b.u32("x", 1).u32("x", 1);
        },
        "format",
        "\"x\" is there twice",
    );
    changed(|b| b.tensors[0].name = "x".repeat(300), "format", "the name of a tensor");
}

#[test]
fn layouts_are_checked() {
    let on = |change: fn(&mut super::builder::Tensor)| {
        move |b: &mut Builder| change(b.tensor("blk.0.attn_q.weight"))
    };
    changed(on(|t| t.offset = Some(33)), "format", "not aligned to 32");
    changed(on(|t| t.offset = Some(0)), "format", "overlap");
    changed(on(|t| t.offset = Some(1 << 40)), "format", "reaches past its end");
    changed(on(|t| t.offset = Some(u64::MAX - 31)), "format", "reaches past its end");
    changed(on(|t| t.dimensions = vec![8, 0]), "format", "has no elements");
    changed(on(|t| t.dimensions = vec![]), "format", "has 0 dimensions");
    changed(on(|t| t.dimensions = vec![1; 5]), "format", "has 5 dimensions");
    changed(on(|t| t.dimensions = vec![u64::MAX, u64::MAX]), "format", "is too large");
    changed(on(|t| t.dimensions = vec![1 << 40, 1 << 40]), "format", "is too large");
    changed(on(|t| t.dimensions = vec![8, 1 << 40]), "format", "reaches past its end");
    changed(on(|t| t.ty = 8), "format", "has rows that end within a block");
    changed(on(|t| t.dimensions = vec![4, 8]), "tensor_shape", "self_attn.q_proj");
    changed(on(|t| t.name = "blk.0.attn_k.weight".into()), "format", "is listed twice");
    for n in [0, 3, 1 << 20] {
        changed(
            |b| {
                b.u32("general.alignment", n);
            },
            "config",
            "no power of two",
        );
    }
    changed(
        |b| {
            b.text("general.alignment", "32");
        },
        "config",
        "expected a count, found a text",
    );
}

#[test]
fn settings_that_cannot_be_run_are_named() {
    let set = |key: &'static str, n: u32| {
        move |b: &mut Builder| {
            let key = format!("qwen3.{key}");
            b.without(&key).u32(&key, n);
        }
    };
    changed(set("attention.value_length", 8), "unsupported", "`qwen3.attention.value_length` = 8");
    changed(set("rope.dimension_count", 2), "unsupported", "`qwen3.rope.dimension_count` = 2");
    changed(set("expert_count", 4), "unsupported", "`qwen3.expert_count` = 4");
    changed(set("attention.sliding_window", 4), "unsupported", "use_sliding_window");
    changed(set("attention.head_count_kv", 3), "config", "does not divide");
    changed(set("attention.head_count", 0), "config", "num_attention_heads");
    changed(set("block_count", 2), "missing_tensor", "model.layers.1");
    changed(set("block_count", u32::MAX), "config", "num_hidden_layers");
    changed(set("embedding_length", 16), "tensor_shape", "embed_tokens");
    changed(
        |b| {
            b.without("qwen3.context_length");
        },
        "config",
        "`qwen3.context_length`: it is missing",
    );
    let epsilon = "qwen3.attention.layer_norm_rms_epsilon";
    for x in [f32::NAN, f32::INFINITY] {
        changed(
            |b| {
                b.without(epsilon).f32(epsilon, x);
            },
            "config",
            "expected a number",
        );
    }
    changed(
        |b| {
            b.f32("qwen3.rope.scale_linear", 4.0);
        },
        "unsupported",
        "linear",
    );
    let mut heads = Builder::qwen3();
    heads.without("general.architecture").text("general.architecture", "smollm3");
    heads.u32("smollm3.attention.head_count", 3);
    refused(heads.bytes(), "format", "is not 3 heads of pairs");
}

/// llama.cpp multiplies the usual factor, 0.1·ln 4 + 1, with what the file says.
#[test]
fn yarns_attention_factor_is_that_of_llama_cpp() {
    let usual = 0.1 * 4f64.ln() + 1.0;
    for (keys, expected) in [
        (&[][..], usual),
        (&[("attn_factor", 1.5)], 1.5 * usual),
        (&[("yarn_attn_factor", 0.5)], 0.5 * usual),
        (&[("attn_factor", 1.5), ("yarn_attn_factor", 0.5)], 0.75 * usual),
    ] {
        let mut builder = Builder::qwen3();
        builder.text("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.factor", 4.0);
        for (key, value) in keys {
            builder.f32(&format!("qwen3.rope.scaling.{key}"), *value);
        }
        let folder = open_bytes(builder.bytes()).expect("a model");
        let found = folder.config.rope_scaling.expect("a scaling").attention_factor;
        assert!((found - expected).abs() < 1e-6, "{keys:?}: {found}, not {expected}");
    }
    for wrong in [0.0, -1.0, 1e9, f32::NAN] {
        let mut builder = Builder::qwen3();
        builder.text("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.factor", 4.0);
        builder.f32("qwen3.rope.scaling.attn_factor", wrong);
        refused(builder.bytes(), "config", "");
    }
}

/// A vocabulary of two letters, changed.
fn vocabulary(change: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut builder = Builder::qwen3();
    let tokens: Vec<Vec<u8>> = ["a", "b", "ab"].map(text).to_vec();
    builder.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    builder.key("tokenizer.ggml.tokens", 9, &list(8, &tokens));
    builder.key("tokenizer.ggml.merges", 9, &list(8, &[text("a b")]));
    change(&mut builder);
    builder.bytes()
}

#[test]
fn vocabularies_that_are_not_known_are_named() {
    let good = open_bytes(vocabulary(|_| ())).unwrap();
    assert_eq!(deltamem::loaded::load_tokenizer(&good).unwrap().encode("aab").unwrap(), [0, 2]);
    let set = |key: &'static str, value: &'static str| {
        move |b: &mut Builder| {
            b.without(key).text(key, value);
        }
    };
    let model = vocabulary(set("tokenizer.ggml.model", "llama"));
    refused(
        model,
        "unsupported",
        "tokenizer model \"llama\" is not supported: tokenizers are read from gpt2",
    );
    let pre = vocabulary(set("tokenizer.ggml.pre", "gpt-2"));
    refused(
        pre,
        "unsupported",
        "pre-tokenizer \"gpt-2\" is not supported: tokenizers are read from llama-bpe, smaug-bpe, qwen2",
    );
    let without = |key: &'static str| {
        vocabulary(|b| {
            b.without(key);
        })
    };
    refused(without("tokenizer.ggml.pre"), "unsupported", "\"default\"");
    refused(without("tokenizer.ggml.tokens"), "config", "it is missing");
    refused(without("tokenizer.ggml.merges"), "config", "it is missing");
    let key = "tokenizer.ggml.token_type";
    let types = vocabulary(|b| {
        b.key(key, 9, &list(5, &[vec![1, 0, 0, 0]]));
    });
    refused(types, "config", "1 types for 3 tokens");
    let twice = list(8, &["a", "a", "b"].map(text));
    let key = "tokenizer.ggml.tokens";
    refused(
        vocabulary(|b| {
            b.without(key).key(key, 9, &twice);
        }),
        "tokenizer",
        "has two ids",
    );
    let eos = vocabulary(|b| {
        b.u32("tokenizer.ggml.eos_token_id", 3);
    });
    refused(eos, "config", "there is no token 3");
    // what the metadata do not know, a file beside does
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, vocabulary(set("tokenizer.ggml.pre", "gpt-2"))).unwrap();
    assert!(ModelFolder::open(&file).is_err());
    std::fs::copy(path("qwen3-tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    assert!(ModelFolder::open(&file).unwrap().tokenizer_json.is_some());
}

/// The model of `Builder` in two files.
fn shards() -> [Builder; 2] {
    let mut first = Builder::qwen3();
    let mut second = Builder::empty();
    second.tensors = first.tensors.split_off(5);
    for (i, shard) in [&mut first, &mut second].into_iter().enumerate() {
        shard.key("split.no", 2, &(i as u16).to_le_bytes());
        shard.key("split.count", 2, &2u16.to_le_bytes());
        shard.key("split.tensors.count", 5, &13i32.to_le_bytes());
    }
    [first, second]
}

#[test]
fn shards_belong_together() {
    let [first, second] = shards();
    let folder = tempfile::tempdir().unwrap();
    let file = |i: u32| folder.path().join(format!("m-{i:05}-of-00002.gguf"));
    std::fs::write(file(1), first.bytes()).unwrap();
    assert_eq!(ModelFolder::open(file(1)).err().unwrap().code(), "io");
    std::fs::write(file(2), second.bytes()).unwrap();
    let whole = open_bytes(Builder::qwen3().bytes()).unwrap();
    for i in [1, 2] {
        let model = ModelFolder::open(file(i)).unwrap();
        assert_eq!(model.fingerprint().unwrap(), whole.fingerprint().unwrap());
    }
    let open = |blobs: [&Builder; 2]| open_all(blobs.map(Builder::blob).into());
    assert!(open([&first, &second]).is_ok());
    let of = |result: Result<ModelFolder, Error>| result.err().unwrap().to_string();
    assert!(of(open([&second, &first])).contains("general.architecture"));
    assert!(of(open([&first, &first])).contains("split.no"));
    assert!(of(open_all(vec![first.blob()])).contains("2 shards belong together"));
    let mut twice = second.clone();
    twice.tensors.push(first.tensors[0].clone());
    assert!(of(open([&first, &twice])).contains("13 tensors are promised"));
    let mut swapped = second;
    swapped.tensors[0].name = first.tensors[0].name.clone();
    assert!(of(open([&first, &swapped])).contains("in another shard too"));
}
