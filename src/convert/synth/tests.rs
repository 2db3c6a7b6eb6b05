use super::*;
use crate::weights::TensorSource;
use crate::weights::gguf::GgufSource;

const TINY: &[u8] = br#"{"model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "vocab_size": 512, "rms_norm_eps": 1e-6, "rope_theta": 5e6, "max_position_embeddings": 4096,
    "tie_word_embeddings": true}"#;

fn options(ty: GgmlType) -> ConvertOptions {
    ConvertOptions { ty, rules: Vec::new() }
}

#[test]
fn drawn_blocks_have_the_spread_of_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    for ty in GgmlType::ALL {
        let synthesis = Synthesis::new("tiny", TINY, &options(ty), 3).unwrap();
        let mut last = 0;
        synthesis.write(&path, &mut |done, total| last = last.max(done * 100 / total)).unwrap();
        assert!(last >= 99);
        let source = GgufSource::open(&path).unwrap();
        for name in ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"] {
            let (_, bound) = synthesis.recipe.stream(name).unwrap();
            let values = source.read_all(name).unwrap();
            let n = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
            let spread = f64::from(bound) / 3f64.sqrt();
            assert!((variance.sqrt() / spread - 1.0).abs() < 0.03, "{} {name}", ty.name());
            assert!(mean.abs() < 0.02 * spread, "{} {name} {mean}", ty.name());
            assert_ne!(values[..256], values[256..512], "rows differ");
        }
        // norms are the recipe's
        let name = "model.layers.0.self_attn.q_norm.weight";
        assert_eq!(source.read_all(name).unwrap(), synthesis.recipe.read_all(name).unwrap());
        assert!(source.names().len() == 24 && synthesis.conversion().notes().is_empty());
    }
}

#[test]
fn a_seed_is_a_model_and_another_seed_another() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |seed| {
        let path = folder.path().join("a.gguf");
        let synthesis = Synthesis::new("tiny", TINY, &options(GgmlType::Q4_K), seed).unwrap();
        synthesis.write(&path, &mut |_, _| {}).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
}

#[test]
fn known_models_have_the_size_of_the_real_files() {
    let plan = |name: &str| {
        let config = known_config(name).unwrap();
        Synthesis::new(name, config, &options(GgmlType::Q4_K), 0).unwrap().conversion.plan
    };
    let found = plan("smollm3-3b");
    // SmolLM3-Q4_K_M.gguf has 1,915,305,312 bytes; only its vocabulary and template are others.
    let difference = found.size_bytes().abs_diff(1_915_305_312);
    assert!(difference < 8 << 20, "{}", found.size_bytes());
    assert_eq!(found.tensors().len(), 36 * 9 + 2);
    assert_eq!(plan("Qwen3-4B").tensors().len(), 36 * 11 + 2);
    assert_eq!(known_config("Qwen3-5B"), None);
    let small = br#"{"model_type": "smollm3", "hidden_size": 256, "num_attention_heads": 4,
        "num_hidden_layers": 1, "intermediate_size": 256, "vocab_size": 100}"#;
    let error = Synthesis::new("x", small, &options(GgmlType::Q4_K), 0).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "config");
}
