//! `deltamem train` as a person runs it: a few steps on the built-in model.
#![cfg(feature = "train")]

use std::path::Path;
use std::process::{Command, Output};

const DATA: &str = r#"
{"messages": [{"role": "user", "content": "I live in Lima."}, {"role": "assistant", "content": "Good."}, {"role": "user", "content": "Where do I live?"}, {"role": "assistant", "content": "Lima."}]}
{"messages": [{"role": "user", "content": "My cat is Tom."}, {"role": "assistant", "content": "Nice."}, {"role": "user", "content": "My cat?"}, {"role": "assistant", "content": "Tom."}]}
{"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]}
"#;

fn deltamem(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
    command.current_dir(folder).env("DELTAMEM_DATA_DIR", folder.join("data"));
    command.args(arguments.split(' ')).output().expect("the program")
}

#[test]
fn an_adapter_is_trained_resumed_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("data.jsonl"), DATA).expect("a file");
    let train = "train --data data.jsonl --eval data.jsonl --out out --steps 3 --batch 2 \
                 --save-every 2 --preset ssw";
    let run = |extra: &str| {
        let output = deltamem(folder, &format!("{train}{extra}"));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = run("");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("3 conversations") && err.contains("step 3: loss"), "{err}");
    for name in [
        "delta_mem_config.json",
        "delta_mem_adapter.safetensors",
        "delta_mem_adapter.pt",
        "checkpoint.safetensors",
        "training.json",
        "loss.svg",
    ] {
        assert!(folder.join("out").join(name).exists(), "{name}");
    }
    let log = std::fs::read_to_string(folder.join("out/log.jsonl")).expect("a log");
    assert_eq!(log.lines().count(), 4, "{log}");

    let (code, err) = run("");
    assert!(code == Some(2) && err.contains("--resume"), "{err}");
    let (code, err) = run(" --resume --seed 1");
    assert!(code == Some(2) && err.contains("another seed"), "{err}");
    let (code, err) = run(" --resume");
    assert!(code == Some(0) && err.contains("after step 3"), "{err}");

    let output = deltamem(folder, "generate --cpu --adapter out --max-tokens 2 hi");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
