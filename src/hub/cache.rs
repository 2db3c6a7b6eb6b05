//! One repository in Hugging Face's cache
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>): `blobs/ETAG` hold the bytes,
//! `snapshots/COMMIT/FILE` are relative links to them, `refs/BRANCH` names a commit, `.locks` keeps
//! processes apart. Owns the paths and how each is written; names and folders are `hf-hub`'s.

use super::name::{is_blob_name, is_commit, safe_file_name};
use super::{Event, HubError};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest ref that is read.
const MAX_REF_BYTES: u64 = 256;

/// The folder of a repository; it need not exist.
#[derive(Debug, Clone)]
pub struct RepoCache {
    /// `org/repo`
    pub id: String,
    cache: PathBuf,
}

impl RepoCache {
    /// `id` is a checked `org/repo`.
    pub fn new(cache: &Path, id: &str) -> RepoCache {
        RepoCache { id: id.into(), cache: cache.into() }
    }

    fn repo(&self, revision: &str) -> hf_hub::Repo {
        hf_hub::Repo::with_revision(self.id.clone(), hf_hub::RepoType::Model, revision.into())
    }

    fn handle(&self, revision: &str) -> hf_hub::CacheRepo {
        hf_hub::Cache::new(self.cache.clone()).repo(self.repo(revision))
    }

    /// `models--org--repo`
    pub fn folder(&self) -> PathBuf {
        self.cache.join(self.repo("main").folder_name())
    }

    /// Where the bytes are.
    pub fn blobs(&self) -> PathBuf {
        self.folder().join("blobs")
    }

    /// Where the names are, by commit.
    pub fn snapshots(&self) -> PathBuf {
        self.folder().join("snapshots")
    }

    /// The files of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.handle("main").pointer_path(commit)
    }

    /// Where branches and tags are.
    pub fn refs(&self) -> PathBuf {
        self.folder().join("refs")
    }

    /// The folder of this repository's locks.
    pub fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(self.repo("main").folder_name())
    }

    /// The blob of an ETag that was checked.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    /// True if a file is here whole: its blob, or, where there are no links, itself.
    pub fn has(&self, commit: &str, file: &str, etag: &str, size_bytes: u64) -> bool {
        let is_whole =
            |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.len() == size_bytes);
        let itself = self.snapshot(commit).join(file);
        is_whole(&self.blob(etag)) || (!itself.is_symlink() && is_whole(&itself))
    }

    /// What there is of a blob that is not whole.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.blobs().join(format!("{etag}.incomplete"))
    }

    /// The commit of a branch, a tag or itself, as far as the cache knows.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let path = self.refs().join(revision);
        let is_small = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_REF_BYTES);
        let text = is_small.then(|| fs::read_to_string(path).ok()).flatten()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_string())
    }

    /// Notes the commit of a branch or tag.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.refs().join(revision);
        self.handle(revision).create_ref(commit).map_err(Error::io(path))
    }

    /// Puts `snapshots/commit/file` in place, a link to a blob.
    ///
    /// # Errors
    /// [`Error::Io`]; [`HubError::Refused`] for a name that leads out of the folder.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let refused = |reason| HubError::Refused { what: format!("{}:{file}", self.id), reason };
        safe_file_name(file).map_err(refused)?;
        if !is_commit(commit) || !is_blob_name(etag) {
            return Err(refused(format!("commit `{commit}`, ETag `{etag}`")).into());
        }
        let path = self.snapshot(commit).join(file);
        let depth = file.split('/').count() + 1;
        let target = PathBuf::from("../".repeat(depth)).join("blobs").join(etag);
        let is_there = fs::read_link(&path).is_ok_and(|old| old == target);
        if is_there || !self.blob(etag).exists() && path.is_file() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        remove_file(&path)?;
        symlink(&target, &self.blob(etag), &path).map_err(Error::io(path))
    }

    /// Waits until nobody else fetches this blob. The lock goes with the returned file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock(&self, etag: &str, events: &mut dyn FnMut(Event)) -> Result<File> {
        let folder = self.locks();
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!("{etag}.lock"));
        let mut is_told = false;
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(e)) => return Err(Error::io(path)(e)),
                Err(fs::TryLockError::WouldBlock) => {}
            }
            if !is_told {
                let reason = "another process fetches the same file";
                events(Event::Waiting { reason, time: Duration::ZERO });
                is_told = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A link as the cache has them; where there are none (some disks, other systems) the file itself.
fn symlink(target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, path);
    #[cfg(not(unix))]
    let linked: std::io::Result<()> = {
        let _ = target;
        Err(ErrorKind::Unsupported.into())
    };
    match linked {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::rename(blob, path),
        Ok(()) => Ok(()),
    }
}

/// Removes a file or link; fine if there is none.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io(path)),
    }
}
