//! Files that are either whole or not there. Owns durable writes, bounded reads and private
//! permissions; knows nothing of generations.

use crate::error::{Error, Result};
use crate::memory_file::{MAX_FILE_BYTES, MemoryFile};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Reads an exported memory from any path.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] as [`MemoryFile::decode`].
pub fn read_memory(path: &Path) -> Result<MemoryFile> {
    MemoryFile::decode(&read_memory_bytes(path)?, &path.display().to_string())
}

/// Writes a memory to any path; a file there is replaced at once or not at all.
///
/// # Errors
/// [`Error::Format`] as [`MemoryFile::encode`], [`Error::Io`].
pub fn write_memory(path: &Path, file: &MemoryFile) -> Result<()> {
    let bytes = file.encode()?;
    let Some(name) = path.file_name() else {
        return Err(Error::Io { path: path.into(), source: ErrorKind::InvalidInput.into() });
    };
    // No lock guards this folder; the process id keeps two exports apart.
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    write_durably(&path.with_file_name(temporary), path, &bytes)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

pub(super) fn read_memory_bytes(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, MAX_FILE_BYTES, "deltamem memory")
}

/// The content of a regular file of at most `max_bytes`.
pub(super) fn read_bounded(path: &Path, max_bytes: usize, format: &'static str) -> Result<Vec<u8>> {
    let refuse = |reason: String| Error::format(path.display().to_string(), format, reason);
    // Asked before opening: opening a pipe would wait for its other end.
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file".into()));
    }
    let too_large =
        |size_bytes: u64| refuse(format!("{size_bytes} bytes, at most {max_bytes} are accepted"));
    if metadata.len() > max_bytes as u64 {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(max_bytes as u64 + 1).read_to_end(&mut bytes))
        .map_err(Error::io(path))?;
    if bytes.len() > max_bytes {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Writes `temporary`, syncs it and renames it to `target`. The rename is durable after
/// [`sync_folder`]. Whatever was left at `temporary` by a crash is replaced.
pub(super) fn write_durably(temporary: &Path, target: &Path, bytes: &[u8]) -> Result<()> {
    remove_if_there(temporary)?;
    let written = (|| {
        let mut file = create_private(temporary).map_err(Error::io(temporary))?;
        file.write_all(bytes).map_err(Error::io(temporary))?;
        file.sync_all().map_err(Error::io(temporary))?;
        fs::rename(temporary, target).map_err(Error::io(target))
    })();
    if written.is_err() {
        // Of two errors the first says more; what stays is replaced by the next write.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    // Only Unix can open a folder; elsewhere the file system's journal has to do.
    if cfg!(unix) {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))?;
    }
    Ok(())
}

/// Makes a folder with those above it, readable by its owner only, and durable.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent != Path::new(".") {
        create_folder(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        // Another process was faster; a file of this name is an error.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        result => result.map_err(Error::io(folder))?,
    }
    sync_folder(parent)
}

/// The names in a folder that are text, in any order; none if there is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = entries(folder)?;
    Ok(entries.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect())
}

/// The folders in a folder, sorted; symbolic links are not followed.
pub(super) fn sub_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| path.symlink_metadata().is_ok_and(|m| m.is_dir()));
    found.sort();
    Ok(found)
}

/// Everything in a folder with its size in bytes, sorted by name.
pub(crate) fn sizes(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = entries(folder)?;
    found.sort();
    found
        .into_iter()
        .filter_map(|path| match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => Some(Err(Error::Io { path, source })),
            Ok(metadata) => Some(Ok((path, metadata.len()))),
        })
        .collect()
}

/// Removes a folder with everything in it; fine if there is none.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io(folder)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io(path)),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(Error::io(folder))?,
    };
    entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.path())).collect()
}

/// A new file that only its owner can read: a state can still encode private text.
pub(crate) fn create_private(path: &Path) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
