//! `deltamem pull`: what a name stands for, fetched into the cache. Owns the order of things: what there
//! is, which of it is wanted, whether it fits on the disk, the files, and last the branch's name, so that
//! a model is found only when it is whole.

use super::api::{RepoInfo, repo_info};
use super::cache::RepoCache;
use super::download::{Place, RemoteFile};
use super::find::{find_adapter, find_model, read_index};
use super::http::Client;
use super::name::HubName;
use super::registry::Target;
use super::select::{Kind, Selection, missing, select};
use super::settings::HubSettings;
use super::{Event, HubError};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A repository of which everything that was wanted is in the cache now.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// `org/repo`
    pub repo: String,
    pub commit: String,
    /// True for a δ-mem adapter that came along.
    pub is_adapter: bool,
    pub files: Vec<PulledFile>,
    /// The model or adapter as its loaders take it.
    pub path: PathBuf,
}

/// A file of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PulledFile {
    pub name: String,
    pub size_bytes: u64,
    /// True if it was in the cache already.
    pub was_here: bool,
}

/// Fetches what a name stands for, and the adapter that the registry has for it unless told otherwise.
/// What was fetched before is not fetched again, and a file goes on where it was interrupted.
///
/// # Errors
/// [`Error::Hub`], [`Error::Io`]. What is in the cache by then stays there.
pub fn pull(
    settings: &HubSettings,
    name: &HubName,
    with_adapter: bool,
    events: &mut dyn FnMut(Event),
) -> Result<Vec<Pulled>> {
    let target = Target::new(name)?;
    if settings.is_offline {
        return offline(settings, name, &target);
    }
    let client = Client::new(settings);
    let mut pulled = vec![pull_target(&client, &target, false, events)?];
    if let Some(adapter) = target.adapter().filter(|_| with_adapter) {
        pulled.push(pull_target(&client, &adapter, true, events)?);
    }
    Ok(pulled)
}

/// Without a network there is only what is here already.
fn offline(settings: &HubSettings, name: &HubName, target: &Target) -> Result<Vec<Pulled>> {
    let text = name.to_string();
    let model = find_model(settings, &text).ok().flatten().map(|found| found.path);
    let path = model.or_else(|| find_adapter(settings, &text).ok().flatten());
    let path = path.ok_or(HubError::Offline { what: text })?;
    let repo = RepoCache::new(&settings.cache, &target.repo);
    let snapshots = repo.snapshots();
    let commit = path.strip_prefix(&snapshots).ok().and_then(|rest| rest.iter().next());
    Ok(vec![Pulled {
        repo: repo.id,
        commit: commit.unwrap_or_default().to_string_lossy().into_owned(),
        is_adapter: false,
        files: Vec::new(),
        path,
    }])
}

fn pull_target(
    client: &Client,
    target: &Target,
    is_adapter: bool,
    events: &mut dyn FnMut(Event),
) -> Result<Pulled> {
    let settings = client.settings;
    let revision = target.revision.as_deref().unwrap_or("main");
    let info = repo_info(client, &target.repo, revision, events)?;
    let names: Vec<&str> = info.files.iter().map(|file| file.name.as_str()).collect();
    let selection = select(&target.repo, &names, target.file.as_deref(), settings.host())?;
    let repo = RepoCache::new(&settings.cache, &target.repo);
    let place = Place { client, repo: &repo, commit: &info.commit };
    let mut files = Vec::new();
    let mut names = selection.names.clone();
    loop {
        files.extend(pull_files(&place, target, &info, &names, events)?);
        // an index may name shards that are called as no others are
        names = lacking(&repo, &info, &selection, &files)?;
        if names.is_empty() {
            break;
        }
    }
    repo.set_ref(revision, &info.commit)?;
    let snapshot = repo.snapshot(&info.commit);
    let path = match selection.kind {
        Kind::Folder | Kind::Adapter => snapshot,
        Kind::Gguf | Kind::File => snapshot.join(&selection.names[0]),
    };
    Ok(Pulled { repo: repo.id, commit: info.commit, is_adapter, files, path })
}

/// What of the selection is still to be fetched once `files` are here.
fn lacking(
    repo: &RepoCache,
    info: &RepoInfo,
    selection: &Selection,
    files: &[PulledFile],
) -> Result<Vec<String>> {
    let so_far: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let index = read_index(&repo.snapshot(&info.commit));
    let lacking = missing(selection, &so_far, index.as_deref());
    match lacking.iter().find(|name| !info.files.iter().any(|file| file.name == **name)) {
        None => Ok(lacking),
        Some(name) => {
            let (what, host) = (format!("{}:{name}", repo.id), "the hub".into());
            let reason = "the repository lacks a file that its model needs".into();
            Err(HubError::NotFound { what, host, reason }.into())
        }
    }
}

/// Fetches files of a commit, small ones first: what is wrong with a repository shows early.
fn pull_files(
    place: &Place,
    target: &Target,
    info: &RepoInfo,
    names: &[String],
    events: &mut dyn FnMut(Event),
) -> Result<Vec<PulledFile>> {
    let mut remote = Vec::new();
    for name in names {
        let pinned = target.files.iter().find(|file| file.name == *name);
        let pinned = pinned.and_then(|file| file.sha256.as_deref());
        let listed = info.files.iter().find(|file| file.name == *name);
        let listed = listed.and_then(|file| file.sha256.as_deref());
        remote.push(place.look(name, pinned, listed, events)?);
    }
    remote.sort_by_key(|file| file.size_bytes);
    let is_here =
        |file: &RemoteFile| place.repo.has(place.commit, &file.name, &file.etag, file.size_bytes);
    let missing_bytes = |file: &RemoteFile| match is_here(file) {
        true => 0,
        false => {
            let so_far = place.repo.incomplete(&file.etag).metadata().map_or(0, |m| m.len());
            file.size_bytes.saturating_sub(so_far)
        }
    };
    let missing: u64 = remote.iter().map(missing_bytes).fold(0, u64::saturating_add);
    events(Event::Found {
        repo: &place.repo.id,
        commit: place.commit,
        n_files: remote.len(),
        total_bytes: remote.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add),
        missing_bytes: missing,
    });
    check_space(&place.client.settings.cache, missing)?;
    let mut pulled = Vec::new();
    for file in remote {
        let was_here = is_here(&file);
        events(Event::File { name: &file.name, size_bytes: file.size_bytes, is_here: was_here });
        let file = place.fetch(file, events)?;
        pulled.push(PulledFile { name: file.name, size_bytes: file.size_bytes, was_here });
    }
    Ok(pulled)
}

/// # Errors
/// [`HubError::NoSpace`] if the disk of the cache has less than `needed_bytes` left.
fn check_space(cache: &Path, needed_bytes: u64) -> Result<()> {
    // the folder itself may not be there yet
    let existing = cache.ancestors().find(|path| path.is_dir());
    let existing = existing.unwrap_or(Path::new("."));
    let available_bytes = fs4::available_space(existing).map_err(Error::io(existing))?;
    match needed_bytes > available_bytes {
        true => Err(HubError::NoSpace { path: cache.into(), needed_bytes, available_bytes }.into()),
        false => Ok(()),
    }
}
