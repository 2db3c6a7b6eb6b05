//! Where the model or adapter is that the command line names: a path on disk, which always wins, or a
//! name whose files are in the hub's cache. Nothing is downloaded here.

use super::options::Weights;
use super::output::note;
use anyhow::Result;
use clap::ValueEnum;
use deltamem::hub::{HubName, HubSettings, Target, find_adapter, find_model, known_model};
use deltamem::model_folder::{Adapter, ModelFolder, is_gguf};
use std::path::{Path, PathBuf};

/// A model's files.
pub struct ModelPlace {
    pub path: PathBuf,
    /// The folder's own name is a commit in the cache, so this one is shown.
    name: Option<String>,
    /// What to pull for the adapter that was trained for this model, and where that is.
    adapter: Option<(String, Option<PathBuf>)>,
}

impl ModelPlace {
    /// Finds what was given as `--model`.
    pub fn of(given: &Path) -> Result<ModelPlace> {
        let itself = || ModelPlace { path: given.into(), name: None, adapter: None };
        let Some(text) = name_of(given) else { return Ok(itself()) };
        let found = find_model(&HubSettings::from_env()?, text)?;
        Ok(found.map_or_else(itself, |found| ModelPlace {
            path: found.path,
            name: Some(found.name),
            adapter: found.adapter,
        }))
    }

    /// Opens the model; nothing is loaded yet.
    pub fn open(&self) -> Result<ModelFolder> {
        let mut folder = ModelFolder::open(&self.path)?;
        if let Some(name) = &self.name {
            folder.name.clone_from(name);
        }
        Ok(folder)
    }

    /// The adapter that lies beside the model, or else the one that was trained for it.
    pub fn own_adapter(&self, folder: &ModelFolder) -> Result<Option<Adapter>> {
        // what lies beside a GGUF file belongs to it
        let beside = match is_gguf(&self.path) {
            true => self.path.parent().unwrap_or(&self.path),
            false => &self.path,
        };
        let path = match &self.adapter {
            _ if beside.join("delta_mem_config.json").exists() => beside,
            Some((_, Some(path))) => path,
            Some((name, None)) => {
                note!(
                    "the adapter of {} is not on this machine, so it has no memory; \
                     `deltamem pull {name}` downloads it",
                    folder.name
                );
                return Ok(None);
            }
            None => return Ok(None),
        };
        Ok(Some(Adapter::open(path, &folder.config)?))
    }
}

/// The folder of what was given as `--adapter`.
pub fn adapter_place(given: &Path) -> Result<PathBuf> {
    let Some(text) = name_of(given) else { return Ok(given.into()) };
    let found = find_adapter(&HubSettings::from_env()?, text)?;
    Ok(found.unwrap_or_else(|| given.into()))
}

/// How the registry would keep this model's weights, if it is a name that it knows.
pub fn recommended_weights(given: &Path) -> Option<Weights> {
    let name = HubName::parse(name_of(given)?).ok()?;
    let weights = Target::new(&name).ok()?.source?.weights.as_deref()?;
    Weights::from_str(weights, true).ok()
}

/// True for the registry's name of the built-in model.
pub fn is_built_in(given: &Path) -> bool {
    name_of(given).and_then(known_model).is_some_and(|model| model.is_built_in)
}

/// The text of something that is no path on this disk.
fn name_of(given: &Path) -> Option<&str> {
    given.to_str().filter(|_| !given.exists())
}
