//! A model in GGUF files. Owns which files beside them are used, and that they win over metadata.

use super::{ModelFiles, ModelFolder};
use crate::error::Result;
use crate::weights::gguf::{
    GgufSource, config_json, generation_config_json, tokenizer_config_json, tokenizer_json,
};

#[cfg(not(target_arch = "wasm32"))]
use super::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES, read_optional};
#[cfg(not(target_arch = "wasm32"))]
use crate::config::MAX_CONFIG_BYTES;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

/// What may lie beside a GGUF file and says the same as its metadata, better.
#[derive(Debug, Clone, Default)]
pub struct BesideGguf {
    /// tokenizer.json
    pub tokenizer_json: Option<Vec<u8>>,
    /// generation_config.json
    pub generation_config: Option<Vec<u8>>,
    /// chat_template.jinja
    pub chat_template: Option<Vec<u8>>,
}

impl ModelFolder {
    /// A GGUF file, its shards if it is one of several, and what lies beside it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn open_gguf(path: &Path) -> Result<ModelFolder> {
        let optional = |name: &str, max| read_optional(&path.with_file_name(name), max);
        let beside = BesideGguf {
            tokenizer_json: optional("tokenizer.json", MAX_TOKENIZER_BYTES)?,
            generation_config: optional("generation_config.json", MAX_CONFIG_BYTES)?,
            chat_template: optional("chat_template.jinja", MAX_TEMPLATE_BYTES)?,
        };
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        ModelFolder::from_gguf(name.unwrap_or_default(), GgufSource::open(path)?, beside)
    }

    /// Makes a model from GGUF files. `name` is what to call it.
    ///
    /// # Errors
    /// As [`ModelFolder::from_files`] for what the metadata say, in the words of config.json;
    /// [`crate::Error::Unsupported`] for a tokenizer that is not known, [`crate::Error::Config`]
    /// for a missing key.
    pub fn from_gguf(name: String, source: GgufSource, beside: BesideGguf) -> Result<ModelFolder> {
        let metadata = source.metadata();
        let config = config_json(&source)?;
        let generation = match beside.generation_config {
            Some(bytes) => bytes,
            None => generation_config_json(metadata)?,
        };
        let tokenizer_config = tokenizer_config_json(metadata)?;
        let tokenizer = match beside.tokenizer_json {
            Some(bytes) => Some(bytes),
            None => tokenizer_json(metadata)?,
        };
        let files = ModelFiles {
            name,
            config: &config,
            generation_config: Some(&generation),
            tokenizer_json: tokenizer,
            tokenizer_config: Some(&tokenizer_config),
            chat_template: beside.chat_template.as_deref(),
        };
        ModelFolder::from_files(files, |_| Ok(Box::new(source)))
    }
}
