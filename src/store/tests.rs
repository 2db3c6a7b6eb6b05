//! The promises of a save: whole or not there, one writer, nothing lost, nothing left after forget.

use super::writer::TEMPORARY_NAME;
use super::*;
use crate::chat::CivilDate;
use crate::config::WriteGranularity;
use crate::memory::MemoryDims;
use crate::memory_file::MAX_FILE_BYTES;
use serde_json::json;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn identity() -> MemoryIdentity {
    MemoryIdentity {
        backbone: "HuggingFaceTB/SmolLM3-3B".into(),
        backbone_fingerprint: "b".repeat(64),
        quantisation: "q4".into(),
        adapter_hash: "a".repeat(64),
        write_mode: WriteGranularity::Token,
        dims: MemoryDims { layers: (0..4).collect(), num_state_heads: 1, rank: 8 },
    }
}

/// A memory all of whose states are `value`.
fn memory(value: f32) -> MemoryFile {
    let mut file = MemoryFile::new(identity(), 1);
    file.state.values.fill(value);
    file
}

fn open(folder: &tempfile::TempDir) -> StoredMemory {
    let store = MemoryStore::open(folder.path().join("data")).unwrap();
    store.memory("anna", &identity()).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn save(writer: &mut MemoryWriter, value: f32) -> u64 {
    let mut file = memory(value);
    let chat = json!([{"role": "user", "content": value}]);
    writer.save(&mut file, Some(&chat)).unwrap();
    file.header.counters.generation
}

fn loaded_value(memory: &StoredMemory) -> f32 {
    memory.load().unwrap().unwrap().state.values[0]
}

fn generations(memory: &StoredMemory) -> Vec<u64> {
    let snapshots = memory.snapshots().unwrap();
    snapshots.iter().map(|s| s.generation).collect()
}

fn names(memory: &StoredMemory) -> Vec<String> {
    let mut names = files::names(memory.folder()).unwrap();
    names.sort();
    names
}

#[test]
fn digests_of_turns_stay_until_the_memory_is_forgotten() {
    let folder = folder();
    let memory = open(&folder);
    assert!(memory.turns().unwrap().is_empty());
    let mut writer = memory.lock().unwrap();
    save(&mut writer, 1.0);
    writer.save_turns(&[1, u64::MAX]).unwrap();
    assert_eq!(memory.turns().unwrap(), [1, u64::MAX]);
    // neither a save nor a restored generation takes them away
    save(&mut writer, 2.0);
    writer.restore(1).unwrap();
    assert_eq!(memory.turns().unwrap(), [1, u64::MAX]);
    let many: Vec<u64> = (0..MAX_TURN_DIGESTS as u64 + 3).collect();
    writer.save_turns(&many).unwrap();
    assert_eq!(memory.turns().unwrap(), many[3..]);

    let path = memory.folder().join("turns.txt");
    for bad in ["7\n", "000000000000000g\n", "\u{e9}", "0000"] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(memory.turns().unwrap_err().code(), "format", "{bad:?}");
    }
    std::fs::write(&path, vec![b'0'; (MAX_TURN_DIGESTS + 1) * 17]).unwrap();
    assert_eq!(memory.turns().unwrap_err().code(), "format");

    writer.forget().unwrap();
    assert!(memory.turns().unwrap().is_empty());
}

#[test]
fn days_of_conversations_stay_until_the_memory_is_forgotten() {
    let folder = folder();
    let memory = open(&folder);
    assert!(memory.days().unwrap().is_empty());
    let mut writer = memory.lock().unwrap();
    save(&mut writer, 1.0);
    let day = |n: u64| (n, CivilDate::from_unix_seconds(n as i64 * 86_400));
    writer.save_days(&[day(7), (u64::MAX, day(0).1)]).unwrap();
    save(&mut writer, 2.0);
    assert_eq!(memory.days().unwrap(), [day(7), (u64::MAX, day(0).1)]);
    let many: Vec<_> = (0..MAX_DAYS as u64 + 3).map(day).collect();
    writer.save_days(&many).unwrap();
    assert_eq!(memory.days().unwrap(), many[3..]);
    let path = memory.folder().join("days.txt");
    for bad in ["7 2025-01-01\n", "0000000000000007 2025-02-30\n", "\u{e9}", "0000000000000007"] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(memory.days().unwrap_err().code(), "format", "{bad:?}");
    }
    writer.forget().unwrap();
    assert!(memory.days().unwrap().is_empty());
}

#[test]
fn a_saved_memory_and_its_chat_are_there_again() {
    let folder = folder();
    let stored = open(&folder);
    assert!(stored.load().unwrap().is_none());
    let mut file = memory(0.5);
    let chat = json!([{"role": "user", "content": "I am Änna"}]);
    let mut writer = stored.lock().unwrap();
    writer.save(&mut file, Some(&chat)).unwrap();
    assert_eq!(file.header.counters.generation, 1);
    drop(writer);

    let again = open(&folder);
    assert_eq!(again.load().unwrap(), Some(file.clone()));
    assert_eq!(again.transcript(1).unwrap(), Some(chat));
    again.lock().unwrap().save(&mut file, None).unwrap();
    assert_eq!(file.header.counters.generation, 2);
    assert_eq!(again.transcript(2).unwrap(), None);
    assert!(!names(&again).contains(&TEMPORARY_NAME.to_string()));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_a_memory() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let stored = open(&folder);
    save(&mut stored.lock().unwrap(), 1.0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(stored.folder()), 0o700);
    assert_eq!(mode(&stored.path(1, FILE_EXTENSION)), 0o600);
    assert_eq!(mode(&stored.path(1, TRANSCRIPT_EXTENSION)), 0o600);
}

#[test]
fn memories_of_two_models_do_not_meet() {
    let folder = folder();
    let store = MemoryStore::open(folder.path()).unwrap();
    let ours = store.memory("anna", &identity()).unwrap();
    let mut other_identity = identity();
    other_identity.adapter_hash = "c".repeat(64);
    let theirs = store.memory("anna", &other_identity).unwrap();
    assert_ne!(ours.folder(), theirs.folder());
    assert!(ours.model().starts_with("huggingfacetb-smollm3-3b-q4-token-"));

    save(&mut ours.lock().unwrap(), 1.0);
    assert!(theirs.load().unwrap().is_none());
    let error = theirs.lock().unwrap().save(&mut memory(1.0), None).unwrap_err();
    assert_eq!(error.code(), "memory_mismatch");
    // A file copied by hand is recognised as well.
    files::create_folder(theirs.folder()).unwrap();
    fs::copy(ours.path(1, FILE_EXTENSION), theirs.path(1, FILE_EXTENSION)).unwrap();
    assert_eq!(theirs.load().unwrap_err().code(), "memory_mismatch");
    // And one under another generation's name.
    fs::copy(ours.path(1, FILE_EXTENSION), ours.path(2, FILE_EXTENSION)).unwrap();
    assert_eq!(ours.load().unwrap_err().code(), "format");
}

#[test]
fn profile_names_cannot_leave_the_store() {
    let folder = folder();
    let store = MemoryStore::open(folder.path().join("data")).unwrap();
    let long = "x".repeat(65);
    let bad = [
        "", ".", "..", "../x", "a/b", "/etc", "a\\b", "c:", "a b", "a.b", "a\0", "a\n", "Anna",
        "ä", &long,
    ];
    for name in bad {
        let error = store.memory(name, &identity()).unwrap_err();
        assert_eq!(error.code(), "setting", "{name:?}");
    }
    for name in ["a", "work_2026-11", &long[1..]] {
        store.memory(name, &identity()).unwrap();
    }
    let mut hostile = identity();
    hostile.quantisation = "../../x".into();
    assert_eq!(store.memory("a", &hostile).unwrap_err().code(), "format");
    hostile = identity();
    hostile.backbone = "../../../Ünicode/..".into();
    let memory = store.memory("a", &hostile).unwrap();
    assert!(memory.model().starts_with("nicode-q4-token-"), "{}", memory.model());
}

#[test]
fn the_last_generations_are_kept_with_their_chats() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    for value in 1..=12 {
        assert_eq!(save(&mut writer, value as f32), value);
    }
    assert_eq!(generations(&stored), (4..=12).collect::<Vec<_>>());
    assert_eq!(names(&stored).len(), 2 * (N_SNAPSHOTS + 1));
    assert_eq!(stored.load_snapshot(4).unwrap().state.values[0], 4.0);
    let error = stored.load_snapshot(3).unwrap_err();
    assert!(error.to_string().contains("3 is not kept"), "{error}");
}

#[test]
fn restore_is_a_new_generation_and_can_be_undone() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    for value in 1..=3 {
        save(&mut writer, value as f32);
    }
    let restored = writer.restore(2).unwrap();
    assert_eq!(restored.header.counters.generation, 4);
    assert_eq!(loaded_value(&stored), 2.0);
    assert_eq!(stored.transcript(4).unwrap().unwrap()[0]["content"], 2.0);
    assert_eq!(generations(&stored), [1, 2, 3, 4]);
    writer.restore(3).unwrap();
    assert_eq!(loaded_value(&stored), 3.0);
    assert_eq!(writer.restore(77).unwrap_err().code(), "setting");
    assert_eq!(loaded_value(&stored), 3.0);

    fs::write(stored.path(2, TRANSCRIPT_EXTENSION), "[").unwrap();
    assert_eq!(stored.transcript(2).unwrap_err().code(), "format");
    let restored = writer.restore(2).unwrap().header.counters.generation;
    assert_eq!(loaded_value(&stored), 2.0);
    assert_eq!(stored.transcript(restored).unwrap(), None);
}

#[test]
fn a_transcript_counts_only_with_the_memory_it_led_to() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    save(&mut writer, 1.0);
    save(&mut writer, 2.0);
    let (first, second) = (1, 2);
    fs::copy(stored.path(first, TRANSCRIPT_EXTENSION), stored.path(second, TRANSCRIPT_EXTENSION))
        .unwrap();
    assert_eq!(stored.transcript(second).unwrap(), None);
    // Left by a crash between the two renames of a save.
    fs::copy(stored.path(first, TRANSCRIPT_EXTENSION), stored.path(3, TRANSCRIPT_EXTENSION))
        .unwrap();
    assert_eq!(loaded_value(&stored), 2.0);
    writer.save(&mut memory(3.0), None).unwrap();
    assert_eq!(stored.transcript(3).unwrap(), None);
    assert!(!stored.path(3, TRANSCRIPT_EXTENSION).exists());
}

#[test]
fn a_damaged_memory_is_reported_and_preserved() {
    let folder = folder();
    let stored = open(&folder);
    save(&mut stored.lock().unwrap(), 1.0);
    save(&mut stored.lock().unwrap(), 2.0);
    let path = stored.path(2, FILE_EXTENSION);
    let mut damaged = fs::read(&path).unwrap();
    damaged[300] ^= 1;
    fs::write(&path, &damaged).unwrap();

    let error = stored.load().unwrap_err();
    assert_eq!(error.code(), "format");
    assert!(error.to_string().contains("0000000000000002.dmem"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "reading changes nothing");
    assert!(stored.snapshots().unwrap()[1].header.is_err());
    assert_eq!(stored.load_snapshot(1).unwrap().state.values[0], 1.0);

    let mut writer = stored.lock().unwrap();
    assert_eq!(save(&mut writer, 3.0), 3);
    assert_eq!(loaded_value(&stored), 3.0);
    assert_eq!(generations(&stored), [1, 3]);
    let names = names(&stored);
    let aside = names.iter().find(|n| n.starts_with("0000000000000002.dmem.corrupt-"));
    let aside = stored.folder().join(aside.expect("the damaged file is kept"));
    assert_eq!(fs::read(aside).unwrap(), damaged);
    assert!(names.iter().any(|n| n.starts_with("0000000000000002.transcript.json.corrupt-")));
    for value in 4..20 {
        save(&mut writer, value as f32);
    }
    let kept = files::names(stored.folder()).unwrap();
    assert_eq!(kept.iter().filter(|n| n.contains("corrupt")).count(), 2);
}

#[test]
fn a_failed_save_leaves_the_memory_as_it_was() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    save(&mut writer, 1.0);
    let before = names(&stored);

    let mut spoilt = memory(2.0);
    spoilt.state.values[7] = f32::NAN;
    spoilt.header.counters.generation = 1;
    assert_eq!(writer.save(&mut spoilt, None).unwrap_err().code(), "format");
    assert_eq!(spoilt.header.counters.generation, 1);

    // A folder in the place of the temporary file: it can be neither removed nor written.
    let temporary = stored.folder().join(TEMPORARY_NAME);
    fs::create_dir(&temporary).unwrap();
    let error = writer.save(&mut memory(2.0), None).unwrap_err();
    assert!(error.to_string().contains(TEMPORARY_NAME), "{error}");
    fs::remove_dir(&temporary).unwrap();
    // A folder in the place of the transcript.
    let transcript = stored.path(2, TRANSCRIPT_EXTENSION);
    fs::create_dir(&transcript).unwrap();
    let chat = json!([]);
    assert_eq!(writer.save(&mut memory(2.0), Some(&chat)).unwrap_err().code(), "io");
    fs::remove_dir(&transcript).unwrap();

    assert_eq!(names(&stored), before);
    assert_eq!(loaded_value(&stored), 1.0);
    assert_eq!(save(&mut writer, 2.0), 2);
}

#[test]
fn a_left_over_temporary_file_is_replaced() {
    let folder = folder();
    let stored = open(&folder);
    save(&mut stored.lock().unwrap(), 1.0);
    let temporary = stored.folder().join(TEMPORARY_NAME);
    fs::write(&temporary, b"half a memory").unwrap();
    assert_eq!(loaded_value(&stored), 1.0);
    save(&mut stored.lock().unwrap(), 2.0);
    assert_eq!(loaded_value(&stored), 2.0);
    assert!(!temporary.exists());
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    save(&mut writer, 1.0);
    let same = open(&folder);
    match same.lock() {
        Err(Error::Locked { path }) => assert_eq!(path, stored.folder()),
        other => panic!("{other:?}"),
    }
    assert_eq!(loaded_value(&same), 1.0);
    // Forgetting does not open a second way in.
    writer.forget().unwrap();
    assert_eq!(same.lock().unwrap_err().code(), "locked");
    let store = MemoryStore::open(folder.path().join("data")).unwrap();
    store.memory("bert", &identity()).unwrap().lock().unwrap();
    drop(writer);
    same.lock().unwrap();
}

#[test]
fn forget_leaves_nothing_and_says_what_it_deleted() {
    let folder = folder();
    let stored = open(&folder);
    let mut writer = stored.lock().unwrap();
    assert_eq!(writer.forget().unwrap(), Forgotten::default());
    save(&mut writer, 1.0);
    save(&mut writer, 2.0);
    fs::write(stored.folder().join("0000000000000000.dmem.corrupt-1"), b"xyz").unwrap();
    let forgotten = writer.forget().unwrap();
    assert_eq!((forgotten.n_generations, forgotten.n_transcripts), (2, 2));
    assert_eq!(forgotten.files.len(), 5);
    assert!(forgotten.size_bytes > 2000);
    assert!(stored.load().unwrap().is_none());
    assert!(stored.snapshots().unwrap().is_empty());
    assert!(!stored.folder().parent().unwrap().exists());
    // The same writer goes on with an empty memory.
    assert_eq!(save(&mut writer, 3.0), 1);
    assert_eq!(loaded_value(&stored), 3.0);
}

#[test]
fn an_interrupted_deletion_is_finished() {
    let folder = folder();
    let stored = open(&folder);
    save(&mut stored.lock().unwrap(), 1.0);
    let doomed = stored.folder().with_extension(FORGOTTEN_EXTENSION);
    fs::rename(stored.folder(), &doomed).unwrap();
    assert!(stored.load().unwrap().is_none());
    let store = MemoryStore::open(folder.path().join("data")).unwrap();
    assert!(!doomed.exists());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn list_shows_every_memory_with_its_state_of_health() {
    let folder = folder();
    let store = MemoryStore::open(folder.path()).unwrap();
    for profile in ["bert", "anna", "carl"] {
        let stored = store.memory(profile, &identity()).unwrap();
        save(&mut stored.lock().unwrap(), 1.0);
    }
    let carl = store.memory("carl", &identity()).unwrap();
    fs::write(carl.path(1, FILE_EXTENSION), b"deltamem").unwrap();
    fs::create_dir(folder.path().join("memories").join("Not A Profile")).unwrap();
    fs::write(folder.path().join("memories").join("file"), b"").unwrap();
    let list = store.list().unwrap();
    let found: Vec<_> =
        list.iter().map(|l| (l.memory.profile(), l.header.is_ok(), l.n_generations)).collect();
    assert_eq!(found, [("anna", true, 1), ("bert", true, 1), ("carl", false, 1)]);
    assert_eq!(list[0].header.as_ref().unwrap().identity, identity());
    assert_eq!(list[0].memory, store.memory("anna", &identity()).unwrap());
    assert!(list[0].size_bytes > 1000);
}

#[test]
fn exports_are_the_same_bytes_and_replace_at_once() {
    let folder = folder();
    let path = folder.path().join("my memory.dmem");
    fs::write(&path, b"something older").unwrap();
    let file = memory(0.25);
    write_memory(&path, &file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), file.encode().unwrap());
    assert_eq!(read_memory(&path).unwrap(), file);
    assert_eq!(files::names(folder.path()).unwrap(), ["my memory.dmem"]);

    assert_eq!(read_memory(folder.path()).unwrap_err().code(), "format");
    assert_eq!(read_memory(&folder.path().join("none")).unwrap_err().code(), "io");
    assert_eq!(write_memory(Path::new("/"), &file).unwrap_err().code(), "io");
    let large = folder.path().join("large.dmem");
    fs::File::create(&large).unwrap().set_len(MAX_FILE_BYTES as u64 + 1).unwrap();
    let error = read_memory(&large).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}

#[test]
fn the_variable_names_the_data_directory() {
    assert_eq!(data_dir(Some("some/where".into())).unwrap(), Path::new("some/where"));
    if let Ok(platform) = data_dir(None) {
        assert!(platform.to_string_lossy().contains("deltamem"));
        assert_eq!(data_dir(Some("".into())).unwrap(), platform);
    }
}

/// Half a megabyte, so that a write takes long enough to be interrupted or observed.
fn large_identity() -> MemoryIdentity {
    let mut identity = identity();
    identity.dims.layers = (0..32).collect();
    identity.dims.rank = 64;
    identity
}

const CHILD_VARIABLE: &str = "DELTAMEM_TEST_SAVE_IN";

/// Not a test of its own: what the killed process runs.
#[test]
fn child_that_saves_until_it_is_killed() {
    let Some(root) = std::env::var_os(CHILD_VARIABLE) else {
        return;
    };
    let store = MemoryStore::open(root).unwrap();
    let mut writer = store.memory("anna", &large_identity()).unwrap().lock().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut value = 0.0;
    while Instant::now() < deadline {
        value += 1.0;
        let mut file = MemoryFile::new(large_identity(), 1);
        file.state.values.fill(value);
        let chat = json!([{"role": "user", "content": value}]);
        writer.save(&mut file, Some(&chat)).unwrap();
    }
}

/// Kills its process also when an assertion fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_leaves_a_whole_memory() {
    let folder = folder();
    let store = MemoryStore::open(folder.path().join("data")).unwrap();
    let stored = store.memory("anna", &large_identity()).unwrap();
    let mut last = 0;
    for round in 0..12 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_saves_until_it_is_killed"])
            .env(CHILD_VARIABLE, folder.path().join("data"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let child = Killed(child);
        // Reading meanwhile must never see anything but whole generations.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut kill_at = None;
        while kill_at.is_none_or(|at| Instant::now() < at) {
            assert!(Instant::now() < deadline, "the process saves nothing");
            let found = stored.load().unwrap().map_or(0, |m| m.header.counters.generation);
            assert!(found >= last, "generation {found} after {last}");
            if found > last && kill_at.is_none() {
                kill_at = Some(Instant::now() + Duration::from_micros(10_000 + round * 1_700));
            }
            last = found;
        }
        if round == 0 {
            assert_eq!(stored.lock().unwrap_err().code(), "locked");
        }
        drop(child);

        let file = stored.load().unwrap().expect("a memory is there");
        let values = &file.state.values;
        assert!(values.iter().all(|v| v == &values[0]));
        last = file.header.counters.generation;
        let chat = stored.transcript(last).unwrap().expect("its chat is there");
        assert_eq!(chat[0]["content"], values[0]);
        for snapshot in stored.snapshots().unwrap() {
            snapshot.header.unwrap();
        }
        stored.lock().expect("the lock ended with the process");
    }
}
