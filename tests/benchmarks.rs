//! `deltamem eval locomo|hotpotqa|memory-agent` as a person runs them, on tiny files and the built-in
//! model on the CPU twin. What it replies does not matter here: what was asked, with what in memory and
//! context, and what is left in the folder does.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder for a run, and the program with it.
struct Run {
    folder: TempDir,
    data: PathBuf,
    benchmark: &'static str,
}

impl Run {
    fn new(benchmark: &'static str, file: &str) -> Run {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/benchmarks");
        Run { folder: tempfile::tempdir().expect("a folder"), data: root.join(file), benchmark }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn output(&self, data: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
        command.env("DELTAMEM_DATA_DIR", self.folder.path().join("data"));
        command.args(["eval", self.benchmark]).arg(data).arg("--out").arg(self.out());
        command.args(["--cpu", "--max-tokens", "3"]).args(arguments);
        let output = command.output().expect("the program");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("panicked"), "{err}");
        output
    }

    /// The report of a run that ends well.
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.output(&self.data, &[&["--json"], arguments].concat());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The code and what was said of a run that fails.
    fn failure(&self, data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.output(data, arguments);
        assert!(output.stdout.is_empty());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).expect("a file")
    }

    fn answers(&self) -> Vec<Value> {
        let text = self.text("answers.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The replies to a question, by mode.
    fn replies(&self, id: &str) -> BTreeMap<String, String> {
        let answers = self.answers();
        let text = |answer: &Value, key: &str| answer[key].as_str().expect("a text").to_string();
        let of_question = answers.iter().filter(|answer| answer["id"] == id);
        of_question.map(|answer| (text(answer, "mode"), text(answer, "reply"))).collect()
    }

    /// A number of the answer to a question, by mode.
    fn by_mode(&self, id: &str, key: &str) -> BTreeMap<String, u64> {
        let answers = self.answers();
        let of_question = answers.iter().filter(|answer| answer["id"] == id);
        let pair = |answer: &Value| {
            let mode = answer["mode"].as_str().expect("a mode").to_string();
            (mode, answer[key].as_u64().expect("a number"))
        };
        of_question.map(pair).collect()
    }
}

/// How many questions a mode and category have in a report.
fn n(report: &Value, mode: &str, category: &str) -> u64 {
    let rows = report["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["mode"] == mode && row["category"] == category);
    row.unwrap_or_else(|| panic!("no {mode} {category} in {report:#}"))["n"].as_u64().expect("n")
}

/// Tokens that the first question of LoCoMo's file has in its prompt, without and with the whole
/// context: how many those are is the tokenizer's business.
fn prompt_tokens() -> (u64, u64) {
    let run = Run::new("locomo", "locomo.json");
    run.report(&["--modes", "off,full", "--max-contexts", "1", "--max-questions", "1"]);
    let prompt = run.by_mode("mini-1/1", "prompt_tokens");
    (prompt["off"], prompt["full"])
}

#[test]
fn locomo_asks_every_question_in_every_mode_and_goes_on_where_it_stopped() {
    let run = Run::new("locomo", "locomo.json");
    let (bare, full) = prompt_tokens();
    let visible = (3 * (full - bare) / 4).to_string();
    let ask = ["--visible", &visible];
    let first = run.report(&[&ask[..], &["--max-contexts", "1", "--max-questions", "1"]].concat());
    for mode in ["on", "off", "full", "state"] {
        assert_eq!(n(&first, mode, "all"), 1);
    }
    let answers = run.answers();
    assert_eq!(answers.len(), 4);
    // what each mode sees: only full has all five turns, on has some, and the memory is written once
    let prompt = run.by_mode("mini-1/1", "prompt_tokens");
    assert!(prompt["off"] == prompt["state"], "{prompt:?}");
    assert!(prompt["off"] < prompt["on"] && prompt["on"] < prompt["full"], "{prompt:?}");
    let shown = run.by_mode("mini-1/1", "shown_pieces");
    assert_eq!((shown["off"], shown["state"], shown["full"]), (0, 0, 5));
    assert!((1..5).contains(&shown["on"]), "{shown:?}");
    let memory = run.by_mode("mini-1/1", "memory_tokens");
    assert!(memory["on"] > 50 && memory["on"] == memory["state"], "{memory:?}");
    assert_eq!((memory["off"], memory["full"]), (0, 0));

    // a crash in the middle of an answer; the rest is asked, what is there is not asked again
    let path = run.out().join("answers.jsonl");
    let text = run.text("answers.jsonl") + "{\"mode\": \"on\"";
    std::fs::write(&path, text).expect("a file");
    let whole = run.report(&ask);
    let all = run.answers();
    assert_eq!(all[..4], answers);
    assert_eq!(all.len(), 4 * 6);
    assert_eq!(n(&whole, "on", "4 single-hop"), 2);
    assert_eq!(n(&whole, "on", "5 adversarial"), 1);
    assert_eq!(n(&whole, "state", "1–4"), 5);
    assert_eq!(n(&whole, "state", "all"), 6);
    assert_eq!(whole["settings"]["data"]["file"], "locomo.json");
    assert!(run.text("report.md").contains("| on | 1 multi-hop | 1 |"));
    // later questions of a context find its beginning in the cache
    let (prompt, fed) =
        (run.by_mode("mini-1/3", "prompt_tokens"), run.by_mode("mini-1/3", "fed_tokens"));
    assert!(fed["full"] < prompt["full"] / 2, "{fed:?} of {prompt:?}");

    // a question that is asked alone gets the same replies: those before it left no trace
    let alone = Run::new("locomo", "locomo.json");
    alone.report(&[&ask[..], &["--categories", "2"]].concat());
    assert_eq!(alone.replies("mini-1/3").len(), 4);
    assert_eq!(alone.replies("mini-1/3"), run.replies("mini-1/3"));

    // other settings do not go into the same folder
    let (code, err) = run.failure(&run.data, &[&ask[..], &["--seed", "7"]].concat());
    assert_eq!(code, Some(2));
    assert!(err.contains("`sampling.seed` was 42, now it is 7"), "{err}");
    let (_, err) = run.failure(&run.data, &[&ask[..], &["--weights", "q8"]].concat());
    assert!(err.contains("`model.weights`"), "{err}");
    assert_eq!(run.answers(), all);
}

#[test]
fn locomo_cuts_the_front_of_what_does_not_fit() {
    let run = Run::new("locomo", "locomo.json");
    let ask = ["--modes", "full,replay", "--categories", "4", "--max-contexts", "1"];
    let (bare, full) = prompt_tokens();
    // three tokens of the reply, 16 that stay free
    let room = bare + 3 * (full - bare) / 4 + 19;
    let report = run.report(&[&ask[..], &["--max-context", &room.to_string()]].concat());
    let cut = run.by_mode("mini-1/1", "cut_pieces");
    assert!((1..5).contains(&cut["full"]) && cut["full"] == cut["replay"], "{cut:?}");
    let prompt = run.by_mode("mini-1/1", "prompt_tokens");
    assert!(bare < prompt["full"] && prompt["full"] + 19 <= room, "{prompt:?}, {room}");
    assert_eq!(report["rows"][0]["cut"]["questions"], 1);
    // replay writes its prompt and its reply, full writes nothing
    let memory = run.by_mode("mini-1/1", "memory_tokens");
    assert!(memory["full"] == 0 && memory["replay"] >= prompt["replay"], "{memory:?}");
}

#[test]
fn hotpotqa_asks_with_its_passages() {
    let run = Run::new("hotpotqa", "hotpotqa.json");
    let report = run.report(&["--visible", "30"]);
    for (category, expected) in [("bridge", 1), ("comparison", 1), ("all", 2)] {
        assert_eq!(n(&report, "full", category), expected);
    }
    let scores = report["rows"][0]["scores"].as_object().expect("scores");
    assert_eq!(scores.keys().collect::<Vec<_>>(), ["em", "f1", "precision", "recall"]);
    let prompt = run.by_mode("mini-a", "prompt_tokens");
    assert!(prompt["off"] == prompt["state"] && prompt["on"] < prompt["full"], "{prompt:?}");
    assert_eq!(run.by_mode("mini-a", "shown_pieces")["full"], 2);
    // nothing is left to ask
    let again = run.report(&["--visible", "30"]);
    assert_eq!(again, report);
    assert_eq!(run.answers().len(), 8);
}

#[test]
fn memory_agent_asks_by_sub_task() {
    let run = Run::new("memory-agent", "memory_agent.jsonl");
    let report = run.report(&["--sources", "factcon,eventqa", "--section-tokens", "12"]);
    for (category, expected) in [
        ("factconsolidation_sh_6k", 2),
        ("eventqa_full", 1),
        ("Selective Forgetting", 2),
        ("Accurate Retrieval", 1),
        ("all", 3),
    ] {
        assert_eq!(n(&report, "state", category), expected);
    }
    let text = run.text("report.md");
    assert!(
        text.contains("| mode | category | n | score | substring | em | f1 | recall |"),
        "{text}"
    );
    // a recall only where there is one
    let line = text.lines().find(|line| line.starts_with("| off | factconsolidation_sh_6k | 2 |"));
    assert!(line.is_some_and(|line| line.contains(" | – | – | ")), "{text}");
    let memory = run.by_mode("factconsolidation_sh_6k/1/1", "memory_tokens");
    assert!(memory["state"] >= 10, "{memory:?}");
}

#[test]
fn what_cannot_be_run_says_why() {
    let run = Run::new("locomo", "locomo.json");
    let bad = run.folder.path().join("bad.json");
    std::fs::write(&bad, "[{\"conversation\": 3, \"qa\": []}]").expect("a file");
    let (code, err) = run.failure(&bad, &[]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("bad.json: not a valid LoCoMo data file: record 1, `conversation`"),
        "{err}"
    );
    assert!(err.trim_end().ends_with("[format]"), "{err}");
    let (_, err) = run.failure(&run.folder.path().join("none.json"), &[]);
    assert!(err.trim_end().ends_with("[io]"), "{err}");
    let (code, err) = run.failure(&run.data, &["--modes", "on,sideways"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("on, off, full, state, replay"), "{err}");
    let (_, err) = run.failure(&run.data, &["--no-adapter", "--modes", "full,state"]);
    assert!(err.contains("mode state is not supported"), "{err}");
    let (_, err) = run.failure(&run.data, &["--no-adapter", "--modes", "off", "--context", "32"]);
    assert!(err.trim_end().ends_with("[context_full]"), "{err}");
}
