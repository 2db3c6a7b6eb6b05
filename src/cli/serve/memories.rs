//! What `/v1/memory…` does with stored memories. Owns the JSON of these answers as far as
//! `deltamem memory` does not have it already; keeping memories is `store`'s business.

use super::api_error::ApiError;
use crate::cli::keeper::forget_history;
use crate::cli::memory::{list_json, memory_json, open_store, snapshots_json};
use axum::body::Bytes;
use axum::http::StatusCode;
use deltamem::Error;
use deltamem::memory_file::{MemoryFile, MemoryIdentity};
use deltamem::store::StoredMemory;
use serde_json::{Value, json};

/// What changes a memory; such tasks wait for the turns before them.
pub enum MemoryTask {
    /// Makes a file the memory.
    Import(Bytes),
    /// Keeps what is there as a generation of its own.
    Snapshot,
    /// Restores a generation, the one before the newest if none is named.
    Undo(Option<u64>),
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

fn described(profile: &str, file: &MemoryFile) -> Value {
    let mut value = memory_json(file);
    value["object"] = "memory".into();
    value["profile"] = profile.into();
    value
}

/// The generations that can be restored, rising.
pub fn snapshots(profile: &str, identity: &MemoryIdentity) -> Result<Value, ApiError> {
    let memory = stored(profile, identity)?;
    Ok(json!({ "object": "list", "data": snapshots_json(&memory)? }))
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
            (Some(generation), _) => writer.restore(generation)?,
            (None, [.., before, _]) => writer.restore(*before)?,
            (None, [_]) => {
                let message = "there is only one generation; nothing to undo";
                return Err(ApiError::new(StatusCode::CONFLICT, "nothing_to_undo", message));
            }
        },
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
