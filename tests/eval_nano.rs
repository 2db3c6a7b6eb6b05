//! `deltamem eval nano`, as a person or a script runs it, on the CPU twin. What the built-in model
//! recalls is not judged here, only that it is measured and how it is reported.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
    command.args(["eval", "nano"]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let err = text(&output.stderr);
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().expect("a code"), text(&output.stdout), err)
}

fn parse(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn facts_file(lines: &[String]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("facts.jsonl");
    std::fs::write(&path, lines.join("\n")).expect("a file");
    (folder, path)
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    object.keys().map(String::as_str).collect()
}

fn is_share(value: &Value) -> bool {
    value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share))
}

#[test]
fn the_programs_own_cases_give_one_object() {
    let (code, out, err) = run(&["--cpu", "--json", "--check", "--n", "2"]);
    assert_eq!(out.trim_end().lines().count(), 1, "{out}");
    let report = parse(&out);
    let counts = json!({ "1": 2, "2": 2, "4": 2, "8": 2 });
    assert_eq!(report["n"]["recall"], counts);
    assert_eq!(keys(&report["recall"]), ["1", "2", "4", "8"]);
    for row in report["recall"].as_object().unwrap().values() {
        assert_eq!(keys(row), ["memory_on", "memory_off_says_not_told", "in_context"]);
        assert!(row.as_object().unwrap().values().all(is_share), "{row}");
    }
    assert_eq!(keys(&report["after_unrelated"]), ["0", "4", "16", "64"]);
    assert!(report["after_unrelated"].as_object().unwrap().values().all(is_share), "{report}");
    assert!(is_share(&report["correction"]) && is_share(&report["values_never_written"]));
    assert!(report["leak"].as_u64().is_some_and(|leak| leak <= 8), "{report}");
    assert_eq!(report["n"]["leak"], 8);
    assert!(["msw", "tsw", "ssw"].contains(&report["variant"].as_str().unwrap()), "{report}");
    assert_eq!(report["weights"], "bf16 stored, f16 loaded, f32 computed");
    assert_eq!((&report["model"], &report["adapter"]), (&json!("nano"), &json!("cpu")));
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert_eq!(report["misses"], Value::Null);
    // the code says whether a target was missed, and standard error which
    assert_eq!(code, i32::from(err.contains("missed: ")), "{err}");
}

#[test]
fn a_persons_own_cases_are_measured_the_same_on_any_number_of_threads() {
    let case = |town: &str, answer: &str| {
        let sessions = [vec![format!("I live in {town}.")], vec!["Good morning!".into()]];
        json!({ "sessions": sessions, "question": "Where do I live?", "answers": [answer] })
            .to_string()
    };
    // an answer that no model gives
    let never = "Zzyzxqua";
    let (_folder, path) = facts_file(&[case("Lisbon", never), case("Oslo", never)]);
    let path = path.to_str().unwrap();
    let mut reports = ["1", "2"].map(|threads| {
        let arguments = ["--cpu", "--json", "--threads", threads, "--facts", path];
        let (code, out, err) = run(&arguments);
        assert_eq!(code, 0, "{err}");
        parse(&out)
    });
    for report in &mut reports {
        assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
        report["seconds"] = Value::Null;
    }
    assert_eq!(reports[0], reports[1]);
    let report = &reports[0];
    assert_eq!((&report["recall"], &report["n"]), (&json!(0.0), &json!(2)));
    assert!(is_share(&report["memory_off_says_not_told"]), "{report}");
    let misses = report["misses"].as_array().unwrap();
    assert_eq!(misses.len(), 2);
    assert_eq!(keys(&misses[0]), ["question", "answers", "reply"]);

    let (code, out, err) = run(&["--cpu", "--n", "1", "--facts", path]);
    assert_eq!(code, 0, "{err}");
    let reply = misses[0]["reply"].as_str().unwrap().replace('\n', " ");
    for text in ["recall", "0.0 %", "Where do I live?", never, reply.as_str()] {
        assert!(out.contains(text), "no {text:?} in {out}");
    }
    assert_eq!(out.matches(never).count(), 1, "{out}");
}

#[test]
fn a_bad_line_is_named() {
    let good = r#"{"sessions": [], "question": "Who am I?", "answers": ["Ada"]}"#.to_string();
    let bad = good.replace("answers", "anwsers");
    let (_folder, path) = facts_file(&[good, String::new(), bad]);
    let (code, out, err) = run(&["--cpu", "--facts", path.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    let expected = "facts.jsonl, line 3: not a valid test case: missing field `answers`";
    assert!(err.contains(expected) && err.trim_end().ends_with("[format]"), "{err}");
}

#[test]
fn a_message_that_fits_no_window_is_named_by_its_line() {
    let case = |message: &str| {
        json!({ "sessions": [[message]], "question": "Who am I?", "answers": ["Ada"] }).to_string()
    };
    let (_folder, path) = facts_file(&[case("I am Ada."), case(&"I am Ada. ".repeat(500))]);
    let path = path.to_str().unwrap();
    let (code, _, err) = run(&["--cpu", "--context", "256", "--facts", path]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("facts.jsonl, line 2: ") && err.contains("[context_full]"), "{err}");
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let wrong: [&[&str]; 4] = [
        &["--n", "0"],
        &["--cpu", "--no-adapter"],
        &["--facts", "x", "--check"],
        &["--date", "tomorrow"],
    ];
    for arguments in wrong {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }
}
