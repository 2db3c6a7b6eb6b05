//! The built program, as a person or a script runs it: on the built-in model, or on one of noise where
//! replies must be long; each test with a data directory of its own. Most run on the CPU twin; what runs
//! on a GPU says so.

mod common;

use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A data directory, the program with it, and a model's folder; without one it is the built-in model.
struct Home(TempDir, Option<PathBuf>);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().expect("a folder"), None)
    }

    /// With a model that has much to say, whatever is said to it.
    fn noisy() -> Home {
        Home(tempfile::tempdir().expect("a folder"), Some(common::noise()))
    }

    /// With one whose replies do not end by themselves.
    fn endless() -> Home {
        Home(tempfile::tempdir().expect("a folder"), Some(common::endless()))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
        command.env("DELTAMEM_DATA_DIR", self.0.path().join("data"));
        command.args(arguments);
        if let Some(model) = &self.1 {
            command.arg("--model").arg(model);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        Run::from(self.command(arguments).output().expect("the program"))
    }

    /// Runs with `input` on standard input.
    fn pipe(&self, arguments: &[&str], input: &str) -> Run {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("the program");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        Run::from(child.wait_with_output().expect("its output"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The bytes of a profile's memory.
    fn exported(&self, profile: &str) -> Vec<u8> {
        let path = self.path("exported.dmem");
        let path = path.to_str().expect("a plain name");
        self.run(&["memory", "export", "--force", profile, path]).ok();
        std::fs::read(path).expect("the file")
    }
}

/// What a run left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        let run = Run {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!run.err.contains("panicked"), "{run:?}");
        run
    }
}

impl Run {
    fn ok(self) -> Run {
        self.expect(0)
    }

    fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    fn err_has(&self, text: &str) {
        assert!(self.err.contains(text), "no {text:?} in {self:#?}");
    }

    fn out_has(&self, text: &str) {
        assert!(self.out.contains(text), "no {text:?} in {self:#?}");
    }
}

const CHAT: [&str; 6] = ["chat", "--cpu", "--max-tokens", "4", "--seed", "1"];

/// One saved turn in profile `profile`.
fn one_turn(home: &Home, profile: &str) {
    let talk = ["generate", "hello", "--cpu", "--max-tokens", "4", "--save", "--memory", profile];
    home.run(&talk).ok();
}

#[test]
fn every_command_has_help() {
    let home = Home::new();
    let memory = ["list", "show", "export", "import", "diff", "forget", "snapshots", "undo"];
    let mut commands: Vec<Vec<&str>> = vec![vec![]];
    let top = ["chat", "run", "generate", "replay", "doctor", "bench", "probe", "eval", "memory"];
    commands.extend(["convert", "synth"].map(|name| vec![name]));
    commands.extend(top.map(|name| vec![name]));
    commands.extend(["serve", "completions", "man"].map(|name| vec![name]));
    commands.extend(memory.map(|name| vec!["memory", name]));
    commands.push(vec!["eval", "nano"]);
    for mut command in commands {
        command.push("--help");
        home.run(&command).ok().out_has("Usage: deltamem");
    }
    home.run(&["--version"]).ok().out_has(env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_and_manual_pages_are_made_of_the_command_line() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]).ok();
        script.out_has("serve");
        script.out_has("allow-origin");
    }
    home.run(&["completions", "tcsh"]).expect(2);
    home.run(&["man"]).ok().out_has(".TH deltamem");
    let folder = home.path("man");
    let folder = folder.to_str().expect("a plain name");
    home.run(&["man", "--out", folder]).expect(1).err_has("not a folder");
    std::fs::create_dir(folder).expect("a folder");
    home.run(&["man", "--out", folder]).ok();
    for page in ["deltamem.1", "deltamem-serve.1", "deltamem-memory-forget.1"] {
        assert!(home.path("man").join(page).exists(), "{page}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let home = Home::new();
    let wrong: [&[&str]; 8] = [
        &[],
        &["nonsense"],
        &["replay"],
        &["chat", "--weights", "q1"],
        &["replay", "x", "--chunk", "0"],
        &["generate", "x", "--save"],
        &["generate", "x", "--cpu", "--top-p", "3"],
        &["memory", "show", "Not A Profile"],
    ];
    for arguments in wrong {
        let run = home.run(arguments).expect(2);
        assert!(run.out.is_empty() && !run.err.is_empty(), "{run:?}");
    }
}

#[test]
fn replay_passes_on_the_cpu_twin() {
    let wanted = ["g_carry", "s6_session_readonly_smollm3"];
    let folders = common::fixtures(|name| wanted.contains(&name));
    let mut arguments: Vec<&OsStr> = vec!["replay".as_ref(), "--cpu".as_ref()];
    arguments.extend(folders.iter().map(|folder| folder.as_os_str()));
    let run = Home::new().run(&arguments).ok();
    let lines = run.json_lines();
    assert_eq!(lines.len(), folders.len());
    for line in &lines {
        assert_eq!(line["passed"], true, "{line}");
        assert_eq!(line["exact"], true, "{line}");
        assert_eq!(line["adapter"], "cpu", "{line}");
    }
    assert_eq!(lines[0]["session"], Value::Null);
    assert_eq!(lines[1]["session"]["passed"], true, "{}", lines[1]);
    run.err_has("2/2 passed");
}

#[test]
fn replay_passes_on_the_gpu() {
    if common::gpu(false).is_none() {
        return;
    }
    let folders = common::fixtures(|name| ["c_msw4", "k_qwen3_base"].contains(&name));
    for chunk in ["7", "whole"] {
        let mut arguments: Vec<&OsStr> =
            vec!["replay".as_ref(), "--chunk".as_ref(), chunk.as_ref()];
        arguments.extend(folders.iter().map(|folder| folder.as_os_str()));
        let run = Home::new().run(&arguments).ok();
        for line in &run.json_lines() {
            assert_eq!(line["passed"], true, "{line}");
            assert_ne!(line["adapter"], "cpu", "{line}");
        }
        run.err_has("2/2 passed");
    }
}

#[test]
fn replay_in_fewer_bits_reports_its_error_and_does_not_judge() {
    let folder = common::fixtures(|name| name == "g_carry").remove(0);
    let folder = folder.to_str().expect("a plain name");
    let run = Home::new().run(&["replay", "--cpu", "--weights", "q8", folder]).ok();
    let line = &run.json_lines()[0];
    assert_eq!(line["passed"], Value::Null);
    assert_eq!(line["exact"], false);
    assert_eq!(line["weights"], "q8");
    let error = line["logits"]["error"].as_f64().expect("a number");
    assert!(error > 1e-4, "q8 cannot be that exact: {error}");
}

#[test]
fn replay_of_a_broken_folder_fails_and_the_others_still_run() {
    let home = Home::new();
    let good = common::fixtures(|name| name == "k_qwen3_base").remove(0);
    let bad = home.path("truncated");
    std::fs::create_dir(&bad).expect("a folder");
    for entry in std::fs::read_dir(&good).expect("the fixture") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("a file");
        if path.ends_with("model.safetensors") {
            bytes.truncate(bytes.len() / 2);
        }
        std::fs::write(bad.join(path.file_name().expect("a name")), bytes).expect("a copy");
    }
    let missing = home.path("missing");
    let arguments: [&OsStr; 5] =
        ["replay".as_ref(), "--cpu".as_ref(), bad.as_ref(), missing.as_ref(), good.as_ref()];
    let run = home.run(&arguments).expect(1);
    let lines = run.json_lines();
    let found: Vec<_> = lines.iter().map(|l| (&l["passed"], &l["error"]["code"])).collect();
    let (no, yes) = (Value::from(false), Value::from(true));
    let (format, io) = (Value::from("format"), Value::from("io"));
    assert_eq!(found, [(&no, &format), (&no, &io), (&yes, &Value::Null)]);
    assert_eq!(lines[0]["name"], "truncated");
    run.err_has("1/3 passed");

    // the folder above finds the one case in it
    let above = home.0.path().to_str().expect("a plain name");
    assert_eq!(home.run(&["replay", "--cpu", above]).expect(1).json_lines().len(), 1);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Home::new().command(&["doctor", "--cpu"]).spawn().expect("the program");
    drop(child.stdout.take());
    Run::from(child.wait_with_output().expect("its end")).ok();
}

#[test]
fn doctor_answers_without_a_gpu() {
    let home = Home::new();
    // a driver that is not there leaves the loader, old or new, without any adapter
    let mut command = home.command(&["doctor", "--json"]);
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(name, home.path("none"));
    }
    let output = command.env_remove("VK_ADD_DRIVER_FILES").output();
    let report = Run::from(output.expect("the program")).ok().json();
    if cfg!(target_os = "linux") {
        assert_eq!(report["problem"]["code"], "no_adapter");
        assert_eq!(report["adapters"], Value::Array(vec![]));
    }
    let models = report["models"].as_array().expect("a list");
    let smollm3 = models.iter().find(|m| m["model"] == "SmolLM3-3B" && m["weights"] == "q4");
    let weights = smollm3.expect("it is listed")["weights_bytes"].as_u64().expect("a number");
    assert!((1_600_000_000..1_800_000_000).contains(&weights), "{weights}");
    for (name, n) in [("SmolLM3-3B", 3_539_232), ("Qwen3-4B-Instruct", 4_866_336)] {
        let model = models.iter().find(|m| m["model"] == name).expect("it is listed");
        assert_eq!(model["adapter_trainable_parameters"], n, "{name}");
    }
    assert_eq!(report["memories"]["stored"], 0);
    assert!(!home.path("data").exists(), "looking made the folder");
    home.run(&["doctor", "--cpu"]).ok().out_has("Qwen3-4B-Instruct");
}

/// What `bench --json` says of one list: (length, write mode) of each entry.
fn measured(report: &Value, list: &str, size: &str) -> Vec<(u64, String)> {
    let entries = report[list].as_array().expect("a list");
    let entry = |entry: &Value| {
        assert!(entry["tok_s"].as_f64() > Some(0.0), "{entry}");
        let mode = entry["delta"].as_str().expect("a mode");
        assert_eq!(entry["ratio_to_off"].is_number(), mode != "off", "{entry}");
        (entry[size].as_u64().expect("a number"), mode.to_string())
    };
    entries.iter().map(entry).collect()
}

#[test]
fn bench_measures_every_write_mode() {
    let arguments = [
        "bench",
        "--cpu",
        "--json",
        "--prefill",
        "4,9,99999",
        "--contexts",
        "8",
        "--decode",
        "2",
        "--runs",
        "2",
    ];
    let report = Home::new().run(&arguments).ok().json();
    let modes = ["off", "tsw", "msw", "ssw"];
    let all = |sizes: &[u64]| -> Vec<(u64, String)> {
        sizes.iter().flat_map(|&n| modes.map(|mode| (n, mode.to_string()))).collect()
    };
    assert_eq!(measured(&report, "prefill", "tokens"), all(&[4, 9]));
    assert_eq!(measured(&report, "decode", "context"), all(&[8]));
    assert_eq!(report["adapter"], "cpu");
    assert_eq!(report["given_adapter"], "msw");
    let first = &report["first_token"];
    assert!(first["cold_seconds"].as_f64() > first["warm_seconds"].as_f64(), "{first}");
    // the twin has no limits, and asks nothing of a device
    assert!(report["limits"].is_null() && report["per_token"].is_null());
    assert_eq!(report["left_out"][0]["what"], "prefill of 99999");
    // the table has the same
    let arguments =
        ["bench", "--cpu", "--prefill", "4", "--contexts", "0", "--decode", "1", "--delta", "off"];
    let run = Home::new().run(&arguments).ok();
    run.out_has("prefill  4");
    run.out_has("decode   1 at 0");
    Home::new().run(&["bench", "--delta", "on"]).expect(2);
}

#[test]
fn bench_knows_the_limits_of_a_gpu_and_what_a_token_asks_of_it() {
    let Some(_) = common::gpu(false) else { return };
    let arguments = [
        "bench",
        "--json",
        "--prefill",
        "8",
        "--contexts",
        "8,64",
        "--decode",
        "2",
        "--runs",
        "2",
        "--delta",
        "off,tsw",
        "--budget",
        "30",
    ];
    let report = Home::noisy().run(&arguments).ok().json();
    let expected = [(8, "off"), (8, "tsw")].map(|(n, mode)| (n, mode.to_string()));
    assert_eq!(measured(&report, "prefill", "tokens"), expected);
    let limits = &report["limits"];
    for key in ["read_bytes_per_second", "f32_operations_per_second"] {
        assert!(limits[key].as_f64() > Some(1e6), "{limits}");
    }
    for entry in report["decode"].as_array().expect("a list") {
        // other tests run beside this one: no more than that it is a share
        let fraction = entry["fraction_of_limit"].as_f64().expect("a share");
        assert!(fraction > 0.0 && fraction < 2.0, "{entry}");
    }
    let each = &report["per_token"];
    assert_eq!(each["delta"], "tsw");
    assert!(each["dispatches"].as_f64() > Some(10.0), "{each}");
    assert!(each["submits"].as_f64() > Some(0.0), "{each}");
    assert_eq!(each["bind_groups_created"], 0.0, "{each}");
    assert_eq!(each["buffers_created"], 0.0, "{each}");
    let memory = &report["memory_bytes"];
    assert!(memory["weights"].as_u64() > Some(0) && memory["kv"].as_u64() > Some(0), "{memory}");
    for kernel in report["kernels"].as_array().expect("a list") {
        assert!(kernel["count"].as_u64() > Some(0), "{kernel}");
    }
}

#[test]
fn bench_makes_a_model_up_once() {
    let home = Home::new();
    let config = home.path("config.json");
    let json = r#"{"model_type": "smollm3", "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 512, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
        "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    std::fs::write(&config, json).expect("a file");
    let file = home.path("made-up.gguf");
    let (config, path) = (config.to_str().expect("a name"), file.to_str().expect("a name"));
    let arguments = [
        "bench",
        "--cpu",
        "--json",
        "--synth",
        config,
        "--out",
        path,
        "--prefill",
        "4",
        "--contexts",
        "4",
        "--decode",
        "1",
        "--runs",
        "1",
        "--delta",
        "off",
    ];
    let report = home.run(&arguments).ok().json();
    assert_eq!(report["weights"], "q4_k+q6_k");
    let written = std::fs::metadata(&file).and_then(|m| m.modified()).expect("the file");
    home.run(&arguments).ok();
    assert_eq!(std::fs::metadata(&file).and_then(|m| m.modified()).ok(), Some(written));
    // something else of that name is left alone
    std::fs::write(&file, "mine").expect("a file");
    home.run(&arguments).expect(2).err_has("another file");
    assert_eq!(std::fs::read(&file).expect("a file"), b"mine");
}

/// A Python that is a script of the shell.
#[cfg(unix)]
fn fake_python(home: &Home, script: &str) -> String {
    let path = home.path("python");
    // Another process writes it: were it open for writing here, a process that another test starts at that
    // moment would have it open too, and Linux runs no such file (ETXTBSY).
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
    let status =
        std::process::Command::new("sh").arg("-c").arg(write).arg(&path).arg(script).status();
    assert!(status.expect("a shell").success());
    path.to_str().expect("a plain name").into()
}

#[cfg(unix)]
#[test]
fn bench_runs_llama_cpp_in_the_same_rounds() {
    let home = Home::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/smollm3.gguf");
    // what it is asked comes back in a file, and it says that everything takes 2 s
    let python = fake_python(
        &home,
        r#"shift 2; echo "$@" > "$0.asked"
        echo '{"about": {"name": "llama.cpp", "version": "0", "engine": "fake"}}'
        while read -r q; do echo "$q" >> "$0.asked"; echo '{"time": {"seconds": 2, "cpu_seconds": 1}}'; done"#,
    );
    let arguments = |against, more: &[&'static str]| {
        let all = ["bench", "--cpu", "--against", against, "--prefill", "4", "--contexts", "3"];
        let rest = ["--decode", "2", "--runs", "2", "--delta", "off,tsw", "--python"];
        let mut all = [&all[..], &rest, &[python.as_str(), "--model", model]].concat();
        all.extend(more);
        all.into_iter().map(String::from).collect::<Vec<String>>()
    };
    let report = home.run(&arguments("llama-cpp", &["--json"])).ok().json();
    let peer = &report["peers"][0];
    assert_eq!(peer["name"], "llama.cpp");
    let (prefill, decode) = (&peer["prefill"][0], &peer["decode"][0]);
    assert_eq!((&prefill["tokens"], &prefill["tok_s"]), (&json!(4), &json!(2.0)));
    assert_eq!((&decode["context"], &decode["tok_s"]), (&json!(3), &json!(1.0)));
    for (rate, ours) in [(prefill, &report["prefill"]), (decode, &report["decode"])] {
        assert_eq!(rate["rounds"], 2);
        for (ratio, ours) in
            rate["ratios"].as_array().expect("ratios").iter().zip(ours.as_array().expect("rates"))
        {
            assert_eq!(ratio["delta"], ours["delta"]);
            let range = &ours["tok_s_range"];
            let theirs = rate["tok_s"].as_f64().expect("a number");
            let [least, most] = [0, 1].map(|i| range[i].as_f64().expect("a number") / theirs);
            let ratio = ratio["ratio"].as_f64().expect("a number");
            assert!(ratio >= least * 0.999 && ratio <= most * 1.001, "{ratio}: {range}");
        }
    }
    let asked = std::fs::read_to_string(home.path("python.asked")).expect("a file");
    let mut lines = asked.lines();
    let start = lines.next().expect("a line");
    assert!(start.starts_with(&format!("{model} 64 ")), "{start}");
    let lines: Vec<&str> = lines.collect();
    let round = [r#"{"prefill":4}"#, r#"{"prefill":4}"#];
    let decoded = [r#"{"decode":2,"context":3}"#, r#"{"decode":2,"context":3}"#];
    assert_eq!(lines[lines.len() - 4..], [round, decoded].concat());
    home.run(&arguments("llama-cpp", &[])).ok().out_has("llama.cpp (0; fake)");

    let missing = r#"echo '{"missing": "No module named llama_cpp"}'"#;
    fake_python(&home, missing);
    let run = home.run(&arguments("llama-cpp", &[])).expect(1);
    run.err_has("-m pip install llama-cpp-python==");
    run.err_has("[peer]");
    fake_python(&home, "exit 7");
    home.run(&arguments("llama-cpp", &[])).expect(1).err_has("exit status: 7");
    home.run(&arguments("onnxruntime-web", &[])).expect(2).err_has("engine-bench.mjs");
    // the built-in model is no GGUF file
    home.run(&["bench", "--cpu", "--against", "llama-cpp"]).expect(2).err_has("GGUF");
}

#[test]
fn a_memory_is_exported_and_imported_byte_for_byte() {
    let home = Home::new();
    one_turn(&home, "a");
    let exported = home.exported("a");
    let file = home.path("a.dmem");
    let file = file.to_str().expect("a plain name");
    home.run(&["memory", "export", "a", file]).ok();
    assert_eq!(std::fs::read(file).expect("the file"), exported);
    // not over something else
    home.run(&["memory", "export", "a", file]).expect(1).err_has("--force");

    home.run(&["memory", "import", file, "b"]).ok();
    assert_eq!(home.exported("b"), exported);
    let same = home.run(&["memory", "diff", file, "b", "--json"]).ok().json();
    assert_eq!(same["total"]["distance"], 0.0);
    assert_eq!(same["different_model"], Value::Null);
    let cosine = same["total"]["cosine"].as_f64().expect("a number");
    assert!((cosine - 1.0).abs() < 1e-9, "{cosine}");

    let shown = home.run(&["memory", "show", file, "--json"]).ok().json();
    assert_eq!(shown["counters"]["turns"], 1);
    assert!(shown["norm"].as_f64() > Some(0.0));
    assert!(shown["adapter_trainable_parameters"].as_u64() > Some(0), "{shown}");
    home.run(&["memory", "show", "b"]).ok().out_has("layer   3");
    let list = home.run(&["memory", "list", "--json"]).ok().json();
    let profiles: Vec<_> =
        list.as_array().expect("a list").iter().map(|m| m["profile"].clone()).collect();
    assert_eq!(profiles, ["a", "b"]);
}

#[test]
fn a_memory_that_does_not_fit_is_refused_and_nothing_changes() {
    let home = Home::new();
    one_turn(&home, "a");
    let before = home.exported("a");
    let file = home.path("exported.dmem");
    let file = file.to_str().expect("a plain name");
    let run = home.run(&["memory", "import", file, "a", "--weights", "q8"]).expect(1);
    run.err_has("weights quantisation is f16");
    run.err_has("[memory_mismatch]");
    let damaged = home.path("damaged.dmem");
    std::fs::write(&damaged, &before[..before.len() - 1]).expect("a file");
    let damaged = damaged.to_str().expect("a plain name");
    home.run(&["memory", "import", damaged, "a"]).expect(1).err_has("[format]");
    let list = home.run(&["memory", "list", "--json"]).ok().json();
    assert_eq!(list.as_array().expect("a list").len(), 1);
    assert_eq!(list[0]["generations"], 1);
    assert_eq!(home.exported("a"), before);
}

#[test]
fn a_memory_can_be_undone_and_forgotten() {
    let home = Home::new();
    one_turn(&home, "a");
    one_turn(&home, "a");
    let turns = |home: &Home| {
        home.run(&["memory", "show", "a", "--json"]).ok().json()["counters"]["turns"].clone()
    };
    assert_eq!(turns(&home), 2);
    home.run(&["memory", "undo", "a"]).ok();
    assert_eq!(turns(&home), 1);
    let kept = home.run(&["memory", "snapshots", "a", "--json"]).ok().json();
    assert_eq!(kept.as_array().expect("a list").len(), 3);
    // nobody to ask
    home.run(&["memory", "forget", "a"]).expect(2);
    assert_eq!(turns(&home), 1);
    let typed = home.path("data").join("history").join("a.txt");
    std::fs::create_dir_all(typed.parent().expect("a folder")).expect("a folder");
    std::fs::write(&typed, "my secret").expect("a file");
    home.run(&["memory", "forget", "a", "--yes"]).ok().out_has("3 generations");
    assert!(!typed.exists(), "typed lines come back");
    assert_eq!(home.run(&["memory", "list", "--json"]).ok().json(), Value::Array(vec![]));
    home.run(&["memory", "show", "a"]).expect(1);
}

#[test]
fn a_chat_over_a_pipe_remembers_after_a_restart() {
    let home = Home::new();
    let first = home.pipe(&CHAT, "hello\n/bye\n").ok();
    assert!(!first.out.trim().is_empty(), "{first:?}");
    first.err_has(deltamem::nano::NOTICE);
    first.err_has("a new memory");
    let saved = home.exported("default");

    let second = home.pipe(&CHAT, "/memory\n").ok();
    second.err_has("memory of 1 turn");
    second.out_has("seen        1 turn");
    assert_eq!(home.exported("default"), saved, "looking changed the memory");

    let third = home.pipe(&CHAT, "\"\"\"two\nlines\"\"\"\n/stats\n/save\n").ok();
    third.out_has("messages     2");
    third.err_has("saved as generation 3");
    let shown = home.run(&["memory", "show", "--json"]).ok().json();
    assert_eq!(shown["counters"]["turns"], 2);

    let mut resuming = CHAT.to_vec();
    resuming.push("--resume");
    home.pipe(&resuming, "/bye\n").ok().err_has("a conversation of 2 messages");
}

#[test]
fn chat_commands_do_what_they_say() {
    let home = Home::new();
    let script = "hello\n/undo\n/stats\n/write Ada has a cat.\n/stats\n/set temperature 0.7\n/set\n/pause\nhello\n/resume\n/memory\n\
                  /forget\n/memory\n/help\n";
    let run = home.pipe(&CHAT, script).ok();
    run.err_has("the last turn is taken back");
    run.out_has("messages     0");
    run.out_has("temperature     0.7");
    run.err_has("read and not written");
    run.err_has("deleted:");
    // the turn taken back does not count, the paused one wrote nothing
    run.err_has("tokens were written; the context stays");
    run.err_has("deleted: 3 generations");
    run.out_has("/readonly on|off");
    assert_eq!(home.run(&["memory", "list", "--json"]).ok().json(), Value::Array(vec![]));

    let wrong = home.pipe(&CHAT, "/nonsense\n/set top_p 3\n/set colour red\nhello\n").expect(1);
    assert_eq!(wrong.err.matches("error: ").count(), 3, "{wrong:?}");
    assert!(!wrong.out.trim().is_empty(), "the chat ended: {wrong:?}");
}

/// A reply that was cut goes on in the same message, and one can be begun for the model.
#[test]
fn a_reply_goes_on_where_it_was_cut_or_begun() {
    let home = Home::endless();
    let chat = ["chat", "--cpu", "--max-tokens", "4", "--temperature", "0"];
    home.pipe(&chat, "/continue\n").expect(1).err_has("[messages]");
    let run = home.pipe(&chat, "hello\n/continue\n/stats\n/undo\n/stats\n").ok();
    run.out_has("messages     2");
    run.out_has("messages     0");
    assert_eq!(run.err.matches("stopped after 4 tokens").count(), 2, "{run:?}");

    let plain = ["generate", "hello", "--cpu", "--json", "--max-tokens", "3", "--temperature", "0"];
    let begun = [&plain[..], &["--reply-prefix", "You live in"]].concat();
    let [plain, begun] = [&plain[..], &begun].map(|arguments| home.run(arguments).ok().json());
    let n_prompt = |run: &Value| run["tokens"]["prompt"].as_u64();
    assert!(n_prompt(&begun) > n_prompt(&plain), "{begun:#}");
    let text = begun["text"].as_str().expect("a text");
    assert!(!text.starts_with("You live in"), "{text:?}");
    home.run(&["generate", " ", "--cpu", "--reply-prefix", "a"]).expect(1).err_has("[messages]");
}

/// More than the window holds many times over: old messages leave it, and the memory answers for them.
#[test]
fn a_conversation_has_no_end() {
    let home = Home::new();
    let script = format!(
        "My name is Ada and I live in Lisbon.\n{}Where do I live?\n",
        "Good morning!\n".repeat(8)
    );
    // whole replies, as it was taught
    let run = home.pipe(&["chat", "--cpu", "--context", "256"], &script).ok();
    run.err_has("the context was full: 2 old messages left it; the memory keeps");
    assert!(!run.err.contains("error"), "{run:#?}");
    assert!(run.out.trim_end().ends_with("You live in Lisbon."), "{run:#?}");
}

#[test]
fn memories_move_between_chats_through_files() {
    let home = Home::new();
    let file = home.path("m.dmem");
    let file = file.to_str().expect("a plain name");
    let mut ephemeral = CHAT.to_vec();
    ephemeral.push("--ephemeral");
    home.pipe(&ephemeral, &format!("hello\n/save {file}\n")).ok();
    assert!(!home.path("data").join("memories").exists(), "--ephemeral saved something");
    home.pipe(&CHAT, &format!("/load {file}\n")).ok().err_has("memory of 1 turn");
    let same = home.run(&["memory", "diff", file, "default", "--json"]).ok().json();
    assert_eq!(same["total"]["distance"], 0.0);

    let text = home.path("precious.txt");
    std::fs::write(&text, "precious").expect("a file");
    let text = text.to_str().expect("a plain name");
    let run = home.pipe(&CHAT, &format!("/save {text}\n/load {text}\n")).expect(1);
    run.err_has("is not a memory");
    run.err_has("[format]");
    assert_eq!(std::fs::read(text).expect("the file"), b"precious");
}

#[test]
fn generate_prints_one_object() {
    let home = Home::noisy();
    let arguments = ["generate", "--cpu", "--json", "--max-tokens", "3", "--seed", "5"];
    let first = home.pipe(&arguments, "hello").ok().json();
    assert_eq!(first["stop_reason"], "max_tokens");
    assert_eq!(first["tokens"]["generated"], 3);
    assert_eq!(first["memory_norms"]["before"], 0.0);
    assert!(first["memory_norms"]["after"].as_f64() > Some(0.0));
    let second = home.pipe(&arguments, "hello").ok().json();
    assert_eq!(first["generated_ids"], second["generated_ids"], "same seed, same reply");
    assert!(!home.path("data").exists(), "generate saved something");
    home.pipe(&arguments, " \n").expect(1).err_has("[messages]");

    let bare = ["generate", "hello", "--cpu", "--json", "--max-tokens", "3", "--no-adapter"];
    assert_eq!(home.run(&bare).ok().json()["memory"], Value::Null);
}

/// The model of noise with a template that knows both formats of tools.
#[test]
fn generate_tells_the_model_of_tools() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(common::noise()).expect("the model of noise") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, folder.path().join(path.file_name().expect("a name")))
            .expect("a copy");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = folder.path().join("chat_template.jinja");
    std::fs::copy(root.join("src/chat/smollm3_like.jinja"), template).expect("a template");
    let home = Home(tempfile::tempdir().expect("a folder"), Some(folder.path().into()));
    let tools = home.path("tools.json");
    let tool = r#"[{"type": "function", "function": {"name": "now", "parameters": {}}}]"#;
    std::fs::write(&tools, tool).expect("a file");
    let tools = tools.to_str().expect("a path in UTF-8");
    let prompt = |more: &[&str]| {
        let talk = ["generate", "hello", "--cpu", "--no-adapter", "--json", "--max-tokens", "1"];
        let reply = home.run(&[&talk[..], more].concat()).ok().json();
        assert_eq!(reply["tool_calls"], serde_json::json!([]));
        reply["tokens"]["prompt"].as_u64().expect("a count")
    };
    let told = |format: &str| prompt(&["--tools", tools, "--tool-format", format]);
    // OpenAI's wrapping is shown with `tools` and not with SmolLM3's own lists
    let (none, template, xml, python) =
        (prompt(&[]), told("template"), told("xml"), told("python"));
    assert!(none < xml && xml < template && none < python, "{none} {template} {xml} {python}");

    let run = |model: &Home, more: &[&str]| {
        let talk = ["generate", "hello", "--cpu", "--max-tokens", "1"];
        model.run(&[&talk[..], more].concat())
    };
    let noise = Home::noisy();
    run(&noise, &["--tools", tools, "--tool-format", "python"]).expect(2).err_has("python_tools");
    run(&noise, &["--tools", "nowhere.json"]).expect(1).err_has("nowhere.json");
    run(&noise, &["--tool-format", "xml"]).expect(2);
}

#[test]
fn beginnings_are_read_once_for_many_runs() {
    let home = Home::noisy();
    let folder = home.path("prefixes");
    let folder = folder.to_str().expect("a plain name");
    let system = "Be kind, be brief, and never speak of the weather. ".repeat(6);
    let talk = ["generate", "--cpu", "--json", "--max-tokens", "3", "--seed", "5"];
    let talk = [&talk[..], &["--system", &system]].concat();
    let kept = [&talk[..], &["--prefix-cache", folder]].concat();
    let of = |run: Run| (run.json()["generated_ids"].clone(), run.json()["memory_norms"].clone());
    let n = |run: &Run| run.json()["prompt_ingest"]["prefix_tokens"].as_u64().expect("a number");
    let expected = of(home.pipe(&talk, "hello").ok());
    let first = home.pipe(&kept, "hello").ok();
    let second = home.pipe(&kept, "hello").ok();
    assert_eq!(n(&first), 0);
    assert!(n(&second) >= 64, "{second:?}");
    assert_eq!((of(first), of(second)), (expected.clone(), expected.clone()));

    // a damaged one is said to be so, and made again
    let file = std::fs::read_dir(folder).expect("a folder").next().expect("a file").expect("one");
    let mut bytes = std::fs::read(file.path()).expect("the file");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(file.path(), bytes).expect("the file");
    let run = home.pipe(&kept, "hello").ok();
    run.err_has("a kept context is not used");
    assert_eq!((n(&run), of(run)), (0, expected));
    assert!(n(&home.pipe(&kept, "hello").ok()) > 0);

    let small = [&kept[..], &["--prefix-cache-size", "1K"]].concat();
    assert_eq!(n(&home.pipe(&small, "hello").ok()), 0);
    assert_eq!(std::fs::read_dir(folder).expect("a folder").count(), 0);
    home.run(&["generate", "x", "--prefix-cache-size", "1K"]).expect(2);
    let folder = home.path("file");
    std::fs::write(&folder, "precious").expect("a file");
    let folder = folder.to_str().expect("a plain name");
    home.pipe(&[&talk[..], &["--prefix-cache", folder]].concat(), "hello").expect(1);
    // in a conversation, too
    let folder = home.path("chats");
    let chat = [&CHAT[..], &["--ephemeral", "--system", &system, "--prefix-cache"]].concat();
    let chat = [&chat[..], &[folder.to_str().expect("a plain name")]].concat();
    let said: Vec<String> = (0..2).map(|_| home.pipe(&chat, "hello\n").ok().out).collect();
    assert_eq!(said[0], said[1]);
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
}

#[test]
fn generate_keeps_to_a_form() {
    let home = Home::noisy();
    let run = |more: &[&str]| {
        let talk = ["generate", "hello", "--cpu", "--seed", "3", "--max-tokens", "60"];
        home.run(&[&talk[..], more].concat())
    };
    let reply = run(&["--regex", "^(yes|no)$"]).ok();
    assert!(["yes", "no"].contains(&reply.out.trim()), "{reply:?}");
    let schema = home.path("schema.json");
    std::fs::write(&schema, r#"{"type": "array", "items": {"enum": ["é"]}, "maxItems": 2}"#)
        .expect("a file");
    let schema = schema.to_str().expect("a path in UTF-8");
    let reply = run(&["--json-schema", schema]).ok();
    let list: Vec<String> = serde_json::from_str(&reply.out).expect("JSON");
    assert!(list.len() <= 2 && list.iter().all(|item| item == "é"), "{reply:?}");
    let reply = run(&["--json-object", "--json"]).ok().json();
    assert!(reply["text"].as_str().is_some_and(|text| text.starts_with('{')), "{reply}");

    run(&["--regex", "("]).expect(1).err_has("[constraint]");
    run(&["--json-schema", "nowhere.json"]).expect(1).err_has("nowhere.json");
    run(&["--regex", "a", "--json-object"]).expect(2);
}

/// Starts a chat with an open input.
#[test]
fn probe_shows_what_a_memory_changes() {
    let home = Home::new();
    home.run(&["probe", "hello", "--cpu"]).expect(1).err_has("no memory");
    one_turn(&home, "default");
    let text = home.run(&["probe", "hello", "--cpu", "--top", "3"]).ok();
    text.out_has("without");
    assert!((4..=7).contains(&text.out.lines().count()), "{text:?}");

    let found = home.run(&["probe", "hello", "--cpu", "--json"]).ok().json();
    let logits = |key: &str| found[key].as_array().expect("logits").clone();
    assert_eq!(logits("logits").len(), logits("logits_without").len());
    assert_ne!(logits("logits"), logits("logits_without"));
    assert!(found["tokens"].as_array().is_some_and(|tokens| tokens.len() >= 10));
    home.exported("default");
    let file = home.path("exported.dmem");
    let file = file.to_str().expect("a plain name");
    let again = home.run(&["probe", "hello", "--cpu", "--json", "--memory", file]).ok().json();
    assert_eq!(again["logits"], found["logits"]);
    let other = ["probe", "hello", "--cpu", "--memory", file, "--weights", "q8"];
    home.run(&other).expect(1).err_has("[memory_mismatch]");
}

fn start_chat(home: &Home, more: &[&str]) -> Child {
    let mut arguments = vec!["chat", "--cpu", "--seed", "1"];
    arguments.extend(more);
    home.command(&arguments).stdin(Stdio::piped()).spawn().expect("the program")
}

/// Sends a line and waits for the first byte of the reply.
fn say_and_wait(child: &mut Child, line: &str) {
    let stdin = child.stdin.as_mut().expect("its input");
    stdin.write_all(line.as_bytes()).expect("it reads");
    let mut byte = [0];
    child.stdout.as_mut().expect("its output").read_exact(&mut byte).expect("a reply");
}

#[test]
fn a_killed_chat_keeps_the_last_finished_turn() {
    let home = Home::endless();
    home.pipe(&CHAT, "hello\n").ok();
    let saved = home.exported("default");
    let mut child = start_chat(&home, &["--max-tokens", "1900", "--temperature", "1"]);
    say_and_wait(&mut child, "tell me a very long story\n");
    // SIGKILL: the program cannot clean up
    child.kill().expect("it runs");
    child.wait().expect("its end");
    assert_eq!(home.exported("default"), saved);
    let again = home.pipe(&CHAT, "hello\n").ok();
    again.err_has("memory of 1 turn");
    let shown = home.run(&["memory", "show", "--json"]).ok().json();
    assert_eq!(shown["counters"]["turns"], 2);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_reply_and_not_the_chat() {
    let home = Home::endless();
    let mut child = start_chat(&home, &["--max-tokens", "1900", "--temperature", "1"]);
    say_and_wait(&mut child, "tell me a very long story\n");
    // the shell's own `kill`: the program of that name is not everywhere
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(kill.expect("a shell").success());
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(b"/stats\n").expect("it still reads");
    drop(stdin);
    let run = Run::from(child.wait_with_output().expect("its output")).ok();
    run.err_has("[stopped]");
    run.out_has("messages     2");
    let shown = home.run(&["memory", "show", "--json"]).ok().json();
    assert_eq!(shown["counters"]["turns"], 1, "the reply that was stopped is remembered");
}

#[test]
fn only_one_process_writes_a_memory() {
    let home = Home::new();
    one_turn(&home, "default");
    let saved = home.exported("default");
    let mut first = start_chat(&home, &[]);
    let mut lines = BufReader::new(first.stdout.take().expect("its output")).lines();
    first.stdin.as_mut().expect("its input").write_all(b"/stats\n").expect("it reads");
    lines.next().expect("a line").expect("its answer");

    let second = home.pipe(&CHAT, "hello\n/resume\n").expect(1);
    second.err_has("in use by another process");
    assert!(!second.out.trim().is_empty(), "it did not answer: {second:?}");
    let file = home.path("exported.dmem");
    let import: [&OsStr; 4] =
        ["memory".as_ref(), "import".as_ref(), file.as_ref(), "default".as_ref()];
    home.run(&import).expect(1).err_has("[locked]");
    home.run(&["memory", "forget", "--yes"]).expect(1).err_has("[locked]");
    assert_eq!(home.exported("default"), saved);

    drop(first.stdin.take());
    assert!(first.wait().expect("its end").success());
    home.run(&import).ok();
}

#[test]
fn a_damaged_memory_is_reported_and_the_one_before_is_used() {
    let home = Home::new();
    one_turn(&home, "default");
    one_turn(&home, "default");
    let newest = newest_generation(&home.path("data"));
    let bytes = std::fs::read(&newest).expect("the newest generation");
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).expect("a damaged file");
    let run = home.pipe(&CHAT, "hello\n").ok();
    run.err_has("cannot be read");
    run.err_has("memory of 1 turn");
    let shown = home.run(&["memory", "show", "--json"]).ok().json();
    assert_eq!(shown["counters"]["turns"], 2);
}

/// The last `.dmem` file below a folder, by name.
fn newest_generation(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "dmem") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found.pop().expect("a memory")
}

#[test]
fn a_chat_runs_on_the_gpu() {
    if common::gpu(false).is_none() {
        return;
    }
    let home = Home::new();
    let arguments = ["chat", "--max-tokens", "4", "--seed", "1"];
    home.pipe(&arguments, "hello\n").ok();
    // the CPU twin goes on with the same memory
    home.pipe(&CHAT, "/bye\n").ok().err_has("memory of 1 turn");
}
