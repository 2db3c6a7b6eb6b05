//! What the built-in model remembers: told in one session, asked in another with an empty context, on
//! the CPU twin. Judges the weights in `models/nano`, as no other test here does.
//!
//! `DELTAMEM_RECALL_CASES`: how many cases of `models/nano/cases.jsonl` are asked, 20 if not given.

use deltamem::chat::CivilDate;
use deltamem::loaded::{Device, LoadedModel, built_in};
use deltamem::model::LoadOptions;
use deltamem::session::{Session, SessionOptions, TurnOptions};
use pollster::block_on;
use serde::Deserialize;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

/// Part of the cases that must be right.
const WANTED: f64 = 0.9;
/// What a reply says about what was never told.
const NOT_TOLD: &str = "not told";

/// One line of the file of cases; a session is a person's messages.
#[derive(Deserialize)]
struct Case {
    group: String,
    n_facts: usize,
    sessions: Vec<Vec<String>>,
    question: String,
    answers: Vec<String>,
}

impl Case {
    /// An accepted answer stands in the reply, case ignored.
    fn is_recalled(&self, reply: &str) -> bool {
        let reply = reply.to_lowercase();
        self.answers.iter().any(|answer| reply.contains(&answer.to_lowercase()))
    }
}

/// The first cases that tell two facts, as many as wanted.
fn cases() -> Vec<Case> {
    let wanted = std::env::var("DELTAMEM_RECALL_CASES").unwrap_or_else(|_| "20".into());
    let wanted: usize = wanted.parse().expect("DELTAMEM_RECALL_CASES is a number of cases");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano/cases.jsonl");
    let text = std::fs::read_to_string(path).expect("the file of cases");
    let all = text.lines().map(|line| serde_json::from_str(line).expect("a case"));
    let two_facts = |case: &Case| case.group == "recall" && case.n_facts == 2;
    let cases: Vec<Case> = all.filter(two_facts).take(wanted).collect();
    assert!(!cases.is_empty(), "no cases");
    cases
}

/// As the program has it: f16 weights, f16 keys and values.
fn session() -> Session {
    let (folder, adapter) = built_in().expect("the built-in model");
    let options = LoadOptions::default();
    let progress = &mut |_, _| {};
    let load = LoadedModel::load(&folder, Some(&adapter), &Device::Cpu, &options, progress);
    let date = CivilDate::from_unix_seconds(1_800_000_000);
    let options = SessionOptions { system: None, enable_thinking: None, date };
    block_on(Session::new(block_on(load).expect("a model"), options)).expect("a session")
}

fn say(session: &mut Session, text: &str, is_written: bool) -> String {
    let options = TurnOptions { write_enabled: is_written, ..session.default_turn_options() };
    let turn = block_on(session.ask(text, &options, &mut |_| ControlFlow::Continue(())));
    turn.expect("a turn").answer
}

#[test]
fn two_facts_are_recalled_without_context_and_not_without_memory() {
    let mut session = session();
    let cases = cases();
    let (mut n_recalled, mut n_not_told) = (0, 0);
    for case in &cases {
        block_on(session.forget()).expect("an empty memory");
        for messages in &case.sessions {
            block_on(session.new_context()).expect("a context");
            for message in messages {
                say(&mut session, message, true);
            }
        }
        block_on(session.new_context()).expect("a context");
        let on = say(&mut session, &case.question, true);
        block_on(session.new_context()).expect("a context");
        block_on(session.forget()).expect("an empty memory");
        let off = say(&mut session, &case.question, false);
        n_recalled += usize::from(case.is_recalled(&on));
        n_not_told += usize::from(off.contains(NOT_TOLD) && !case.is_recalled(&off));
        println!("{:?}: {on:?}, without memory {off:?}; {:?}", case.question, case.answers);
    }
    let part = |n: usize| n as f64 / cases.len() as f64;
    let summary = format!("{n_recalled} recalled, {n_not_told} not told of {}", cases.len());
    println!("{summary}");
    assert!(part(n_recalled) >= WANTED && part(n_not_told) >= WANTED, "{summary}");
}

/// What `deltamem chat` says to one line, in a process of its own.
fn chat(home: &Path, arguments: &[&str], line: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deltamem"))
        .env("DELTAMEM_DATA_DIR", home.join("data"))
        .args(["chat", "--cpu"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let mut stdin = child.stdin.take().expect("its input");
    writeln!(stdin, "{line}").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_the_program_is_told_it_knows_after_a_restart_and_nobody_else_does() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let asked = "Where do I live?";
    chat(home, &[], "My name is Ada and I live in Lisbon.");
    let reply = chat(home, &[], asked);
    assert!(reply.contains("Lisbon"), "{reply:?}");
    for without in [&["--no-adapter"][..], &["--ephemeral"], &["--profile", "bob"]] {
        let reply = chat(home, without, asked);
        assert!(reply.contains(NOT_TOLD) && !reply.contains("Lisbon"), "{without:?}: {reply:?}");
    }
}
