//! A replay folder on disk: which files it may hold and what stands in for missing ones.

use super::SessionReport;
use super::case::{Case, FORMAT, MAX_CASE_BYTES};
use super::session::SessionReplay;
use crate::config::{DeltaConfig, MAX_CONFIG_BYTES, ModelConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::loaded::Device;
use crate::model::{LoadOptions, Model};
use crate::model_folder::{Adapter, ModelFolder};
use crate::reference;
use crate::weights::TensorSource;
use crate::weights::bytes::read_bounded;
use crate::weights::recipe::{Exceptions, RecipeSource};
use crate::weights::safetensors::{SafetensorsFile, SafetensorsShards};
use crate::weights::torch::TorchFile;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Most weights that are generated from seeds, 4 GiB as f32.
const MAX_RECIPE_ELEMENTS: u64 = 1 << 30;

/// A replay folder, ready to be loaded into an engine.
pub struct Fixture {
    root: PathBuf,
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
        let weights = open_weights(folder, &case, &config)?;
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
                let seed = seed.ok_or_else(|| missing(folder, "delta_mem_adapter"))?;
                let shapes = delta.tensor_shapes(&config)?;
                check_recipe_size(shapes, &label("delta_mem_config.json"))?;
                let exceptions = recipe_exceptions(folder, &case)?;
                let recipe = RecipeSource::adapter(&config, &delta, seed)?;
                Box::new(recipe.with_exceptions(exceptions))
            };
            Some(Adapter::new(delta, source, &config)?)
        } else {
            None
        };
        Ok(Fixture {
            root: folder.to_path_buf(),
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

    /// Plays the turns of a session folder; `None` for other folders.
    ///
    /// # Errors
    /// What its text files are refused for, and as [`SessionReplay::run`].
    pub async fn replay_session(
        &self,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Option<SessionReport>> {
        let Some(session) = &self.case.session else {
            return Ok(None);
        };
        let weights = |_: &ModelConfig| open_weights(&self.root, &self.case, &self.config);
        let mut folder = ModelFolder::open_with(&self.root, weights)?;
        folder.config = self.config.clone();
        let replay = SessionReplay {
            case: &self.case,
            session,
            folder: &folder,
            adapter: self.adapter.as_ref(),
            expected: self.expected.as_ref(),
        };
        Ok(Some(replay.run(device, options).await?))
    }

    fn adapter(&self) -> Option<(&DeltaConfig, &dyn TensorSource)> {
        let adapter = self.adapter.as_ref();
        adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource))
    }
}

/// The backbone's tensors: those in the folder, else those of the case's recipe.
fn open_weights(
    folder: &Path,
    case: &Case,
    config: &ModelConfig,
) -> Result<Box<dyn TensorSource + Send>> {
    let has = |name: &str| folder.join(name).exists();
    if has("model.safetensors") || has("model.safetensors.index.json") {
        return Ok(Box::new(SafetensorsShards::open(folder)?));
    }
    let recipe = case.recipe.ok_or_else(|| missing(folder, "model.safetensors"))?;
    check_recipe_size(config.tensor_shapes(), &folder.join("config.json").display().to_string())?;
    let exceptions = recipe_exceptions(folder, case)?;
    let source = RecipeSource::backbone(config, recipe.base_seed);
    Ok(Box::new(source.with_exceptions(exceptions)))
}

fn missing(folder: &Path, what: &str) -> Error {
    let file = folder.join("case.json").display().to_string();
    Error::format(file, FORMAT, format!("there is no {what}, nor a recipe for it"))
}

/// What a recipe-only folder's files say about exceptions; one is known by the case's name.
fn recipe_exceptions(folder: &Path, case: &Case) -> Result<Exceptions> {
    let path = folder.join("config.json");
    let config = read_bounded(&path, MAX_CONFIG_BYTES as u64)?;
    let bad = |e: serde_json::Error| {
        Error::format(path.display().to_string(), "configuration", e.to_string())
    };
    let config: Value = serde_json::from_slice(&config).map_err(bad)?;
    let dtype = config.get("torch_dtype").or_else(|| config.get("dtype"));
    Ok(Exceptions {
        embedding_row_scale: case.embedding_row_scale.clone(),
        is_bf16: dtype.is_some_and(|dtype| dtype == "bfloat16"),
        memory_qk_gain: (case.name == "i8_no_normalize").then_some(0.4),
    })
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
