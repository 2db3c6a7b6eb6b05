//! What a GGUF file says in front of its tensors. Owns the keys, which are those that llama.cpp's
//! converter writes for the same model.

use super::{file_type, vocabulary};
use crate::config::{Architecture, MAX_CONFIG_BYTES, ModelConfig, usual_attention_factor};
use crate::error::{Error, Result};
use crate::model_folder::{MAX_TOKENIZER_CONFIG_BYTES, ModelFolder};
use crate::weights::bytes::read_bounded;
use crate::weights::gguf::blocks::GgmlType;
use crate::weights::gguf::write::MetaValue;
use serde_json::Value;
use std::path::Path;

/// ggml's version of the block layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// What a folder's JSON files say beyond what the forward pass needs. All of it may be missing.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// `config.json`
    pub config: Value,
    /// `tokenizer_config.json`
    pub tokenizer_config: Value,
}

impl Extra {
    /// Reads them, where they are.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] for what is no JSON.
    pub fn open(folder: &Path) -> Result<Extra> {
        let read = |name: &str, max: usize| {
            let path = folder.join(name);
            match path.is_file() {
                false => Ok(Value::Null),
                true => serde_json::from_slice(&read_bounded(&path, max as u64)?).map_err(|e| {
                    Error::format(path.display().to_string(), "configuration", e.to_string())
                }),
            }
        };
        Ok(Extra {
            config: read("config.json", MAX_CONFIG_BYTES)?,
            tokenizer_config: read("tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)?,
        })
    }
}

/// Keys and their values, in the file's order.
type Values = Vec<(String, MetaValue)>;

/// All keys and values, in the usual order, and what a person should know about them.
pub(super) fn of(
    folder: &ModelFolder,
    extra: &Extra,
    ty: GgmlType,
) -> Result<(Values, Option<String>)> {
    let config = &folder.config;
    let architecture = config.architecture.name();
    let mut values = Values::new();
    let mut put = |key: &str, value: MetaValue| values.push((key.into(), value));
    let text = |text: &str| MetaValue::Text(text.into());
    put("general.architecture", text(architecture));
    put("general.type", text("model"));
    put("general.name", text(&folder.name));
    put("general.file_type", MetaValue::Count(file_type(ty)));
    put("general.quantization_version", MetaValue::Count(QUANTIZATION_VERSION));
    // Two models of one shape never share a half-written file.
    put("deltamem.source_fingerprint", text(&folder.fingerprint()?));
    for (key, value) in dimensions(config, &extra.config) {
        put(&format!("{architecture}.{key}"), value);
    }
    let mut note = None;
    match &folder.tokenizer_json {
        None => put("tokenizer.ggml.model", text("no_vocab")),
        Some(json) => {
            let vocabulary = vocabulary::Vocabulary::read(json, config.vocab_size)?;
            if vocabulary.pre.is_none() {
                note = Some(
                    "the way this tokenizer splits text has no name in GGUF: keep tokenizer.json \
                     beside the file"
                        .into(),
                );
            }
            values.extend(tokenizer(folder, extra, vocabulary));
        }
    }
    Ok((values, note))
}

fn dimensions(config: &ModelConfig, raw: &Value) -> Values {
    // All of these are bounded far below 2³² by `ModelConfig`.
    let count = |n: usize| MetaValue::Count(n as u32);
    let mut values = vec![
        ("block_count".into(), count(config.n_layers)),
        ("context_length".into(), count(config.max_position_embeddings)),
        ("embedding_length".into(), count(config.hidden_size)),
        ("feed_forward_length".into(), count(config.intermediate_size)),
        ("attention.head_count".into(), count(config.n_heads)),
        ("attention.head_count_kv".into(), count(config.n_kv_heads)),
        ("rope.freq_base".into(), MetaValue::Number(config.rope_theta)),
        ("attention.layer_norm_rms_epsilon".into(), MetaValue::Number(config.rms_norm_eps)),
        ("attention.key_length".into(), count(config.head_dim)),
        ("attention.value_length".into(), count(config.head_dim)),
    ];
    values.push(("vocab_size".into(), count(config.vocab_size)));
    if config.architecture == Architecture::SmolLm3 {
        values.push(("rope.dimension_count".into(), count(config.head_dim)));
    }
    let scaling = &raw["rope_scaling"];
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    if let Some(kind @ ("yarn" | "linear")) = kind {
        values.push(("rope.scaling.type".into(), MetaValue::Text(kind.into())));
        if let Some(factor) = scaling["factor"].as_f64() {
            values.push(("rope.scaling.factor".into(), MetaValue::Number(factor as f32)));
        }
        let original = scaling["original_max_position_embeddings"].as_u64();
        if let Some(Ok(n)) = original.map(u32::try_from) {
            let key = "rope.scaling.original_context_length";
            values.push((key.into(), MetaValue::Count(n)));
        }
    }
    if let Some(yarn) = &config.rope_scaling {
        // In a file it changes the usual factor; the others are only said where they are not usual.
        let change = yarn.attention_factor / usual_attention_factor(yarn.factor);
        for (key, number, usual) in [
            ("attn_factor", change, 1.0),
            ("yarn_beta_fast", yarn.beta_fast, 32.0),
            ("yarn_beta_slow", yarn.beta_slow, 1.0),
        ] {
            if (number - usual).abs() > 1e-6 {
                let key = format!("rope.scaling.{key}");
                values.push((key, MetaValue::Number(number as f32)));
            }
        }
    }
    values
}

fn tokenizer(folder: &ModelFolder, extra: &Extra, vocabulary: vocabulary::Vocabulary) -> Values {
    let id_of = |name: &str, known: Option<&str>, fallback: Option<u32>| {
        let key = format!("{name}_token");
        let stated = &extra.tokenizer_config[&key];
        let text = stated.as_str().or_else(|| stated["content"].as_str()).or(known);
        let in_config = extra.config[format!("{name}_token_id")].as_u64();
        let in_config = in_config.and_then(|id| u32::try_from(id).ok());
        text.and_then(|text| vocabulary.id(text)).or(in_config).or(fallback)
    };
    let eos = folder.tokenizer.eos_token.as_deref();
    let first_eos = folder.config.eos_token_ids.first().copied();
    let ids = [
        ("bos", id_of("bos", None, None)),
        ("eos", id_of("eos", eos, first_eos)),
        ("unknown", id_of("unk", None, None)),
        ("padding", id_of("pad", folder.tokenizer.pad_token.as_deref(), None)),
    ];
    let n_tokens = vocabulary.tokens.len() as u32;
    let mut values = vec![
        ("model".to_string(), MetaValue::Text("gpt2".into())),
        ("pre".into(), MetaValue::Text(vocabulary.pre.unwrap_or("default").into())),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| id < n_tokens) {
            values.push((format!("{name}_token_id"), MetaValue::Count(id)));
        }
    }
    let add_bos = extra.tokenizer_config["add_bos_token"].as_bool();
    let add_bos = add_bos.unwrap_or(vocabulary.begins_with_token);
    values.push(("add_bos_token".into(), MetaValue::Bool(add_bos)));
    values.push(("tokens".into(), MetaValue::Texts(vocabulary.tokens)));
    values.push(("token_type".into(), MetaValue::Integers(vocabulary.types)));
    values.push(("merges".into(), MetaValue::Texts(vocabulary.merges)));
    let values = values.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
    let template = folder.chat_template.iter();
    let template =
        template.map(|t| ("tokenizer.chat_template".to_string(), MetaValue::Text(t.clone())));
    values.chain(template).collect()
}
