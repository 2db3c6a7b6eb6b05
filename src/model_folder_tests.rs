use super::*;
use crate::config::Architecture;
use crate::weights::TensorInfo;
use crate::weights::recipe::RecipeSource;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A source with one change made to it.
struct Changed {
    inner: Box<dyn TensorSource + Send>,
    without: Option<&'static str>,
    more: Option<&'static str>,
    /// Tensor, element and its new value.
    value: Option<(&'static str, usize, f32)>,
}

impl Changed {
    fn new(inner: impl TensorSource + Send + 'static) -> Changed {
        Changed { inner: Box::new(inner), without: None, more: None, value: None }
    }
}

impl TensorSource for Changed {
    fn label(&self) -> &str {
        "changed"
    }
    fn names(&self) -> Vec<&str> {
        let mut names = self.inner.names();
        names.retain(|name| self.without != Some(name));
        names.extend(self.more);
        names
    }
    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name).filter(|_| self.without != Some(name))
    }
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.inner.read_f32(name, start, out)?;
        if let Some((changed, i, value)) = self.value
            && changed == name
            && (start..start + out.len()).contains(&i)
        {
            out[i - start] = value;
        }
        Ok(())
    }
}

#[test]
fn every_kind_of_folder_opens() {
    let session = ModelFolder::open(fixture("s2_session_ssw_smollm3")).unwrap();
    assert_eq!(session.name, "s2_session_ssw_smollm3");
    assert_eq!(session.eos_token_ids(), [97]);
    assert_eq!(session.tokenizer.eos_token.as_deref(), Some("<|im_end|>"));
    assert_eq!(session.tokenizer.pad_token.as_deref(), Some("<|end_of_text|>"));
    assert!(session.tokenizer_json.unwrap().starts_with(b"{"));
    let template = read(fixture("s2_session_ssw_smollm3").join("chat_template.jinja"));
    assert_eq!(session.chat_template.unwrap().into_bytes(), template);

    let sharded = ModelFolder::open(fixture("n_bf16_sharded")).unwrap();
    assert!(sharded.chat_template.is_none() && sharded.tokenizer_json.is_none());
    assert_eq!(sharded.tensors.names().len(), sharded.config.tensor_shapes().len());

    let qwen = ModelFolder::open(fixture("k_qwen3_base")).unwrap();
    assert_eq!(qwen.config.architecture, Architecture::Qwen3);
    let untied = ModelFolder::open(fixture("o_untied_smollm3")).unwrap();
    assert!(!untied.config.tie_word_embeddings);

    let recipe = fixture("m_realistic4");
    assert_eq!(ModelFolder::open(&recipe).err().unwrap().code(), "io");
    let recipe =
        ModelFolder::open_with(&recipe, |c| Ok(Box::new(RecipeSource::backbone(c, 77)))).unwrap();
    assert_eq!(recipe.config.hidden_size, 2048);
    assert_eq!(ModelFolder::open("no such folder").err().unwrap().code(), "io");
}

fn open_changed(change: impl FnOnce(&mut Changed)) -> Result<ModelFolder> {
    ModelFolder::open_with(fixture("k_qwen3_base"), |_| {
        let mut changed = Changed::new(SafetensorsShards::open(fixture("k_qwen3_base"))?);
        change(&mut changed);
        Ok(Box::new(changed))
    })
}

#[test]
fn a_backbone_must_be_complete_but_may_hold_more() {
    let full = open_changed(|_| ()).unwrap().fingerprint().unwrap();
    let with_more = open_changed(|c| c.more = Some("rotary.inv_freq")).unwrap();
    assert_eq!(with_more.fingerprint().unwrap(), full);
    let name = "model.layers.2.mlp.up_proj.weight";
    let error = open_changed(|c| c.without = Some(name)).err().unwrap();
    assert_eq!(error.code(), "missing_tensor");
    assert!(error.to_string().contains(name));
    let config = read(fixture("k_qwen3_base").join("config.json"));
    let wider = String::from_utf8(config)
        .unwrap()
        .replace("\"intermediate_size\": ", "\"intermediate_size\": 1");
    let files = ModelFiles {
        name: "wider".into(),
        config: wider.as_bytes(),
        generation_config: None,
        tokenizer_json: None,
        tokenizer_config: None,
        chat_template: None,
    };
    let shards = || Ok(Box::new(SafetensorsShards::open(fixture("k_qwen3_base"))?) as _);
    let error = ModelFolder::from_files(files, |_| shards()).err().unwrap();
    assert_eq!(error.code(), "tensor_shape");
}

#[test]
fn the_fingerprint_sees_dimensions_and_values_but_not_storage() {
    let original = open_changed(|_| ()).unwrap();
    let full = original.fingerprint().unwrap();
    assert_eq!(full.len(), 64);
    let other = open_changed(|c| c.value = Some(("model.norm.weight", 5, 0.5))).unwrap();
    assert_ne!(other.fingerprint().unwrap(), full);
    // The last element of a large tensor is in the sample, one in its middle is not.
    let n = original.tensors.info("lm_head.weight").unwrap().n_elements();
    assert!(n > 4096);
    let at = |i| open_changed(|c| c.value = Some(("lm_head.weight", i, 0.5))).unwrap();
    assert_ne!(at(n - 1).fingerprint().unwrap(), full);
    assert_eq!(at(n / 2).fingerprint().unwrap(), full);
    let mut config = original.config.clone();
    config.rope_theta += 1.0;
    assert_ne!(fingerprint(&config, original.tensors.as_ref()).unwrap(), full);
    let mut config = original.config.clone();
    config.max_position_embeddings += 1;
    assert_eq!(fingerprint(&config, original.tensors.as_ref()).unwrap(), full);

    // The same values as bf16 shards and as one f32 file.
    let sharded = ModelFolder::open(fixture("n_bf16_sharded")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = (sharded.config.tensor_shapes().into_iter())
        .map(|(name, shape)| {
            let values = sharded.tensors.read_all(&name).unwrap();
            (name, shape, bytemuck::cast_slice(&values).to_vec())
        })
        .collect();
    let views = values.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name, view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let config = read(fixture("n_bf16_sharded").join("config.json"));
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let single = ModelFolder::open(folder.path()).unwrap();
    assert_eq!(single.fingerprint().unwrap(), sharded.fingerprint().unwrap());
}

fn model(name: &str) -> ModelConfig {
    ModelConfig::from_json(&read(fixture(name).join("config.json")), "config.json").unwrap()
}

#[test]
fn both_adapter_formats_are_one_adapter() {
    for name in ["i10_kitchen_sink", "k_qwen3_tsw", "n_bf16_sharded"] {
        let folder = fixture(name);
        let model = model(name);
        let opened = Adapter::open(&folder, &model).unwrap();
        assert!(opened.tensors.label().ends_with(".safetensors"));
        let config = read(folder.join("delta_mem_config.json"));
        for file in ["delta_mem_adapter.pt", "delta_mem_adapter.safetensors"] {
            let bytes = read(folder.join(file));
            let adapter = Adapter::from_bytes(&config, bytes, file, &model).unwrap();
            assert_eq!(adapter.hash, opened.hash, "{name}/{file}");
        }
        let only_torch = tempfile::tempdir().unwrap();
        for file in ["delta_mem_config.json", "delta_mem_adapter.pt"] {
            std::fs::write(only_torch.path().join(file), read(folder.join(file))).unwrap();
        }
        let adapter = Adapter::open(only_torch.path(), &model).unwrap();
        assert!(adapter.tensors.label().ends_with(".pt"));
        assert_eq!(adapter.hash, opened.hash);
    }
    let error = Adapter::open(fixture("m_realistic4"), &model("m_realistic4")).err().unwrap();
    assert_eq!(error.code(), "io");
}

#[test]
fn the_adapter_hash_sees_configuration_and_every_value() {
    let folder = fixture("m_realistic4");
    let model = model("m_realistic4");
    let config = read(folder.join("delta_mem_config.json"));
    let config = DeltaConfig::from_json(&config, "delta_mem_config.json").unwrap();
    let hash = |config: &DeltaConfig, value| {
        let mut source = Changed::new(RecipeSource::adapter(&model, config, 78).unwrap());
        source.value = value;
        Adapter::new(config.clone(), Box::new(source), &model).unwrap().hash
    };
    let full = hash(&config, None);
    // An even element in the middle of the largest tensor.
    let name = "model.layers.1.self_attn.delta_o_proj";
    assert_ne!(hash(&config, Some((name, 8001, 0.5))), full);
    let mut all_layers = config.clone();
    all_layers.target_layers = vec![0, 1, 2, 3];
    assert_eq!(hash(&all_layers, None), full);
    let mut others = vec![config.clone(); 3];
    others[0].alpha = 8.0;
    others[1].state_update_mode = crate::config::StateUpdateMode::NoLambda;
    others[2].delta_heads.pop();
    for other in others {
        assert_ne!(hash(&other, None), full, "{other:?}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let model = model("n_bf16_sharded");
    let config = read(fixture("n_bf16_sharded").join("delta_mem_config.json"));
    let config = DeltaConfig::from_json(&config, "delta_mem_config.json").unwrap();
    let error = |config: &DeltaConfig, model: &ModelConfig, change: &dyn Fn(&mut Changed)| {
        let source =
            SafetensorsFile::open(fixture("n_bf16_sharded").join("delta_mem_adapter.safetensors"));
        let mut source = Changed::new(source.unwrap());
        change(&mut source);
        let error = Adapter::new(config.clone(), Box::new(source), model).err().unwrap();
        (error.code(), error.to_string())
    };
    let beta = "model.layers.3.self_attn.beta_bias";
    let (code, message) = error(&config, &model, &|c| c.without = Some(beta));
    assert!(code == "missing_tensor" && message.contains(beta), "{message}");
    let (code, message) = error(&config, &model, &|c| c.more = Some("model.extra"));
    assert!(code == "unknown_tensor" && message.contains("model.extra"), "{message}");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (code, message) = error(&config, &model, &|c| c.value = Some((beta, 1, value)));
        assert!(code == "format" && message.contains("element 1 is"), "{message}");
    }
    let mut wider = config.clone();
    wider.rank = 4;
    assert_eq!(error(&wider, &model, &|_| ()).0, "tensor_shape");
    // Uncoupled gates need tensors of their own; coupled ones must not bring them.
    let mut uncoupled = config.clone();
    uncoupled.couple_lambda = false;
    assert_eq!(error(&uncoupled, &model, &|_| ()).0, "missing_tensor");
    // A layer less in the configuration leaves tensors over, a layer more does not exist.
    let mut fewer = config.clone();
    fewer.target_layers = vec![0, 1, 2];
    assert_eq!(error(&fewer, &model, &|_| ()).0, "unknown_tensor");
    fewer.target_layers = vec![4];
    assert_eq!(error(&fewer, &model, &|_| ()).0, "config");
}

#[test]
fn generation_config_is_lenient_about_keys_and_strict_about_types() {
    let parse = |json: &str| GenerationConfig::from_json(json.as_bytes(), "generation_config.json");
    let full = parse(
        r#"{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": true,
            "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repetition_penalty": 1.1,
            "max_new_tokens": 48, "transformers_version": "4.53"}"#,
    );
    let expected = GenerationConfig {
        eos_token_ids: vec![2, 3],
        do_sample: Some(true),
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.0),
        repetition_penalty: Some(1.1),
        max_new_tokens: Some(48),
    };
    assert_eq!(full.unwrap(), expected);
    assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
    assert_eq!(parse(r#"{"eos_token_id": 7}"#).unwrap().eos_token_ids, [7]);
    assert_eq!(parse(r#"{"top_k": null, "do_sample": null}"#).unwrap(), Default::default());
    for (key, value) in [
        ("eos_token_id", "\"x\""),
        ("eos_token_id", "[-1]"),
        ("eos_token_id", "4294967296"),
        ("do_sample", "1"),
        ("temperature", "\"1\""),
        ("temperature", "-1"),
        ("temperature", "1e300"),
        ("top_k", "1.5"),
        ("top_k", "-1"),
        ("top_p", "[]"),
        ("min_p", "{}"),
        ("repetition_penalty", "true"),
    ] {
        match parse(&format!("{{\"{key}\": {value}}}")) {
            Err(Error::Config { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key} = {value}: {other:?}"),
        }
    }
    for json in ["", "[]", "3", "{", &"[".repeat(10_000)] {
        assert_eq!(parse(json).unwrap_err().code(), "format");
    }
}

#[test]
fn templates_come_from_every_usual_place() {
    let parse = |json: &str| TokenizerConfig::from_json(json.as_bytes(), "tokenizer_config.json");
    let template = |json: &str| parse(json).unwrap().1;
    assert_eq!(template("{}"), None);
    assert_eq!(template(r#"{"chat_template": null}"#), None);
    assert_eq!(template(r#"{"chat_template": []}"#), None);
    assert_eq!(template(r#"{"chat_template": " x"}"#).as_deref(), Some(" x"));
    let list = r#"{"chat_template": [{"name": "tool_use", "template": "t"},
                                     {"name": "default", "template": "d"}]}"#;
    assert_eq!(template(list).as_deref(), Some("d"));
    let (tokens, _) = parse(
        r#"{"eos_token": {"content": "</S>", "lstrip": false}, "pad_token": null,
            "name_or_path": "Org/SmolLM3-3B"}"#,
    )
    .unwrap();
    assert_eq!(tokens.eos_token.as_deref(), Some("</S>"));
    assert_eq!(tokens.pad_token, None);
    assert_eq!(tokens.name_or_path.as_deref(), Some("Org/SmolLM3-3B"));
    let long = format!(r#"{{"chat_template": "{}"}}"#, "x".repeat(MAX_TEMPLATE_BYTES + 1));
    for json in [
        r#"{"chat_template": 3}"#,
        r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#,
        r#"{"chat_template": [{"name": "default"}]}"#,
        r#"{"chat_template": [3]}"#,
        r#"{"eos_token": 3}"#,
        r#"{"eos_token": {}}"#,
        r#"{"name_or_path": []}"#,
        &long,
    ] {
        assert_eq!(parse(json).err().unwrap().code(), "config");
    }
    assert_eq!(parse("[]").err().unwrap().code(), "format");
}

#[test]
fn the_template_file_wins_and_must_be_text() {
    let config = read(fixture("k_qwen3_base").join("config.json"));
    let open = |file: Option<&[u8]>| {
        let files = ModelFiles {
            name: "test".into(),
            config: &config,
            generation_config: Some(br#"{"eos_token_id": 9}"#),
            tokenizer_json: None,
            tokenizer_config: Some(br#"{"chat_template": "inner"}"#),
            chat_template: file,
        };
        let bytes = read(fixture("k_qwen3_base").join("model.safetensors"));
        ModelFolder::from_files(files, |_| {
            Ok(Box::new(SafetensorsFile::from_bytes(bytes, "built-in")?))
        })
    };
    assert_eq!(open(None).unwrap().chat_template.as_deref(), Some("inner"));
    let outer = open(Some(b"outer")).unwrap();
    assert_eq!(outer.chat_template.as_deref(), Some("outer"));
    assert!(outer.eos_token_ids().contains(&9));
    assert_eq!(open(Some(b"\xff")).err().unwrap().code(), "format");
    let long = vec![b'x'; MAX_TEMPLATE_BYTES + 1];
    assert_eq!(open(Some(&long)).err().unwrap().code(), "format");
}
