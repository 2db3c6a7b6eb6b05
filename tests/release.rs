//! `scripts/release` on a program that is built already: what an archive holds, its sum, the same bytes
//! from the same files, and a program that runs from it. Unix only, as the script is.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn release(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/release");
    let mut command = Command::new(script);
    command.args(arguments).env("SOURCE_DATE_EPOCH", "1700000000");
    command.env("CARGO_TARGET_DIR", env!("CARGO_TARGET_TMPDIR")).env("CARGO_NET_OFFLINE", "true");
    command.output().expect("bash")
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The program without what debuggers want, where there is `strip`: that is most of it.
fn program(folder: &Path) -> PathBuf {
    let program = folder.join("deltamem");
    std::fs::copy(env!("CARGO_BIN_EXE_deltamem"), &program).expect("a copy");
    let _ = Command::new("strip").arg(&program).status();
    program
}

#[test]
fn archives_have_all_parts_and_equal_bytes_and_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = program(folder.path());
    let name = format!("deltamem-{}-{TARGET}", env!("CARGO_PKG_VERSION"));
    let file = format!("{name}.tar.gz");
    let outs = ["one", "two"].map(|out| folder.path().join(out));
    for out in &outs {
        let program = program.to_str().expect("a plain name");
        let out = out.to_str().expect("a plain name");
        let run = release(&["--pack", program, "--target", TARGET, "--out", out]);
        assert!(run.status.success(), "{run:?}");
    }
    let bytes = outs.each_ref().map(|out| std::fs::read(out.join(&file)).expect("an archive"));
    assert!(bytes[0] == bytes[1], "the same files gave other bytes");

    let out = outs[0].as_path();
    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).expect("sums");
    let digest = |bytes: &[u8]| {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(sums, format!("{}  {file}\n", digest(&bytes[0])));

    let listed = run("tar", &["-tzf", &file], out);
    let listed: Vec<&str> = listed.lines().collect();
    assert!(listed.is_sorted(), "{listed:?}");
    let listed: BTreeSet<&str> = listed.into_iter().collect();
    for part in [
        "deltamem",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "THIRD-PARTY-LICENSES.txt",
        "README.md",
        "CHANGELOG.md",
        "man/deltamem.1",
        "man/deltamem-serve.1",
        "completions/deltamem.bash",
        "completions/_deltamem",
        "completions/deltamem.fish",
    ] {
        assert!(listed.contains(format!("{name}/{part}").as_str()), "no {part} in {listed:?}");
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/demo/dist/index.html").exists();
    assert_eq!(listed.contains(format!("{name}/page/index.html").as_str()), page);
    let unwanted = |path: &&&str| path.ends_with(".wasm") || path.contains("/models/");
    assert_eq!(listed.iter().find(unwanted), None);

    run("tar", &["-xzf", &file], out);
    let unpacked = out.join(&name);
    let version = run("./deltamem", &["--version"], &unpacked);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let licences = std::fs::read_to_string(unpacked.join("THIRD-PARTY-LICENSES.txt")).expect("it");
    for text in ["wgpu 30", "Permission is hereby granted", "Apache License", "rustls "] {
        assert!(licences.contains(text), "no {text:?}");
    }
    assert!(!licences.contains(env!("CARGO_MANIFEST_DIR")));
    let modified =
        unpacked.join("README.md").metadata().and_then(|m| m.modified()).expect("a time");
    let since = modified.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert_eq!(since.as_secs(), 1_700_000_000);
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() {
    let refused = |arguments: &[&str], said: &str| {
        let run = release(arguments);
        assert!(!run.status.success(), "{run:?}");
        let error = String::from_utf8_lossy(&run.stderr);
        assert!(error.contains(said), "no {said:?} in {error}");
    };
    let program = env!("CARGO_BIN_EXE_deltamem");
    refused(&["--pack", program], "--target");
    refused(&["--pack", "/nowhere/deltamem", "--target", TARGET], "no program /nowhere/deltamem");
    refused(&["--pack", file!(), "--target", TARGET], "does not run here");
    refused(&["--pack"], "needs a value");
    refused(&["--wrong", "x"], "scripts/release --pack PROGRAM");
    if cfg!(target_os = "linux") {
        refused(&["--target", "aarch64-apple-darwin"], "aarch64-apple-darwin cannot be built here");
    }
}
