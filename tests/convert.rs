//! `deltamem convert` and `deltamem synth` as a person runs them, and that what they write runs.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano");

fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_deltamem")).args(arguments).output();
    let output = output.expect("the program");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!err.contains("panicked"), "{err}");
    output
}

fn ok<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The ids of a short reply, which depend on every weight.
fn reply(model: &Path) -> Value {
    let mut arguments = vec!["generate", "My dog is called Rex. What is my dog called?"];
    arguments.extend(["--cpu", "--json", "--no-adapter", "--weights", "f32", "--max-tokens", "8"]);
    arguments.extend(["--seed", "3", "--model"]);
    let mut arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
    arguments.push(model.as_os_str());
    let report: Value = serde_json::from_str(&ok(&arguments)).expect("JSON");
    assert!(report["generated_ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{report}");
    report["generated_ids"].clone()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

#[test]
fn a_converted_model_answers_as_its_folder_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("nano.gguf");
    let table = ok(&["convert", NANO, text(&out), "--type", "f32"]);
    assert!(table.contains("blk.3.ffn_down.weight") && table.contains("relative error"), "{table}");
    assert_eq!(reply(&out), reply(&PathBuf::from(NANO)));

    // nothing is replaced unasked
    let before = std::fs::read(&out).expect("the file");
    let again = run(&["convert", NANO, text(&out)]);
    assert_eq!(again.status.code(), Some(2));
    assert!(std::fs::read(&out).expect("the file") == before);
    let arguments = [
        "convert",
        NANO,
        text(&out),
        "--force",
        "--json",
        "--type",
        "q4_0",
        "--tensor-type",
        "attn_v=q8_0",
    ];
    let report: Value = serde_json::from_str(&ok(&arguments)).expect("JSON");
    let tensors = report["tensors"].as_array().expect("a list");
    let of = |name: &str| tensors.iter().find(|t| t["name"] == name).expect(name);
    assert_eq!(of("blk.0.attn_v.weight")["type"], "Q8_0");
    assert_eq!(of("blk.0.attn_q.weight")["type"], "Q4_0");
    let error = of("blk.0.attn_q.weight")["relative_rms_error"].as_f64().expect("a number");
    assert!((0.02..0.12).contains(&error), "{error}");
    // rows of 128 are half a block of Q6_K
    let notes = report["notes"].as_array().expect("a list");
    assert!(notes.iter().any(|note| note.as_str().is_some_and(|n| n.contains("token_embd"))));
    assert_eq!(report["size_bytes"], std::fs::metadata(&out).expect("the file").len());
    reply(&out);
}

#[test]
fn a_made_up_model_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    let json = r#"{"model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 1024, "rope_theta": 5e6, "max_position_embeddings": 4096,
        "tie_word_embeddings": true}"#;
    std::fs::write(&config, json).expect("a file");
    let out = folder.path().join("made-up.gguf");
    ok(&["synth", "--config", text(&config), "--type", "q4_k_m", text(&out)]);
    let first = reply(&out);
    ok(&[
        "synth",
        "--config",
        text(&config),
        "--type",
        "q4_k",
        "--seed",
        "2",
        "--force",
        text(&out),
    ]);
    assert_ne!(reply(&out), first, "another seed is another model");
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        &["convert", NANO] as &[&str],
        &["convert", NANO, "/nowhere/x.gguf", "--type", "q3_k"],
        &["convert", NANO, "/nowhere/x.gguf", "--tensor-type", "attn_v"],
        &["synth", "--config", "SmolLM4", "/nowhere/x.gguf"],
        &["synth", "/nowhere/x.gguf"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let output = run(&["convert", NANO, "/nowhere/x.gguf"]);
    assert_eq!(output.status.code(), Some(1));
}
