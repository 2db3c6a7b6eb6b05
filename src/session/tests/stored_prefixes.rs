//! Beginnings that outlive a session, in a folder.

use super::prefixes::{SYSTEM, begin, bits, logits};
use super::*;
use crate::prefix_folder::PrefixFolder;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

type Problems = Arc<Mutex<Vec<String>>>;

fn store(s: &mut Session, folder: &Path, size_bytes: u64) -> Problems {
    let problems = Problems::default();
    let heard = problems.clone();
    let hear = Box::new(move |problem: &str| heard.lock().unwrap().push(problem.into()));
    let folder = PrefixFolder::open(folder, size_bytes, hear).unwrap();
    block_on(s.store_prefixes(Box::new(folder))).unwrap();
    problems
}

/// A session over the folder, as a process that has just begun.
fn fresh(mode: &str, folder: &Path) -> (Session, Problems) {
    let mut s = session_in(mode, 1024, None);
    let problems = store(&mut s, folder, u64::MAX);
    (s, problems)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_beginning_from_a_file_gives_the_very_numbers_of_reading_it() {
    for mode in ["\"token\"", "\"message_mean\""] {
        let folder = tempfile::tempdir().unwrap();
        for is_written in [true, false] {
            // nothing is kept of groups that are written, which prefixes.rs shows
            if is_written && mode != "\"token\"" {
                continue;
            }
            for is_second in [false, true] {
                let mut plain = session_in(mode, 1024, None);
                let (mut stored, problems) = fresh(mode, folder.path());
                let values = (0..plain.model.engine.memory_dims().len()).map(|i| 0.001 * i as f32);
                let dims = plain.model.engine.memory_dims().clone();
                let memory = MemoryState { dims, values: values.collect() };
                let text = if is_second { "Who plays?" } else { "Hello there." };
                let expected = begin(&mut plain, &memory, SYSTEM, text, is_written);
                let found = begin(&mut stored, &memory, SYSTEM, text, is_written);
                assert_eq!(found.prompt.prefix_tokens > 0, is_second, "{mode} {text}");
                assert_eq!(found.generated_ids, expected.generated_ids, "{mode} {text}");
                assert_eq!(stored.counters(), plain.counters(), "{mode} {text}");
                assert_eq!(bits(&state(&stored)), bits(&state(&plain)), "{mode} {text}");
                assert!(logits(&mut stored) == logits(&mut plain), "{mode} {text}");
                assert_eq!(*problems.lock().unwrap(), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn no_file_is_used_under_another_memory_text_writing_or_model() {
    let folder = tempfile::tempdir().unwrap();
    let n = |turn: Turn| turn.prompt.prefix_tokens;
    let mut s = fresh("\"token\"", folder.path()).0;
    let empty = state(&s);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)), 0);
    let mut close = empty.clone();
    close.values[0] = f32::from_bits(1);
    assert_eq!(n(begin(&mut s, &close, SYSTEM, "Hello.", true)), 0);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", false)), 0);
    let other = SYSTEM.replace("Lisbon", "Oslo");
    assert_eq!(n(begin(&mut s, &empty, &other, "Hello.", true)), 0);
    assert_eq!(files(folder.path()).len(), 4);
    assert!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)) >= TOKENS_BETWEEN_LOOKS);

    // another write mode of the same adapter's tensors, and another size of the cache
    let mut s = fresh("\"message_mean\"", folder.path()).0;
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", false)), 0);
    let mut s = session_with(768, None);
    store(&mut s, folder.path(), u64::MAX);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)), 0);
    // another day in the header, which is in the tokens
    let mut s = fresh("\"token\"", folder.path()).0;
    s.talk.render.date = CivilDate::from_unix_seconds(86_400);
    let mut options = options(&s);
    options.write_enabled = true;
    let history = vec![Message::new(Role::System, SYSTEM), user("Hello.")];
    assert_eq!(n(say_from_with(&mut s, history, &options).unwrap()), 0);
}

#[test]
fn weights_that_a_fingerprint_of_samples_does_not_tell_apart_have_keys_of_their_own() {
    let folder = ModelFolder::open(NOISE).unwrap();
    let key = |change: Option<&'static str>| {
        let tensors = Changed { inner: ModelFolder::open(NOISE).unwrap().tensors, change };
        let changed = ModelFolder::open_with(NOISE, |_| Ok(Box::new(tensors))).unwrap();
        assert_eq!(changed.fingerprint().unwrap(), folder.fingerprint().unwrap());
        let options = LoadOptions { context_window: Some(256), ..LoadOptions::default() };
        let progress = &mut |_, _| {};
        let load = LoadedModel::load(&changed, None, &Device::Cpu, &options, progress);
        let options = SessionOptions {
            system: None,
            enable_thinking: None,
            date: CivilDate::from_unix_seconds(0),
        };
        let mut s = block_on(Session::new(block_on(load).unwrap(), options)).unwrap();
        block_on(s.fingerprint()).unwrap()
    };
    assert_eq!(key(None), key(None));
    for name in ["model.layers.0.mlp.gate_proj.weight", "model.layers.1.self_attn.v_proj.weight"] {
        assert_ne!(key(None), key(Some(name)), "{name}");
    }
}

/// The model of noise with one number in the middle of a tensor changed.
struct Changed {
    inner: Box<dyn TensorSource + Send>,
    change: Option<&'static str>,
}

impl TensorSource for Changed {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.inner.read_f32(name, start, out)?;
        let n = self.inner.info(name).map_or(0, TensorInfo::n_elements);
        if self.change == Some(name) && (start..start + out.len()).contains(&(n / 2)) {
            out[n / 2 - start] += 0.5;
        }
        Ok(())
    }
}

#[test]
fn damaged_files_are_reported_replaced_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut s = fresh("\"token\"", folder.path()).0;
    let empty = state(&s);
    let expected = begin(&mut s, &empty, SYSTEM, "Hello.", true);
    let path = files(folder.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    let mut damaged: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("text".into(), b"not a context".to_vec()),
        ("longer".into(), [&good[..], b"x"].concat()),
    ];
    for n in [40, 88, good.len() - 1] {
        damaged.push((format!("cut at {n}"), good[..n].to_vec()));
    }
    // magic, counters, key, memory, keys and values, checksum
    for at in [0, 32, 60, 90, good.len() - 33, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        damaged.push((format!("byte {at}"), bytes));
    }
    // one session for all: what was read of a bad file must not show in the next turn
    let (mut s, problems) = fresh("\"token\"", folder.path());
    for (what, bytes) in damaged {
        std::fs::write(&path, bytes).unwrap();
        problems.lock().unwrap().clear();
        let found = begin(&mut s, &empty, SYSTEM, "Hello.", true);
        assert_eq!(found.prompt.prefix_tokens, 0, "{what}");
        assert_eq!(found.generated_ids, expected.generated_ids, "{what}");
        let said = problems.lock().unwrap().join("\n");
        // said once for problems that are the same
        assert!(said.is_empty() || said.contains("kept context"), "{what}: {said}");
        assert!(std::fs::read(&path).unwrap() == good, "{what}: not written anew");
    }
    assert!(begin(&mut s, &empty, SYSTEM, "Hello.", true).prompt.prefix_tokens > 0);
    // a good file under another's name
    std::fs::remove_file(&path).unwrap();
    begin(&mut s, &empty, &SYSTEM.replace("Lisbon", "Oslo"), "Hello.", true);
    std::fs::rename(files(folder.path()).remove(0), &path).unwrap();
    assert_eq!(begin(&mut s, &empty, SYSTEM, "Hello.", true).prompt.prefix_tokens, 0);
    // a folder where the file should be: nothing is kept, and nothing stops
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        let found = begin(&mut s, &empty, SYSTEM, "Hello.", true);
        assert_eq!(found.prompt.prefix_tokens, 0);
        assert_eq!(found.generated_ids, expected.generated_ids);
    }
    assert!(problems.lock().unwrap().iter().any(|said| said.contains("not kept")));
}

#[test]
fn a_folder_stays_within_its_size_and_keeps_what_was_used_last() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.txt"), "precious").unwrap();
    let mut s = fresh("\"token\"", folder.path()).0;
    let empty = state(&s);
    let systems = ["Lisbon", "Oslo", "Turin", "Vigo"].map(|city| SYSTEM.replace("Lisbon", city));
    let n = |s: &mut Session, i: usize| {
        // times of files may be coarse
        std::thread::sleep(std::time::Duration::from_millis(20));
        begin(s, &empty, &systems[i], "Hello.", true).prompt.prefix_tokens
    };
    assert_eq!(n(&mut s, 0), 0);
    let kept = || -> Vec<PathBuf> {
        let mut kept = files(folder.path());
        kept.retain(|path| path.extension().is_some_and(|e| e == "dmprefix"));
        kept
    };
    let one = kept()[0].metadata().unwrap().len();
    let mut s = session_with(1024, None);
    store(&mut s, folder.path(), 2 * one + one / 2);
    assert!(n(&mut s, 0) > 0);
    assert_eq!(n(&mut s, 1), 0);
    assert!(n(&mut s, 0) > 0);
    assert_eq!(n(&mut s, 2), 0);
    assert_eq!(kept().len(), 2);
    assert!(n(&mut s, 0) > 0);
    assert!(n(&mut s, 2) > 0);
    assert_eq!(n(&mut s, 1), 0, "used least recently, and there");
    assert_eq!(kept().len(), 2);
    // a smaller size holds at once, and what is larger than all of it is not kept
    let mut s = session_with(1024, None);
    let problems = store(&mut s, folder.path(), one - 1);
    assert_eq!(kept().len(), 0);
    assert_eq!([n(&mut s, 3), n(&mut s, 3), kept().len()], [0, 0, 0]);
    assert!(problems.lock().unwrap().is_empty());
    assert_eq!(std::fs::read_to_string(folder.path().join("mine.txt")).unwrap(), "precious");
}

#[test]
fn two_sessions_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = fresh("\"token\"", folder.path()).0;
    let mut two = fresh("\"token\"", folder.path()).0;
    let empty = state(&one);
    let n = |turn: Turn| turn.prompt.prefix_tokens;
    assert_eq!(n(begin(&mut one, &empty, SYSTEM, "Hello.", true)), 0);
    assert!(n(begin(&mut two, &empty, SYSTEM, "Hello.", true)) > 0);
    // gone under a session that knew it, and somebody's half-written file beside it
    let path = files(folder.path()).remove(0);
    std::fs::remove_file(&path).unwrap();
    let half = PathBuf::from(format!("{}.1-1.tmp", path.display()));
    std::fs::write(&half, "half").unwrap();
    assert_eq!(n(begin(&mut two, &empty, SYSTEM, "Hello.", true)), 0);
    assert!(n(begin(&mut one, &empty, SYSTEM, "Hello.", true)) > 0);
    assert!(half.exists(), "it may still be written");
    let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    std::fs::File::options().write(true).open(&half).unwrap().set_modified(hours_ago).unwrap();
    drop(fresh("\"token\"", folder.path()));
    assert!(!half.exists(), "what a crash left is removed");
}

#[test]
fn forgotten_beginnings_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.txt"), "precious").unwrap();
    let mut s = fresh("\"token\"", folder.path()).0;
    s.keep_prefixes(2);
    let empty = state(&s);
    begin(&mut s, &empty, SYSTEM, "Hello.", true);
    assert_eq!(files(folder.path()).len(), 2);
    block_on(s.forget_prefixes()).unwrap();
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(begin(&mut s, &empty, SYSTEM, "Hello.", true).prompt.prefix_tokens, 0);
}

#[test]
fn a_store_comes_before_the_conversation() {
    let folder = tempfile::tempdir().unwrap();
    let mut s = session();
    say(&mut s, "Hello.");
    let before = (bits(&state(&s)), s.processed_tokens().to_vec());
    let hear = Box::new(|_: &str| ());
    let store = PrefixFolder::open(folder.path(), 1 << 30, hear).unwrap();
    let error = block_on(s.store_prefixes(Box::new(store))).unwrap_err();
    assert_eq!(error.code(), "setting");
    assert_eq!((bits(&state(&s)), s.processed_tokens().to_vec()), before);
}
