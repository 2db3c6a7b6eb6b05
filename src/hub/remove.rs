//! `deltamem rm`: taking things out of the cache. Owns what may go: names, and bytes that no other name
//! leads to. Nothing is removed while somebody fetches.

use super::HubError;
use super::cache::{RepoCache, remove_file};
use super::contents::{CachedRepo, entries, repo_contents};
use super::name::HubName;
use super::registry::{Target, known_model};
use super::select::{choose, named};
use super::settings::HubSettings;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What would be removed from one repository.
#[derive(Debug)]
pub struct Removal {
    /// `org/repo`
    pub repo: String,
    /// True if nothing of it stays.
    pub is_whole: bool,
    /// Files by revision, as commit and name.
    pub files: Vec<(String, String)>,
    /// What that frees.
    pub size_bytes: u64,
    cache: RepoCache,
    /// Refs, links and blobs, in this order: what is interrupted leaves no name without bytes.
    paths: Vec<PathBuf>,
}

impl Removal {
    /// What a name stands for: of a registry's name all its repositories and its adapter, of
    /// `org/repo` everything, of `@revision` that revision, of `:file` that file in every revision.
    ///
    /// # Errors
    /// [`HubError::Name`]; [`HubError::NotFound`] if there is nothing of it in the cache; [`Error::Io`].
    pub fn plan(settings: &HubSettings, name: &HubName) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        for (repo, file) in repos(name)? {
            let cache = RepoCache::new(&settings.cache, &repo);
            if cache.folder().is_dir() {
                let revision = name.revision.as_deref();
                removals.extend(Removal::of_repo(cache, file.as_deref(), revision)?);
            }
        }
        if removals.is_empty() {
            return Err(HubError::NotFound {
                what: name.to_string(),
                host: "this machine".into(),
                reason: "`deltamem list` shows what is in the cache".into(),
            }
            .into());
        }
        Ok(removals)
    }

    fn of_repo(
        cache: RepoCache,
        file: Option<&str>,
        revision: Option<&str>,
    ) -> Result<Option<Removal>> {
        let contents = repo_contents(&cache)?;
        let commit = revision.map(|revision| cache.commit_of(revision).unwrap_or(revision.into()));
        if commit.is_none() && file.is_none() {
            return Ok(Some(Removal::everything(cache, contents)));
        }
        let names: Vec<&str> = contents
            .revisions
            .iter()
            .flat_map(|revision| revision.files.iter().map(|file| file.name.as_str()))
            .collect();
        let wanted = match file.map(|file| named(&names, file)) {
            None => None,
            Some(mut meant) if meant.len() < 2 => Some(meant.pop().unwrap_or_default()),
            Some(meant) => return Err(choose(&cache.id, &meant).into()),
        };
        let (mut going, mut blobs_going, mut blobs_staying) =
            (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let (mut refs, mut links) = (Vec::new(), Vec::new());
        for revision in &contents.revisions {
            let is_meant = commit.as_ref().is_none_or(|commit| *commit == revision.commit);
            let mut n_staying = 0;
            for file in &revision.files {
                let is_wanted = wanted.as_ref().is_none_or(|wanted| wanted.contains(&file.name));
                let is_going = is_meant && is_wanted;
                let blobs = if is_going { &mut blobs_going } else { &mut blobs_staying };
                blobs.extend(file.blob.clone());
                if is_going {
                    going.push((revision.commit.clone(), file.name.clone()));
                    links.push((cache.snapshot(&revision.commit).join(&file.name), file));
                } else {
                    n_staying += 1;
                }
            }
            if is_meant && n_staying == 0 {
                refs.extend(revision.refs.iter().map(|name| cache.refs().join(name)));
            }
        }
        if going.is_empty() {
            return Ok(None);
        }
        let blobs: Vec<PathBuf> =
            blobs_going.difference(&blobs_staying).map(|name| cache.blob(name)).collect();
        let of_blobs: u64 = blobs.iter().map(|path| size_of(path)).sum();
        let themselves = links.iter().filter(|(_, file)| file.blob.is_none());
        let size_bytes = of_blobs + themselves.map(|(_, file)| file.size_bytes).sum::<u64>();
        let links = links.into_iter().map(|(path, _)| path);
        Ok(Some(Removal {
            repo: cache.id.clone(),
            is_whole: false,
            files: going,
            size_bytes,
            paths: refs.into_iter().chain(links).chain(blobs).collect(),
            cache,
        }))
    }

    fn everything(cache: RepoCache, contents: CachedRepo) -> Removal {
        let of = |revision: &super::CachedRevision| {
            let commit = revision.commit.clone();
            let names = revision.files.iter().map(|file| file.name.clone());
            names.map(|name| (commit.clone(), name)).collect::<Vec<_>>()
        };
        Removal {
            repo: cache.id.clone(),
            is_whole: true,
            files: contents.revisions.iter().flat_map(of).collect(),
            size_bytes: contents.size_bytes,
            paths: vec![cache.refs(), cache.snapshots(), cache.folder()],
            cache,
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody fetches a file of this repository; then nothing was removed.
    /// [`Error::Io`]; then the rest can be removed by another call.
    pub fn run(self) -> Result<()> {
        let _locks = self.lock_all()?;
        for path in &self.paths {
            match self.is_whole {
                true => remove_folder(path)?,
                false => remove_file(path)?,
            }
        }
        match self.is_whole {
            true => remove_folder(&self.cache.locks()),
            false => remove_empty_folders(&self.cache.snapshots()).map(|_| ()),
        }
    }

    fn lock_all(&self) -> Result<Vec<File>> {
        let mut locks = Vec::new();
        for path in entries(&self.cache.locks())? {
            let file = File::options().write(true).open(&path).map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) => locks.push(file),
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path: self.cache.folder() });
                }
                Err(fs::TryLockError::Error(e)) => return Err(Error::io(path)(e)),
            }
        }
        Ok(locks)
    }
}

/// The repositories that a name stands for, and the file that is meant in each.
fn repos(name: &HubName) -> Result<Vec<(String, Option<String>)>, HubError> {
    if name.is_repo() {
        return Ok(vec![(name.base.clone(), name.file.clone())]);
    }
    let model = known_model(&name.base).filter(|model| !model.is_built_in);
    let (Some(model), None) = (model, &name.file) else {
        let target = Target::new(name)?;
        // `NAME:safetensors` is a repository, `NAME:Q8_0` a file of one
        let is_format = matches!(name.file.as_deref(), Some("gguf" | "safetensors"));
        return Ok(vec![(target.repo, name.file.clone().filter(|_| !is_format))]);
    };
    let sources = model.sources.iter().map(|source| source.repo.clone());
    let adapter = model.adapter.iter().map(|adapter| adapter.repo.clone());
    Ok(sources.chain(adapter).map(|repo| (repo, None)).collect())
}

fn size_of(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |m| m.len())
}

/// Links in it are removed, not what they lead to. Fine if there is none.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io(path)),
    }
}

/// True if nothing is left of a folder.
fn remove_empty_folders(folder: &Path) -> Result<bool> {
    let mut is_empty = true;
    for path in entries(folder)? {
        let is_folder = path.is_dir() && !path.is_symlink();
        is_empty &= is_folder && remove_empty_folders(&path)?;
    }
    if is_empty {
        remove_folder(folder)?;
    }
    Ok(is_empty)
}
