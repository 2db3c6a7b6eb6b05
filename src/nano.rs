//! The built-in model: the files of `models/nano`, embedded so that the program talks and remembers
//! with nothing downloaded. Owns no logic; the bytes go through the same loaders as any other model folder.

/// What to tell a person before the built-in model's first reply.
pub const NOTICE: &str = "this is Nano, a very small assistant: 1.7 million parameters, 4 MB; \
                          it knows a few kinds of facts about a person";

/// What a memory file and the lists call this model.
pub const NAME: &str = "nano";

/// The backbone's `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../models/nano/config.json");

/// The backbone's `model.safetensors`, bf16.
pub const MODEL: &[u8] = include_bytes!("../models/nano/model.safetensors");

/// `tokenizer.json`: byte-level BPE.
pub const TOKENIZER: &[u8] = include_bytes!("../models/nano/tokenizer.json");

/// `tokenizer_config.json`; the chat template is in [`CHAT_TEMPLATE`], not in here.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../models/nano/tokenizer_config.json");

/// `chat_template.jinja`, UTF-8.
pub const CHAT_TEMPLATE: &[u8] = include_bytes!("../models/nano/chat_template.jinja");

/// `generation_config.json`: replies are greedy and short.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../models/nano/generation_config.json");

/// The adapter's `delta_mem_config.json`.
pub const DELTA_CONFIG: &[u8] = include_bytes!("../models/nano/delta_mem_config.json");

/// The adapter's `delta_mem_adapter.safetensors`, bf16.
pub const DELTA_ADAPTER: &[u8] = include_bytes!("../models/nano/delta_mem_adapter.safetensors");

/// Every embedded file with its name in a model folder.
pub const FILES: [(&str, &[u8]); 8] = [
    ("config.json", CONFIG),
    ("model.safetensors", MODEL),
    ("tokenizer.json", TOKENIZER),
    ("tokenizer_config.json", TOKENIZER_CONFIG),
    ("chat_template.jinja", CHAT_TEMPLATE),
    ("generation_config.json", GENERATION_CONFIG),
    ("delta_mem_config.json", DELTA_CONFIG),
    ("delta_mem_adapter.safetensors", DELTA_ADAPTER),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeltaConfig, ModelConfig};
    use minijinja::{Environment, context};
    use safetensors::{Dtype, SafeTensors};
    use serde_json::Value;
    use std::collections::BTreeMap;

    fn model_config() -> ModelConfig {
        ModelConfig::from_json(CONFIG, "config.json").unwrap()
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// Compares the whole set of names and shapes and rejects values that are no numbers.
    fn assert_tensors(file: &[u8], expected: Vec<(String, Vec<usize>)>) {
        let file = SafeTensors::deserialize(file).unwrap();
        let found: BTreeMap<String, Vec<usize>> =
            file.iter().map(|(name, tensor)| (name.to_string(), tensor.shape().to_vec())).collect();
        assert_eq!(found, BTreeMap::from_iter(expected));
        for (name, tensor) in file.iter() {
            assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
            let mut values =
                tensor.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]));
            assert!(values.all(half::bf16::is_finite), "{name} holds a value that is not finite");
        }
    }

    /// Renders (role, content) pairs; `settings` are the template's other variables.
    fn render(
        messages: &[(&str, &str)],
        settings: minijinja::Value,
    ) -> Result<String, minijinja::Error> {
        let messages: Vec<_> =
            messages.iter().map(|&(role, content)| context! { role, content }).collect();
        let mut env = Environment::new();
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("strftime_now", |format: String| {
            assert_eq!(format, "%d %B %Y");
            "02 May 2027"
        });
        env.add_function("raise_exception", |reason: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, reason))
        });
        let template = std::str::from_utf8(CHAT_TEMPLATE).unwrap();
        env.render_str(template, context! { messages, ..settings })
    }

    #[test]
    fn backbone_matches_its_configuration() {
        let config = model_config();
        assert_eq!(config.use_rope, [true, true, true, false]);
        assert_tensors(MODEL, config.tensor_shapes());
    }

    #[test]
    fn adapter_matches_its_configuration() {
        let delta = DeltaConfig::from_json(DELTA_CONFIG, "delta_mem_config.json").unwrap();
        let shapes = delta.tensor_shapes(&model_config()).unwrap();
        assert_tensors(DELTA_ADAPTER, shapes);
    }

    /// A page downloads all of it before its first word.
    #[test]
    fn folder_stays_small_and_the_notice_says_how_small() {
        let total_bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total_bytes < 4_400_000, "{total_bytes} bytes");
        let size = format!("{:.0} MB", total_bytes as f64 / 1e6);
        let parameters = format!("{:.1} million", model_config().n_parameters() as f64 / 1e6);
        assert!(NOTICE.contains(&size) && NOTICE.contains(&parameters), "{size}, {parameters}");
    }

    #[test]
    fn token_ids_agree_between_the_files() {
        let tokenizer = json(TOKENIZER);
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        let added = tokenizer["added_tokens"].as_array().unwrap();
        let id = |content: &str| {
            let token = added.iter().find(|t| t["content"] == content);
            token.map(|t| t["id"].as_u64().unwrap() as u32)
        };
        let config = model_config();
        let end = id("<|im_end|>").unwrap();
        assert_eq!(config.eos_token_ids, [end]);
        assert_eq!(json(GENERATION_CONFIG)["eos_token_id"], Value::from(vec![end]));
        assert_eq!(json(TOKENIZER_CONFIG)["eos_token"], "<|im_end|>");
        for thought in ["<think>", "</think>"] {
            let token = added.iter().find(|t| t["content"] == thought).unwrap();
            assert_eq!(token["special"], false);
        }

        let mut ids: Vec<u64> = vocab.values().map(|v| v.as_u64().unwrap()).collect();
        ids.extend(added.iter().map(|t| t["id"].as_u64().unwrap()));
        ids.sort_unstable();
        assert_eq!(ids, Vec::from_iter(0..config.vocab_size as u64));
        // Byte-level BPE writes each of the 256 bytes as one character.
        let n_bytes = vocab.keys().filter(|t| t.chars().count() == 1).count();
        assert_eq!(n_bytes, 256);
    }

    #[test]
    fn template_renders_a_prefix_stable_conversation() {
        let header = "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: none\n\
             Today Date: 02 May 2027\nReasoning Mode: /no_think\n\n## Custom Instructions\n\n\
             You are Nano, a very small assistant with a memory. Answer in one short sentence.\n\n\
             <|im_end|>\n";
        let prompt = render(&[("user", "Hi")], context! { add_generation_prompt => true }).unwrap();
        assert_eq!(
            prompt,
            format!(
                "{header}<|im_start|>user\nHi<|im_end|>\n\
                 <|im_start|>assistant\n<think>\n\n</think>\n"
            )
        );
        let history = render(&[("user", "Hi"), ("assistant", "Ho")], context! {}).unwrap();
        assert_eq!(history, format!("{prompt}Ho<|im_end|>\n"));
    }

    #[test]
    fn template_obeys_flags_in_the_system_message() {
        let prompt_for = |system: &str, enable_thinking: bool| {
            render(
                &[("system", system), ("user", "Hi")],
                context! { add_generation_prompt => true, enable_thinking },
            )
            .unwrap()
        };
        let thinking = prompt_for("Be brief. /think", false);
        assert!(thinking.contains("Reasoning Mode: /think\n"), "{thinking}");
        assert!(thinking.contains("Instructions\n\nBe brief.\n\n<|im_end|>\n"), "{thinking}");
        assert!(thinking.ends_with("<|im_start|>assistant\n"), "{thinking}");
        let plain = prompt_for("/no_think", true);
        assert!(plain.ends_with("<think>\n\n</think>\n"), "{plain}");
        let bare = prompt_for("Only this.\n/system_override", false);
        assert!(bare.starts_with("<|im_start|>system\nOnly this.<|im_end|>\n"), "{bare}");
    }

    #[test]
    fn template_refuses_an_unknown_role() {
        assert!(render(&[("oracle", "Hi")], context! {}).is_err());
    }
}
