//! Saving, restoring and forgetting one memory. Owns the order of the steps, which is what makes a
//! save whole or not there; how a file is written durably is in `files`.

use super::{
    MAX_TRANSCRIPT_BYTES, N_SNAPSHOTS, StoredMemory, TRANSCRIPT_EXTENSION, TranscriptFile, files,
};
use crate::error::{Error, Result};
use crate::memory_file::{FILE_EXTENSION, MemoryFile, checksum_hex};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const TEMPORARY_NAME: &str = "writing.tmp";
pub(super) const FORGOTTEN_EXTENSION: &str = "forgotten";

/// The one writer of a memory; others are refused until it is dropped.
#[derive(Debug)]
pub struct MemoryWriter {
    memory: StoredMemory,
    /// False until a save has made sure that the newest generation can be read.
    newest_checked: bool,
    /// The operating system releases it with the process, however that ends.
    lock: fs::File,
}

/// What [`MemoryWriter::forget`] deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    pub n_generations: usize,
    pub n_transcripts: usize,
    /// Everything that was in the folder, by name.
    pub files: Vec<PathBuf>,
    pub size_bytes: u64,
}

impl MemoryWriter {
    pub(super) fn new(memory: StoredMemory, lock: fs::File) -> MemoryWriter {
        MemoryWriter { memory, newest_checked: false, lock }
    }

    /// The memory that is written here.
    pub fn memory(&self) -> &StoredMemory {
        &self.memory
    }

    /// Saves `file` as the next generation, with the chat that led to it, and sets the generation in
    /// its header. When this returns, both survive a power cut; after an error or a crash this
    /// generation or the one before is the memory, and whole. A damaged newest generation is renamed
    /// to `….corrupt-<time>` first, never deleted.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] if `file` belongs to another model than this memory,
    /// [`Error::Format`] if it cannot be encoded, [`Error::Io`].
    pub fn save(&mut self, file: &mut MemoryFile, transcript: Option<&Value>) -> Result<()> {
        self.memory.check_model(&file.header.identity)?;
        let earlier = self.memory.generations()?;
        let generation = earlier.last().unwrap_or(&0).saturating_add(1);
        let before = file.header.counters.generation;
        file.header.counters.generation = generation;
        let result = self.write(file, &earlier, transcript);
        if result.is_err() {
            file.header.counters.generation = before;
        }
        result
    }

    fn write(
        &mut self,
        file: &MemoryFile,
        earlier: &[u64],
        transcript: Option<&Value>,
    ) -> Result<()> {
        let generation = file.header.counters.generation;
        let bytes = file.encode()?;
        let transcript = transcript
            .map(|messages| encode_transcript(messages, checksum_hex(&bytes)))
            .transpose()?;

        let memory = &self.memory;
        files::create_folder(&memory.folder)?;
        if !self.newest_checked {
            if let Some(&newest) = earlier.last() {
                set_aside_if_damaged(memory, newest)?;
            }
            self.newest_checked = true;
        }
        // Before the new one is in place: if this fails, nothing was saved and the error is true.
        prune(memory)?;
        let temporary = memory.folder.join(TEMPORARY_NAME);
        // The transcript first: the memory's rename completes the save, and until then no memory has
        // the checksum that the transcript names.
        if let Some(transcript) = transcript {
            let path = memory.path(generation, TRANSCRIPT_EXTENSION);
            files::write_durably(&temporary, &path, &transcript)?;
        }
        let path = memory.path(generation, FILE_EXTENSION);
        files::write_durably(&temporary, &path, &bytes)?;
        files::sync_folder(&memory.folder)
    }

    /// Makes an earlier generation the memory again, with its transcript, as a new generation: what
    /// was current can be restored in turn. Returns it. A transcript that cannot be read is left
    /// behind rather than keeping the memory from being restored.
    ///
    /// # Errors
    /// As [`StoredMemory::load_snapshot`] and [`MemoryWriter::save`].
    pub fn restore(&mut self, generation: u64) -> Result<MemoryFile> {
        let mut file = self.memory.load_snapshot(generation)?;
        let transcript = match self.memory.transcript(generation) {
            Err(Error::Format { .. }) => None,
            result => result?,
        };
        self.save(&mut file, transcript.as_ref())?;
        Ok(file)
    }

    /// Deletes this memory: every generation, every transcript and whatever else its folder holds.
    /// The first step is a rename, so that an interrupted deletion cannot leave half of it behind;
    /// the next [`MemoryStore::open`] finishes it. The disk's blocks are not overwritten.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget(&mut self) -> Result<Forgotten> {
        let memory = &self.memory;
        let mut forgotten = Forgotten {
            n_generations: memory.generations()?.len(),
            n_transcripts: memory.numbered(TRANSCRIPT_EXTENSION)?.len(),
            ..Forgotten::default()
        };
        for (path, size_bytes) in files::sizes(&memory.folder)? {
            forgotten.files.push(path);
            forgotten.size_bytes += size_bytes;
        }
        let doomed = memory.folder.with_extension(FORGOTTEN_EXTENSION);
        files::remove_folder(&doomed)?;
        match fs::rename(&memory.folder, &doomed) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(forgotten),
            result => result.map_err(Error::io(&memory.folder))?,
        }
        let profile = memory.folder.parent().unwrap_or(&memory.folder);
        files::sync_folder(profile)?;
        files::remove_folder(&doomed)?;
        files::sync_folder(profile)?;
        // With its last memory, the profile's name goes too.
        match fs::remove_dir(profile) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            result => result.map_err(Error::io(profile))?,
        }
        self.newest_checked = false;
        Ok(forgotten)
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting holds a copy of the
        // descriptor until its exec, and with it the lock. If this fails, closing has to do.
        let _ = self.lock.unlock();
    }
}

/// Keeps the newest [`N_SNAPSHOTS`] generations and their transcripts.
fn prune(memory: &StoredMemory) -> Result<()> {
    let generations = memory.generations()?;
    let kept = &generations[generations.len().saturating_sub(N_SNAPSHOTS)..];
    // The memory before its transcript, so that no generation loses its chat while it is kept.
    for extension in [FILE_EXTENSION, TRANSCRIPT_EXTENSION] {
        for generation in memory.numbered(extension)? {
            if !kept.contains(&generation) {
                let path = memory.path(generation, extension);
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
    }
    Ok(())
}

/// Renames a generation that cannot be used, and its transcript, out of the way.
fn set_aside_if_damaged(memory: &StoredMemory, generation: u64) -> Result<()> {
    match memory.read(generation) {
        Ok(_) => return Ok(()),
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(_) => {}
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    for extension in [FILE_EXTENSION, TRANSCRIPT_EXTENSION] {
        let path = memory.path(generation, extension);
        let aside = memory.path(generation, &format!("{extension}.corrupt-{now_ms}"));
        match fs::rename(&path, &aside) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.map_err(Error::io(&path))?,
        }
    }
    Ok(())
}

fn encode_transcript(messages: &Value, memory_sha256: String) -> Result<Vec<u8>> {
    let file = TranscriptFile { version: 1, memory_sha256, messages: messages.clone() };
    let refuse = |reason: String| Error::format("the chat to be saved", "transcript", reason);
    let bytes = serde_json::to_vec(&file).map_err(|e| refuse(e.to_string()))?;
    if bytes.len() > MAX_TRANSCRIPT_BYTES {
        return Err(refuse(format!(
            "{} bytes, at most {MAX_TRANSCRIPT_BYTES} are kept",
            bytes.len()
        )));
    }
    Ok(bytes)
}
