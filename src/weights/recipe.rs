//! Weights computed from a seed instead of read from a file, so that a fixture of realistic size
//! takes no space. Owns the recipe: a counter-based splitmix64 stream per tensor name, scaled by
//! the tensor's role. It matches `tests/fixtures` (those with weights) bit by bit.
//!
//! Element i of tensor `name`, all integers u64 with wrap-around:
//!
//! ```text
//! key = mix(fnv1a64(name) + seed·G)      r_i = mix(key + (i + 1)·G)      G = 0x9E3779B97F4A7C15
//! u_i = (r_i >> 40)·2⁻²³ − 1             in [−1, 1), exact in f32
//! w_i = u_i·f32(gain·√(3 / fan_in))      or      center + u_i·spread      (f32, one rounding each)
//! ```

use super::{DType, TensorInfo, TensorSource};
use crate::config::{DeltaConfig, ModelConfig};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Tensors of a backbone or an adapter that are generated while they are read.
pub struct RecipeSource {
    label: String,
    tensors: BTreeMap<String, Recipe>,
    exceptions: Exceptions,
}

/// Where a fixture departs from the common recipe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exceptions {
    /// Factors of single rows of the embedding, by token id; applied after generation.
    pub embedding_row_scale: BTreeMap<u32, f32>,
    /// Values are rounded to bf16, to nearest even.
    pub is_bf16: bool,
    /// Gain of memory_q_proj and memory_k_proj, if not 1.
    pub memory_qk_gain: Option<f64>,
}

struct Recipe {
    info: TensorInfo,
    key: u64,
    scale: Scale,
}

#[derive(Debug, Clone, Copy)]
enum Scale {
    /// u·amplitude
    Weight(f32),
    /// center + u·spread
    Affine(f32, f32),
}

impl RecipeSource {
    /// All tensors of a backbone.
    pub fn backbone(config: &ModelConfig, seed: u64) -> RecipeSource {
        RecipeSource::new(format!("recipe {seed}"), seed, config.tensor_shapes(), |name, shape| {
            if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
                return weight(2.8, config.hidden_size);
            }
            match name.rsplit('.').nth(1).unwrap_or_default() {
                part if part.ends_with("norm") => Scale::Affine(1.0, 0.25),
                "q_proj" | "k_proj" => weight(1.2, shape[1]),
                "down_proj" => weight(1.5, shape[1]),
                _ => weight(1.0, shape[1]),
            }
        })
    }

    /// All tensors of an adapter.
    ///
    /// # Errors
    /// [`Error::Config`] if a target layer does not exist.
    pub fn adapter(model: &ModelConfig, config: &DeltaConfig, seed: u64) -> Result<RecipeSource> {
        let shapes = config.tensor_shapes(model)?;
        let label = format!("adapter recipe {seed}");
        Ok(RecipeSource::new(label, seed, shapes, |name, shape| {
            match name.rsplit('.').next().unwrap_or_default() {
                "beta_bias" => Scale::Affine(-1.5, 0.8),
                "lambda_bias" => Scale::Affine(1.5, 0.8),
                "delta_scale_raw" => Scale::Affine(0.0, 1.0),
                "delta_o_rmsnorm_weight" => Scale::Affine(0.3, 0.2),
                "beta_proj" | "lambda_proj" => weight(0.7, shape[1]),
                part if part.starts_with("delta_") => weight(0.5, shape[1]),
                _ => weight(1.0, shape[1]),
            }
        }))
    }

    /// A matrix's key for [`raw`] and the bound of its weights; `None` for a vector's.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn stream(&self, name: &str) -> Option<(u64, f32)> {
        match self.tensors.get(name)? {
            Recipe { key, scale: Scale::Weight(amplitude), .. } => Some((*key, *amplitude)),
            _ => None,
        }
    }

    /// The same source with a fixture's exceptions.
    pub fn with_exceptions(mut self, exceptions: Exceptions) -> RecipeSource {
        if let Some(gain) = exceptions.memory_qk_gain {
            for (name, recipe) in &mut self.tensors {
                if name.ends_with("memory_q_proj") || name.ends_with("memory_k_proj") {
                    recipe.scale = weight(gain, recipe.info.shape[1]);
                }
            }
        }
        self.exceptions = exceptions;
        self
    }

    fn new(
        label: String,
        seed: u64,
        shapes: Vec<(String, Vec<usize>)>,
        scale: impl Fn(&str, &[usize]) -> Scale,
    ) -> RecipeSource {
        let recipe = |(name, shape): (String, Vec<usize>)| {
            let recipe = Recipe {
                key: key(seed, &name),
                scale: scale(&name, &shape),
                info: TensorInfo { dtype: DType::F32, shape },
            };
            (name, recipe)
        };
        let tensors = shapes.into_iter().map(recipe).collect();
        RecipeSource { label, tensors, exceptions: Exceptions::default() }
    }
}

impl TensorSource for RecipeSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|recipe| &recipe.info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let recipe = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensor { file: self.label.clone(), name: name.into() })?;
        assert!(
            start.checked_add(out.len()).is_some_and(|end| end <= recipe.info.n_elements()),
            "{} elements from {start} on are not inside {name}",
            out.len()
        );
        for (i, x) in (start as u64..).zip(out.iter_mut()) {
            let u = unit(recipe.key, i);
            *x = match recipe.scale {
                Scale::Weight(amplitude) => u * amplitude,
                Scale::Affine(center, spread) => center + u * spread,
            };
        }
        if name == "model.embed_tokens.weight" {
            let n_columns = recipe.info.shape[1];
            for (&row, factor) in &self.exceptions.embedding_row_scale {
                let from = (row as usize).saturating_mul(n_columns).max(start);
                let to = (row as usize + 1).saturating_mul(n_columns).min(start + out.len());
                for x in out.get_mut(from - start..to.max(from) - start).into_iter().flatten() {
                    *x *= factor;
                }
            }
        }
        if self.exceptions.is_bf16 {
            for x in out {
                *x = half::bf16::from_f32(*x).to_f32();
            }
        }
        Ok(())
    }
}

fn weight(gain: f64, fan_in: usize) -> Scale {
    Scale::Weight((gain * (3.0 / fan_in as f64).sqrt()) as f32)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fnv1a64(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn key(seed: u64, name: &str) -> u64 {
    mix(fnv1a64(name).wrapping_add(seed.wrapping_mul(GOLDEN)))
}

/// Number `i` of the stream that `key` begins.
pub(crate) fn raw(key: u64, i: u64) -> u64 {
    mix(key.wrapping_add((i + 1).wrapping_mul(GOLDEN)))
}

/// In [−1, 1); 24 bits, so that both steps are exact.
fn unit(key: u64, i: u64) -> f32 {
    (raw(key, i) >> 40) as f32 * (1.0 / 8_388_608.0) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::safetensors::{SafetensorsFile, SafetensorsShards};
    use std::path::{Path, PathBuf};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn configs(folder: &Path) -> (ModelConfig, DeltaConfig) {
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        (
            ModelConfig::from_json(&read("config.json"), "config.json").unwrap(),
            DeltaConfig::from_json(&read("delta_mem_config.json"), "delta_mem_config.json")
                .unwrap(),
        )
    }

    /// Fixture, backbone seed, adapter seed (`seeds` in its case.json).
    const SEEDS: [(&str, u64, u64); 4] = [
        ("c_msw4", 12, 22),
        ("i10_kitchen_sink", 19, 41),
        ("k_qwen3_tsw", 51, 61),
        ("o_untied_smollm3", 55, 66),
    ];

    #[test]
    fn integers_match_the_published_values() {
        let name = "model.embed_tokens.weight";
        assert_eq!(fnv1a64(name), 0xa88f_d795_d5c6_d156);
        let key = key(77, name);
        assert_eq!(key, 0x30e8_25be_9292_bd22);
        assert_eq!(raw(key, 0), 0x04e8_8f2b_537b_b1fa);
        assert_eq!(raw(key, 1), 0x2383_419b_54ff_1bd6);
        assert_eq!(raw(key, 2), 0x1b16_ad20_f8a7_711a);
        assert_eq!(unit(key, 0), -0.961_652_9);
        assert_eq!(unit(key, 1), -0.722_556_95);
        assert_eq!(unit(key, 2), -0.788_370_5);
    }

    #[test]
    fn a_realistic_model_matches_its_probes() {
        let folder = fixture("m_realistic4");
        let (model, delta) = configs(&folder);
        let case = std::fs::read(folder.join("case.json")).unwrap();
        let case: serde_json::Value = serde_json::from_slice(&case).unwrap();
        let backbone = RecipeSource::backbone(&model, 77);
        let adapter = RecipeSource::adapter(&model, &delta, 78).unwrap();
        let probes = case["probes"].as_object().unwrap();
        assert_eq!(probes.len(), 13);
        for (name, probe) in probes {
            let source = if backbone.info(name).is_some() { &backbone } else { &adapter };
            let values = source.read_all(name).unwrap();
            let number = |v: &serde_json::Value| v.as_f64().unwrap();
            for (x, expected) in values.iter().zip(probe["first4"].as_array().unwrap()) {
                assert_eq!(*x, number(expected) as f32, "{name}");
            }
            assert_eq!(values[values.len() - 1], number(&probe["last"]) as f32, "{name}");
            let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
            // numpy adds pairwise, so that the last digits differ.
            let expected = number(&probe["sum_f64"]);
            assert!((sum - expected).abs() < 1e-7, "{name}: {sum} {expected}");
        }
    }

    #[test]
    fn stored_fixtures_match_bit_by_bit() {
        // Names, and the table of gains, with every adapter tensor that exists.
        for (name, base_seed, adapter_seed) in SEEDS {
            let folder = fixture(name);
            let (model, delta) = configs(&folder);
            let stored = SafetensorsFile::open(folder.join("model.safetensors")).unwrap();
            let recipe = RecipeSource::backbone(&model, base_seed);
            assert_eq!(recipe.names(), stored.names(), "{name}");
            for tensor in stored.names() {
                assert!(
                    recipe.read_all(tensor).unwrap() == stored.read_all(tensor).unwrap(),
                    "{tensor}"
                );
            }
            let stored =
                SafetensorsFile::open(folder.join("delta_mem_adapter.safetensors")).unwrap();
            let recipe = RecipeSource::adapter(&model, &delta, adapter_seed).unwrap();
            assert_eq!(recipe.names(), stored.names(), "{name}");
            for tensor in stored.names() {
                assert!(
                    recipe.read_all(tensor).unwrap() == stored.read_all(tensor).unwrap(),
                    "{tensor}"
                );
            }
        }
    }

    #[test]
    fn bf16_shards_are_the_recipe_rounded() {
        let folder = fixture("n_bf16_sharded");
        let (model, _) = configs(&folder);
        let recipe = RecipeSource::backbone(&model, 54)
            .with_exceptions(Exceptions { is_bf16: true, ..Exceptions::default() });
        let shards = SafetensorsShards::open(&folder).unwrap();
        assert_eq!(recipe.names(), shards.names());
        for name in shards.names() {
            assert_eq!(shards.info(name).unwrap().dtype, DType::BF16);
            let rounded = recipe.read_all(name).unwrap();
            assert!(rounded == shards.read_all(name).unwrap(), "{name}");
        }
    }

    #[test]
    fn scaled_embedding_rows_match_in_whole_and_in_pieces() {
        let folder = fixture("s2_session_ssw_smollm3");
        let (model, _) = configs(&folder);
        let case = std::fs::read(folder.join("case.json")).unwrap();
        let case: serde_json::Value = serde_json::from_slice(&case).unwrap();
        let seed = case["seeds"]["base_seed"].as_u64().unwrap();
        let scales = serde_json::from_value(case["embedding_row_scale"].clone()).unwrap();
        let recipe = RecipeSource::backbone(&model, seed)
            .with_exceptions(Exceptions { embedding_row_scale: scales, ..Exceptions::default() });
        let stored = SafetensorsFile::open(folder.join("model.safetensors")).unwrap();
        let name = "model.embed_tokens.weight";
        let expected = stored.read_all(name).unwrap();
        assert!(recipe.read_all(name).unwrap() == expected);
        for (start, len) in [(96 * 64 - 3, 70), (97 * 64, 64), (100 * 64 + 1, 63), (0, 10)] {
            let mut piece = vec![0.0; len];
            recipe.read_f32(name, start, &mut piece).unwrap();
            assert!(piece == expected[start..start + len], "{start}");
        }
    }

    #[test]
    fn any_piece_equals_the_whole() {
        let (model, delta) = configs(&fixture("m_realistic4"));
        let source = RecipeSource::adapter(&model, &delta, 78).unwrap();
        let name = "model.layers.1.self_attn.memory_v_proj";
        let whole = source.read_all(name).unwrap();
        for (start, len) in [(0, 1), (5, 1000), (16383, 1), (16384, 0)] {
            let mut piece = vec![0.0; len];
            source.read_f32(name, start, &mut piece).unwrap();
            assert_eq!(piece, whole[start..start + len]);
        }
        assert_eq!(source.read_all("x").unwrap_err().code(), "missing_tensor");
    }
}
