//! Everything that a conversation needs, loaded together: engine, tokenizer, template, defaults
//! and the identity that memories are bound to. Owns how a folder (or the built-in model) and an
//! adapter become one thing; the turn loop is `session.rs`.

use crate::chat::{ChatTemplate, default_enable_thinking};
use crate::config::{Architecture, DeltaConfig, ModelConfig};
use crate::constraint::ConstraintVocabulary;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::memory_file::MemoryIdentity;
use crate::model::{LoadOptions, Model, context_window};
use crate::model_folder::{Adapter, ModelFolder};
use crate::reference;
use crate::sampler::SamplingOptions;
use crate::shader::Storage;
use crate::tokenizer::Tokenizer;
use crate::weights::TensorSource;
use std::sync::{Arc, OnceLock};

#[cfg(not(target_arch = "wasm32"))]
use crate::{model_folder::ModelFiles, nano, weights::safetensors::SafetensorsFile};

/// What runs the forward pass.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one in a program")]
pub enum Device {
    /// The shaders, on an open device.
    Gpu(Gpu),
    /// The CPU twin: slow, for checking.
    Cpu,
}

/// A model, ready for [`crate::session::Session`].
pub struct LoadedModel {
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    /// Token ids that end a reply.
    pub eos_token_ids: Vec<u32>,
    /// What the model's files recommend; `seed` is 0.
    pub sampling: SamplingOptions,
    /// Longest reply that the model's files recommend.
    pub max_new_tokens: Option<usize>,
    /// Whether to pass `enable_thinking` if the caller says nothing.
    pub enable_thinking: Option<bool>,
    /// For people: the folder's name, or `nano`.
    pub name: String,
    /// What memories of this model are bound to; `None` without δ-mem.
    pub identity: Option<MemoryIdentity>,
    /// Names the files' part in results: backbone, adapter, and how they are kept. The backbone is
    /// known by samples of its weights ([`ModelFolder::fingerprint`]).
    pub fingerprint: String,
    /// Made when a reply is first constrained.
    constraint_vocabulary: OnceLock<ConstraintVocabulary>,
}

impl LoadedModel {
    /// Loads a folder's model, with an adapter or bare, onto a device. `progress` is called with
    /// (weights done, weights in all).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::Template`] for those files (also if they are missing), and
    /// those of [`Model::load`].
    pub async fn load(
        folder: &ModelFolder,
        adapter: Option<&Adapter>,
        device: &Device,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel> {
        let tokenizer = load_tokenizer(folder)?;
        let template = load_template(folder)?;
        let weights = folder.tensors.as_ref();
        let source = adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource));
        let engine = load_engine(&folder.config, weights, source, device, options, progress);
        let identity = match adapter {
            None => None,
            Some(adapter) => Some(identity(folder, adapter, options.weights)?),
        };
        let defaults = SamplingOptions::default();
        let generation = &folder.generation;
        let model = LoadedModel {
            engine: engine.await?,
            tokenizer: Arc::new(tokenizer),
            template,
            eos_token_ids: folder.eos_token_ids(),
            sampling: SamplingOptions {
                temperature: match generation.do_sample {
                    Some(false) => 0.0,
                    _ => generation.temperature.unwrap_or(defaults.temperature),
                },
                top_k: generation.top_k.unwrap_or(defaults.top_k),
                top_p: generation.top_p.unwrap_or(defaults.top_p),
                min_p: generation.min_p.unwrap_or(defaults.min_p),
                repetition_penalty: generation
                    .repetition_penalty
                    .unwrap_or(defaults.repetition_penalty),
                seed: 0,
            },
            max_new_tokens: generation.max_new_tokens,
            enable_thinking: enable_thinking(folder),
            name: folder.name.clone(),
            fingerprint: match &identity {
                Some(identity) => identity.digest(),
                None => {
                    format!("{} {}", folder.fingerprint()?, quantisation(folder, options.weights))
                }
            },
            identity,
            constraint_vocabulary: OnceLock::new(),
        };
        model.sampling.check()?;
        Ok(model)
    }

    /// The tokens as constraints need them; the first call takes a while and some memory.
    ///
    /// # Errors
    /// As [`ConstraintVocabulary::new`].
    pub fn constraint_vocabulary(&self) -> Result<&ConstraintVocabulary> {
        if let Some(vocabulary) = self.constraint_vocabulary.get() {
            return Ok(vocabulary);
        }
        let n_rows = self.engine.config().vocab_size;
        let made = ConstraintVocabulary::new(&self.tokenizer, &self.eos_token_ids, n_rows)?;
        Ok(self.constraint_vocabulary.get_or_init(|| made))
    }
}

/// What memories are bound to that this model makes with its weights kept as `weights`; reads a few
/// kilobytes a tensor.
///
/// # Errors
/// What reading the tensors gives.
pub fn identity(
    folder: &ModelFolder,
    adapter: &Adapter,
    weights: Storage,
) -> Result<MemoryIdentity> {
    Ok(MemoryIdentity {
        backbone: backbone_id(&folder.config),
        backbone_fingerprint: folder.fingerprint()?,
        quantisation: quantisation(folder, weights),
        adapter_hash: adapter.hash.clone(),
        write_mode: adapter.config.write_granularity,
        dims: adapter.config.memory_dims(&folder.config)?,
    })
}

/// An engine alone, without text: for replay and benchmarks.
///
/// # Errors
/// Those of [`Model::load`].
pub async fn load_engine(
    config: &ModelConfig,
    weights: &dyn TensorSource,
    adapter: Option<(&DeltaConfig, &dyn TensorSource)>,
    device: &Device,
    options: &LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Engine> {
    match device {
        Device::Gpu(gpu) => {
            let gpu = gpu.clone();
            let model = Model::load(gpu, config, weights, adapter, options, progress).await?;
            Ok(Engine::Gpu(Box::new(model)))
        }
        Device::Cpu => {
            let options = reference::Options {
                context_window: context_window(config, options.context_window)?,
                chunk: Some(options.chunk),
                weights: options.weights,
                kv: options.kv,
            };
            let model = reference::Model::load(config, weights, adapter, options)?;
            Ok(Engine::Cpu(Box::new(model)))
        }
    }
}

/// What the matrices are kept in: the storages that the file has for them, else `weights`; such as
/// `f16` or `q4_k+q6_k`.
pub fn quantisation(folder: &ModelFolder, weights: Storage) -> String {
    let shapes = folder.config.tensor_shapes();
    let matrices = shapes.iter().filter(|(_, shape)| shape.len() == 2);
    let kept = matrices.map(|(name, _)| folder.tensors.own_storage(name).unwrap_or(weights));
    let names: std::collections::BTreeSet<_> = kept.map(Storage::name).collect();
    Vec::from_iter(names).join("+")
}

/// The chat template of a folder.
///
/// # Errors
/// [`Error::Template`] if there is none, or it does not parse.
pub fn load_template(folder: &ModelFolder) -> Result<ChatTemplate> {
    let template = folder.chat_template.as_deref().ok_or_else(|| Error::Template {
        reason: format!(
            "{}: neither chat_template.jinja nor one in tokenizer_config.json",
            folder.name
        ),
    })?;
    ChatTemplate::parse(template, None, folder.tokenizer.eos_token.as_deref())
}

/// Whether a folder's template is told to think or not; `None` = it is told nothing.
pub fn enable_thinking(folder: &ModelFolder) -> Option<bool> {
    let known_as = folder.tokenizer.name_or_path.as_deref().unwrap_or(&folder.name);
    default_enable_thinking(known_as).or_else(|| default_enable_thinking(&folder.name))
}

/// The tokenizer of a folder.
///
/// # Errors
/// [`Error::Tokenizer`] if there is none, or it does not belong to the model.
pub fn load_tokenizer(folder: &ModelFolder) -> Result<Tokenizer> {
    let json = folder.tokenizer_json.as_ref().ok_or_else(|| Error::Tokenizer {
        reason: format!("{}: there is no tokenizer.json", folder.name),
    })?;
    let tokenizer = Tokenizer::from_json(json)?;
    let (tokens, rows) = (tokenizer.vocab_size(), folder.config.vocab_size);
    if tokens > rows {
        return Err(Error::Tokenizer {
            reason: format!(
                "tokenizer.json has {tokens} tokens, the model's vocabulary only {rows}"
            ),
        });
    }
    Ok(tokenizer)
}

/// A name that stays the same when a folder is renamed: family and number of weights, such as
/// `smollm3-3.1B`.
fn backbone_id(config: &ModelConfig) -> String {
    let n = config.n_parameters() as f64;
    let size = match n {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n => format!("{:.1}M", n / 1e6),
    };
    let family = match config.architecture {
        Architecture::SmolLm3 => "smollm3",
        Architecture::Qwen3 => "qwen3",
    };
    format!("{family}-{size}")
}

/// The model inside the program, and its adapter.
///
/// # Errors
/// None in a program that passed its tests.
#[cfg(not(target_arch = "wasm32"))] // a page fetches the same files instead
pub fn built_in() -> Result<(ModelFolder, Adapter)> {
    let files = ModelFiles {
        name: nano::NAME.into(),
        config: nano::CONFIG,
        generation_config: Some(nano::GENERATION_CONFIG),
        tokenizer_json: Some(nano::TOKENIZER.to_vec()),
        tokenizer_config: Some(nano::TOKENIZER_CONFIG),
        chat_template: Some(nano::CHAT_TEMPLATE),
    };
    let folder = ModelFolder::from_files(files, |_| {
        Ok(Box::new(SafetensorsFile::from_bytes(nano::MODEL, "nano/model.safetensors")?))
    })?;
    let label = "nano/delta_mem_adapter.safetensors";
    let adapter =
        Adapter::from_bytes(nano::DELTA_CONFIG, nano::DELTA_ADAPTER, label, &folder.config)?;
    Ok((folder, adapter))
}
