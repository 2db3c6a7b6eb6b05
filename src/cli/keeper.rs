//! The stored memory of a running conversation. Owns who may write it, and what to go on from when
//! the newest generation is damaged; the files are `store`'s business.

use super::days::Days;
use super::output::note;
use anyhow::Result;
use deltamem::Error;
use deltamem::chat::Message;
use deltamem::memory_file::{MemoryFile, MemoryIdentity};
use deltamem::store::{Forgotten, MemoryStore, MemoryWriter, StoredMemory};
use std::io::ErrorKind;
use std::path::PathBuf;

/// The lines that were typed with this profile.
pub fn history_path(profile: &str) -> Result<PathBuf> {
    Ok(MemoryStore::default_dir()?.join("history").join(format!("{profile}.txt")))
}

/// Deletes them: what is forgotten must not come back with the arrow keys.
pub fn forget_history(profile: &str) -> Result<()> {
    let path = history_path(profile)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => Ok(result.map_err(Error::io(path))?),
    }
}

/// One profile's memory for one model, in use.
pub struct Keeper {
    memory: StoredMemory,
    /// `None` while another process writes this memory.
    writer: Option<MemoryWriter>,
    /// The generation that was loaded or saved last; 0 if there is none.
    generation: u64,
}

/// What a conversation begins with.
#[derive(Default)]
pub struct Found {
    /// The newest memory that can be read.
    pub file: Option<MemoryFile>,
    /// Why the newest generation cannot be read, if so.
    pub damage: Option<Error>,
}

impl Keeper {
    /// The memory of `profile` in the platform's data directory, for writing if nobody else does.
    pub fn open(profile: &str, identity: &MemoryIdentity) -> Result<Keeper> {
        let store = MemoryStore::open(MemoryStore::default_dir()?)?;
        let memory = store.memory(profile, identity)?;
        let writer = match memory.lock() {
            Ok(writer) => Some(writer),
            Err(Error::Locked { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Keeper { memory, writer, generation: 0 })
    }

    /// The memory's place in the store.
    pub fn memory(&self) -> &StoredMemory {
        &self.memory
    }

    /// False if another process writes this memory.
    pub fn is_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// The generation that was loaded or saved last; 0 if there is none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The memory to go on from.
    pub fn find(&mut self) -> Result<Found> {
        let found = self.read()?;
        self.generation = found.file.as_ref().map_or(0, |f| f.header.counters.generation);
        Ok(found)
    }

    fn read(&self) -> Result<Found> {
        match self.memory.load() {
            Ok(file) => Ok(Found { file, damage: None }),
            Err(damage @ (Error::Format { .. } | Error::MemoryMismatch { .. })) => {
                let snapshots = self.memory.snapshots()?;
                let readable = snapshots.iter().rev().find(|snapshot| snapshot.header.is_ok());
                let file = match readable {
                    Some(snapshot) => Some(self.memory.load_snapshot(snapshot.generation)?),
                    None => None,
                };
                Ok(Found { file, damage: Some(damage) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The conversation saved with this memory, if it is there and readable.
    pub fn transcript(&self, file: &MemoryFile) -> Result<Option<Vec<Message>>> {
        let Some(value) = self.memory.transcript(file.header.counters.generation)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_value(value)?))
    }

    /// Saves the memory with its conversation; false if another process writes it.
    pub fn save(&mut self, file: &mut MemoryFile, messages: &[Message]) -> Result<bool> {
        let Some(writer) = &mut self.writer else {
            return Ok(false);
        };
        writer.save(file, Some(&serde_json::to_value(messages)?))?;
        self.generation = file.header.counters.generation;
        Ok(true)
    }

    /// Keeps which turns the memory has read; nothing happens if another process writes it.
    pub fn save_turns(&mut self, digests: &[u64]) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.save_turns(digests)?;
        }
        Ok(())
    }

    /// When conversations began; none are known if that cannot be read.
    pub fn days(&self) -> Days {
        let days = self.memory.days().unwrap_or_else(|error| {
            note!("profile {}: days of before are not known: {error}", self.memory.profile());
            Vec::new()
        });
        Days::new(days)
    }

    /// Keeps what has changed of it; nothing happens if another process writes this memory.
    pub fn save_days(&mut self, days: &mut Days) -> Result<()> {
        if let (Some(writer), Some(changed)) = (&mut self.writer, days.changed()) {
            writer.save_days(changed)?;
        }
        Ok(())
    }

    /// Deletes the memory with its snapshots and transcripts; `None` if another process writes it.
    pub fn forget(&mut self) -> Result<Option<Forgotten>> {
        match &mut self.writer {
            Some(writer) => {
                let forgotten = writer.forget()?;
                self.generation = 0;
                Ok(Some(forgotten))
            }
            None => Ok(None),
        }
    }
}
