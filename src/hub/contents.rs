//! What is in the cache. Owns reading its folders; nothing is changed and nothing is fetched.

use super::cache::RepoCache;
use super::find::{read_index, whole_names};
use super::name::{is_blob_name, is_commit, is_repo_id};
use super::select::state;
use crate::error::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Deepest folder in a snapshot that is looked into.
const MAX_DEPTH: usize = 8;

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedRepo {
    /// `org/repo`
    pub id: String,
    /// Everything that it takes on the disk.
    pub size_bytes: u64,
    /// What of that belongs to files that are not whole.
    pub incomplete_bytes: u64,
    /// By commit.
    pub revisions: Vec<CachedRevision>,
}

/// A commit of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedRevision {
    pub commit: String,
    /// Branches and tags that lead here.
    pub refs: Vec<String>,
    /// By name.
    pub files: Vec<CachedFile>,
    /// `safetensors`, `gguf` or `adapter`; `None` if its files are no model.
    pub kind: Option<&'static str>,
    /// Files that are not here although others need or name them.
    pub missing: Vec<String>,
}

/// A file of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedFile {
    pub name: String,
    pub size_bytes: u64,
    /// The name of its blob; `None` where the file itself lies in the snapshot.
    pub blob: Option<String>,
    /// False for a link that leads nowhere.
    pub is_whole: bool,
}

impl CachedRevision {
    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// Every repository of models in a cache, by name; none if there is no cache.
///
/// # Errors
/// [`Error::Io`].
pub fn contents(cache: &Path) -> Result<Vec<CachedRepo>> {
    let mut ids: Vec<String> = Vec::new();
    for path in entries(cache)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = name.strip_prefix("models--").map(|id| id.replacen("--", "/", 1));
        ids.extend(id.filter(|id| is_repo_id(id) && path.is_dir()));
    }
    ids.sort();
    ids.iter().map(|id| repo_contents(&RepoCache::new(cache, id))).collect()
}

/// One repository; without revisions if there is none.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn repo_contents(repo: &RepoCache) -> Result<CachedRepo> {
    let refs = refs(repo)?;
    let mut revisions = Vec::new();
    for path in entries(&repo.snapshots())? {
        let commit = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_commit(commit) {
            continue;
        }
        let files = snapshot_files(repo, commit)?;
        let whole = whole_names(&files);
        let names: Vec<&str> = whole.iter().map(String::as_str).collect();
        let dangling = files.iter().filter(|file| !file.is_whole).map(|file| file.name.clone());
        let mut missing_names: Vec<String> = dangling.collect();
        let (kind, lacking) = state(&names, read_index(&path).as_deref());
        missing_names.extend(lacking);
        let leads_here = refs.iter().filter(|(_, to)| to == commit);
        revisions.push(CachedRevision {
            commit: commit.into(),
            refs: leads_here.map(|(name, _)| name.clone()).collect(),
            files,
            kind,
            missing: missing_names,
        });
    }
    revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
    let (mut size_bytes, mut incomplete_bytes) = (0, 0);
    for path in entries(&repo.blobs())? {
        let bytes = path.symlink_metadata().map_or(0, |m| m.len());
        size_bytes += bytes;
        if path.extension().is_some_and(|end| end == "incomplete") {
            incomplete_bytes += bytes;
        }
    }
    let own = revisions.iter().flat_map(|revision| &revision.files);
    size_bytes += own.filter(|f| f.blob.is_none()).map(|f| f.size_bytes).sum::<u64>();
    Ok(CachedRepo { id: repo.id.clone(), size_bytes, incomplete_bytes, revisions })
}

/// The files of a commit, by name.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn snapshot_files(repo: &RepoCache, commit: &str) -> Result<Vec<CachedFile>> {
    let root = repo.snapshot(commit);
    let mut files = Vec::new();
    let mut folders = vec![(root.clone(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in entries(&folder)? {
            let is_link = path.is_symlink();
            if path.is_dir() && !is_link {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
                continue;
            }
            let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str) else { continue };
            let found = fs::metadata(&path).ok().filter(|m| m.is_file());
            files.push(CachedFile {
                name: name.replace('\\', "/"),
                size_bytes: found.as_ref().map_or(0, |m| m.len()),
                blob: if is_link { blob_of(repo, &path) } else { None },
                is_whole: found.is_some(),
            });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The blob that a link leads to, if that is one of the same repository's.
fn blob_of(repo: &RepoCache, link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_ours = match fs::canonicalize(link) {
        Ok(there) => fs::canonicalize(repo.blob(name)).is_ok_and(|blob| blob == there),
        // it leads nowhere: no harm can come of it
        Err(_) => true,
    };
    (is_blob_name(name) && is_ours).then(|| name.to_string())
}

/// Branches and tags with their commits.
fn refs(repo: &RepoCache) -> Result<Vec<(String, String)>> {
    let root = repo.refs();
    let mut found = Vec::new();
    let mut folders = vec![(root.clone(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in entries(&folder)? {
            if path.is_dir() && !path.is_symlink() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
                continue;
            }
            let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str) else { continue };
            found.extend(repo.commit_of(name).map(|commit| (name.to_string(), commit)));
        }
    }
    found.sort();
    Ok(found)
}

/// What is in a folder, in any order; nothing if there is none.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(Error::io(folder))?,
    };
    entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.path())).collect()
}
