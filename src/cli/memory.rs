//! `deltamem memory …`: stored memories as a person handles them. Owns how a memory is named on the
//! command line; keeping them is `store`'s business, and none of this needs a GPU.

use super::Usage;
use super::keeper::forget_history;
use super::options::ModelOptions;
use super::output::{bar, bytes, count, note, printable, put, table, time, turns};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use deltamem::Error;
use deltamem::memory::MemoryState;
use deltamem::memory_file::{FILE_EXTENSION, MemoryFile, MemoryHeader, StateDiff, diff};
use deltamem::store::{
    MemoryListing, MemoryStore, Snapshot, StoredMemory, read_memory, write_memory,
};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to do with memories.
#[derive(Args)]
pub struct MemoryOptions {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List every stored memory
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a memory: what it belongs to, its counters and its norms
    Show {
        /// A profile, or a file (with a `/` or `.dmem` in its name)
        #[arg(default_value = "default")]
        memory: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// Write a profile's memory to a file
    Export {
        profile: String,
        /// The file to write
        file: PathBuf,
        /// Replace the file if there is one
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// Make a file the memory of a profile; what was there before stays among the snapshots
    Import {
        file: PathBuf,
        profile: String,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// Compare two memories, each a profile or a file
    Diff {
        a: String,
        b: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// Delete a profile's memory with its snapshots, transcripts and typed lines
    Forget {
        #[arg(default_value = "default")]
        profile: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// List the generations of a memory that can be restored
    Snapshots {
        #[arg(default_value = "default")]
        profile: String,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        model: ModelOptions,
    },
    /// Restore an earlier generation as a new one; doing it twice undoes the undoing
    Undo {
        #[arg(default_value = "default")]
        profile: String,
        /// The generation to restore [default: the one before the newest]
        #[arg(long, value_name = "GENERATION")]
        to: Option<u64>,
        #[command(flatten)]
        model: ModelOptions,
    },
}

/// Runs the command.
pub fn run(options: &MemoryOptions) -> Result<ExitCode> {
    match &options.action {
        Action::List { json } => list(*json)?,
        Action::Show { memory, model, json } => show(memory, model, *json)?,
        Action::Export { profile, file, force, model } => export(profile, file, *force, model)?,
        Action::Import { file, profile, model } => import(file, profile, model)?,
        Action::Diff { a, b, model, json } => print_diff(a, b, model, *json)?,
        Action::Forget { profile, yes, model } => forget(profile, *yes, model)?,
        Action::Snapshots { profile, model, json } => snapshots(profile, model, *json)?,
        Action::Undo { profile, to, model } => undo(profile, *to, model)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The store in the platform's data directory.
pub fn open_store() -> Result<MemoryStore> {
    Ok(MemoryStore::open(MemoryStore::default_dir()?)?)
}

fn stored(profile: &str, model: &ModelOptions) -> Result<StoredMemory> {
    Ok(open_store()?.memory(profile, &model.identity()?)?)
}

/// A stored memory that is there, or an error that says which ones are.
fn load(memory: &StoredMemory) -> Result<MemoryFile> {
    if let Some(file) = memory.load()? {
        return Ok(file);
    }
    let others = open_store()?.list()?;
    let others: Vec<String> =
        others.iter().map(|o| format!("{} of {}", o.memory.profile(), o.memory.model())).collect();
    let stored = match others.is_empty() {
        true => "none is stored".into(),
        false => format!("stored are {} (see --model and --weights)", others.join(", ")),
    };
    bail!("profile {} has no memory for {}; {stored}", memory.profile(), memory.model());
}

/// A profile's memory, or a file's if the name looks like one.
pub fn resolve(name: &str, model: &ModelOptions) -> Result<MemoryFile> {
    let looks_like_file = name.contains(['/', std::path::MAIN_SEPARATOR])
        || name.ends_with(&format!(".{FILE_EXTENSION}"));
    match looks_like_file {
        true => Ok(read_memory(Path::new(name))?),
        false => load(&stored(name, model)?),
    }
}

/// Every stored memory, as JSON.
pub fn list_json() -> Result<Vec<Value>> {
    let entry = |listing: &MemoryListing| {
        json!({
            "profile": listing.memory.profile(),
            "model": listing.memory.model(),
            "generations": listing.n_generations,
            "bytes": listing.size_bytes,
            "header": header_or_error(&listing.header),
        })
    };
    Ok(open_store()?.list()?.iter().map(entry).collect())
}

/// The generations of a memory, as JSON.
pub fn snapshots_json(memory: &StoredMemory) -> Result<Vec<Value>> {
    let entry = |snapshot: &Snapshot| json!({ "generation": snapshot.generation, "header": header_or_error(&snapshot.header) });
    Ok(memory.snapshots()?.iter().map(entry).collect())
}

fn list(as_json: bool) -> Result<()> {
    if as_json {
        put!("{:#}", Value::Array(list_json()?))?;
        return Ok(());
    }
    let listings = open_store()?.list()?;
    if listings.is_empty() {
        put!("no memory is stored in {}", MemoryStore::default_dir()?.display())?;
        return Ok(());
    }
    let head = ["profile", "model", "turns", "last used", "snapshots", "size"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for listing in &listings {
        let (turns, last_used) = match &listing.header {
            Ok(header) => (header.counters.turns.to_string(), time(header.updated_ms)),
            Err(error) => ("?".into(), printable(&error.to_string())),
        };
        rows.push(vec![
            listing.memory.profile().into(),
            listing.memory.model().into(),
            turns,
            last_used,
            listing.n_generations.to_string(),
            bytes(listing.size_bytes),
        ]);
    }
    put!("{}", table(&rows))?;
    Ok(())
}

fn show(name: &str, model: &ModelOptions, as_json: bool) -> Result<()> {
    let file = resolve(name, model)?;
    let n_trainable = n_trainable(&file, model);
    if as_json {
        let mut value = memory_json(&file);
        value["adapter_trainable_parameters"] = json!(n_trainable);
        put!("{value:#}")?;
        return Ok(());
    }
    put!("{}", describe(&file.header))?;
    if let Some(n) = n_trainable {
        put!("trained     {} parameters of δ-mem", count(n))?;
    }
    put!("{}", norm_chart(&file.state))?;
    Ok(())
}

/// How many parameters the adapter has that the memory was made with; `None` if the given (or
/// built-in) model has another, or none.
fn n_trainable(file: &MemoryFile, model: &ModelOptions) -> Option<u64> {
    let (folder, adapter) = model.open().ok()?;
    let adapter = adapter.filter(|a| a.hash == file.header.identity.adapter_hash)?;
    adapter.config.n_trainable(&folder.config).ok()
}

/// Everything about a memory except its states, with the norm of each.
pub fn memory_json(file: &MemoryFile) -> Value {
    let state = &file.state;
    let mut value = header_json(&file.header);
    value["norm"] = json!(state.norm());
    value["layer_norms"] = (0..state.dims.layers.len())
        .map(|index| json!({ "layer": state.dims.layers[index], "norm": state.layer_norm(index) }))
        .collect();
    value
}

fn header_or_error(header: &deltamem::Result<MemoryHeader>) -> Value {
    match header {
        Ok(header) => header_json(header),
        Err(e) => json!({ "error": { "code": e.code(), "message": e.to_string() } }),
    }
}

fn header_json(header: &MemoryHeader) -> Value {
    let identity = &header.identity;
    json!({
        "identity": identity.digest(),
        "backbone": identity.backbone,
        "backbone_fingerprint": identity.backbone_fingerprint,
        "weights": identity.quantisation,
        "adapter_hash": identity.adapter_hash,
        "write_mode": identity.write_mode.name(),
        "layers": identity.dims.layers,
        "num_state_heads": identity.dims.num_state_heads,
        "rank": identity.dims.rank,
        "counters": header.counters,
        "created_ms": header.created_ms,
        "updated_ms": header.updated_ms,
    })
}

/// The header as lines of text.
pub fn describe(header: &MemoryHeader) -> String {
    let (identity, counters) = (&header.identity, &header.counters);
    let dims = &identity.dims;
    format!(
        "belongs to  {} with weights in {}, fingerprint {}…\n\
         adapter     {}…, {} writes, {} layers of {} state heads, rank {}\n\
         created     {}, last changed {}\n\
         seen        {}, {} tokens, {} of them written by {} writes\n\
         generation  {}",
        printable(&identity.backbone),
        identity.quantisation,
        &identity.backbone_fingerprint[..12],
        &identity.adapter_hash[..12],
        identity.write_mode.name(),
        dims.layers.len(),
        dims.num_state_heads,
        dims.rank,
        time(header.created_ms),
        time(header.updated_ms),
        turns(counters.turns),
        counters.tokens_seen,
        counters.tokens_written,
        counters.writes,
        counters.generation,
    )
}

/// The norm of each layer's state, as numbers and as bars.
pub fn norm_chart(state: &MemoryState) -> String {
    let norms: Vec<f64> =
        (0..state.dims.layers.len()).map(|index| f64::from(state.layer_norm(index))).collect();
    let largest = norms.iter().copied().fold(0.0, f64::max);
    let mut lines = vec![format!("norm of the whole memory {:.4}", state.norm())];
    for (layer, norm) in state.dims.layers.iter().zip(&norms) {
        let line = format!("  layer {layer:>3}  {norm:>9.4}  {}", bar(*norm, largest, 40));
        lines.push(line.trim_end().into());
    }
    lines.join("\n")
}

fn export(profile: &str, path: &Path, force: bool, model: &ModelOptions) -> Result<()> {
    let file = load(&stored(profile, model)?)?;
    if path.exists() && !force {
        bail!("{} exists; --force replaces it", path.display());
    }
    write_memory(path, &file)?;
    note!("memory of {} written to {}", turns(file.header.counters.turns), path.display());
    Ok(())
}

fn import(path: &Path, profile: &str, model: &ModelOptions) -> Result<()> {
    let mut file = read_memory(path)?;
    let identity = model.identity()?;
    file.check_fits(&identity)?;
    let memory = open_store()?.memory(profile, &identity)?;
    let had_another = !memory.snapshots()?.is_empty();
    memory.lock()?.save(&mut file, None)?;
    note!("profile {profile} now has this memory of {}", turns(file.header.counters.turns));
    if had_another {
        note!("`deltamem memory undo {profile}` brings back the one before");
    }
    Ok(())
}

fn print_diff(a: &str, b: &str, model: &ModelOptions, as_json: bool) -> Result<()> {
    let (a, b) = (resolve(a, model)?, resolve(b, model)?);
    let found = diff(&a.state, &b.state)?;
    // Numbers of two models can be compared, but mean nothing.
    let mismatch = a.check_fits(&b.header.identity).err();
    if as_json {
        let numbers = |d: &StateDiff| json!({ "norm_a": d.norm_a, "norm_b": d.norm_b, "distance": d.distance, "cosine": d.cosine });
        let layers = found.layers.iter().map(|(layer, d)| {
            let mut value = numbers(d);
            value["layer"] = (*layer).into();
            value
        });
        let value = json!({
            "total": numbers(&found.total),
            "layers": layers.collect::<Vec<_>>(),
            "different_model": mismatch.map(|e| e.to_string()),
        });
        put!("{value:#}")?;
        return Ok(());
    }
    if let Some(Error::MemoryMismatch { field, expected, found }) = mismatch {
        put!("these belong to different models: {field} is {found} here and {expected} there")?;
    }
    let row = |name: String, d: &StateDiff| {
        let cosine = d.cosine.map_or("-".into(), |c| format!("{c:.4}"));
        let number = |x: f64| format!("{x:.4}");
        vec![name, number(d.norm_a), number(d.norm_b), number(d.distance), cosine]
    };
    let mut rows =
        vec![["layer", "norm a", "norm b", "distance", "cosine"].map(String::from).to_vec()];
    rows.extend(found.layers.iter().map(|(layer, d)| row(layer.to_string(), d)));
    rows.push(row("all".into(), &found.total));
    put!("{}", table(&rows))?;
    Ok(())
}

fn forget(profile: &str, is_confirmed: bool, model: &ModelOptions) -> Result<()> {
    let memory = stored(profile, model)?;
    let mut writer = memory.lock()?;
    let n_generations = memory.snapshots()?.len();
    if n_generations == 0 {
        // says what there is instead, and that nothing was forgotten
        load(&memory)?;
    }
    if !is_confirmed {
        let question = format!(
            "Forget the memory of profile {profile} for {} with its {n_generations} generations?",
            memory.model()
        );
        match confirm(&question)? {
            Some(true) => {}
            Some(false) => bail!("nothing was forgotten"),
            None => return Err(Usage("there is no terminal to ask on; add --yes".into()).into()),
        }
    }
    let forgotten = writer.forget()?;
    forget_history(profile)?;
    put!(
        "forgotten: {} generations and {} transcripts, {}",
        forgotten.n_generations,
        forgotten.n_transcripts,
        bytes(forgotten.size_bytes)
    )?;
    Ok(())
}

/// Asks on the terminal; `None` if there is none.
pub fn confirm(question: &str) -> Result<Option<bool>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

fn snapshots(profile: &str, model: &ModelOptions, as_json: bool) -> Result<()> {
    let memory = stored(profile, model)?;
    let snapshots = memory.snapshots()?;
    if snapshots.is_empty() {
        load(&memory)?;
    }
    if as_json {
        put!("{:#}", Value::Array(snapshots_json(&memory)?))?;
        return Ok(());
    }
    let mut rows = vec![["generation", "turns", "changed"].map(String::from).to_vec()];
    for snapshot in &snapshots {
        let (turns, changed) = match &snapshot.header {
            Ok(header) => (header.counters.turns.to_string(), time(header.updated_ms)),
            Err(error) => ("?".into(), printable(&error.to_string())),
        };
        rows.push(vec![snapshot.generation.to_string(), turns, changed]);
    }
    put!("{}", table(&rows))?;
    Ok(())
}

fn undo(profile: &str, to: Option<u64>, model: &ModelOptions) -> Result<()> {
    let memory = stored(profile, model)?;
    let mut writer = memory.lock()?;
    let generation = match to {
        Some(generation) => generation,
        None => match memory.snapshots()?.as_slice() {
            [.., before, _] => before.generation,
            [_] => bail!("there is only one generation; nothing to undo"),
            [] => return load(&memory).map(|_| ()),
        },
    };
    let file = writer.restore(generation)?;
    let counters = &file.header.counters;
    note!(
        "generation {generation} of {} is the memory again, as generation {}",
        turns(counters.turns),
        counters.generation
    );
    Ok(())
}
