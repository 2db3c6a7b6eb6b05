//! Models as GGUF files: from a Hugging Face folder, or made up. Owns what a file says in front of
//! its tensors, the type and the order of rows of each, and that a model passes through in pieces of
//! a few megabytes.

mod metadata;
pub mod synth;
mod types;
mod vocabulary;

pub use metadata::Extra;
pub use types::{TypeRule, file_type};

use crate::config::{Architecture, ModelConfig};
use crate::error::{Error, Result};
use crate::model_folder::ModelFolder;
use crate::weights::TensorSource;
use crate::weights::gguf::blocks::{GgmlType, decode};
use crate::weights::gguf::encode::encode;
use crate::weights::gguf::names::gguf_name;
use crate::weights::gguf::write::{GgufWriter, Plan, PlannedTensor};
use rayon::prelude::*;
use std::path::Path;

/// Elements of whole rows that are read, stored and written together (4 MiB as f32).
const PIECE: usize = 1 << 20;

/// What a file is to be like.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// Of the matrices; a few get a better one, see [`TypeRule`] and `types.rs`.
    pub ty: GgmlType,
    /// Exceptions; the last that matches a tensor counts.
    pub rules: Vec<TypeRule>,
}

/// A model that is to become a GGUF file, planned.
pub struct Conversion {
    plan: Plan,
    sources: Vec<Source>,
    notes: Vec<String>,
}

/// Where a planned tensor comes from.
struct Source {
    /// In the words of Hugging Face.
    name: String,
    /// Rows of a head, where llama.cpp wants another order of them.
    moved_head_rows: Option<usize>,
}

/// How much a tensor lost.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorError {
    /// As the file has it.
    pub name: String,
    pub ty: GgmlType,
    pub shape: Vec<usize>,
    pub size_bytes: u64,
    /// Root of the mean squared error, relative to that of the weights.
    pub relative_rms: f64,
}

impl Conversion {
    /// Plans the file; of the weights, only samples are read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for layers without RoPE that no reader would expect,
    /// [`Error::Tokenizer`] for a tokenizer that contradicts itself or the embedding, what reading
    /// gives, and as [`Plan::new`].
    pub fn new(
        folder: &ModelFolder,
        extra: &Extra,
        options: &ConvertOptions,
    ) -> Result<Conversion> {
        let config = &folder.config;
        check_rope(config)?;
        let mut notes = Vec::new();
        let mut sources = Vec::new();
        let mut tensors = Vec::new();
        for (name, shape) in config.tensor_shapes() {
            let gguf = gguf_name(&name).ok_or_else(|| Error::UnknownTensor {
                file: folder.tensors.label().into(),
                name: name.clone(),
            })?;
            let (ty, note) = types::choose(&gguf, &shape, config, options);
            notes.extend(note);
            // llama.cpp rotates neighbours for this architecture, Hugging Face rotates halves.
            let is_moved = config.architecture == Architecture::SmolLm3
                && (gguf.ends_with("attn_q.weight") || gguf.ends_with("attn_k.weight"));
            let moved_head_rows = is_moved.then_some(config.head_dim);
            sources.push(Source { name, moved_head_rows });
            tensors.push((gguf, ty, shape));
        }
        let (values, note) = metadata::of(folder, extra, options.ty)?;
        notes.extend(note);
        Ok(Conversion { plan: Plan::new(&values, tensors)?, sources, notes })
    }

    /// The file's header and layout.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What a person should know: types that could not be had, a tokenizer without a name.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the file, or goes on where an interrupted run ended, and measures what each tensor
    /// lost. `progress` gets bytes that are done, and of how many.
    ///
    /// # Errors
    /// As [`GgufWriter::open`], what reading gives, and [`Error::Format`] for a weight that is not
    /// finite.
    pub fn write(
        &self,
        tensors: &dyn TensorSource,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<TensorError>> {
        let mut writer = GgufWriter::open(path, &self.plan)?;
        let mut errors = Vec::with_capacity(self.sources.len());
        for (source, planned) in self.sources.iter().zip(self.plan.tensors()) {
            errors.push(write_tensor(&mut writer, tensors, source, planned, &mut |done| {
                progress(done, self.plan.size_bytes());
            })?);
        }
        writer.finish()?;
        Ok(errors)
    }
}

/// GGUF has no key for layers without RoPE: readers know SmolLM3's, every fourth.
fn check_rope(config: &ModelConfig) -> Result<()> {
    let is_smollm3 = config.architecture == Architecture::SmolLm3;
    let mut layers = (1..).zip(&config.use_rope);
    match layers.find(|&(number, &has_rope)| has_rope != (!is_smollm3 || number % 4 != 0)) {
        None => Ok(()),
        Some((number, _)) => Err(Error::Unsupported {
            what: format!("a GGUF file of this model: `no_rope_layers` of layer {}", number - 1),
            reason: "readers take it that every fourth layer, and only those, has no RoPE".into(),
        }),
    }
}

fn write_tensor(
    writer: &mut GgufWriter,
    tensors: &dyn TensorSource,
    source: &Source,
    planned: &PlannedTensor,
    progress: &mut dyn FnMut(u64),
) -> Result<TensorError> {
    let (row_len, row_bytes) = (planned.row_len(), planned.row_bytes());
    let mut sums = Sums::default();
    let piece_rows = (PIECE / row_len).max(1);
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for first in (0..planned.n_rows()).step_by(piece_rows) {
        let n_rows = piece_rows.min(planned.n_rows() - first);
        values.resize(n_rows * row_len, 0.0);
        bytes.resize(n_rows * row_bytes, 0);
        read_rows(tensors, source, first, row_len, &mut values)?;
        let offset = planned.offset + (first * row_bytes) as u64;
        // From an interrupted run; whole, since a run's mark lies between two pieces.
        let is_there = offset + bytes.len() as u64 <= writer.position();
        if is_there {
            writer.read_back(offset, &mut bytes)?;
        }
        let rows = values.par_chunks_exact(row_len).zip(bytes.par_chunks_exact_mut(row_bytes));
        let lost: Vec<Sums> = rows
            .map_init(
                || vec![0.0; row_len],
                |decoded, (row, bytes)| {
                    if !is_there {
                        encode(planned.ty, row, bytes);
                    }
                    decode(planned.ty, bytes, decoded);
                    Sums::of(row, decoded)
                },
            )
            .collect();
        // One after the other, so that the sum does not depend on the threads.
        for (i, row) in lost.into_iter().enumerate() {
            if !row.squares.is_finite() {
                let reason =
                    format!("row {} of {} has a weight that is not finite", first + i, source.name);
                return Err(Error::format(tensors.label(), "model", reason));
            }
            sums.squares += row.squares;
            sums.errors += row.errors;
        }
        if !is_there {
            writer.write(offset, &bytes)?;
        }
        progress(offset + bytes.len() as u64);
    }
    Ok(TensorError {
        name: planned.name.clone(),
        ty: planned.ty,
        shape: planned.shape.clone(),
        size_bytes: planned.size_bytes,
        relative_rms: sums.relative_rms(),
    })
}

/// Reads rows in the order in which the file has them.
fn read_rows(
    tensors: &dyn TensorSource,
    source: &Source,
    first: usize,
    row_len: usize,
    out: &mut [f32],
) -> Result<()> {
    let Some(d) = source.moved_head_rows else {
        return tensors.read_f32(&source.name, first * row_len, out);
    };
    for (row, out) in (first..).zip(out.chunks_exact_mut(row_len)) {
        let (head, i) = (row / d, row % d);
        let from = head * d + i % 2 * (d / 2) + i / 2;
        tensors.read_f32(&source.name, from * row_len, out)?;
    }
    Ok(())
}

/// Of the squares of weights, and of what is wrong with them.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    squares: f64,
    errors: f64,
}

impl Sums {
    fn of(row: &[f32], decoded: &[f32]) -> Sums {
        let mut sums = Sums::default();
        for (&x, &found) in row.iter().zip(decoded) {
            sums.squares += f64::from(x) * f64::from(x);
            sums.errors += f64::from(x - found) * f64::from(x - found);
        }
        sums
    }

    fn relative_rms(self) -> f64 {
        if self.squares > 0.0 { (self.errors / self.squares).sqrt() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests;
