//! A training at one moment, as one file: parameters, both moments and the steps taken, all exact,
//! so that going on from it gives the same bits as not having stopped.

use super::adapter::AdapterParameters;
use super::optimizer::{AdamW, AdamWOptions};
use super::output::{safetensors_bytes, write_whole};
use crate::config::{DeltaConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use crate::weights::bytes::read_bounded;
use crate::weights::safetensors::SafetensorsFile;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "training checkpoint";
const N_STEPS: &str = "n_steps";
const FIRST: &str = "first_moment.";
const SECOND: &str = "second_moment.";
/// Largest checkpoint read, 3 × 4 bytes a parameter.
const MAX_BYTES: u64 = 8 << 30;

/// Parameters and optimiser of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub parameters: AdapterParameters,
    pub optimizer: AdamW,
}

impl Checkpoint {
    /// Writes the file; after a crash the one before is still there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for index in 0..self.parameters.len() {
            let (name, shape) = self.parameters.describe(index);
            tensors.push((name.to_string(), shape.to_vec(), self.parameters.values(index)));
            for (prefix, moments) in
                [(FIRST, &self.optimizer.first), (SECOND, &self.optimizer.second)]
            {
                if !moments[index].is_empty() {
                    tensors.push((format!("{prefix}{name}"), shape.to_vec(), &moments[index]));
                }
            }
        }
        let n_steps = (N_STEPS.to_string(), self.optimizer.n_steps.to_string());
        let label = path.display().to_string();
        let bytes = safetensors_bytes(tensors.into_iter(), &label, Some([n_steps].into()))?;
        write_whole(path, &bytes)
    }

    /// Reads a checkpoint of this adapter on this backbone. The optimiser's options are not in it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`], and [`Error::MissingTensor`] or [`Error::TensorShape`] for
    /// the checkpoint of another adapter.
    pub fn read(
        path: &Path,
        model: &ModelConfig,
        delta: &DeltaConfig,
        options: AdamWOptions,
    ) -> Result<Checkpoint> {
        let label = path.display().to_string();
        let bytes = read_bounded(path, MAX_BYTES)?;
        let bad = |reason: String| Error::format(&label, FORMAT, reason);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
        let metadata: HashMap<String, String> = header.metadata().clone().unwrap_or_default();
        let n_steps = metadata.get(N_STEPS).and_then(|n| n.parse().ok());
        let n_steps = n_steps.ok_or_else(|| bad("it does not say how many steps".into()))?;
        let file = SafetensorsFile::from_bytes(bytes, label.clone())?;
        let parameters = AdapterParameters::read(model, delta, &file)?;
        let mut optimizer = AdamW { n_steps, ..AdamW::new(options, parameters.len()) };
        for index in 0..parameters.len() {
            let (name, shape) = parameters.describe(index);
            for (prefix, moments) in
                [(FIRST, &mut optimizer.first), (SECOND, &mut optimizer.second)]
            {
                let name = format!("{prefix}{name}");
                if file.info(&name).is_some() {
                    file.check_shape(&name, shape)?;
                    moments[index] = file.read_all(&name)?;
                }
            }
        }
        Ok(Checkpoint { parameters, optimizer })
    }
}
