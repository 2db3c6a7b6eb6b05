//! Which type each tensor gets. Owns the mixes that go by one name.
//!
//! Vectors are F32. With `--type q4_k` or `q5_k` the embedding or head that makes the logits is
//! Q6_K, and so are `attn_v` and `ffn_down` in the first and the last eighth of the layers and in
//! every third between them: the mix that llama.cpp calls `Q4_K_M`. With types of 4 and 5 bits in
//! blocks of 32 only the head is better (Q6_K). All others are the same everywhere.
//!
//! A row that is no whole number of blocks gets Q8_0, and F16 if that does not divide it either.

use super::ConvertOptions;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::weights::gguf::blocks::GgmlType;
use regex::Regex;
use std::str::FromStr;

/// Longest pattern accepted.
const MAX_PATTERN_BYTES: usize = 1000;

/// An exception: tensors whose GGUF names a regular expression finds get this type.
#[derive(Debug, Clone)]
pub struct TypeRule {
    pattern: Regex,
    ty: GgmlType,
}

impl FromStr for TypeRule {
    type Err = Error;

    /// Reads `PATTERN=TYPE`, such as `ffn_down=q8_0` or `blk\.[01]\.=q6_k`.
    fn from_str(text: &str) -> Result<TypeRule> {
        let bad = |reason: String| Error::Setting { name: "tensor-type", reason };
        let (pattern, ty) = text
            .rsplit_once('=')
            .filter(|(pattern, _)| (1..=MAX_PATTERN_BYTES).contains(&pattern.len()))
            .ok_or_else(|| bad("expected PATTERN=TYPE".into()))?;
        let known = GgmlType::ALL.map(|ty| ty.name().to_lowercase()).join(", ");
        Ok(TypeRule {
            pattern: Regex::new(pattern).map_err(|e| bad(e.to_string()))?,
            ty: GgmlType::from_name(ty).ok_or_else(|| bad(format!("{ty:?} is none of {known}")))?,
        })
    }
}

/// llama.cpp's number for a file that is mostly of this type (`general.file_type`).
pub fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::Q4_K => 15,
        GgmlType::Q5_K => 17,
        GgmlType::Q6_K => 18,
        GgmlType::BF16 => 32,
    }
}

/// The type of a tensor that GGUF calls `name`, and what to say if that is not what was asked for.
pub(super) fn choose(
    name: &str,
    shape: &[usize],
    config: &ModelConfig,
    options: &ConvertOptions,
) -> (GgmlType, Option<String>) {
    if shape.len() < 2 {
        return (GgmlType::F32, None);
    }
    let rule = options.rules.iter().rev().find(|rule| rule.pattern.is_match(name));
    let wanted = rule.map_or_else(|| usual(name, config, options.ty), |rule| rule.ty);
    let row_len = shape.last().map_or(0, |&n| n as u64);
    let fits = |ty: &GgmlType| ty.row_bytes(row_len).is_some();
    let ty = [wanted, GgmlType::Q8_0].into_iter().find(fits).unwrap_or(GgmlType::F16);
    let note = (ty != wanted).then(|| {
        format!(
            "{name}: rows of {row_len} are no whole blocks of {}, so it is {}",
            wanted.name(),
            ty.name()
        )
    });
    (ty, note)
}

fn usual(name: &str, config: &ModelConfig, ty: GgmlType) -> GgmlType {
    let head = if config.tie_word_embeddings { "token_embd.weight" } else { "output.weight" };
    let layer = |part: &str| {
        let layer = name.strip_prefix("blk.")?.strip_suffix(part)?;
        layer.parse::<usize>().ok()
    };
    let is_k = matches!(ty, GgmlType::Q4_K | GgmlType::Q5_K);
    let is_small = matches!(ty, GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1);
    if name == head && (is_k || is_small) {
        return GgmlType::Q6_K;
    }
    match layer(".attn_v.weight").or_else(|| layer(".ffn_down.weight")) {
        Some(layer) if is_k && has_more_bits(layer, config.n_layers) => GgmlType::Q6_K,
        _ => ty,
    }
}

/// Layers whose errors matter more: those at either end, and every third of the others.
fn has_more_bits(layer: usize, n_layers: usize) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::SMOLLM3_3B;

    fn types(ty: GgmlType, rules: &[&str]) -> Vec<(String, GgmlType)> {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let options = ConvertOptions { ty, rules };
        let shapes = config.tensor_shapes().into_iter();
        let chosen = shapes.map(|(name, shape)| {
            let name = crate::weights::gguf::names::gguf_name(&name).unwrap();
            let (ty, note) = choose(&name, &shape, &config, &options);
            assert_eq!(note, None);
            (name, ty)
        });
        chosen.collect()
    }

    fn of(types: &[(String, GgmlType)], name: &str) -> GgmlType {
        types.iter().find(|(found, _)| found == name).unwrap().1
    }

    #[test]
    fn the_k_mix_is_that_of_llama_cpp() {
        let found = types(GgmlType::Q4_K, &[]);
        let count = |ty| found.iter().filter(|(_, found)| *found == ty).count();
        // as counted in SmolLM3-Q4_K_M.gguf: embedding, and 18 layers' attn_v and ffn_down
        assert_eq!((count(GgmlType::F32), count(GgmlType::Q6_K)), (73, 37));
        assert_eq!(of(&found, "token_embd.weight"), GgmlType::Q6_K);
        for (layer, expected) in
            [(0, GgmlType::Q6_K), (4, GgmlType::Q4_K), (6, GgmlType::Q6_K), (31, GgmlType::Q6_K)]
        {
            assert_eq!(of(&found, &format!("blk.{layer}.attn_v.weight")), expected, "{layer}");
            assert_eq!(of(&found, &format!("blk.{layer}.ffn_down.weight")), expected, "{layer}");
        }
        assert_eq!(of(&found, "blk.0.attn_q.weight"), GgmlType::Q4_K);
        let found = types(GgmlType::Q8_0, &[]);
        assert!(found.iter().all(|(_, ty)| matches!(ty, GgmlType::Q8_0 | GgmlType::F32)));
        assert_eq!(of(&types(GgmlType::Q4_0, &[]), "token_embd.weight"), GgmlType::Q6_K);
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        let found = types(GgmlType::Q4_K, &["ffn_down=q8_0", r"^blk\.1\.=F16", "output_norm=q8_0"]);
        assert_eq!(of(&found, "blk.0.ffn_down.weight"), GgmlType::Q8_0);
        assert_eq!(of(&found, "blk.1.ffn_down.weight"), GgmlType::F16);
        assert_eq!(of(&found, "blk.10.attn_q.weight"), GgmlType::Q4_K);
        assert_eq!(of(&found, "output_norm.weight"), GgmlType::F32);
        for bad in ["q8_0", "=q8_0", "x=q9", "(=q8_0"] {
            assert_eq!(bad.parse::<TypeRule>().unwrap_err().code(), "setting", "{bad}");
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let options = ConvertOptions { ty: GgmlType::Q4_K, rules: Vec::new() };
        for (row, expected) in [(1408, GgmlType::Q8_0), (100, GgmlType::F16), (512, GgmlType::Q4_K)]
        {
            let (ty, note) = choose("blk.9.ffn_up.weight", &[3, row], &config, &options);
            assert_eq!((ty, note.is_some()), (expected, row != 512));
        }
    }
}
