//! A run's folder: what was asked with which settings (`run.json`), every answer as soon as it is there
//! (`answers.jsonl`), and the report. Owns that a run goes on where it stopped, and only with the
//! settings it began with.

use super::report::Report;
use super::task::Mode;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const SETTINGS: &str = "run.json";
const ANSWERS: &str = "answers.jsonl";

/// One answered question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub mode: Mode,
    /// The id of the context.
    pub context: String,
    /// The id of the question.
    pub id: String,
    pub category: String,
    pub group: Option<String>,
    pub question: String,
    /// Those that count.
    pub answers: Vec<String>,
    /// What the model said, without thoughts.
    pub reply: String,
    /// What of it counted.
    pub prediction: String,
    /// 0 to 1 each, by name.
    pub scores: BTreeMap<String, f64>,
    /// Why the reply ended.
    pub stop_reason: String,
    /// In the prompt.
    pub prompt_tokens: usize,
    /// Of the prompt, those that were not in the cache from the question before.
    pub fed_tokens: usize,
    pub generated_tokens: usize,
    /// Pieces of the context (turns, paragraphs, sentences) that were shown.
    pub shown_pieces: usize,
    /// Pieces that were not, for want of room; those that the mode does not show do not count.
    pub cut_pieces: usize,
    /// What the memory had read before the reply, in tokens.
    pub memory_tokens: u64,
    /// How long writing the context into the memory took; the same for all questions of a context.
    pub memory_seconds: f64,
    /// From the question to the end of the reply.
    pub seconds: f64,
}

/// A run's folder, held by one process.
#[derive(Debug)]
pub struct RunFolder {
    folder: PathBuf,
    /// Locked while this lives.
    file: File,
    settings: Value,
    answers: Vec<Answer>,
    done: HashSet<(Mode, String)>,
}

impl RunFolder {
    /// Opens a folder, or makes one, for a run with these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] if the folder holds answers to other settings; [`Error::Locked`] while
    /// another process runs in it; [`Error::Format`] for files that are no run's; [`Error::Io`].
    pub fn open(folder: &Path, settings: Value) -> Result<RunFolder> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(ANSWERS);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: folder.into() }),
            Err(TryLockError::Error(source)) => return Err(Error::Io { path, source }),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(&path))?;
        // a line that was being written when the run ended
        let n_whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        check_settings(folder, &settings, n_whole > 0)?;
        file.set_len(n_whole as u64).map_err(Error::io(&path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(&path))?;
        let answers = parse(&bytes[..n_whole]).map_err(|reason| {
            Error::format(path.display().to_string(), "list of answers", reason)
        })?;
        let done = answers.iter().map(|answer| (answer.mode, answer.id.clone())).collect();
        Ok(RunFolder { folder: folder.into(), file, settings, answers, done })
    }

    /// Whether a question was answered in this mode.
    pub fn has(&self, mode: Mode, id: &str) -> bool {
        self.done.contains(&(mode, id.to_string()))
    }

    /// Everything answered so far.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// What the run was opened with.
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// Adds an answer, on disk before this returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, answer: Answer) -> Result<()> {
        let path = self.folder.join(ANSWERS);
        let mut line =
            serde_json::to_vec(&answer).map_err(|e| Error::io(&path)(std::io::Error::from(e)))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&path))?;
        self.done.insert((answer.mode, answer.id.clone()));
        self.answers.push(answer);
        Ok(())
    }

    /// Writes `report.md` and `report.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_report(&self, report: &Report) -> Result<()> {
        self.write("report.md", &report.markdown())?;
        self.write("report.json", &format!("{:#}\n", report.json()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(Error::io(&path))
    }
}

/// Compares with the settings that the folder's answers were made with, or gives it these.
fn check_settings(folder: &Path, settings: &Value, has_answers: bool) -> Result<()> {
    let path = folder.join(SETTINGS);
    if !has_answers {
        return fs::write(&path, format!("{settings:#}\n")).map_err(Error::io(&path));
    }
    let held = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).map_err(|e| {
            Error::format(path.display().to_string(), "run's settings", e.to_string())
        })?,
        Err(source) => return Err(Error::Io { path, source }),
    };
    match difference("", &held, settings) {
        None => Ok(()),
        Some((name, held, wanted)) => Err(Error::Setting {
            name: "out",
            reason: format!(
                "{} holds answers of another run: `{name}` was {held}, now it is {wanted}; choose \
                 another folder",
                folder.display()
            ),
        }),
    }
}

/// The first value that differs, with its path.
fn difference(path: &str, held: &Value, wanted: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (held, wanted) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        let mut found = keys.filter_map(|key| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let of = |values: &Value| values.get(key).cloned().unwrap_or_default();
            difference(&path, &of(held), &of(wanted))
        });
        return found.next();
    }
    (held != wanted).then(|| (path.to_string(), held.to_string(), wanted.to_string()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Answer>, String> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let read = |(index, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", index + 1))
    };
    lines.map(read).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub fn answer(mode: Mode, context: &str, id: &str, category: &str, f1: f64) -> Answer {
        Answer {
            mode,
            context: context.into(),
            id: id.into(),
            category: category.into(),
            group: (category == "a").then(|| "g".into()),
            question: "?".into(),
            answers: vec!["x".into()],
            reply: "y".into(),
            prediction: "y".into(),
            scores: BTreeMap::from([("f1".into(), f1)]),
            stop_reason: "max_tokens".into(),
            prompt_tokens: 10,
            fed_tokens: 4,
            generated_tokens: 2,
            shown_pieces: 3,
            cut_pieces: 0,
            memory_tokens: 7,
            memory_seconds: 1.5,
            seconds: 0.5,
        }
    }

    #[test]
    fn a_run_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/run");
        let settings = json!({ "model": { "name": "m" }, "seed": 1 });
        let mut run = RunFolder::open(&path, settings.clone()).unwrap();
        assert!(matches!(RunFolder::open(&path, settings.clone()), Err(Error::Locked { .. })));
        run.push(answer(Mode::On, "c", "c/1", "a", 1.0)).unwrap();
        run.push(answer(Mode::Off, "c", "c/1", "a", 0.1)).unwrap();
        let held = run.answers().to_vec();
        drop(run);
        // a crash in the middle of a line
        let file = path.join(ANSWERS);
        let mut bytes = fs::read(&file).unwrap();
        bytes.extend(b"{\"mode\": \"on\", \"con");
        fs::write(&file, bytes).unwrap();
        let mut run = RunFolder::open(&path, settings.clone()).unwrap();
        assert_eq!(run.answers(), held);
        assert!(run.has(Mode::On, "c/1") && run.has(Mode::Off, "c/1"));
        assert!(!run.has(Mode::Full, "c/1") && !run.has(Mode::On, "c/2"));
        run.push(answer(Mode::On, "c", "c/2", "a", 0.0)).unwrap();
        drop(run);
        assert_eq!(RunFolder::open(&path, settings).unwrap().answers().len(), 3);
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // nothing is lost as long as there is no answer
        drop(RunFolder::open(path, json!({ "seed": 0 })).unwrap());
        let mut run =
            RunFolder::open(path, json!({ "model": { "name": "m" }, "seed": 1 })).unwrap();
        run.push(answer(Mode::On, "c", "c/1", "a", 1.0)).unwrap();
        drop(run);
        let open = |settings| RunFolder::open(path, settings).unwrap_err();
        let error = open(json!({ "model": { "name": "n" }, "seed": 1 }));
        assert_eq!(error.code(), "setting");
        assert!(error.to_string().contains("`model.name` was \"m\", now it is \"n\""), "{error}");
        let error = open(json!({ "model": { "name": "m" } })).to_string();
        assert!(error.contains("`seed` was 1, now it is null"), "{error}");
        let error = open(json!({ "model": { "name": "m" }, "seed": 1, "x": true })).to_string();
        assert!(error.contains("`x` was null, now it is true"), "{error}");
    }

    #[test]
    fn foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join(ANSWERS), "{}\n").unwrap();
        // answers without settings
        assert_eq!(RunFolder::open(path, json!({})).unwrap_err().code(), "io");
        fs::write(path.join(SETTINGS), "{}").unwrap();
        let error = RunFolder::open(path, json!({})).unwrap_err().to_string();
        assert!(error.contains("not a valid list of answers: line 1: missing field"), "{error}");
        fs::write(path.join(SETTINGS), "nonsense").unwrap();
        let error = RunFolder::open(path, json!({})).unwrap_err().to_string();
        assert!(error.contains("run.json: not a valid run's settings"), "{error}");
    }
}
