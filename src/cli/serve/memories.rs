//! What `/v1/memory…` does with stored memories. Owns the JSON of these answers as far as
//! `deltamem memory` does not have it already; keeping memories is `store`'s business.

use super::api_error::ApiError;
use crate::cli::keeper::forget_history;
use crate::cli::memory::{list_json, memory_json, open_store, snapshots_json};
use crate::cli::talk::now_ms;
use axum::body::Bytes;
use axum::http::StatusCode;
use deltamem::Error;
use deltamem::chat::{Message, Role, answer_part};
use deltamem::memory_file::{MemoryCounters, MemoryFile, MemoryIdentity};
use deltamem::store::StoredMemory;
use serde_json::{Value, json};

/// What changes a memory; such tasks wait for the turns before them.
pub enum MemoryTask {
    /// Makes a file the memory.
    Import(Bytes),
    /// Keeps what is there as a generation of its own.
    Snapshot,
    /// Restores a generation, the one before the newest if none is named; 0 is the empty memory.
    Undo(Option<u64>),
    /// Copies the memory into a profile that has none.
    Branch(String),
    Forget,
}

/// The model was loaded without an adapter.
pub fn no_memory() -> ApiError {
    ApiError::bad_request("unsupported", "this model has no δ-mem adapter, so it has no memories")
}

fn none_stored(memory: &StoredMemory) -> ApiError {
    let message = format!("profile {} has no memory for this model yet", memory.profile());
    ApiError::not_found("memory_not_found", message)
}

fn stored(profile: &str, identity: &MemoryIdentity) -> Result<StoredMemory, ApiError> {
    Ok(open_store()?.memory(profile, identity)?)
}

/// All memories of all models.
pub fn list() -> Result<Value, ApiError> {
    Ok(json!({ "object": "list", "data": list_json()? }))
}

/// A profile's memory without its states.
pub fn show(profile: &str, identity: &MemoryIdentity) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    let file = memory.load()?.ok_or_else(|| none_stored(&memory))?;
    Ok(described(profile, &file))
}

/// As answers show a memory.
pub fn described(profile: &str, file: &MemoryFile) -> Value {
    let mut value = memory_json(file);
    value["object"] = "memory".into();
    value["profile"] = profile.into();
    value
}

/// The generations that can be restored, rising.
pub fn snapshots(profile: &str, identity: &MemoryIdentity) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    let mut kept = snapshots_json(&memory)?;
    for snapshot in &mut kept {
        let generation = snapshot["generation"].as_u64().unwrap_or_default();
        let norm = memory.load_snapshot(generation).map(|file| file.state.norm()).ok();
        snapshot["norm"] = json!(norm);
    }
    Ok(json!({ "object": "list", "data": kept }))
}

/// The states of all layers, `[layers, state heads, rank, rank]`, row-major.
pub fn states(profile: &str, identity: &MemoryIdentity) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    let file = memory.load()?.ok_or_else(|| none_stored(&memory))?;
    let dims = &file.state.dims;
    Ok(json!({
        "object": "memory.states",
        "layers": dims.layers,
        "num_state_heads": dims.num_state_heads,
        "rank": dims.rank,
        "data": file.state.values,
    }))
}

/// What led to the memory as it is, oldest first, as far as generations are kept. What was undone is not
/// among it: a generation that holds what an earlier one held takes back all between the two.
pub fn ledger(profile: &str, identity: &MemoryIdentity) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    let snapshots = memory.snapshots()?;
    let newest = snapshots.last().map_or(0, |snapshot| snapshot.generation);
    let mut line: Vec<MemoryFile> = Vec::new();
    for snapshot in snapshots {
        // a damaged one is told of elsewhere
        let Ok(file) = memory.load_snapshot(snapshot.generation) else { continue };
        if is_untouched(&file) {
            line.clear();
        } else if let Some(at) = line.iter().position(|earlier| is_copy(&file, earlier)) {
            line.truncate(at + 1);
        } else {
            line.push(file);
        }
    }
    let entries = line.iter().enumerate().map(|(index, file)| {
        let before = index.checked_sub(1).map(|before| &line[before]);
        entry(&memory, before, file)
    });
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "object": "list", "generation": newest, "data": entries }))
}

/// The memory before the first write.
fn is_untouched(file: &MemoryFile) -> bool {
    file.header.counters.tokens_seen == 0 && file.state.values.iter().all(|value| *value == 0.0)
}

fn is_copy(file: &MemoryFile, earlier: &MemoryFile) -> bool {
    let counters =
        MemoryCounters { generation: earlier.header.counters.generation, ..file.header.counters };
    counters == earlier.header.counters && file.state == earlier.state
}

/// A generation as a change of the memory; `before` is the one that it followed, if that is kept.
fn entry(
    memory: &StoredMemory,
    before: Option<&MemoryFile>,
    file: &MemoryFile,
) -> Result<Value, ApiError> {
    let counters = &file.header.counters;
    let zero = MemoryCounters::default();
    let earlier = before.map_or(&zero, |before| &before.header.counters);
    let is_turn = counters.turns == earlier.turns + 1;
    let transcript = memory.transcript(counters.generation).ok().flatten();
    let has_transcript = transcript.is_some();
    let messages: Vec<Message> =
        transcript.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
    let last = |role: fn(Role) -> bool| messages.iter().rfind(|message| role(message.role));
    let question = last(|role| matches!(role, Role::User | Role::Tool));
    let reply = last(|role| role == Role::Assistant);
    let kind = match () {
        // the generation before an oldest one is gone: only what was said tells a turn
        () if question.is_some() && (is_turn || before.is_none()) => "turn",
        () if has_transcript => "write",
        () => "import",
    };
    let is_turn = kind == "turn";
    let is_first = before.is_none() && counters.turns <= 1 && is_turn;
    Ok(json!({
        "kind": kind,
        "generation": counters.generation,
        // what undoing it would restore: 0 is the empty memory, null that it is not kept
        "before": before.map(|b| b.header.counters.generation).or(is_first.then_some(0)),
        "saved_ms": file.header.updated_ms,
        "prompt": question.filter(|_| is_turn).map(|message| &message.content),
        "prompt_role": question.filter(|_| is_turn).map(|message| message.role.name()),
        "reply": reply.filter(|_| is_turn).map(|message| answer_part(&message.content)),
        "thoughts": reply.filter(|_| is_turn).and_then(|message| message.reasoning.as_ref()),
        "tokens_written": counters.tokens_written.saturating_sub(earlier.tokens_written),
        "norm_before": before.map_or(0.0, |before| before.state.norm()),
        "norm_after": file.state.norm(),
    }))
}

/// The bytes of a `.dmem` file.
pub fn export(
    profile: &str,
    identity: &MemoryIdentity,
    generation: Option<u64>,
) -> Result<Vec<u8>, ApiError> {
    let memory = stored(profile, identity)?;
    let file = match generation {
        Some(generation) => memory.load_snapshot(generation)?,
        None => memory.load()?.ok_or_else(|| none_stored(&memory))?,
    };
    Ok(file.encode()?)
}

/// Does the task and says what the memory is then.
///
/// # Errors
/// 409 while another program writes this memory, 404 if there is none, 400 or 409 for a file that
/// cannot be used.
pub fn change(
    profile: &str,
    identity: &MemoryIdentity,
    task: MemoryTask,
) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    let mut writer = memory.lock()?;
    let generations: Vec<u64> = memory.snapshots()?.iter().map(|s| s.generation).collect();
    let file = match task {
        MemoryTask::Import(bytes) => {
            let file = MemoryFile::decode(&bytes, "the body");
            let mut file = file.map_err(|error| match error {
                Error::Format { .. } => ApiError::bad_request(error.code(), error.to_string()),
                error => error.into(),
            })?;
            file.check_fits(identity)?;
            writer.save(&mut file, None)?;
            file
        }
        MemoryTask::Snapshot => match generations.last() {
            Some(newest) => writer.restore(*newest)?,
            None => return Err(none_stored(&memory)),
        },
        MemoryTask::Undo(generation) => match (generation, generations.as_slice()) {
            (_, []) => return Err(none_stored(&memory)),
            (Some(0), _) => {
                let mut empty = MemoryFile::new(identity.clone(), now_ms());
                writer.save(&mut empty, None)?;
                empty
            }
            (Some(generation), _) => writer.restore(generation)?,
            (None, [.., before, _]) => writer.restore(*before)?,
            (None, [_]) => {
                let message = "there is only one generation; nothing to undo";
                return Err(ApiError::new(StatusCode::CONFLICT, "nothing_to_undo", message));
            }
        },
        MemoryTask::Branch(to) => {
            let mut file = memory.load()?.ok_or_else(|| none_stored(&memory))?;
            let branch = stored(&to, identity)?;
            let mut writer = branch.lock()?;
            if !branch.snapshots()?.is_empty() {
                let message = format!("profile {to} has a memory already");
                return Err(ApiError::new(StatusCode::CONFLICT, "profile_exists", message));
            }
            // what was read is not to be read again by the branch either
            let transcript = memory.transcript(file.header.counters.generation)?;
            writer.save(&mut file, transcript.as_ref())?;
            writer.save_turns(&memory.turns()?)?;
            writer.save_days(&memory.days()?)?;
            return Ok(described(&to, &file));
        }
        MemoryTask::Forget => {
            let forgotten = writer.forget()?;
            forget_history(profile)?;
            return Ok(json!({
                "object": "memory.forgotten",
                "profile": profile,
                "generations": forgotten.n_generations,
                "transcripts": forgotten.n_transcripts,
                "bytes": forgotten.size_bytes,
            }));
        }
    };
    Ok(described(profile, &file))
}
