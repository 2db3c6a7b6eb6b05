//! `deltamem replay`: fixture folders on this machine, one JSON line each. Owns which folders and
//! which verdict; the comparison is the library's `replay`.
//!
//! Only f32 weights and keys can be held against the fixtures' tolerance. For anything smaller the
//! errors are reported, `exact` is false and `passed` is null, unless a result is not finite.

use super::options::{DeviceOptions, Kv, Weights, device_name};
use super::output::{note, put};
use anyhow::Result;
use clap::Args;
use deltamem::loaded::Device;
use deltamem::model::{DEFAULT_CHUNK, LoadOptions};
use deltamem::replay::{Fixture, Labels, ReplayReport};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

/// What can be replayed, and how.
#[derive(Args)]
pub struct ReplayOptions {
    /// Folders with a case.json, or folders of such
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// How the weights are kept
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    kv: Kv,
    /// Tokens that are computed together: a number, or `whole` for whole calls
    #[arg(long, value_name = "N", default_value_t = Chunk::Tokens(DEFAULT_CHUNK))]
    chunk: Chunk,
    #[command(flatten)]
    device: DeviceOptions,
}

/// How calls are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Tokens(usize),
    Whole,
}

impl FromStr for Chunk {
    type Err = String;

    fn from_str(text: &str) -> Result<Chunk, String> {
        match text.parse() {
            _ if text == "whole" => Ok(Chunk::Whole),
            Ok(n) if n > 0 => Ok(Chunk::Tokens(n)),
            _ => Err("expected a number from 1 on, or `whole`".into()),
        }
    }
}

impl std::fmt::Display for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Chunk::Tokens(n) => write!(f, "{n}"),
            Chunk::Whole => write!(f, "whole"),
        }
    }
}

/// What became of one folder.
struct Outcome {
    /// For standard output.
    line: Value,
    is_good: bool,
}

/// Runs the command.
pub fn run(options: &ReplayOptions) -> Result<ExitCode> {
    let device = options.device.open()?;
    let folders: Vec<PathBuf> = options.folders.iter().flat_map(|path| cases_in(path)).collect();
    let mut n_good = 0;
    for folder in &folders {
        let outcome = match replay_folder(folder, &device, options) {
            Ok(report) => judge(report, options)?,
            Err(error) => Outcome { line: failure(folder, &error), is_good: false },
        };
        n_good += usize::from(outcome.is_good);
        put!("{}", outcome.line)?;
    }
    let verdict = if options.is_exact() { "passed" } else { "ran (errors reported, not judged)" };
    note!("{n_good}/{} {verdict} on {}", folders.len(), device_name(&device));
    Ok(ExitCode::from(u8::from(n_good != folders.len())))
}

impl ReplayOptions {
    /// True if results can be held against the tolerance of the fixtures.
    fn is_exact(&self) -> bool {
        self.weights == Weights::F32 && self.kv == Kv::F32
    }
}

/// The folder itself if it has a case, else those below it that have one; without any, the folder
/// itself again, so that it is reported.
fn cases_in(path: &Path) -> Vec<PathBuf> {
    let is_case = |folder: &Path| folder.join("case.json").exists();
    let mut found = Vec::new();
    if !is_case(path)
        && let Ok(entries) = std::fs::read_dir(path)
    {
        found.extend(entries.flatten().map(|e| e.path()).filter(|p| is_case(p)));
        found.sort();
    }
    if found.is_empty() {
        found.push(path.to_path_buf());
    }
    found
}

fn replay_folder(
    folder: &Path,
    device: &Device,
    options: &ReplayOptions,
) -> deltamem::Result<ReplayReport> {
    let fixture = Fixture::open(folder)?;
    let (weights, kv) = (options.weights.storage(), options.kv.storage());
    let whole = fixture.case.context_window();
    let chunk = match options.chunk {
        Chunk::Tokens(n) => n.min(whole),
        Chunk::Whole => whole,
    };
    let load = LoadOptions { weights, kv, chunk, logits_rows: chunk, context_window: None };
    let labels = Labels {
        adapter: device_name(device),
        weights: weights.name().into(),
        kv: kv.name().into(),
        chunk: match options.chunk {
            Chunk::Tokens(n) => Some(n),
            Chunk::Whole => None,
        },
    };
    // Other weights choose other tokens, and a conversation that differs cannot be compared.
    pollster::block_on(fixture.replay(device, &load, labels, options.is_exact()))
}

/// The report as it is printed, and whether it counts as good.
fn judge(report: ReplayReport, options: &ReplayOptions) -> Result<Outcome> {
    let kinds = [&report.logits, &report.state, &report.reads, &report.hidden];
    let is_finite = kinds.into_iter().flatten().all(|worst| worst.error.is_finite());
    let is_exact = options.is_exact();
    let mut line = serde_json::to_value(&report)?;
    line["exact"] = is_exact.into();
    if !is_exact {
        line["passed"] = if is_finite { Value::Null } else { false.into() };
    }
    Ok(Outcome { line, is_good: if is_exact { report.passed } else { is_finite } })
}

fn failure(folder: &Path, error: &deltamem::Error) -> Value {
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    json!({
        "name": name,
        "passed": false,
        "error": { "code": error.code(), "message": error.to_string() },
    })
}
