//! A replay folder on disk: which files it may hold and what stands in for missing ones.

use super::case::{Case, FORMAT, MAX_CASE_BYTES};
use crate::config::{DeltaConfig, MAX_CONFIG_BYTES, ModelConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{LoadOptions, Model};
use crate::model_folder::Adapter;
use crate::reference;
use crate::weights::TensorSource;
use crate::weights::bytes::read_bounded;
use crate::weights::recipe::RecipeSource;
use crate::weights::safetensors::{SafetensorsFile, SafetensorsShards};
use crate::weights::torch::TorchFile;
use serde_json::{Map, Value};
use std::path::Path;

/// Most weights that are generated from seeds, 4 GiB as f32.
const MAX_RECIPE_ELEMENTS: u64 = 1 << 30;

/// A replay folder, ready to be loaded into an engine.
pub struct Fixture {
    pub case: Case,
    pub config: ModelConfig,
    pub weights: Box<dyn TensorSource + Send>,
    /// `None` for a bare backbone.
    pub adapter: Option<Adapter>,
    /// What the reference computed, all f32.
    pub expected: Box<dyn TensorSource>,
}

impl Fixture {
    /// Opens a folder with a case.json.
    ///
    /// # Errors
    /// Whatever its files are refused for.
    pub fn open(folder: &Path) -> Result<Fixture> {
        let label = |name: &str| folder.join(name).display().to_string();
        let read = |name: &str, max| read_bounded(&folder.join(name), max);
        let config_with = |name: &str, overrides: &Map<String, Value>| {
            let bytes = read(name, MAX_CONFIG_BYTES as u64)?;
            overridden(bytes, overrides, &label(name))
        };
        let case = Case::from_json(&read("case.json", MAX_CASE_BYTES)?, &label("case.json"))?;
        let config = ModelConfig::from_json(
            &config_with("config.json", &case.effective_config)?,
            &label("config.json"),
        )?;
        let has = |name: &str| folder.join(name).exists();
        let missing = |what: &str| {
            let reason = format!("there is no {what}, nor a recipe for it");
            Error::format(label("case.json"), FORMAT, reason)
        };
        let weights: Box<dyn TensorSource + Send> =
            if has("model.safetensors") || has("model.safetensors.index.json") {
                Box::new(SafetensorsShards::open(folder)?)
            } else {
                let recipe = case.recipe.ok_or_else(|| missing("model.safetensors"))?;
                check_recipe_size(config.tensor_shapes(), &label("config.json"))?;
                Box::new(RecipeSource::backbone(&config, recipe.base_seed))
            };
        let adapter = if has("delta_mem_config.json") {
            let delta = DeltaConfig::from_json(
                &config_with("delta_mem_config.json", &case.effective_delta_config)?,
                &label("delta_mem_config.json"),
            )?;
            let safetensors = folder.join("delta_mem_adapter.safetensors");
            let source: Box<dyn TensorSource + Send> = if safetensors.exists() {
                Box::new(SafetensorsFile::open(safetensors)?)
            } else if has("delta_mem_adapter.pt") {
                Box::new(TorchFile::open(folder.join("delta_mem_adapter.pt"))?)
            } else {
                let seed = case.recipe.and_then(|r| r.adapter_seed);
                let seed = seed.ok_or_else(|| missing("delta_mem_adapter"))?;
                let shapes = delta.tensor_shapes(&config)?;
                check_recipe_size(shapes, &label("delta_mem_config.json"))?;
                Box::new(RecipeSource::adapter(&config, &delta, seed)?)
            };
            Some(Adapter::new(delta, source, &config)?)
        } else {
            None
        };
        Ok(Fixture {
            expected: Box::new(SafetensorsFile::open(folder.join("expected.safetensors"))?),
            case,
            config,
            weights,
            adapter,
        })
    }

    /// Loads the CPU twin with this folder's weights; the context window is the case's.
    ///
    /// # Errors
    /// As [`crate::reference::Model::load`].
    pub fn cpu_engine(&self, options: reference::Options) -> Result<Engine> {
        let options = reference::Options { context_window: self.case.context_window(), ..options };
        let weights = self.weights.as_ref();
        let model = reference::Model::load(&self.config, weights, self.adapter(), options)?;
        Ok(Engine::Cpu(Box::new(model)))
    }

    /// Loads the GPU model with this folder's weights; the context window is the case's.
    ///
    /// # Errors
    /// As [`crate::model::Model::load`].
    pub async fn gpu_engine(&self, gpu: Gpu, options: LoadOptions) -> Result<Engine> {
        let options = LoadOptions { context_window: Some(self.case.context_window()), ..options };
        let (weights, adapter) = (self.weights.as_ref(), self.adapter());
        let model =
            Model::load(gpu, &self.config, weights, adapter, &options, &mut |_, _| {}).await?;
        Ok(Engine::Gpu(Box::new(model)))
    }

    fn adapter(&self) -> Option<(&DeltaConfig, &dyn TensorSource)> {
        let adapter = self.adapter.as_ref();
        adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource))
    }
}

/// A recipe makes tensors of any size from a few bytes of configuration; this limits them.
fn check_recipe_size(shapes: Vec<(String, Vec<usize>)>, file: &str) -> Result<()> {
    let n_elements =
        |(_, shape): &(String, Vec<usize>)| -> u64 { shape.iter().map(|&n| n as u64).product() };
    let total: u64 = shapes.iter().map(n_elements).sum();
    if total <= MAX_RECIPE_ELEMENTS {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{file}: {total} weights by recipe"),
        reason: format!("at most {MAX_RECIPE_ELEMENTS} are generated"),
    })
}

/// A JSON object with some keys replaced.
fn overridden(bytes: Vec<u8>, overrides: &Map<String, Value>, file: &str) -> Result<Vec<u8>> {
    if overrides.is_empty() {
        return Ok(bytes);
    }
    let bad = |reason: String| Error::format(file, "configuration", reason);
    let mut map: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    map.extend(overrides.clone());
    serde_json::to_vec(&map).map_err(|e| bad(e.to_string()))
}
