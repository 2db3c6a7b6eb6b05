//! Kept contexts in a folder: `<key>.dmprefix`, of which several programs may share one. Owns that a
//! file is whole or not there, and that all together stay within a size; the files are
//! `prefix_file`'s.
//!
//! A file is written beside its place and renamed. It is not synced: one that a crash has spoilt is
//! found by its checksum, and is only read once more. What was used last is known by the files'
//! times. Files of other names are nobody's here.

use crate::error::{Error, Result};
use crate::prefix_file::FILE_EXTENSION;
use crate::session::{PrefixStore, StoreFuture};
use crate::store::files::{create_folder, create_private, sizes};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes that files of kept contexts may take together, unless somebody says otherwise: 4 GiB.
pub const DEFAULT_SIZE_BYTES: u64 = 4 << 30;

const TEMPORARY_EXTENSION: &str = "tmp";
/// Nobody writes a file for so long.
const STALE_AFTER: Duration = Duration::from_secs(60 * 60);

/// Told what went wrong with a file.
pub type OnProblem = Box<dyn FnMut(&str) + Send>;

/// A folder of kept contexts.
pub struct PrefixFolder {
    folder: PathBuf,
    size_bytes: u64,
    on_problem: OnProblem,
    /// Said last: not twice in a row.
    last_problem: String,
    reading: Option<(PathBuf, File)>,
    writing: Option<Writing>,
    /// Files begun, so that no two have the same temporary name.
    n_begun: u64,
}

struct Writing {
    temporary: PathBuf,
    target: PathBuf,
    file: File,
}

impl PrefixFolder {
    /// Keeps contexts in `folder`, which is made if there is none, with at most `size_bytes` for all
    /// files. What goes wrong later is told to `on_problem` and stops nothing.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be made or read.
    pub fn open(
        folder: impl Into<PathBuf>,
        size_bytes: u64,
        on_problem: OnProblem,
    ) -> Result<PrefixFolder> {
        let folder = folder.into();
        create_folder(&folder)?;
        let folder = PrefixFolder {
            folder,
            size_bytes,
            on_problem,
            last_problem: String::new(),
            reading: None,
            writing: None,
            n_begun: 0,
        };
        folder.make_room(0)?;
        Ok(folder)
    }

    /// Removes what was used least recently until `wanted` more bytes fit, and what a crash left.
    fn make_room(&self, wanted: u64) -> Result<()> {
        let mut files = Vec::new();
        for (path, size_bytes) in sizes(&self.folder)? {
            let Some(is_temporary) = kind(&path) else { continue };
            // another program may have been faster
            let Ok(modified) = fs::symlink_metadata(&path).and_then(|m| m.modified()) else {
                continue;
            };
            if !is_temporary {
                files.push((modified, size_bytes, path));
            } else if modified.elapsed().is_ok_and(|age| age > STALE_AFTER) {
                remove(&path)?;
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size_bytes, _)| size_bytes).sum();
        for (_, size_bytes, path) in files {
            if total.saturating_add(wanted) <= self.size_bytes {
                break;
            }
            remove(&path)?;
            total -= size_bytes;
        }
        Ok(())
    }

    /// Removes every file of ours, also those in the making: what fails then is only not kept.
    fn clear_files(&mut self) -> Result<()> {
        for (path, _) in sizes(&self.folder)? {
            if kind(&path).is_some() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn report(&mut self, problem: String) {
        if problem != self.last_problem {
            (self.on_problem)(&problem);
            self.last_problem = problem;
        }
    }

    fn open_file(&mut self, name: &str) -> Result<Option<u64>> {
        let path = self.folder.join(name);
        // asked before opening: opening a pipe would wait for its other end
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.map_err(Error::io(&path))?,
        };
        if !metadata.is_file() {
            let reason = "it is not a regular file";
            return Err(Error::format(path.display().to_string(), "kept context", reason));
        }
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.map_err(Error::io(&path))?,
        };
        let size_bytes = file.metadata().map_err(Error::io(&path))?.len();
        self.reading = Some((path, file));
        Ok(Some(size_bytes))
    }

    fn close_file(&mut self, problem: Option<&Error>) {
        let Some((path, file)) = self.reading.take() else {
            if let Some(problem) = problem {
                self.report(format!("a kept context cannot be read: {problem}"));
            }
            return;
        };
        drop(file);
        match problem {
            None => {
                // for a folder that only others may write to, its owner's use decides
                let file = File::options().write(true).open(&path);
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            }
            Some(problem) => {
                let fate = match remove(&path) {
                    Ok(()) => "it was removed",
                    Err(_) => "it could not be removed",
                };
                let folder = self.folder.display();
                self.report(format!("{folder}: a kept context is not used: {problem}; {fate}"));
            }
        }
    }

    fn create_file(&mut self, name: &str, size_bytes: u64) -> Result<bool> {
        if size_bytes > self.size_bytes {
            return Ok(false);
        }
        create_folder(&self.folder)?;
        self.make_room(size_bytes)?;
        let target = self.folder.join(name);
        self.n_begun += 1;
        let own = format!("{name}.{}-{}.{TEMPORARY_EXTENSION}", std::process::id(), self.n_begun);
        let temporary = self.folder.join(own);
        // a process that had this number before, and died
        remove(&temporary)?;
        let file = create_private(&temporary).map_err(Error::io(&temporary))?;
        self.writing = Some(Writing { temporary, target, file });
        Ok(true)
    }

    fn finish_file(&mut self, problem: Option<&Error>) {
        let finished = match (self.writing.take(), problem) {
            (None, None) => return,
            (None, Some(problem)) => Err(problem.to_string()),
            (Some(Writing { temporary, target, file }), problem) => {
                drop(file);
                let finished = match problem {
                    Some(problem) => Err(problem.to_string()),
                    None => fs::rename(&temporary, &target)
                        .map_err(|source| Error::Io { path: target, source }.to_string()),
                };
                if finished.is_err() {
                    // of two errors the first says more
                    let _ = fs::remove_file(&temporary);
                }
                // others may have added files meanwhile
                finished.and_then(|()| self.make_room(0).map_err(|error| error.to_string()))
            }
        };
        if let Err(problem) = finished {
            self.report(format!("a context is not kept: {problem}"));
        }
    }
}

impl PrefixStore for PrefixFolder {
    fn open<'a>(&'a mut self, name: &'a str) -> StoreFuture<'a, Result<Option<u64>>> {
        let opened = self.open_file(name);
        Box::pin(std::future::ready(opened))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        let (path, file) = self.reading.as_mut().expect("a file is open");
        file.read_exact(into).map_err(Error::io(&*path))
    }

    fn close<'a>(&'a mut self, problem: Option<&'a Error>) -> StoreFuture<'a, ()> {
        self.close_file(problem);
        Box::pin(std::future::ready(()))
    }

    fn create<'a>(&'a mut self, name: &'a str, size_bytes: u64) -> StoreFuture<'a, Result<bool>> {
        let created = self.create_file(name, size_bytes);
        Box::pin(std::future::ready(created))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let writing = self.writing.as_mut().expect("a file is begun");
        writing.file.write_all(bytes).map_err(Error::io(&writing.temporary))
    }

    fn finish<'a>(&'a mut self, problem: Option<&'a Error>) -> StoreFuture<'a, ()> {
        self.finish_file(problem);
        Box::pin(std::future::ready(()))
    }

    fn clear(&mut self) -> StoreFuture<'_, Result<()>> {
        let cleared = self.clear_files();
        Box::pin(std::future::ready(cleared))
    }
}

impl Drop for PrefixFolder {
    fn drop(&mut self) {
        if let Some(Writing { temporary, .. }) = self.writing.take() {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Whether a file of ours is one in the making; `None` for others'.
fn kind(path: &Path) -> Option<bool> {
    let (key, rest) = path.file_name()?.to_str()?.split_once('.')?;
    let is_key = key.len() == 64 && key.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let behind = rest.strip_prefix(FILE_EXTENSION).filter(|_| is_key)?;
    match behind {
        "" => Some(false),
        _ => behind.ends_with(TEMPORARY_EXTENSION).then_some(true),
    }
}

/// Removes a file; fine if there is none.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io(path)),
    }
}
