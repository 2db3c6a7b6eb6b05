//! The files of a replay folder, on disk or in memory. Owns how they are found and opened by name;
//! what they mean is `fixture.rs`.

use super::case::FORMAT;
use crate::error::{Error, Result};
use crate::weights::safetensors::{MAX_INDEX_BYTES, SafetensorsFile, SafetensorsShards};
use crate::weights::torch::TorchFile;
use std::collections::BTreeMap;

#[cfg(not(target_arch = "wasm32"))]
use crate::weights::bytes::read_bounded;
#[cfg(not(target_arch = "wasm32"))]
use std::path::PathBuf;

/// Where a fixture's files are.
pub enum FixtureFiles {
    /// In a folder.
    #[cfg(not(target_arch = "wasm32"))]
    Folder(PathBuf),
    /// In memory, by name.
    Memory(BTreeMap<String, Vec<u8>>),
}

impl FixtureFiles {
    /// What to call a file in errors.
    pub(super) fn label(&self, name: &str) -> String {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            FixtureFiles::Folder(folder) => folder.join(name).display().to_string(),
            FixtureFiles::Memory(_) => name.into(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            FixtureFiles::Folder(folder) => folder.join(name).exists(),
            FixtureFiles::Memory(files) => files.contains_key(name),
        }
    }

    /// A small file of at most `max_bytes`.
    pub(super) fn read(&self, name: &str, max_bytes: usize) -> Result<Vec<u8>> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            FixtureFiles::Folder(folder) => read_bounded(&folder.join(name), max_bytes as u64),
            FixtureFiles::Memory(files) => match files.get(name) {
                None => Err(missing(name)),
                Some(bytes) if bytes.len() > max_bytes => Err(Error::format(
                    name,
                    "file",
                    format!("{} bytes; at most {max_bytes} are accepted", bytes.len()),
                )),
                Some(bytes) => Ok(bytes.clone()),
            },
        }
    }

    /// As [`FixtureFiles::read`]; `None` if there is no such file.
    pub(super) fn read_optional(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>> {
        self.has(name).then(|| self.read(name, max_bytes)).transpose()
    }

    pub(super) fn safetensors(&self, name: &str) -> Result<SafetensorsFile> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            FixtureFiles::Folder(folder) => SafetensorsFile::open(folder.join(name)),
            FixtureFiles::Memory(files) => {
                let bytes = files.get(name).ok_or_else(|| missing(name))?;
                SafetensorsFile::from_bytes(bytes.clone(), name)
            }
        }
    }

    pub(super) fn torch(&self, name: &str) -> Result<TorchFile> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            FixtureFiles::Folder(folder) => TorchFile::open(folder.join(name)),
            FixtureFiles::Memory(files) => {
                let bytes = files.get(name).ok_or_else(|| missing(name))?;
                TorchFile::from_bytes(bytes.clone(), name)
            }
        }
    }

    /// The shards that `model.safetensors.index.json` lists.
    pub(super) fn shards(&self) -> Result<SafetensorsShards> {
        let name = "model.safetensors.index.json";
        let index = self.read(name, MAX_INDEX_BYTES as usize)?;
        SafetensorsShards::from_index(&index, &self.label(name), |shard| self.safetensors(shard))
    }
}

fn missing(name: &str) -> Error {
    Error::format(name, FORMAT, "it is missing")
}
