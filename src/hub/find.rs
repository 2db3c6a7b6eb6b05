//! From a name to a path in the cache. Owns which revision is meant, and what is said about a model that
//! is not there or not whole; nothing is fetched here.

use super::cache::RepoCache;
use super::name::{HubName, is_commit};
use super::registry::{Target, known_model};
use super::select::{ADAPTER_CONFIG, INDEX, Kind, Selection, missing, select};
use super::settings::HubSettings;
use super::{CachedFile, HubError, contents};
use crate::error::{Error, Result};
use crate::weights::bytes::read_bounded;
use std::path::{Path, PathBuf};

/// Where things are found here.
const HERE: &str = "this machine";

/// Longest index that is read.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// A model or adapter in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What [`crate::model_folder::ModelFolder::open`] or [`crate::model_folder::Adapter::open`] takes.
    pub path: PathBuf,
    /// For people: the repository's own name, or that of the GGUF file.
    pub name: String,
    /// What `deltamem pull` is to be given for the adapter that was trained for this model, if there is
    /// one, and where that is if it is here.
    pub adapter: Option<(String, Option<PathBuf>)>,
}

/// The model of a name; `None` for text that names neither a model of the registry nor a repository.
///
/// # Errors
/// [`HubError::NotDownloaded`], with the command that helps; [`HubError::Choose`]; [`Error::Io`].
pub fn find_model(settings: &HubSettings, text: &str) -> Result<Option<Found>> {
    let Some((name, target)) = target(text)? else { return Ok(None) };
    let (snapshot, selection) = whole(settings, &name, &target)?;
    let (path, title) = match selection.kind {
        Kind::Folder => (snapshot, target.repo.rsplit('/').next().unwrap_or_default().to_string()),
        Kind::Gguf => {
            let file = snapshot.join(&selection.names[0]);
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            (file, stem.unwrap_or_default())
        }
        Kind::Adapter | Kind::File => {
            return Err(HubError::NotFound {
                what: format!("a model in {name}"),
                host: HERE.into(),
                reason: "what is here of it is an adapter or a single file".into(),
            }
            .into());
        }
    };
    let adapter = target.adapter().map(|adapter| {
        let place = whole(settings, &name, &adapter).ok().map(|(snapshot, _)| snapshot);
        (name.to_string(), place)
    });
    Ok(Some(Found { path, name: title, adapter }))
}

/// The folder of an adapter; `None` as for [`find_model`].
///
/// # Errors
/// As [`find_model`].
pub fn find_adapter(settings: &HubSettings, text: &str) -> Result<Option<PathBuf>> {
    let Some((name, target)) = target(text)? else { return Ok(None) };
    // a model's name stands for the adapter that was trained for it
    let target = target.adapter().filter(|_| !name.is_repo()).unwrap_or(target);
    let (snapshot, selection) = whole(settings, &name, &target)?;
    match selection.names.iter().any(|name| name == ADAPTER_CONFIG) {
        true => Ok(Some(snapshot)),
        false => Err(HubError::NotFound {
            what: format!("a δ-mem adapter in {name}"),
            host: HERE.into(),
            reason: format!("{ADAPTER_CONFIG} is not among its files"),
        }
        .into()),
    }
}

/// What text names, if it can be the name of a repository or is in the registry.
fn target(text: &str) -> Result<Option<(HubName, Target)>, HubError> {
    // a file of such a name is missing: that is what must be said
    let is_file = [".gguf", ".safetensors", ".json", ".pt"].iter().any(|end| text.ends_with(end));
    let Ok(name) = HubName::parse(text) else { return Ok(None) };
    let is_named = match name.is_repo() {
        true => !is_file || name.file.is_some(),
        false => known_model(&name.base).is_some(),
    };
    match is_named {
        true => Target::new(&name).map(|target| Some((name, target))),
        false => Ok(None),
    }
}

/// The snapshot that a target means, and its model, if all of it is here.
fn whole(settings: &HubSettings, name: &HubName, target: &Target) -> Result<(PathBuf, Selection)> {
    let absent =
        |what: String| HubError::NotDownloaded { what, command: format!("deltamem pull {name}") };
    let repo = RepoCache::new(&settings.cache, &target.repo);
    let commits = commits(&repo)?;
    let Some(commit) = commit(&repo, target, &commits) else {
        let what = match (commits.is_empty(), &target.revision) {
            (true, _) if name.is_repo() => format!("{name} is neither a path nor in the cache"),
            (true, _) => format!("{name} is not on this machine"),
            (false, Some(revision)) => {
                format!("revision {revision} of {name} is not on this machine")
            }
            (false, None) => format!("several revisions of {name} are here, and none is `main`"),
        };
        return Err(absent(what).into());
    };
    let snapshot = repo.snapshot(&commit);
    let files = contents::snapshot_files(&repo, &commit)?;
    let names = whole_names(&files);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let selection = match select(&target.repo, &names, target.file.as_deref(), HERE) {
        Ok(selection) => selection,
        Err(HubError::NotFound { what, .. }) => {
            return Err(absent(format!("{what} is not on this machine")).into());
        }
        Err(error) => return Err(error.into()),
    };
    let index = read_index(&snapshot);
    let missing = missing(&selection, &names, index.as_deref());
    match missing.first() {
        None => Ok((snapshot, selection)),
        Some(first) => {
            let more = match missing.len() {
                1 => String::new(),
                n => format!(" and {} more files", n - 1),
            };
            Err(absent(format!("{name} is not here whole: {first}{more} is missing")).into())
        }
    }
}

pub(super) fn whole_names(files: &[CachedFile]) -> Vec<String> {
    files.iter().filter(|file| file.is_whole).map(|file| file.name.clone()).collect()
}

/// `model.safetensors.index.json` of a snapshot, if it has one that can be read.
pub(super) fn read_index(snapshot: &Path) -> Option<Vec<u8>> {
    read_bounded(&snapshot.join(INDEX), MAX_INDEX_BYTES).ok()
}

/// The commits of which something is here.
fn commits(repo: &RepoCache) -> Result<Vec<String>> {
    let folder = repo.snapshots();
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(Error::io(&folder))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| is_commit(name)).collect())
}

/// The commit that is meant, of those that are here.
fn commit(repo: &RepoCache, target: &Target, commits: &[String]) -> Option<String> {
    let here = |commit: String| commits.contains(&commit).then_some(commit);
    let asked = target.revision.as_deref().and_then(|revision| repo.commit_of(revision));
    if target.revision.is_some() && (target.is_exact || asked.is_some()) {
        if let Some(commit) = asked.and_then(here) {
            return Some(commit);
        }
        if target.is_exact {
            return None;
        }
    }
    repo.commit_of("main").and_then(here).or_else(|| match commits {
        [only] => Some(only.clone()),
        _ => None,
    })
}
