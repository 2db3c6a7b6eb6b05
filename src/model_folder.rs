//! An ordinary Hugging Face model folder, and the δ-mem adapter that goes with it. Owns which files
//! there are, what they mean together, and that the tensors are all there; a page or a built-in
//! model hands the same files over as bytes, another format brings its own [`TensorSource`]; a GGUF
//! file has it all in one (`gguf.rs`).

mod gguf;
mod identity;

use crate::config::{DeltaConfig, Keys, MAX_CONFIG_BYTES, ModelConfig, token_ids};
use crate::error::{Error, Result};
use crate::weights::bytes::Blob;
use crate::weights::safetensors::SafetensorsFile;
use crate::weights::torch::TorchFile;
use crate::weights::{TensorSource, Widened};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;

#[cfg(not(target_arch = "wasm32"))]
use crate::weights::{bytes::read_bounded, safetensors::SafetensorsShards};
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

pub use gguf::BesideGguf;
pub use identity::fingerprint;

/// Largest tokenizer.json accepted.
pub const MAX_TOKENIZER_BYTES: usize = 256 << 20;
/// Largest tokenizer_config.json accepted; it lists every added token and may hold the template.
pub const MAX_TOKENIZER_CONFIG_BYTES: usize = 16 << 20;
/// Largest chat template accepted.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// A backbone ready to be loaded: configuration and text files read, tensors found but not read.
pub struct ModelFolder {
    /// The folder's own name.
    pub name: String,
    pub config: ModelConfig,
    pub generation: GenerationConfig,
    /// Holds at least [`ModelConfig::tensor_shapes`], with these shapes.
    pub tensors: Box<dyn TensorSource + Send>,
    /// `tokenizer.json` as it is.
    pub tokenizer_json: Option<Vec<u8>>,
    pub tokenizer: TokenizerConfig,
    /// Jinja source.
    pub chat_template: Option<String>,
}

/// The files of a model in memory; only the configuration and the tensors are needed.
pub struct ModelFiles<'a> {
    /// What to call the model.
    pub name: String,
    /// config.json
    pub config: &'a [u8],
    /// generation_config.json
    pub generation_config: Option<&'a [u8]>,
    /// tokenizer.json
    pub tokenizer_json: Option<Vec<u8>>,
    /// tokenizer_config.json
    pub tokenizer_config: Option<&'a [u8]>,
    /// chat_template.jinja; wins over the template in tokenizer_config.json.
    pub chat_template: Option<&'a [u8]>,
}

/// What `generation_config.json` recommends; `None` where it is silent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Token ids that end a reply.
    pub eos_token_ids: Vec<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// Longest reply, in tokens.
    pub max_new_tokens: Option<usize>,
}

/// What `tokenizer_config.json` says beside the template.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenizerConfig {
    pub eos_token: Option<String>,
    pub pad_token: Option<String>,
    pub name_or_path: Option<String>,
}

impl ModelFolder {
    /// Reads a folder with `config.json`, `model.safetensors` (or shards and their index) and,
    /// if there, the tokenizer, template and generation files; or a file whose name ends in
    /// `.gguf`, with a `tokenizer.json`, `chat_template.jinja` and `generation_config.json` beside
    /// it if they are there.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing or unreadable, and as [`ModelFolder::from_files`]
    /// or [`ModelFolder::from_gguf`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: impl AsRef<Path>) -> Result<ModelFolder> {
        let folder = folder.as_ref();
        if is_gguf(folder) {
            return ModelFolder::open_gguf(folder);
        }
        ModelFolder::open_with(folder, |_| Ok(Box::new(SafetensorsShards::open(folder)?)))
    }

    /// As [`ModelFolder::open`], with tensors from elsewhere (a recipe, another format).
    ///
    /// # Errors
    /// As [`ModelFolder::open`], and what `tensors` gives.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with(
        folder: impl AsRef<Path>,
        tensors: impl FnOnce(&ModelConfig) -> Result<Box<dyn TensorSource + Send>>,
    ) -> Result<ModelFolder> {
        let folder = folder.as_ref();
        let absolute = folder.canonicalize().map_err(Error::io(folder))?;
        let optional = |name: &str, max: usize| read_optional(&folder.join(name), max);
        let config = read_bounded(&folder.join("config.json"), MAX_CONFIG_BYTES as u64)?;
        let generation = optional("generation_config.json", MAX_CONFIG_BYTES)?;
        let tokenizer = optional("tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)?;
        let template = optional("chat_template.jinja", MAX_TEMPLATE_BYTES)?;
        let files = ModelFiles {
            name: absolute
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            config: &config,
            generation_config: generation.as_deref(),
            tokenizer_json: optional("tokenizer.json", MAX_TOKENIZER_BYTES)?,
            tokenizer_config: tokenizer.as_deref(),
            chat_template: template.as_deref(),
        };
        ModelFolder::from_files(files, tensors)
    }

    /// Makes a model from files in memory and the tensors that `tensors` finds for it.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`]; [`Error::Format`] or [`Error::Config`], naming file and key,
    /// for the other files; [`Error::MissingTensor`] and [`Error::TensorShape`], naming the tensor.
    pub fn from_files(
        files: ModelFiles,
        tensors: impl FnOnce(&ModelConfig) -> Result<Box<dyn TensorSource + Send>>,
    ) -> Result<ModelFolder> {
        let config = ModelConfig::from_json(files.config, "config.json")?;
        let generation = match files.generation_config {
            Some(bytes) => GenerationConfig::from_json(bytes, "generation_config.json")?,
            None => GenerationConfig::default(),
        };
        let (tokenizer, inner_template) = match files.tokenizer_config {
            Some(bytes) => TokenizerConfig::from_json(bytes, "tokenizer_config.json")?,
            None => Default::default(),
        };
        let chat_template = match files.chat_template {
            Some(bytes) => Some(template_text(bytes)?),
            None => inner_template,
        };
        let tokenizer_len = files.tokenizer_json.as_ref().map_or(0, Vec::len);
        if tokenizer_len > MAX_TOKENIZER_BYTES {
            return Err(Error::format(
                "tokenizer.json",
                "tokenizer",
                format!("{tokenizer_len} bytes; at most {MAX_TOKENIZER_BYTES} are accepted"),
            ));
        }
        let tensors = tensors(&config)?;
        for (name, shape) in config.tensor_shapes() {
            tensors.check_shape(&name, &shape)?;
        }
        Ok(ModelFolder {
            name: files.name,
            config,
            generation,
            tensors,
            tokenizer_json: files.tokenizer_json,
            tokenizer,
            chat_template,
        })
    }

    /// The same model with all matrices kept as the caller asks, whatever blocks its file has them in.
    pub fn widened(self) -> ModelFolder {
        ModelFolder { tensors: Box::new(Widened(self.tensors)), ..self }
    }

    /// Every token id that ends a reply, by either configuration; ascending.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let both = [&self.config.eos_token_ids, &self.generation.eos_token_ids];
        let ids: BTreeSet<u32> = both.into_iter().flatten().copied().collect();
        ids.into_iter().collect()
    }

    /// The backbone's identity for memory files; see [`fingerprint`].
    ///
    /// # Errors
    /// What reading the tensors gives.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.config, self.tensors.as_ref())
    }
}

impl GenerationConfig {
    /// Parses `generation_config.json`; keys that play no role here are ignored.
    ///
    /// # Errors
    /// [`Error::Format`] for anything but a JSON object, [`Error::Config`] for a value of another
    /// type or a negative one.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<GenerationConfig> {
        let k = Keys::parse(bytes, file, MAX_CONFIG_BYTES)?;
        let number = |key: &str| match k.get(key) {
            None => Ok(None),
            Some(_) => match k.number(key)? {
                x if x >= 0.0 => Ok(Some(x as f32)),
                x => Err(k.error(key, format!("{x} is negative"))),
            },
        };
        let count = |key: &str| match k.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().map(usize::try_from) {
                Some(Ok(n)) => Ok(Some(n)),
                _ => Err(k.error(key, format!("expected a count, found {value}"))),
            },
        };
        Ok(GenerationConfig {
            eos_token_ids: token_ids(k.get("eos_token_id"))
                .ok_or_else(|| k.error("eos_token_id", "expected an id or a list of ids"))?,
            do_sample: k.boolean("do_sample")?,
            temperature: number("temperature")?,
            top_k: count("top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: count("max_new_tokens")?,
        })
    }
}

impl TokenizerConfig {
    /// Parses `tokenizer_config.json` and takes the chat template out of it, if it holds one: a
    /// string, or the one called `default` in a list of `{name, template}`.
    ///
    /// # Errors
    /// [`Error::Format`] for anything but a JSON object, [`Error::Config`] for a value of another
    /// type, or a list of templates without a default.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<(TokenizerConfig, Option<String>)> {
        let k = Keys::parse(bytes, file, MAX_TOKENIZER_CONFIG_BYTES)?;
        let text = |key: &str, value: &Value| {
            let text = value.as_str().map(str::to_string);
            text.ok_or_else(|| k.error(key, "expected a string"))
        };
        // A token is a string, or an object that also says how it is matched.
        let token = |key: &str| match k.get(key) {
            None => Ok(None),
            Some(Value::Object(token)) => {
                text(key, token.get("content").unwrap_or(&Value::Null)).map(Some)
            }
            Some(value) => text(key, value).map(Some),
        };
        let config = TokenizerConfig {
            eos_token: token("eos_token")?,
            pad_token: token("pad_token")?,
            name_or_path: k
                .get("name_or_path")
                .map(|value| text("name_or_path", value))
                .transpose()?,
        };
        let key = "chat_template";
        let template = match k.get(key) {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) => {
                let default = list
                    .iter()
                    .find(|entry| entry["name"] == "default")
                    .ok_or_else(|| k.error(key, "none in the list is named `default`"))?;
                Some(text(key, &default["template"])?)
            }
            Some(value) => Some(text(key, value)?),
        };
        if template.as_ref().is_some_and(|t| t.len() > MAX_TEMPLATE_BYTES) {
            return Err(k.error(key, format!("longer than {MAX_TEMPLATE_BYTES} bytes")));
        }
        Ok((config, template))
    }
}

fn template_text(bytes: &[u8]) -> Result<String> {
    let bad = |reason: &str| Error::format("chat_template.jinja", "chat template", reason);
    if bytes.len() > MAX_TEMPLATE_BYTES {
        return Err(bad(&format!("longer than {MAX_TEMPLATE_BYTES} bytes")));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(bad("it is not UTF-8")),
    }
}

/// True for a path to a GGUF file rather than to a folder.
#[cfg(not(target_arch = "wasm32"))]
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

/// `None` if there is no such file.
#[cfg(not(target_arch = "wasm32"))]
fn read_optional(path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
    match read_bounded(path, max as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A δ-mem adapter that fits a backbone: exactly the tensors it needs, all finite.
pub struct Adapter {
    pub config: DeltaConfig,
    /// Holds exactly [`DeltaConfig::tensor_shapes`].
    pub tensors: Box<dyn TensorSource + Send>,
    /// Identity for memory files, 64 hexadecimal digits; the same for `.pt` and `.safetensors`.
    pub hash: String,
}

impl Adapter {
    /// Reads a folder with `delta_mem_config.json` and `delta_mem_adapter.safetensors` or, if there
    /// is none, `delta_mem_adapter.pt`.
    ///
    /// # Errors
    /// [`Error::Io`], as [`DeltaConfig::from_json`], as the file's format, and as
    /// [`Adapter::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: impl AsRef<Path>, model: &ModelConfig) -> Result<Adapter> {
        let folder = folder.as_ref();
        let path = folder.join("delta_mem_config.json");
        let config = read_bounded(&path, MAX_CONFIG_BYTES as u64)?;
        let config = DeltaConfig::from_json(&config, &path.display().to_string())?;
        let safetensors = folder.join("delta_mem_adapter.safetensors");
        let torch = folder.join("delta_mem_adapter.pt");
        let tensors: Box<dyn TensorSource + Send> = if safetensors.exists() || !torch.exists() {
            Box::new(SafetensorsFile::open(safetensors)?)
        } else {
            Box::new(TorchFile::open(torch)?)
        };
        Adapter::new(config, tensors, model)
    }

    /// An adapter in memory: `delta_mem_config.json` and the bytes of either weight format. `label`
    /// names the latter in errors.
    ///
    /// # Errors
    /// As [`Adapter::open`], without [`Error::Io`].
    pub fn from_bytes(
        config: &[u8],
        weights: impl Into<Cow<'static, [u8]>>,
        label: &str,
        model: &ModelConfig,
    ) -> Result<Adapter> {
        Adapter::from_blob(config, Blob::from_bytes(weights, label), model)
    }

    /// As [`Adapter::from_bytes`], with weights whose bytes lie anywhere.
    ///
    /// # Errors
    /// As [`Adapter::from_bytes`], and what reading gives.
    pub fn from_blob(config: &[u8], weights: Blob, model: &ModelConfig) -> Result<Adapter> {
        let config = DeltaConfig::from_json(config, "delta_mem_config.json")?;
        // A ZIP starts like this; as a safetensors header length it would be out of bounds.
        let is_zip = weights.len() >= 4 && weights.read_vec(0, 4)? == b"PK\x03\x04";
        let tensors: Box<dyn TensorSource + Send> = match is_zip {
            true => Box::new(TorchFile::from_blob(weights)?),
            false => Box::new(SafetensorsFile::from_blob(weights)?),
        };
        Adapter::new(config, tensors, model)
    }

    /// Checks that an adapter fits a backbone, and reads it once for its hash.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnknownTensor`] or [`Error::TensorShape`], naming the
    /// tensor; [`Error::Config`] if a target layer does not exist; [`Error::Format`] for a value
    /// that is not finite.
    pub fn new(
        config: DeltaConfig,
        tensors: Box<dyn TensorSource + Send>,
        model: &ModelConfig,
    ) -> Result<Adapter> {
        let shapes = config.tensor_shapes(model)?;
        for (name, shape) in &shapes {
            tensors.check_shape(name, shape)?;
        }
        let known: BTreeSet<&str> = shapes.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = tensors.names().into_iter().find(|n| !known.contains(n)) {
            return Err(Error::UnknownTensor { file: tensors.label().into(), name: name.into() });
        }
        let hash = identity::adapter_hash(&config, model, tensors.as_ref())?;
        Ok(Adapter { config, tensors, hash })
    }
}

#[cfg(test)]
#[path = "model_folder_tests.rs"]
mod tests;
