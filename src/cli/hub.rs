//! `deltamem pull`, `list` and `rm`: models in the cache that Hugging Face's tools share. Owns what is
//! shown and asked; the work is the library's `hub`.

use super::Usage;
use super::memory::confirm;
use super::output::{bytes, note, printable, put, table};
use anyhow::{Result, bail};
use clap::Args;
use deltamem::hub::{
    CachedRepo, CachedRevision, Event, Format, HubName, HubSettings, Pulled, PulledFile, Removal,
    contents, known_models, pull as pull_from_hub,
};
use deltamem::model_folder::is_gguf;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;

/// What to download.
#[derive(Args)]
pub struct PullOptions {
    /// A name of the registry (SmolLM3-3B, Qwen3-4B-Instruct) or org/repo[:file][@revision]; a part of
    /// a GGUF file's name does as well, as in org/repo:Q4_K_M
    #[arg(value_name = "NAME")]
    name: String,
    /// Leave out the δ-mem adapter that was trained for the model
    #[arg(long)]
    no_adapter: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How to show what is there.
#[derive(Args)]
pub struct ListOptions {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What to remove.
#[derive(Args)]
pub struct RmOptions {
    /// A name of the registry, with all that it stands for, or org/repo[:file][@revision]
    #[arg(value_name = "NAME")]
    name: String,
    /// Remove without asking
    #[arg(long)]
    yes: bool,
}

/// Runs `deltamem pull`.
pub fn pull(options: &PullOptions) -> Result<ExitCode> {
    let settings = HubSettings::from_env()?;
    let name = HubName::parse(&options.name).map_err(deltamem::Error::from)?;
    let mut progress = PullProgress::default();
    let mut show = |event: Event| progress.show(&event);
    let pulled = pull_from_hub(&settings, &name, !options.no_adapter, &mut show);
    drop(progress);
    let pulled = pulled?;
    if options.json {
        put!("{:#}", json!({ "pulled": pulled.iter().map(pulled_json).collect::<Vec<_>>() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for each in &pulled {
        put!("{}", printable(&each.path.display().to_string()))?;
    }
    note!("{}", what_next(&options.name, &pulled));
    Ok(ExitCode::SUCCESS)
}

fn pulled_json(pulled: &Pulled) -> Value {
    let file = |file: &PulledFile| {
        let PulledFile { name, size_bytes, was_here } = file;
        json!({ "name": name, "size_bytes": size_bytes, "was_here": was_here })
    };
    json!({
        "repo": pulled.repo,
        "commit": pulled.commit,
        "is_adapter": pulled.is_adapter,
        "path": pulled.path,
        "files": pulled.files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn what_next(name: &str, pulled: &[Pulled]) -> String {
    let name = printable(name);
    let Some(path) = pulled.first().map(|first| &first.path) else { return String::new() };
    if is_gguf(path) || path.join("config.json").exists() {
        format!("deltamem chat --model {name}")
    } else if path.join("delta_mem_config.json").exists() {
        format!("deltamem chat --model … --adapter {name}")
    } else {
        "it is in the cache".into()
    }
}

/// A bar over all files of a repository where somebody sees it, a line a file elsewhere.
#[derive(Default)]
struct PullProgress {
    bar: Option<ProgressBar>,
    /// Bytes of the files before the current one.
    before_bytes: u64,
    current_bytes: u64,
    /// Nothing of the current file has been counted yet.
    is_new: bool,
}

impl PullProgress {
    fn show(&mut self, event: &Event) {
        match *event {
            Event::Found { repo, commit, n_files, total_bytes, missing_bytes } => {
                self.clear();
                let commit = commit.get(..8).unwrap_or(commit);
                let missing = match missing_bytes {
                    0 => "all of it is here".into(),
                    missing => format!("{} to download", bytes(missing)),
                };
                let files = if n_files == 1 { "file" } else { "files" };
                let total = bytes(total_bytes);
                note!("{repo} at {commit}: {n_files} {files}, {total}, {missing}");
                if missing_bytes > 0 && std::io::stderr().is_terminal() {
                    let bar = ProgressBar::new(total_bytes);
                    let style = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}";
                    if let Ok(style) = ProgressStyle::with_template(style) {
                        bar.set_style(style);
                    }
                    self.bar = Some(bar);
                }
                (self.before_bytes, self.current_bytes) = (0, 0);
            }
            Event::File { name, size_bytes, is_here } => {
                self.before_bytes += self.current_bytes;
                (self.current_bytes, self.is_new) = (size_bytes, true);
                match &self.bar {
                    Some(bar) => {
                        bar.set_message(printable(name));
                        bar.set_position(self.before_bytes);
                    }
                    None if !is_here => note!("{}, {}", printable(name), bytes(size_bytes)),
                    None => {}
                }
            }
            Event::Bytes(so_far) => {
                if let Some(bar) = &self.bar {
                    bar.set_position(self.before_bytes + so_far);
                    if self.is_new {
                        // what was here before was not fast
                        bar.reset_eta();
                    }
                }
                self.is_new = false;
            }
            Event::Waiting { reason, time } => {
                let wait = match time.as_secs() {
                    0 => "waiting".into(),
                    seconds => format!("trying again in {seconds} s"),
                };
                let line = format!("{}; {wait}", printable(reason));
                match &self.bar {
                    Some(bar) => bar.println(line),
                    None => note!("{line}"),
                }
            }
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for PullProgress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Runs `deltamem list`.
pub fn list(options: &ListOptions) -> Result<ExitCode> {
    let settings = HubSettings::from_env()?;
    let repos = contents(&settings.cache)?;
    if options.json {
        let repos: Vec<Value> = repos.iter().map(repo_json).collect();
        put!("{:#}", json!({ "cache": settings.cache, "repos": repos }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let cache = printable(&settings.cache.display().to_string());
    if repos.is_empty() {
        let names: Vec<&str> = known_models()
            .iter()
            .filter(|model| !model.is_built_in)
            .map(|model| model.name.as_str())
            .collect();
        put!("nothing in {cache}")?;
        note!("`deltamem pull {}` downloads a model", names.join("` or `deltamem pull "));
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["repository", "name", "revision", "files", "size", "state"].map(String::from);
    let mut rows = vec![head.to_vec()];
    rows.extend(repos.iter().flat_map(repo_rows));
    put!("{}", table(&rows))?;
    let total = repos.iter().map(|repo| repo.size_bytes).sum();
    put!("{} in {cache}", bytes(total))?;
    Ok(ExitCode::SUCCESS)
}

/// What the registry calls a repository.
fn known_name(repo: &str) -> Option<String> {
    known_models().iter().find_map(|model| {
        let name = &model.name;
        let mut sources = model.sources.iter().enumerate();
        let source = sources.find(|(_, source)| source.repo.eq_ignore_ascii_case(repo));
        match source.map(|(i, source)| (i, source.format)) {
            Some((0, _)) => Some(name.clone()),
            Some((_, Format::Safetensors)) => Some(format!("{name}:safetensors")),
            Some((_, Format::Gguf)) => Some(format!("{name}:gguf")),
            None => {
                let adapter = model.adapter.as_ref()?;
                (adapter.repo == repo).then(|| format!("adapter of {name}"))
            }
        }
    })
}

fn state(repo: &CachedRepo, revision: &CachedRevision) -> String {
    let unfinished = match repo.incomplete_bytes {
        0 => String::new(),
        n => format!(" ({} of unfinished files)", bytes(n)),
    };
    match (&revision.missing[..], revision.kind) {
        ([], Some(kind)) => format!("complete, {kind}{unfinished}"),
        ([], None) => format!("no whole model{unfinished}"),
        ([one], _) => format!("incomplete: {} is missing{unfinished}", printable(one)),
        ([one, rest @ ..], _) => {
            format!(
                "incomplete: {} and {} more are missing{unfinished}",
                printable(one),
                rest.len()
            )
        }
    }
}

fn repo_rows(repo: &CachedRepo) -> Vec<Vec<String>> {
    let name = known_name(&repo.id).unwrap_or_default();
    if repo.revisions.is_empty() {
        let state = format!("incomplete: {} of unfinished files", bytes(repo.incomplete_bytes));
        let size = bytes(repo.size_bytes);
        return vec![vec![repo.id.clone(), name, "-".into(), "0".into(), size, state]];
    }
    let row = |revision: &CachedRevision| {
        let short = revision.commit.get(..8).unwrap_or(&revision.commit);
        let shown = match revision.refs.is_empty() {
            true => short.to_string(),
            false => format!("{short} ({})", printable(&revision.refs.join(", "))),
        };
        let n_files = revision.files.len().to_string();
        let size = bytes(revision.size_bytes());
        vec![repo.id.clone(), name.clone(), shown, n_files, size, state(repo, revision)]
    };
    repo.revisions.iter().map(row).collect()
}

fn repo_json(repo: &CachedRepo) -> Value {
    let revision = |revision: &CachedRevision| {
        let files = revision.files.iter().map(|file| {
            json!({
                "name": file.name,
                "size_bytes": file.size_bytes,
                "blob": file.blob,
                "is_whole": file.is_whole,
            })
        });
        json!({
            "commit": revision.commit,
            "refs": revision.refs,
            "size_bytes": revision.size_bytes(),
            "kind": revision.kind,
            "is_complete": revision.kind.is_some() && revision.missing.is_empty(),
            "missing": revision.missing,
            "files": files.collect::<Vec<_>>(),
        })
    };
    json!({
        "repo": repo.id,
        "name": known_name(&repo.id),
        "size_bytes": repo.size_bytes,
        "incomplete_bytes": repo.incomplete_bytes,
        "revisions": repo.revisions.iter().map(revision).collect::<Vec<_>>(),
    })
}

/// Runs `deltamem rm`.
pub fn rm(options: &RmOptions) -> Result<ExitCode> {
    let settings = HubSettings::from_env()?;
    let name = HubName::parse(&options.name).map_err(deltamem::Error::from)?;
    let removals = Removal::plan(&settings, &name)?;
    for removal in &removals {
        let what = match removal.is_whole {
            true => "everything".to_string(),
            false => {
                removal.files.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
            }
        };
        note!("{}: {}, {}", removal.repo, printable(&what), bytes(removal.size_bytes));
    }
    let total: u64 = removals.iter().map(|removal| removal.size_bytes).sum();
    if !options.yes {
        match confirm(&format!("Remove {} of downloaded files?", bytes(total)))? {
            Some(true) => {}
            Some(false) => bail!("nothing was removed"),
            None => return Err(Usage("there is no terminal to ask on; add --yes".into()).into()),
        }
    }
    for removal in removals {
        let (repo, freed) = (removal.repo.clone(), removal.size_bytes);
        removal.run()?;
        put!("{repo}: {} freed", bytes(freed))?;
    }
    Ok(ExitCode::SUCCESS)
}
