//! A replay folder: which files it may hold and what stands in for missing ones.

use super::case::{Case, FORMAT, MAX_CASE_BYTES};
use super::files::FixtureFiles;
use super::session::SessionReplay;
use super::{Labels, ReplayReport, SessionReport, replay};
use crate::config::{DeltaConfig, MAX_CONFIG_BYTES, ModelConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::loaded::Device;
use crate::model::{LoadOptions, Model};
use crate::model_folder::{
    Adapter, MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES, MAX_TOKENIZER_CONFIG_BYTES, ModelFiles,
    ModelFolder,
};
use crate::reference;
use crate::weights::TensorSource;
use crate::weights::recipe::{Exceptions, RecipeSource};
use serde_json::{Map, Value};

/// Most weights that are generated from seeds, 4 GiB as f32.
const MAX_RECIPE_ELEMENTS: u64 = 1 << 30;

/// A replay folder, ready to be loaded into an engine.
pub struct Fixture {
    files: FixtureFiles,
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
    /// As [`Fixture::from_files`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: &std::path::Path) -> Result<Fixture> {
        Fixture::from_files(FixtureFiles::Folder(folder.to_path_buf()))
    }

    /// Opens the files of a folder with a case.json.
    ///
    /// # Errors
    /// Whatever the files are refused for.
    pub fn from_files(files: FixtureFiles) -> Result<Fixture> {
        let config_with = |name: &str, overrides: &Map<String, Value>| {
            overridden(files.read(name, MAX_CONFIG_BYTES)?, overrides, &files.label(name))
        };
        let name = "case.json";
        let case =
            Case::from_json(&files.read(name, MAX_CASE_BYTES as usize)?, &files.label(name))?;
        let name = "config.json";
        let config = config_with(name, &case.effective_config)?;
        let config = ModelConfig::from_json(&config, &files.label(name))?;
        let weights = open_weights(&files, &case, &config)?;
        let name = "delta_mem_config.json";
        let adapter = match files.has(name) {
            true => {
                let delta = config_with(name, &case.effective_delta_config)?;
                let delta = DeltaConfig::from_json(&delta, &files.label(name))?;
                let source = open_adapter(&files, &case, &config, &delta)?;
                Some(Adapter::new(delta, source, &config)?)
            }
            false => None,
        };
        let expected = Box::new(files.safetensors("expected.safetensors")?);
        Ok(Fixture { files, case, config, weights, adapter, expected })
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

    /// Runs the steps on a device and, with `with_session`, the turns of a session folder; without,
    /// the report notes that they were left out.
    ///
    /// # Errors
    /// As [`replay`] and [`Fixture::replay_session`].
    pub async fn replay(
        &self,
        device: &Device,
        options: &LoadOptions,
        labels: Labels,
        with_session: bool,
    ) -> Result<ReplayReport> {
        let mut engine = match device {
            Device::Gpu(gpu) => self.gpu_engine(gpu.clone(), options.clone()).await?,
            Device::Cpu => self.cpu_engine(reference::Options {
                context_window: self.case.context_window(),
                chunk: Some(options.chunk),
                weights: options.weights,
                kv: options.kv,
            })?,
        };
        let expected = self.expected.as_ref();
        let mut report = replay(&self.case, expected, &mut engine, labels).await?;
        drop(engine);
        if with_session {
            report.session = self.replay_session(device, options).await?;
            report.passed &= report.session.as_ref().is_none_or(|session| session.passed);
        } else if self.case.session.is_some() {
            report.notes.push("the session's turns were not replayed".into());
        }
        Ok(report)
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
        let files = &self.files;
        let generation = files.read_optional("generation_config.json", MAX_CONFIG_BYTES)?;
        let tokenizer = files.read_optional("tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)?;
        let template = files.read_optional("chat_template.jinja", MAX_TEMPLATE_BYTES)?;
        let model_files = ModelFiles {
            name: self.case.name.clone(),
            config: &files.read("config.json", MAX_CONFIG_BYTES)?,
            generation_config: generation.as_deref(),
            tokenizer_json: files.read_optional("tokenizer.json", MAX_TOKENIZER_BYTES)?,
            tokenizer_config: tokenizer.as_deref(),
            chat_template: template.as_deref(),
        };
        let weights = |_: &ModelConfig| open_weights(files, &self.case, &self.config);
        let mut folder = ModelFolder::from_files(model_files, weights)?;
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
    files: &FixtureFiles,
    case: &Case,
    config: &ModelConfig,
) -> Result<Box<dyn TensorSource + Send>> {
    if files.has("model.safetensors") {
        return Ok(Box::new(files.safetensors("model.safetensors")?));
    }
    if files.has("model.safetensors.index.json") {
        return Ok(Box::new(files.shards()?));
    }
    let recipe = case.recipe.ok_or_else(|| missing(files, "model.safetensors"))?;
    check_recipe_size(config.tensor_shapes(), &files.label("config.json"))?;
    let exceptions = recipe_exceptions(files, case)?;
    let source = RecipeSource::backbone(config, recipe.base_seed);
    Ok(Box::new(source.with_exceptions(exceptions)))
}

/// The adapter's tensors: those in the folder, else those of the case's recipe.
fn open_adapter(
    files: &FixtureFiles,
    case: &Case,
    config: &ModelConfig,
    delta: &DeltaConfig,
) -> Result<Box<dyn TensorSource + Send>> {
    if files.has("delta_mem_adapter.safetensors") {
        return Ok(Box::new(files.safetensors("delta_mem_adapter.safetensors")?));
    }
    if files.has("delta_mem_adapter.pt") {
        return Ok(Box::new(files.torch("delta_mem_adapter.pt")?));
    }
    let seed = case.recipe.and_then(|recipe| recipe.adapter_seed);
    let seed = seed.ok_or_else(|| missing(files, "delta_mem_adapter"))?;
    check_recipe_size(delta.tensor_shapes(config)?, &files.label("delta_mem_config.json"))?;
    let exceptions = recipe_exceptions(files, case)?;
    let source = RecipeSource::adapter(config, delta, seed)?;
    Ok(Box::new(source.with_exceptions(exceptions)))
}

fn missing(files: &FixtureFiles, what: &str) -> Error {
    let reason = format!("there is no {what}, nor a recipe for it");
    Error::format(files.label("case.json"), FORMAT, reason)
}

/// What a recipe-only folder's files say about exceptions; one is known by the case's name.
fn recipe_exceptions(files: &FixtureFiles, case: &Case) -> Result<Exceptions> {
    let config = files.read("config.json", MAX_CONFIG_BYTES)?;
    let bad = |e: serde_json::Error| {
        Error::format(files.label("config.json"), "configuration", e.to_string())
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
