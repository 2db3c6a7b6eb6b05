//! Models that nobody trained, with exactly the names, shapes and types of real ones. Owns the
//! random blocks, and what is known by name.
//!
//! Blocks of quants are drawn, not computed from weights: counter-based (`recipe.rs`), so that any
//! row is made by any thread. The scales are such that weights have the recipe's spread around 0.

mod vocabulary;

use super::{Conversion, ConvertOptions, Extra, Source, TensorError, write_tensor};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::footprint::{QWEN3_4B, SMOLLM3_3B};
use crate::model_folder::{ModelFiles, ModelFolder};
use crate::weights::gguf::blocks::{GgmlType, SUPER_BLOCK};
use crate::weights::gguf::encode_k::pack_scales;
use crate::weights::gguf::write::{GgufWriter, PlannedTensor};
use crate::weights::recipe::{RecipeSource, raw};
use half::f16;
use rayon::prelude::*;
use std::path::Path;

/// Bytes of whole rows that are made and written together.
const PIECE_BYTES: usize = 8 << 20;

/// Shapes that go by a name: the two backbones, and two smaller ones for measurements.
const KNOWN: [(&str, &[u8]); 4] = [
    ("SmolLM3-3B", SMOLLM3_3B),
    ("Qwen3-4B", QWEN3_4B),
    (
        "S",
        br#"{"model_type": "smollm3", "hidden_size": 512, "intermediate_size": 1408,
            "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2,
            "vocab_size": 8192, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
            "max_position_embeddings": 65536, "tie_word_embeddings": true}"#,
    ),
    (
        "M",
        br#"{"model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008,
            "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4,
            "vocab_size": 16384, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
            "max_position_embeddings": 65536, "tie_word_embeddings": true}"#,
    ),
];

/// The `config.json` of a name that [`known_names`] lists, in any case.
pub fn known_config(name: &str) -> Option<&'static [u8]> {
    let known = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(_, config)| *config)
}

/// Names that [`known_config`] knows.
pub fn known_names() -> [&'static str; 4] {
    KNOWN.map(|(name, _)| name)
}

/// A made-up model, planned.
pub struct Synthesis {
    conversion: Conversion,
    recipe: RecipeSource,
}

impl Synthesis {
    /// Plans a model with the shapes of a `config.json`. `name` is what it calls itself.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`]; [`Error::Config`] for a vocabulary too small to hold all bytes.
    pub fn new(
        name: &str,
        config: &[u8],
        options: &ConvertOptions,
        seed: u64,
    ) -> Result<Synthesis> {
        let model = ModelConfig::from_json(config, "config.json")?;
        let tokenizer = vocabulary::tokenizer_json(model.architecture, model.vocab_size);
        let tokenizer = tokenizer.ok_or_else(|| Error::Config {
            file: "config.json".into(),
            key: "vocab_size".into(),
            reason: format!("{} is too small for a byte-level vocabulary", model.vocab_size),
        })?;
        let files = ModelFiles {
            name: format!("{name} (synthetic)"),
            config,
            generation_config: None,
            tokenizer_json: Some(tokenizer),
            tokenizer_config: Some(vocabulary::TOKENIZER_CONFIG),
            chat_template: Some(vocabulary::CHAT_TEMPLATE),
        };
        let tensors = Box::new(RecipeSource::backbone(&model, seed));
        let folder = ModelFolder::from_files(files, |_| Ok(tensors))?;
        let conversion = Conversion::new(&folder, &Extra::default(), options)?;
        Ok(Synthesis { conversion, recipe: RecipeSource::backbone(&model, seed) })
    }

    /// The file's layout and notes.
    pub fn conversion(&self) -> &Conversion {
        &self.conversion
    }

    /// Writes the file, or goes on where an interrupted run ended. `progress` gets bytes that are
    /// done, and of how many.
    ///
    /// # Errors
    /// As [`GgufWriter::open`].
    pub fn write(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let plan = self.conversion.plan();
        let mut writer = GgufWriter::open(path, plan)?;
        for (source, planned) in self.conversion.sources.iter().zip(plan.tensors()) {
            let progress = &mut |done| progress(done, plan.size_bytes());
            match self.recipe.stream(&source.name) {
                Some((key, bound)) if planned.ty.is_quantized() => {
                    write_random(&mut writer, planned, key, bound, progress)?;
                }
                _ => self.write_exact(&mut writer, source, planned, progress)?,
            }
        }
        writer.finish()
    }

    fn write_exact(
        &self,
        writer: &mut GgufWriter,
        source: &Source,
        planned: &PlannedTensor,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        // Without a look at what is there already: nobody asks for errors.
        if planned.offset + planned.size_bytes <= writer.position() {
            return Ok(());
        }
        let _: TensorError = write_tensor(writer, &self.recipe, source, planned, progress)?;
        Ok(())
    }
}

fn write_random(
    writer: &mut GgufWriter,
    planned: &PlannedTensor,
    key: u64,
    bound: f32,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (row_bytes, block_bytes) = (planned.row_bytes(), planned.ty.block_bytes());
    let blocks_per_row = row_bytes / block_bytes;
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    let draw = Draw::new(planned.ty, bound);
    let mut bytes = Vec::new();
    for first in (0..planned.n_rows()).step_by(piece_rows) {
        let n_rows = piece_rows.min(planned.n_rows() - first);
        let offset = planned.offset + (first * row_bytes) as u64;
        let end = offset + (n_rows * row_bytes) as u64;
        if end <= writer.position() {
            continue;
        }
        bytes.resize(n_rows * row_bytes, 0);
        bytes.par_chunks_exact_mut(row_bytes).enumerate().for_each(|(i, row)| {
            let blocks =
                (((first + i) * blocks_per_row) as u64..).zip(row.chunks_exact_mut(block_bytes));
            blocks.for_each(|(block, bytes)| draw.block(key, block, bytes));
        });
        writer.write(offset, &bytes)?;
        progress(end);
    }
    Ok(())
}

/// How blocks of one tensor are drawn.
struct Draw {
    ty: GgmlType,
    /// The f16 that gives weights the wanted spread.
    d: f16,
    /// Puts the mean of unsigned quants at 0.
    m: f16,
}

impl Draw {
    /// `bound` is that of evenly spread weights around 0 with the wanted spread.
    fn new(ty: GgmlType, bound: f32) -> Draw {
        // Spread of n equally likely numbers in a row: √((n² − 1) / 12); scales as drawn below.
        let (n, mean_scale): (f32, f32) = match ty {
            GgmlType::Q4_K => (16.0, 55.5),
            GgmlType::Q5_K => (32.0, 55.5),
            GgmlType::Q6_K => (64.0, 111.5),
            GgmlType::Q5_0 | GgmlType::Q5_1 => (32.0, 1.0),
            GgmlType::Q8_0 => (256.0, 1.0),
            _ => (16.0, 1.0),
        };
        let spread = bound / 3f32.sqrt();
        let d = spread / (((n * n - 1.0) / 12.0).sqrt() * mean_scale);
        let m = d * (n - 1.0) / 2.0;
        Draw { ty, d: f16::from_f32(d), m: f16::from_f32(m) }
    }

    /// Block number `block` of the tensor. Quants are any bits; scales are set afterwards.
    fn block(&self, key: u64, block: u64, out: &mut [u8]) {
        let n_words = out.len().div_ceil(8) as u64 + 1;
        for (i, word) in (block * n_words..).zip(out.chunks_mut(8)) {
            let bytes = raw(key, i).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
        let extra = raw(key, (block + 1) * n_words - 1);
        // Signed quants have a mean of half a step; a sign at random takes it out of the sums.
        let sign = |bit: u32| if extra >> bit & 1 == 0 { 1.0 } else { -1.0 };
        let signed_d = f16::from_f32(self.d.to_f32() * sign(63)).to_le_bytes();
        match self.ty {
            GgmlType::Q4_K | GgmlType::Q5_K => {
                out[..2].copy_from_slice(&self.d.to_le_bytes());
                out[2..4].copy_from_slice(&self.m.to_le_bytes());
                // 48..=63; the same minimum keeps the mean at 0
                let scales = std::array::from_fn(|g| 48 + (extra >> (4 * g) & 15) as u8);
                pack_scales(&scales, &scales, &mut out[4..16]);
            }
            GgmlType::Q6_K => {
                for (g, scale) in out[192..192 + SUPER_BLOCK / 16].iter_mut().enumerate() {
                    // 96..=127 of either sign
                    let size = (96 + (*scale & 31)) as i8;
                    *scale = if sign(g as u32) > 0.0 { size } else { -size } as u8;
                }
                out[208..210].copy_from_slice(&self.d.to_le_bytes());
            }
            GgmlType::Q4_1 | GgmlType::Q5_1 => {
                out[..2].copy_from_slice(&self.d.to_le_bytes());
                out[2..4].copy_from_slice(&f16::from_f32(-self.m.to_f32()).to_le_bytes());
            }
            _ => out[..2].copy_from_slice(&signed_d),
        }
    }
}

#[cfg(test)]
mod tests;
