//! A GGUF file's metadata as the configuration files of a Hugging Face folder, which then are read
//! like any other. Owns which key says what, and what llama.cpp knows of an architecture without
//! any key. Errors about what such a file says name its keys.

use super::metadata::Metadata;
use super::source::GgufSource;
use crate::config::usual_attention_factor;
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use serde_json::{Map, Value, json};

/// What llama.cpp assumes if `rope.freq_base` is silent.
const DEFAULT_ROPE_THETA: f64 = 10000.0;
/// Tokens that end a reply wherever they exist as special tokens, as in llama.cpp.
const END_TOKENS: [&str; 5] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"];
/// `tokenizer.ggml.token_type` of tokens that are no text.
const CONTROL: i64 = 3;

/// `config.json`, from the metadata and the tensors that are there.
///
/// # Errors
/// [`Error::Config`] for a missing key or a value of another type, [`Error::MissingTensor`] without
/// an embedding, [`Error::Unsupported`] for a variant that the forward pass does not implement and
/// config.json has no word for.
pub fn config_json(source: &GgufSource) -> Result<Vec<u8>> {
    let (metadata, architecture) = (source.metadata(), source.architecture());
    let key = |name: &str| format!("{architecture}.{name}");
    let count = |name: &str| metadata.count(&key(name));
    let needed =
        |name: &str| count(name)?.ok_or_else(|| metadata.error(&key(name), "it is missing"));
    let n_heads = needed("attention.head_count")?;
    let embedding = "model.embed_tokens.weight";
    let missing =
        || Error::MissingTensor { file: source.label().into(), name: "token_embd.weight".into() };
    let vocab_size = source.info(embedding).ok_or_else(missing)?.shape[0];
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let epsilon =
        metadata.number(&epsilon)?.ok_or_else(|| metadata.error(&epsilon, "it is missing"))?;
    let hidden_size = needed("embedding_length")?;
    let head_dim = match count("attention.key_length")? {
        Some(d) => d,
        None => hidden_size.checked_div(n_heads).unwrap_or(0),
    };
    // What the forward pass takes for granted, and config.json cannot say otherwise.
    for (name, implemented) in [
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("expert_count", 0),
    ] {
        if let Some(n) = count(name)?.filter(|&n| n != implemented) {
            let what = format!("{}: `{}` = {n}", source.label(), key(name));
            let reason = format!("only {implemented} is implemented here");
            return Err(Error::Unsupported { what, reason });
        }
    }
    let theta = metadata.number(&key("rope.freq_base"))?.unwrap_or(DEFAULT_ROPE_THETA);
    // No key tells which layers of SmolLM3 go without RoPE: every fourth, as in config.json's default.
    let config = json!({
        "model_type": architecture,
        "hidden_size": hidden_size,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": needed("block_count")?,
        "num_attention_heads": n_heads,
        "num_key_value_heads": count("attention.head_count_kv")?.unwrap_or(n_heads),
        "head_dim": head_dim,
        "vocab_size": vocab_size,
        "rms_norm_eps": epsilon,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(metadata, architecture)?,
        "max_position_embeddings": needed("context_length")?,
        "use_sliding_window": count("attention.sliding_window")?.is_some_and(|n| n > 0),
        "tie_word_embeddings": source.info("lm_head.weight").is_none(),
        "eos_token_id": end_token_ids(metadata)?,
    });
    Ok(config.to_string().into_bytes())
}

/// In the words of config.json; null where positions are not scaled.
fn rope_scaling(metadata: &Metadata, architecture: &str) -> Result<Value> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let number = |name: &str| metadata.number(&key(name));
    let mut scaling = Map::new();
    match metadata.text(&key("scaling.type"))? {
        // `scale_linear` is how files of 2023 say it.
        None => match number("scale_linear")? {
            None | Some(1.0) => return Ok(Value::Null),
            Some(factor) => {
                scaling.insert("rope_type".into(), "linear".into());
                scaling.insert("factor".into(), factor.into());
            }
        },
        Some("none") => return Ok(Value::Null),
        Some(kind) => {
            scaling.insert("rope_type".into(), kind.into());
        }
    }
    for (name, json_name) in [
        ("scaling.factor", "factor"),
        ("scaling.yarn_beta_fast", "beta_fast"),
        ("scaling.yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(x) = number(name)? {
            scaling.insert(json_name.into(), x.into());
        }
    }
    let given = (number("scaling.attn_factor")?, number("scaling.yarn_attn_factor")?);
    if let (Some(factor), (Some(_), _) | (_, Some(_))) = (number("scaling.factor")?, given) {
        // Both change the usual factor, which transformers' `attention_factor` stands for.
        let change = given.0.unwrap_or(1.0) * given.1.unwrap_or(1.0);
        scaling.insert("attention_factor".into(), (change * usual_attention_factor(factor)).into());
    }
    if let Some(n) = metadata.count(&key("scaling.original_context_length"))? {
        scaling.insert("original_max_position_embeddings".into(), n.into());
    }
    Ok(Value::Object(scaling))
}

/// All that end a reply: those with a key, and known ones among the special tokens. Ascending.
fn end_token_ids(metadata: &Metadata) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(metadata.count(&format!("tokenizer.ggml.{name}_token_id"))?);
    }
    let types = metadata.integers("tokenizer.ggml.token_type")?;
    if let (Some(tokens), Some(types)) = (metadata.texts("tokenizer.ggml.tokens")?, types) {
        let is_end = |(token, &ty): (&str, &i64)| ty == CONTROL && END_TOKENS.contains(&token);
        let found = (0u64..).zip(tokens.iter().zip(types)).filter(|(_, pair)| is_end(*pair));
        ids.extend(found.map(|(id, _)| id));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// `generation_config.json`, as far as the metadata recommend anything.
///
/// # Errors
/// [`Error::Config`] for a value of another type.
pub fn generation_config_json(metadata: &Metadata) -> Result<Vec<u8>> {
    let mut config = Map::new();
    for (name, json_name) in [
        ("temp", "temperature"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ] {
        if let Some(x) = metadata.number(&format!("general.sampling.{name}"))? {
            config.insert(json_name.into(), x.into());
        }
    }
    // llama.cpp says with 0 or less that all tokens may come.
    if let Some(n) = metadata.number("general.sampling.top_k")? {
        config.insert("top_k".into(), (n.max(0.0) as u64).into());
    }
    Ok(Value::Object(config).to_string().into_bytes())
}

/// `tokenizer_config.json`, chat template included.
///
/// # Errors
/// [`Error::Config`] for a value of another type, or an end of replies that is no token.
pub fn tokenizer_config_json(metadata: &Metadata) -> Result<Vec<u8>> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let token = |id: u64| tokens?.get(usize::try_from(id).ok()?);
    let eos_key = "tokenizer.ggml.eos_token_id";
    let eos = match metadata.count(eos_key)? {
        Some(id) => {
            let missing = || metadata.error(eos_key, format!("there is no token {id}"));
            Some(token(id).ok_or_else(missing)?)
        }
        None => None,
    };
    // Files exist whose padding is outside of the vocabulary; nothing is ever padded here.
    let pad = metadata.count("tokenizer.ggml.padding_token_id")?.and_then(token);
    let config = json!({
        "eos_token": eos,
        "pad_token": pad,
        "name_or_path": metadata.text("general.name")?,
        "chat_template": metadata.text("tokenizer.chat_template")?,
    });
    Ok(config.to_string().into_bytes())
}
