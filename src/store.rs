//! Where memories live on a computer with files. Owns folders, generations, reading and the
//! writer's lock; saving is in `writer`, the bytes of a memory are [`crate::memory_file`]'s.
//!
//! ```text
//! <root>/memories/<profile>/<model>/0000000000000007.dmem             one file a generation
//! <root>/memories/<profile>/<model>/0000000000000007.transcript.json  its chat, if given
//! <root>/memories/<profile>/<model>/days.txt                          when conversations began
//! <root>/memories/<profile>/<model>/turns.txt                         digests of turns it has read
//! <root>/locks/<hash>.lock                                            empty; held while writing
//! ```
//!
//! A save never touches an existing generation: it writes the next one under a temporary name,
//! syncs it and renames it. The newest generation is the memory, the ones before it are the undo
//! ring. `<model>` names everything a memory belongs to, so memories of two models never meet.

mod days;
pub(crate) mod files;
mod turns;
mod writer;

use crate::error::{Error, Result};
use crate::memory_file::{FILE_EXTENSION, MemoryFile, MemoryHeader, MemoryIdentity, checksum_hex};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use days::MAX_DAYS;
pub use files::{read_memory, write_memory};
pub use turns::MAX_TURN_DIGESTS;
use writer::FORGOTTEN_EXTENSION;
pub use writer::{Forgotten, MemoryWriter};

/// Earlier generations that are kept beside the newest one.
pub const N_SNAPSHOTS: usize = 8;
/// Names another folder than the platform's data directory.
pub const DATA_DIR_VARIABLE: &str = "DELTAMEM_DATA_DIR";
/// Largest transcript kept, in bytes.
pub const MAX_TRANSCRIPT_BYTES: usize = 64 << 20;

const MAX_PROFILE_BYTES: usize = 64;
/// Generations are at most 2^53 − 1, which has 16 digits.
const GENERATION_DIGITS: usize = 16;
const TRANSCRIPT_EXTENSION: &str = "transcript.json";

/// The folder with all memories of a person.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    root: PathBuf,
}

/// One memory in the store: a profile's, for one model. Reads need no lock and see whole
/// generations only, also while another process writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMemory {
    profile: String,
    model: String,
    folder: PathBuf,
    lock_path: PathBuf,
}

/// What a store holds under one profile for one model.
#[derive(Debug)]
pub struct MemoryListing {
    pub memory: StoredMemory,
    /// Of the newest generation, or why it cannot be read.
    pub header: Result<MemoryHeader>,
    pub n_generations: usize,
    /// Of all files in the folder.
    pub size_bytes: u64,
}

/// One generation that can be restored.
#[derive(Debug)]
pub struct Snapshot {
    pub generation: u64,
    /// Or why it cannot be read.
    pub header: Result<MemoryHeader>,
    pub path: PathBuf,
}

/// A chat's messages and the exact memory they led to. The checksum ties them together: a
/// transcript whose memory was never completed, or was replaced, is not used.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TranscriptFile {
    version: u32,
    memory_sha256: String,
    messages: Value,
}

impl MemoryStore {
    /// `DELTAMEM_DATA_DIR` if set, else the platform's data directory for this program.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is neither.
    pub fn default_dir() -> Result<PathBuf> {
        data_dir(std::env::var_os(DATA_DIR_VARIABLE))
    }

    /// Opens the store in `root`, and makes the folder where there is none. Finishes deletions that
    /// were interrupted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<MemoryStore> {
        let store = MemoryStore { root: root.into() };
        files::create_folder(&store.memories())?;
        for profile in files::sub_folders(&store.memories())? {
            for folder in files::sub_folders(&profile)? {
                if folder.extension().is_some_and(|e| e == FORGOTTEN_EXTENSION) {
                    files::remove_folder(&folder)?;
                }
            }
        }
        Ok(store)
    }

    /// The memory of `profile` for the model `identity`; nothing is made or read yet. A profile has
    /// 1 to 64 of a-z, 0-9, `-` and `_`: capitals would be other names on some file systems and the
    /// same on others.
    ///
    /// # Errors
    /// [`Error::Setting`] for such a name, [`Error::Format`] for a malformed identity.
    pub fn memory(&self, profile: &str, identity: &MemoryIdentity) -> Result<StoredMemory> {
        if !is_profile_name(profile) {
            return Err(Error::Setting {
                name: "profile",
                reason: format!("{profile:?} is not 1 to {MAX_PROFILE_BYTES} of a-z, 0-9, - and _"),
            });
        }
        identity.validate()?;
        Ok(self.stored(profile, &model_name(identity)))
    }

    /// Every memory in the store, by profile and model name; folders without one are left out.
    ///
    /// # Errors
    /// [`Error::Io`]; a memory that cannot be read is listed with its own error.
    pub fn list(&self) -> Result<Vec<MemoryListing>> {
        let mut listings = Vec::new();
        for profile in files::sub_folders(&self.memories())? {
            let Some(name) = name_of(&profile).filter(|name| is_profile_name(name)) else {
                continue;
            };
            for folder in files::sub_folders(&profile)? {
                let Some(model) = name_of(&folder).filter(|name| !name.contains('.')) else {
                    continue;
                };
                let memory = self.stored(name, model);
                let n_generations = memory.generations()?.len();
                let header = match memory.load() {
                    Ok(None) => continue,
                    Ok(Some(file)) => Ok(file.header),
                    Err(error) => Err(error),
                };
                listings.push(MemoryListing {
                    header,
                    n_generations,
                    size_bytes: files::sizes(&folder)?.iter().map(|(_, size)| size).sum(),
                    memory,
                });
            }
        }
        Ok(listings)
    }

    fn memories(&self) -> PathBuf {
        self.root.join("memories")
    }

    fn stored(&self, profile: &str, model: &str) -> StoredMemory {
        // Outside the memory's folder, and without its name: forgetting removes that folder, and a
        // lock file that is removed while another process waits for it would let two writers in.
        let lock = Sha256::digest(format!("{profile}/{model}"));
        let lock: String = lock[..8].iter().map(|b| format!("{b:02x}")).collect();
        StoredMemory {
            profile: profile.into(),
            model: model.into(),
            folder: self.memories().join(profile).join(model),
            lock_path: self.root.join("locks").join(lock + ".lock"),
        }
    }
}

impl StoredMemory {
    /// The profile's name.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The model's name in this store: readable, and different for every identity.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The folder of this memory; it exists after the first save.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The memory as last saved, `None` if it never was.
    ///
    /// # Errors
    /// [`Error::Format`] if the newest generation is damaged (it is left where it is;
    /// [`StoredMemory::load_snapshot`] reads an earlier one), [`Error::MemoryMismatch`] if it is a
    /// file of another model, [`Error::Io`].
    pub fn load(&self) -> Result<Option<MemoryFile>> {
        let mut attempts_left = 8;
        loop {
            let Some(&generation) = self.generations()?.last() else {
                return Ok(None);
            };
            attempts_left -= 1;
            match self.read(generation) {
                // Saves and deletions may have overtaken this reader since it listed the folder.
                Err(Error::Io { source, .. })
                    if source.kind() == ErrorKind::NotFound && attempts_left > 0 => {}
                result => return result.map(|(file, _)| Some(file)),
            }
        }
    }

    /// One of the kept generations.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is not kept, else as [`StoredMemory::load`].
    pub fn load_snapshot(&self, generation: u64) -> Result<MemoryFile> {
        let kept = self.generations()?;
        if !kept.contains(&generation) {
            return Err(Error::Setting {
                name: "generation",
                reason: format!("{generation} is not kept; there are {kept:?}"),
            });
        }
        Ok(self.read(generation)?.0)
    }

    /// All kept generations, rising; the last one is the current memory.
    ///
    /// # Errors
    /// [`Error::Io`]; a generation that cannot be read is listed with its own error.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let generations = self.generations()?.into_iter();
        Ok(generations
            .map(|generation| Snapshot {
                generation,
                header: self.read(generation).map(|(file, _)| file.header),
                path: self.path(generation, FILE_EXTENSION),
            })
            .collect())
    }

    /// The messages saved together with this generation, `None` if there are none or if they belong
    /// to another memory than the one in place.
    ///
    /// # Errors
    /// [`Error::Format`] if they cannot be read, else as [`StoredMemory::load_snapshot`].
    pub fn transcript(&self, generation: u64) -> Result<Option<Value>> {
        let (_, checksum) = self.read(generation)?;
        let path = self.path(generation, TRANSCRIPT_EXTENSION);
        let bytes = match files::read_bounded(&path, MAX_TRANSCRIPT_BYTES, "transcript") {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            result => result?,
        };
        let refuse =
            |reason: String| Error::format(path.display().to_string(), "transcript", reason);
        let file: TranscriptFile =
            serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        if file.version != 1 {
            return Err(refuse(format!("version {} is not known", file.version)));
        }
        Ok((file.memory_sha256 == checksum).then_some(file.messages))
    }

    /// Becomes the one writer of this memory.
    ///
    /// # Errors
    /// [`Error::Locked`] while another writer holds it, [`Error::Io`].
    pub fn lock(&self) -> Result<MemoryWriter> {
        let folder = self.lock_path.parent().unwrap_or(&self.lock_path);
        files::create_folder(folder)?;
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.lock_path)
            .map_err(Error::io(&self.lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(MemoryWriter::new(self.clone(), lock)),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: self.folder.clone() }),
            Err(fs::TryLockError::Error(source)) => {
                Err(Error::Io { path: self.lock_path.clone(), source })
            }
        }
    }

    /// The generations that have a file, rising.
    fn generations(&self) -> Result<Vec<u64>> {
        self.numbered(FILE_EXTENSION)
    }

    fn numbered(&self, extension: &str) -> Result<Vec<u64>> {
        let names = files::names(&self.folder)?;
        let mut found: Vec<u64> = names
            .iter()
            .filter_map(|name| {
                let (digits, rest) = name.split_once('.')?;
                let is_number =
                    digits.len() == GENERATION_DIGITS && digits.bytes().all(|c| c.is_ascii_digit());
                (rest == extension && is_number).then(|| digits.parse().ok())?
            })
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    fn path(&self, generation: u64, extension: &str) -> PathBuf {
        let digits = GENERATION_DIGITS;
        self.folder.join(format!("{generation:0digits$}.{extension}"))
    }

    /// A generation's memory and its checksum.
    fn read(&self, generation: u64) -> Result<(MemoryFile, String)> {
        let path = self.path(generation, FILE_EXTENSION);
        let bytes = files::read_memory_bytes(&path)?;
        let file = MemoryFile::decode(&bytes, &path.display().to_string())?;
        self.check_model(&file.header.identity)?;
        if file.header.counters.generation != generation {
            return Err(Error::format(
                path.display().to_string(),
                "generation of this memory",
                format!("it says generation {}", file.header.counters.generation),
            ));
        }
        Ok((file, checksum_hex(&bytes)))
    }

    fn check_model(&self, identity: &MemoryIdentity) -> Result<()> {
        let found = model_name(identity);
        if found != self.model {
            return Err(Error::MemoryMismatch {
                field: "model",
                expected: self.model.clone(),
                found,
            });
        }
        Ok(())
    }
}

/// A folder name for this model: the parts that people look for, and a digest of everything.
fn model_name(identity: &MemoryIdentity) -> String {
    let mut slug = String::new();
    for c in identity.backbone.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(40);
    format!(
        "{}-{}-{}-{}",
        slug.trim_matches('-'),
        identity.quantisation,
        identity.write_mode.name(),
        &identity.digest()[..16]
    )
}

fn is_profile_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    (1..=MAX_PROFILE_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn data_dir(variable: Option<OsString>) -> Result<PathBuf> {
    if let Some(folder) = variable.filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    match directories::ProjectDirs::from("", "", "deltamem") {
        Some(dirs) => Ok(dirs.data_dir().to_path_buf()),
        None => Err(Error::Unsupported {
            what: "keeping memories without a home directory".into(),
            reason: format!("set {DATA_DIR_VARIABLE} to a folder"),
        }),
    }
}

#[cfg(test)]
mod tests;
