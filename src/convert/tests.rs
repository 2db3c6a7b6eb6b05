use super::*;
use crate::config::ModelConfig;
use crate::model_folder::{ModelFiles, ModelFolder};
use crate::weights::recipe::RecipeSource;
use std::cell::Cell;

fn config(architecture: &str, ffn: usize) -> String {
    format!(
        r#"{{"model_type": "{architecture}", "hidden_size": 256, "intermediate_size": {ffn},
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 64, "vocab_size": 6144, "rms_norm_eps": 1e-5, "rope_theta": 5e6,
            "max_position_embeddings": 4096, "tie_word_embeddings": false, "eos_token_id": 6143}}"#
    )
}

fn folder(config: &str) -> ModelFolder {
    let files = ModelFiles {
        name: "tiny".into(),
        config: config.as_bytes(),
        generation_config: None,
        tokenizer_json: Some(crate::nano::TOKENIZER.to_vec()),
        tokenizer_config: Some(crate::nano::TOKENIZER_CONFIG),
        chat_template: Some(crate::nano::CHAT_TEMPLATE),
    };
    ModelFolder::from_files(files, |config| Ok(Box::new(RecipeSource::backbone(config, 11))))
        .unwrap()
}

fn options(ty: GgmlType, rules: &[&str]) -> ConvertOptions {
    ConvertOptions { ty, rules: rules.iter().map(|rule| rule.parse().unwrap()).collect() }
}

fn convert(folder: &ModelFolder, options: &ConvertOptions, path: &Path) -> Vec<TensorError> {
    let conversion = Conversion::new(folder, &Extra::default(), options).unwrap();
    let mut last = 0;
    conversion
        .write(folder.tensors.as_ref(), path, &mut |done, total| {
            assert!(last <= done && done <= total);
            last = done;
        })
        .unwrap()
}

#[test]
fn a_converted_model_is_read_back_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.gguf");
    for architecture in ["smollm3", "qwen3"] {
        let before = folder(&config(architecture, 512));
        let errors = convert(&before, &options(GgmlType::F32, &[]), &path);
        assert!(errors.iter().all(|error| error.relative_rms == 0.0));
        let after = ModelFolder::open(&path).unwrap();
        // llama.cpp, and so the reader, knows more tokens that end a reply
        assert!(after.config.eos_token_ids.contains(&6143));
        let eos_token_ids = before.config.eos_token_ids.clone();
        assert_eq!(ModelConfig { eos_token_ids, ..after.config.clone() }, before.config);
        for (name, _) in before.config.tensor_shapes() {
            // q and k too, whose rows lie in another order in the file
            let (a, b) = (before.tensors.read_all(&name), after.tensors.read_all(&name));
            assert!(a.unwrap() == b.unwrap(), "{architecture} {name}");
        }
        assert_eq!(before.fingerprint().unwrap(), after.fingerprint().unwrap());
        assert_eq!(after.chat_template, before.chat_template);
        assert_eq!(
            after.tokenizer,
            crate::model_folder::TokenizerConfig {
                name_or_path: Some("tiny".into()),
                ..before.tokenizer.clone()
            }
        );
        let tokenizer = |json: &Option<Vec<u8>>| {
            let json = json.as_ref().unwrap();
            crate::tokenizer::Tokenizer::from_json(json).unwrap()
        };
        let text = "<|im_start|>user\nHello there, it's 12345 o'clock!<|im_end|>\n";
        assert_eq!(
            tokenizer(&before.tokenizer_json).encode(text).unwrap(),
            tokenizer(&after.tokenizer_json).encode(text).unwrap()
        );
    }
}

#[test]
fn stretched_positions_are_read_back_as_they_were() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.gguf");
    for more in [
        "",
        r#", "attention_factor": 1.5"#,
        r#", "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16, "beta_slow": 2"#,
    ] {
        let scaling = format!(
            r#"{{"rope_scaling": {{"rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 1024{more}}}, "#
        );
        let text = config("qwen3", 512).replacen('{', &scaling, 1);
        let before = folder(&text);
        let extra = Extra { config: serde_json::from_str(&text).unwrap(), ..Extra::default() };
        let conversion = Conversion::new(&before, &extra, &options(GgmlType::F32, &[])).unwrap();
        conversion.write(before.tensors.as_ref(), &path, &mut |_, _| {}).unwrap();
        let found = ModelFolder::open(&path).unwrap().config.rope_scaling.unwrap();
        let expected = before.config.rope_scaling.unwrap();
        assert!((found.attention_factor - expected.attention_factor).abs() < 1e-6, "{more}");
        // that one is f32 in the file
        let attention_factor = expected.attention_factor;
        assert_eq!(crate::config::Yarn { attention_factor, ..found }, expected, "{more}");
        let usual = crate::config::usual_attention_factor(4.0);
        assert_eq!((expected.attention_factor - usual).abs() < 1e-9, more.is_empty());
    }
}

#[test]
fn rows_of_smollm3_are_where_llama_cpp_looks_for_them() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.gguf");
    let before = folder(&config("smollm3", 512));
    let conversion =
        Conversion::new(&before, &Extra::default(), &options(GgmlType::F32, &[])).unwrap();
    conversion.write(before.tensors.as_ref(), &path, &mut |_, _| {}).unwrap();
    let planned = conversion.plan().tensors().iter().find(|t| t.name == "blk.0.attn_k.weight");
    let planned = planned.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let expected = before.tensors.read_all("model.layers.0.self_attn.k_proj.weight").unwrap();
    // of the second head: rows 0, 32, 1, 33 … of 64
    for (row, from) in [(64, 64), (65, 96), (66, 65), (127, 127)] {
        let at = planned.offset as usize + row * planned.row_bytes();
        let mut found = vec![0.0; 256];
        decode(GgmlType::F32, &bytes[at..][..1024], &mut found);
        assert_eq!(found, expected[from * 256..][..256], "{row}");
    }
}

#[test]
fn errors_are_told_per_tensor_and_types_can_be_chosen() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.gguf");
    let before = folder(&config("qwen3", 352));
    let options = options(GgmlType::Q4_K, &["ffn_up=q8_0", "attn_output=f16"]);
    let errors = convert(&before, &options, &path);
    let after = ModelFolder::open(&path).unwrap();
    let of = |name: &str| errors.iter().find(|error| error.name == name).unwrap();
    for (name, ty, low, high) in [
        ("token_embd.weight", GgmlType::Q4_K, 0.04, 0.08),
        ("output.weight", GgmlType::Q6_K, 0.008, 0.02),
        ("blk.1.attn_k.weight", GgmlType::Q4_K, 0.04, 0.08),
        ("blk.1.attn_output.weight", GgmlType::F16, 1e-5, 1e-3),
        ("blk.1.ffn_up.weight", GgmlType::Q8_0, 2e-3, 6e-3),
        // 352 = 11 · 32
        ("blk.1.ffn_down.weight", GgmlType::Q8_0, 2e-3, 6e-3),
        ("blk.1.attn_norm.weight", GgmlType::F32, 0.0, 0.0),
    ] {
        let found = of(name);
        assert_eq!(found.ty, ty, "{name}");
        assert!((low..=high).contains(&found.relative_rms), "{name} {}", found.relative_rms);
        // what is told is what a reader gets
        let theirs = crate::weights::gguf::names::hugging_face_name(name).unwrap();
        let a = before.tensors.read_all(&theirs).unwrap();
        let b = after.tensors.read_all(&theirs).unwrap();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let lost: f64 = a.iter().zip(&b).map(|(a, b)| square(a - b)).sum();
        let all: f64 = a.iter().map(|&x| square(x)).sum();
        assert!(((lost / all).sqrt() - found.relative_rms).abs() < 1e-9, "{name}");
    }
    let conversion = Conversion::new(&before, &Extra::default(), &options).unwrap();
    assert_eq!(conversion.notes().len(), 4, "{:?}", conversion.notes());
    assert!(conversion.notes()[0].contains("blk.0.ffn_down.weight"));
}

#[test]
fn what_no_reader_would_guess_is_refused() {
    let refuse = |key: &str, code: &str| {
        let text = config("smollm3", 512).replacen('{', &format!("{{{key}, "), 1);
        let folder = folder(&text);
        let options = options(GgmlType::F16, &[]);
        let error = Conversion::new(&folder, &Extra::default(), &options).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code, "{key}");
    };
    refuse(r#""no_rope_layers": [1, 1, 0, 1]"#, "unsupported");
    refuse(r#""no_rope_layer_interval": 2"#, "unsupported");
    // two layers of a folder may be all that is like SmolLM3
    let text =
        config("smollm3", 512).replace(r#""num_hidden_layers": 4"#, r#""num_hidden_layers": 2"#);
    let folder = folder(&text);
    assert!(Conversion::new(&folder, &Extra::default(), &options(GgmlType::F16, &[])).is_ok());
}

/// Gives up after so many reads, as a full disk or a power cut would.
struct Breaking<'a> {
    inner: &'a dyn TensorSource,
    n_left: Cell<usize>,
}

impl TensorSource for Breaking<'_> {
    fn label(&self) -> &str {
        self.inner.label()
    }
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }
    fn info(&self, name: &str) -> Option<&crate::weights::TensorInfo> {
        self.inner.info(name)
    }
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.n_left.set(self.n_left.get().checked_sub(1).ok_or(Error::Cancelled)?);
        self.inner.read_f32(name, start, out)
    }
}

#[test]
fn an_interrupted_conversion_goes_on_and_ends_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let (whole, broken) = (temporary.path().join("a.gguf"), temporary.path().join("b.gguf"));
    let folder = folder(&config("qwen3", 512));
    let options = options(GgmlType::Q5_K, &[]);
    let conversion = Conversion::new(&folder, &Extra::default(), &options).unwrap();
    let expected = convert(&folder, &options, &whole);
    let tensors = folder.tensors.as_ref();
    let mut n_kept = 0;
    for n_reads in [3, 9, 20] {
        let source = Breaking { inner: tensors, n_left: Cell::new(n_reads) };
        let error = conversion.write(&source, &broken, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.code(), "cancelled");
        let writer = GgufWriter::open(&broken, conversion.plan()).unwrap();
        n_kept += usize::from(writer.position() > conversion.plan().header().len() as u64);
    }
    assert_eq!(n_kept, 3, "what was written is kept");
    let found = conversion.write(tensors, &broken, &mut |_, _| {}).unwrap();
    assert_eq!(found, expected, "errors of the part that was there are known too");
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&broken).unwrap());
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    struct Poisoned(RecipeSource);
    impl TensorSource for Poisoned {
        fn label(&self) -> &str {
            "poisoned"
        }
        fn names(&self) -> Vec<&str> {
            self.0.names()
        }
        fn info(&self, name: &str) -> Option<&crate::weights::TensorInfo> {
            self.0.info(name)
        }
        fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
            self.0.read_f32(name, start, out)?;
            if name == "model.layers.2.mlp.up_proj.weight" {
                out[256 * 5 + 1] = f32::NAN;
            }
            Ok(())
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.gguf");
    let text = config("qwen3", 512);
    let model = ModelConfig::from_json(text.as_bytes(), "config.json").unwrap();
    let folder = folder(&text);
    let conversion =
        Conversion::new(&folder, &Extra::default(), &options(GgmlType::Q4_K, &[])).unwrap();
    let source = Poisoned(RecipeSource::backbone(&model, 11));
    let error = conversion.write(&source, &path, &mut |_, _| {}).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("row 5 of model.layers.2.mlp.up_proj.weight"), "{message}");
    assert!(!path.exists());
}
