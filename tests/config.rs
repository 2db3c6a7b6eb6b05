//! Both configuration files: every key, its default, its other spellings and what is refused.

use deltamem::Error;
use deltamem::config::{
    Architecture, DeltaConfig, DeltaHead, DeltaScale, MAX_CONFIG_BYTES, ModelConfig,
    StateUpdateMode, WriteGranularity,
};
use deltamem::footprint::{QWEN3_4B, SMOLLM3_3B};
use serde_json::{Value, json};

fn fixture(name: &str, file: &str) -> Vec<u8> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(root.join("tests/fixtures").join(name).join(file)).unwrap()
}

fn delta(json: Value) -> Result<DeltaConfig, Error> {
    DeltaConfig::from_json(json.to_string().as_bytes(), "delta_mem_config.json")
}

/// `changes` on a small SmolLM3; `null` takes a key away as the reference sees it.
fn model(changes: Value) -> Result<ModelConfig, Error> {
    let mut config = json!({
        "model_type": "smollm3", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 101, "rope_theta": 5e6
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_json(config.to_string().as_bytes(), "config.json")
}

fn config_key<T: std::fmt::Debug>(result: Result<T, Error>, context: &Value) -> String {
    match result {
        Err(Error::Config { key, file, .. }) => {
            assert!(file.ends_with("config.json"));
            key
        }
        other => panic!("{context}: {other:?}"),
    }
}

fn unsupported<T: std::fmt::Debug>(result: Result<T, Error>, part: &str) {
    match result {
        Err(Error::Unsupported { what, .. }) => assert!(what.contains(part), "{what}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn absent_adapter_keys_take_the_reference_defaults() {
    let expected = DeltaConfig {
        rank: 8,
        alpha: 16.0,
        normalize_qk: true,
        couple_lambda: true,
        state_update_mode: StateUpdateMode::Standard,
        rankwise_gates: true,
        num_state_heads: 1,
        write_granularity: WriteGranularity::Token,
        target_layers: vec![],
        delta_heads: DeltaHead::ALL.to_vec(),
        delta_o_rmsnorm_eps: None,
        delta_scale: None,
    };
    assert_eq!(delta(json!({})).unwrap(), expected);
    let nulls = json!({
        "rank": null, "alpha": null, "normalize_qk": null, "couple_lambda": null,
        "state_update_mode": null, "rankwise_gates": null, "num_state_heads": null,
        "memory_write_granularity": null, "target_modules": null, "target_layers": null,
        "delta_heads": null, "delta_o_rmsnorm": null, "delta_o_rmsnorm_eps": null,
        "trainable_delta_scale": null, "delta_scale_max": null, "delta_scale_granularity": null,
        "num_memory_partitions": null
    });
    assert_eq!(delta(nulls).unwrap(), expected);
}

#[test]
fn every_adapter_key_is_read() {
    let all = json!({
        "rank": 4, "alpha": 2.5, "normalize_qk": false, "couple_lambda": false,
        "state_update_mode": " Lambda_Outside\n", "rankwise_gates": false, "num_state_heads": 3,
        "memory_write_granularity": "SENTENCE_MEAN", "target_modules": " Self_Attn ",
        "target_layers": [5, 1, 3, 1], "delta_heads": " O, q,, o", "delta_o_rmsnorm": true,
        "delta_o_rmsnorm_eps": 1e-5, "trainable_delta_scale": true, "delta_scale_max": 3,
        "delta_scale_granularity": "Head"
    });
    let expected = DeltaConfig {
        rank: 4,
        alpha: 2.5,
        normalize_qk: false,
        couple_lambda: false,
        state_update_mode: StateUpdateMode::LambdaOutside,
        rankwise_gates: false,
        num_state_heads: 3,
        write_granularity: WriteGranularity::SentenceMean,
        target_layers: vec![1, 3, 5],
        delta_heads: vec![DeltaHead::Q, DeltaHead::O],
        delta_o_rmsnorm_eps: Some(1e-5),
        delta_scale: Some(DeltaScale { max: 3.0, per_head: true }),
    };
    let found = delta(all).unwrap();
    assert_eq!(found, expected);
    assert_eq!((found.n_rows(), found.n_gates()), (12, 3));
    let modes = ["standard", "lambda_outside", "no_lambda"];
    for mode in modes {
        let found = delta(json!({"state_update_mode": mode, "couple_lambda": false})).unwrap();
        assert_eq!(found.state_update_mode.name(), mode);
        assert_eq!(found.uses_lambda(), mode != "no_lambda");
    }
    for granularity in ["token", "message_mean", "sentence_mean"] {
        let found = delta(json!({"memory_write_granularity": granularity})).unwrap();
        assert_eq!(found.write_granularity.name(), granularity);
    }
    let heads = delta(json!({"delta_heads": ["v", "K ", "v", ""]})).unwrap().delta_heads;
    assert_eq!(heads, [DeltaHead::K, DeltaHead::V]);
    assert_eq!(delta(json!({"delta_heads": []})).unwrap().delta_heads, []);
}

#[test]
fn training_keys_are_inert_and_unknown_keys_refused() {
    let training = json!({
        "beta_bias_init": -3, "output_init": "base_slice_fixed", "base_slice_ref_width": 16,
        "online_gain": 0.1, "delta_scale_init": 0.5, "delta_scale_parameterization": "alpha_over_rank",
        "memory_reader_hidden_size": 5, "latent_gate_init": 0.5, "latent_memory_slots": 9
    });
    assert_eq!(delta(training).unwrap(), delta(json!({})).unwrap());
    for key in ["Rank", "lora_alpha", "", "ranks", "read_context_mask"] {
        let json = json!({ key: 8 });
        assert_eq!(config_key(delta(json.clone()), &json), key);
    }
}

#[test]
fn archived_keys_must_keep_their_default() {
    let table = [
        ("num_memory_partitions", json!(1), json!(2)),
        ("num_global_memory_partitions", json!(0), json!(1)),
        ("memory_partition_routing", json!("soft"), json!("hard")),
        ("memory_partition_basis", json!("shared"), json!("separate")),
        ("tie_memory_partition_read_write", json!(false), json!(true)),
        ("memory_partition_read_mode", json!("softmax"), json!("sigmoid")),
        ("slot_read_top_k", json!(0), json!(4)),
        ("global_memory_mode", json!("shared_rw"), json!("write_only")),
        ("global_memory_read_top_k", json!(0), json!(1)),
        ("global_memory_merge_mode", json!("gated_residual"), json!("sum")),
        ("memory_reader_layers", json!([]), json!([1])),
        ("memory_readout_mode", json!("delta"), json!("latent")),
        ("memory_write_source", json!("learned_hidden"), json!("values")),
        ("memory_write_proposals_per_message", json!(2), json!(3)),
        ("synthetic_memory_slots", json!(1), json!(8)),
        ("latent_memory_layers", json!([]), json!([0])),
    ];
    for (key, default, other) in table {
        delta(json!({ key: default })).unwrap();
        if let Value::String(s) = &default {
            delta(json!({ key: format!(" {} ", s.to_uppercase()) })).unwrap();
        }
        if let Some(n) = default.as_f64() {
            delta(json!({ key: n })).unwrap();
        }
        for bad in [other, json!({}), json!("?")] {
            let json = json!({ key: bad });
            assert_eq!(config_key(delta(json.clone()), &json), key);
        }
    }
}

#[test]
fn adapter_values_out_of_range_or_of_the_wrong_type_are_refused() {
    let bad = [
        ("rank", json!([0, -1, 129, 1.5, "8", true, [8], 1e30])),
        ("alpha", json!(["16", false, [], 1e39])),
        ("normalize_qk", json!([1, "true", [], {}])),
        ("couple_lambda", json!([0, "false"])),
        ("state_update_mode", json!(["", "lambda", 0, ["standard"]])),
        ("rankwise_gates", json!([1, "x"])),
        ("num_state_heads", json!([0, -4, 129, 1025, "1", 18446744073709551615u64])),
        ("memory_write_granularity", json!(["message", 1, {}])),
        ("target_modules", json!([["mlp"], "mlp", [], ["self_attn", "mlp"], 3])),
        ("target_layers", json!([[-1], [1.5], ["0"], "0", 3, [65536], {}])),
        ("delta_heads", json!([["x"], "qo", ["q", "x"], 3, [1], {}])),
        ("delta_o_rmsnorm", json!(["true", 1])),
        ("delta_o_rmsnorm_eps", json!([0, -1e-6, "1", 1e-60])),
        ("trainable_delta_scale", json!([1, "yes"])),
        ("delta_scale_max", json!(["2", []])),
        ("delta_scale_init", json!([0, 2, -1, "1"])),
        ("delta_scale_granularity", json!(["heads", 4])),
    ];
    for (key, values) in bad {
        for value in values.as_array().unwrap() {
            let json = json!({ key: value });
            assert_eq!(config_key(delta(json.clone()), &json), key, "{value}");
        }
    }
    delta(json!({"rank": 128, "num_state_heads": 8})).unwrap();
    let rows = json!({"rank": 128, "num_state_heads": 9});
    assert_eq!(config_key(delta(rows.clone()), &rows), "num_state_heads");
}

#[test]
fn adapter_tensors_follow_the_configuration() {
    let model = model(json!({})).unwrap();
    let shapes = |json: Value| delta(json).unwrap().tensor_shapes(&model).unwrap();
    let plain = shapes(json!({}));
    assert_eq!(plain.len(), 6 * 9);
    let find = |shapes: &[(String, Vec<usize>)], name: &str| {
        let name = format!("model.layers.3.self_attn.{name}");
        shapes.iter().find(|(n, _)| *n == name).map(|(_, s)| s.clone())
    };
    assert_eq!(find(&plain, "memory_q_proj").unwrap(), [8, 64]);
    assert_eq!(find(&plain, "delta_q_proj").unwrap(), [64, 8]);
    assert_eq!(find(&plain, "delta_k_proj").unwrap(), [32, 8]);
    assert_eq!(find(&plain, "delta_o_proj").unwrap(), [64, 8]);
    assert_eq!(find(&plain, "beta_bias").unwrap(), [8]);
    assert_eq!(find(&plain, "lambda_proj"), None);
    let full = shapes(json!({
        "couple_lambda": false, "state_update_mode": "no_lambda", "num_state_heads": 2,
        "rankwise_gates": false, "trainable_delta_scale": true, "delta_scale_granularity": "head",
        "delta_o_rmsnorm": true, "target_layers": [3], "delta_heads": []
    }));
    assert_eq!(full.len(), 9 + 4);
    assert_eq!(find(&full, "lambda_proj").unwrap(), [2, 64]);
    assert_eq!(find(&full, "delta_scale_raw").unwrap(), [4]);
    assert_eq!(find(&full, "delta_o_rmsnorm_weight").unwrap(), [64]);
    assert_eq!(find(&full, "delta_v_proj").unwrap(), [32, 16]);
    let outside = delta(json!({"target_layers": [6]})).unwrap();
    assert_eq!(config_key(outside.tensor_shapes(&model), &json!(6)), "target_layers");
}

/// 4.87 M, 19.47 M and 3.54 M in the paper's words.
#[test]
fn trainable_parameters_are_counted_as_in_the_paper() {
    let of = |model: &[u8], changes: Value| {
        let model = ModelConfig::from_json(model, "config.json").unwrap();
        let mut config = json!({ "rank": 8, "alpha": 16, "delta_heads": ["q", "o"] });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        delta(config).unwrap().n_trainable(&model).unwrap()
    };
    let tsw = json!({});
    assert_eq!(of(QWEN3_4B, tsw.clone()), 4_866_336);
    assert_eq!(of(QWEN3_4B, json!({ "num_state_heads": 4 })), 19_465_344);
    assert_eq!(of(SMOLLM3_3B, tsw.clone()), 3_539_232);
    // the other heads, and what only some adapters have
    let more = |changes: Value| of(SMOLLM3_3B, changes) - 3_539_232;
    assert_eq!(more(json!({ "delta_heads": ["q", "k", "v", "o"] })), 36 * 2 * 512 * 8);
    assert_eq!(more(json!({ "couple_lambda": false })), 36 * (8 * 2048 + 8));
    assert_eq!(more(json!({ "couple_lambda": false, "state_update_mode": "no_lambda" })), 0);
    assert_eq!(more(json!({ "delta_o_rmsnorm": true })), 36 * 2048);
    assert_eq!(more(json!({ "trainable_delta_scale": true })), 36);
}

#[test]
fn absent_backbone_keys_take_their_defaults() {
    let found = model(json!({"rope_theta": null, "num_key_value_heads": null})).unwrap();
    let expected = ModelConfig {
        architecture: Architecture::SmolLm3,
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 6,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        vocab_size: 101,
        rms_norm_eps: 1e-6,
        rope_theta: 2e6,
        rope_scaling: None,
        max_position_embeddings: 32768,
        use_rope: vec![true, true, true, false, true, true],
        tie_word_embeddings: true,
        eos_token_ids: vec![],
    };
    assert_eq!(found, expected);
    let qwen = model(json!({"model_type": "qwen3"})).unwrap();
    assert!(!qwen.tie_word_embeddings && qwen.has_qk_norm());
    assert_eq!(qwen.use_rope, [true; 6]);
    let no_theta = json!({"model_type": "qwen3", "rope_theta": null});
    assert_eq!(config_key(model(no_theta.clone()), &no_theta), "rope_theta");
}

#[test]
fn nope_layers_come_from_the_list_before_the_interval() {
    let rope = |json: Value| model(json).unwrap().use_rope;
    let list = json!([1, 0, true, false, 1, 1]);
    let expected = [true, false, true, false, true, true];
    assert_eq!(rope(json!({"no_rope_layers": list, "no_rope_layer_interval": 2})), expected);
    let every_second = [true, false, true, false, true, false];
    for list in [json!(null), json!([])] {
        let json = json!({"no_rope_layers": list, "no_rope_layer_interval": 2});
        assert_eq!(rope(json), every_second);
    }
    assert_eq!(rope(json!({"no_rope_layer_interval": 1})), [false; 6]);
    // Qwen3 has no such layers, whatever the file says.
    assert_eq!(rope(json!({"model_type": "qwen3", "no_rope_layers": [0]})), [true; 6]);
    for list in [json!([1]), json!([1, 1, 1, 1, 1, 2]), json!("1"), json!([1, 1, 1, 1, 1, "0"])] {
        let json = json!({ "no_rope_layers": list });
        assert_eq!(config_key(model(json.clone()), &json), "no_rope_layers");
    }
    let zero = json!({"no_rope_layer_interval": 0});
    assert_eq!(config_key(model(zero.clone()), &zero), "no_rope_layer_interval");
}

#[test]
fn rope_theta_is_found_in_both_places() {
    let theta = |json: Value| model(json).unwrap().rope_theta;
    assert_eq!(theta(json!({})), 5e6);
    let nested = json!({"rope_type": "default", "rope_theta": 1e4});
    assert_eq!(theta(json!({"rope_theta": null, "rope_parameters": nested})), 1e4);
    assert_eq!(theta(json!({"rope_parameters": nested})), 1e4);
    assert_eq!(theta(json!({"rope_parameters": {"rope_theta": null}})), 5e6);
    assert_eq!(theta(json!({"rope_scaling": {"rope_type": "default"}})), 5e6);
    assert_eq!(theta(json!({"rope_scaling": null, "rope_theta": 10000})), 1e4);
    for bad in [json!(0), json!(-1), json!("1e4"), json!(1e39), json!([])] {
        let json = json!({ "rope_theta": bad });
        assert_eq!(config_key(model(json.clone()), &json), "rope_theta");
        let json = json!({ "rope_parameters": { "rope_theta": bad } });
        assert_eq!(config_key(model(json.clone()), &json), "rope_theta");
    }
    unsupported(model(json!({ "rope_scaling": {"type": "linear"} })), "rope_scaling");
    unsupported(model(json!({ "rope_parameters": {"rope_type": "llama3"} })), "rope_parameters");
    let text = json!({"rope_scaling": "yarn"});
    assert_eq!(config_key(model(text.clone()), &text), "rope_scaling");
}

#[test]
fn yarn_stretches_the_positions() {
    for key in ["rope_scaling", "rope_parameters"] {
        let yarn =
            json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 65536});
        let found = model(json!({"max_position_embeddings": 65536, key: yarn})).unwrap();
        assert_eq!(found.max_position_embeddings, 131_072);
        let scaling = found.rope_scaling.unwrap();
        assert_eq!((scaling.factor, scaling.original_positions), (2.0, 65536));
        assert!((scaling.attention_factor - 1.069_314_718).abs() < 1e-9);
        assert_eq!((scaling.beta_fast, scaling.beta_slow, scaling.truncate), (32.0, 1.0, true));
        // what the file says already may be the stretched number
        let longer = model(json!({"max_position_embeddings": 262_144, key: yarn})).unwrap();
        assert_eq!(longer.max_position_embeddings, 262_144);
        let bare = json!({"type": "yarn", "factor": 4, "truncate": false});
        let found = model(json!({"max_position_embeddings": 32768, key: bare})).unwrap();
        assert_eq!(found.max_position_embeddings, 131_072);
        assert!(!found.rope_scaling.unwrap().truncate);
        let broken = [
            json!({"type": "yarn"}),
            json!({"type": "yarn", "factor": 0.5}),
            json!({"type": "yarn", "factor": 1e9}),
            json!({"type": "yarn", "factor": "2"}),
            json!({"type": "yarn", "factor": 2, "beta_fast": -1}),
            json!({"type": "yarn", "factor": 2, "truncate": 1}),
            json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}),
        ];
        for yarn in broken {
            let json = json!({ key: yarn });
            assert_eq!(config_key(model(json.clone()), &json), key);
        }
    }
    let flat = json!({"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}});
    assert_eq!(config_key(model(flat.clone()), &flat), "rope_theta");
}

#[test]
fn variants_that_are_not_implemented_are_refused() {
    for kind in [json!("llama"), json!(null), json!("qwen3_moe"), json!("")] {
        unsupported(model(json!({ "model_type": kind })), "model_type");
    }
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        model(json!({ key: false })).unwrap();
        unsupported(model(json!({ key: true })), key);
        let text = json!({ key: "true" });
        assert_eq!(config_key(model(text.clone()), &text), key);
    }
    unsupported(model(json!({"hidden_act": "gelu"})), "hidden_act");
    model(json!({"layer_types": ["full_attention"]})).unwrap();
    unsupported(model(json!({"layer_types": ["sliding_attention"]})), "layer_types");
    let text = json!({"layer_types": "full_attention"});
    assert_eq!(config_key(model(text.clone()), &text), "layer_types");
}

#[test]
fn backbone_values_out_of_range_or_of_the_wrong_type_are_refused() {
    let bad = [
        ("model_type", json!([3, []])),
        ("hidden_act", json!([3])),
        ("hidden_size", json!([0, -1, 65537, "64", 64.5, null, 1e30, []])),
        ("intermediate_size", json!([0, null, 262145])),
        ("num_hidden_layers", json!([0, null, 1025, "6"])),
        ("num_attention_heads", json!([0, null, 1025])),
        ("num_key_value_heads", json!([0, 3, 8, "2"])),
        ("head_dim", json!([0, 15, 257, 258, "16"])),
        ("vocab_size", json!([0, null, 4194305])),
        ("rms_norm_eps", json!([0, -1e-6, 1, "1e-6", 1e-60])),
        ("max_position_embeddings", json!([0, 16777217, "x"])),
        ("tie_word_embeddings", json!([1, "true"])),
        ("eos_token_id", json!(["x", -1, [1, "x"], 4294967296u64, 1.5, {}, [[1]]])),
    ];
    for (key, values) in bad {
        for value in values.as_array().unwrap() {
            let json = json!({ key: value });
            assert_eq!(config_key(model(json.clone()), &json), key, "{value}");
        }
    }
    // Without head_dim, hidden_size must divide.
    let uneven = json!({"hidden_size": 66});
    assert_eq!(config_key(model(uneven.clone()), &uneven), "head_dim");
    model(json!({"hidden_size": 66, "head_dim": 16})).unwrap();
    assert_eq!(model(json!({"eos_token_id": [2, 5]})).unwrap().eos_token_ids, [2, 5]);
    assert_eq!(model(json!({"eos_token_id": 7})).unwrap().eos_token_ids, [7]);
}

#[test]
fn anything_but_a_small_json_object_is_refused() {
    let deep_list = "[".repeat(100_000);
    let deep_object = "{\"a\":".repeat(100_000);
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_CONFIG_BYTES));
    let texts = ["", "[]", "3", "null", "\"{}\"", "{", "{\"rank\":8", "{} {}", "{\"rank\":NaN}"];
    for text in texts.into_iter().chain([&*deep_list, &deep_object, &long]) {
        let bytes = text.as_bytes();
        assert_eq!(DeltaConfig::from_json(bytes, "d").unwrap_err().code(), "format");
        assert_eq!(ModelConfig::from_json(bytes, "m").unwrap_err().code(), "format");
    }
    assert_eq!(DeltaConfig::from_json(b"{\"a\":\"\xff\"}", "d").unwrap_err().code(), "format");
}

#[test]
fn damaged_files_end_in_an_error_or_a_valid_configuration() {
    let base = fixture("k_qwen3_tsw", "config.json");
    let adapter = fixture("i10_kitchen_sink", "delta_mem_config.json");
    ModelConfig::from_json(&base, "m").unwrap();
    DeltaConfig::from_json(&adapter, "d").unwrap();
    for end in 0..base.trim_ascii_end().len() {
        assert_eq!(ModelConfig::from_json(&base[..end], "m").unwrap_err().code(), "format");
    }
    for end in 0..adapter.trim_ascii_end().len() {
        assert_eq!(DeltaConfig::from_json(&adapter[..end], "d").unwrap_err().code(), "format");
    }
    let mut random = 1u64;
    let mut next = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n
    };
    for _ in 0..5_000 {
        let (mut a, mut b) = (base.clone(), adapter.clone());
        let (i, j) = (next(a.len()), next(b.len()));
        a[i] = next(256) as u8;
        b[j] = next(256) as u8;
        // Whatever was accepted can be used.
        let model = ModelConfig::from_json(&a, "m").ok();
        let delta = DeltaConfig::from_json(&b, "d").ok();
        if let Some(model) = model {
            model.n_parameters();
            if let Some(delta) = delta {
                let _ = delta.tensor_shapes(&model);
            }
        }
    }
}
