//! The built program: it pulls the built-in model's files from the mirror and talks with them, says what
//! to do when something is not here, and survives being killed.

use super::mirror::Request;
use super::{COMMIT, Place, noise};
use deltamem::hub::known_model;
use deltamem::nano;
use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const REPO: &str = "ada/nano";

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in
        ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command.env("HF_HOME", place.root().join("hf"));
    command.env("HF_ENDPOINT", place.mirror.endpoint());
    command.env("NO_PROXY", "127.0.0.1");
    command.env("DELTAMEM_DATA_DIR", place.root().join("data"));
    command
}

fn run(place: &Place, arguments: &[&str], code: i32) -> (String, String) {
    output(command(place, arguments).output().expect("the program"), code)
}

fn output(output: Output, code: i32) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

/// The built-in model as a repository.
fn with_nano() -> Place {
    let place = Place::new();
    let mut files: Vec<(&str, Vec<u8>)> =
        nano::FILES.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    files.push(("README.md", b"# Nano".to_vec()));
    files.push(("delta_mem_adapter.pt", noise(20_000, 1)));
    place.mirror.put(REPO, COMMIT, &files);
    place
}

#[test]
fn a_pulled_model_talks_and_remembers() {
    let place = with_nano();
    let ask = ["generate", "--cpu", "--model", REPO, "--json", "What is my name?"];
    let (_, err) = run(&place, &ask, 1);
    assert!(err.contains("`deltamem pull ada/nano` downloads it [not_downloaded]"), "{err}");
    assert!(place.mirror.requests().is_empty(), "nothing is downloaded unasked");

    let (out, err) = run(&place, &["pull", REPO], 0);
    let snapshot = place.repo(REPO).join("snapshots").join(COMMIT);
    assert_eq!(out.trim(), snapshot.to_str().expect("a plain name"));
    assert!(err.contains("8 files") && err.contains("deltamem chat --model ada/nano"), "{err}");
    assert!(!snapshot.join("delta_mem_adapter.pt").exists(), "one format is enough");

    let (out, _) = run(&place, &ask, 0);
    let reply: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(reply["model"], "nano", "{reply}");
    assert!(!reply["text"].as_str().expect("a text").is_empty(), "{reply}");
    // the adapter came along, so there is a memory; it is that of the built-in model
    let tell = ["--cpu", "--memory", "me", "--save", "My name is Ada and I live in Lisbon."];
    run(&place, &[&["generate", "--model", REPO, "--weights", "f16"], &tell[..]].concat(), 0);
    let where_is = ["generate", "--cpu", "--memory", "me", "Where do I live?"];
    let (out, _) = run(&place, &where_is, 0);
    assert!(out.contains("Lisbon"), "{out}");

    let (out, _) = run(&place, &["doctor", "--json", "--cpu", "--model", REPO], 0);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["models"][0]["model"], "nano", "{}", report["models"][0]);
    let gguf = place.root().join("nano.gguf");
    let gguf = gguf.to_str().expect("a plain name");
    run(&place, &["convert", REPO, gguf, "--type", "q8_0"], 0);
}

#[test]
fn a_known_model_remembers_with_the_adapter_that_came_along() {
    let place = Place::new();
    let known = known_model("Qwen3-4B-Instruct").expect("in the registry");
    let (source, adapter) = (&known.sources[0], known.adapter.as_ref().expect("an adapter"));
    let files = |is_adapter: bool| -> Vec<(&str, Vec<u8>)> {
        let all = nano::FILES.iter();
        let wanted = all.filter(|(name, _)| name.starts_with("delta_mem") == is_adapter);
        wanted.map(|(name, bytes)| (*name, bytes.to_vec())).collect()
    };
    let commit = |revision: &Option<String>| revision.clone().unwrap_or(COMMIT.into());
    place.mirror.put(&source.repo, &commit(&source.revision), &files(false));
    place.mirror.put(&adapter.repo, &commit(&adapter.revision), &files(true));

    let name = known.name.as_str();
    let (out, err) = run(&place, &["pull", name, "--no-adapter"], 0);
    assert_eq!(out.lines().count(), 1, "{err}");
    let model = ["generate", "--cpu", "--model", name];
    let tell = [&model[..], &["--memory", "me", "--save", "My name is Ada and I live in Lisbon."]];
    let (_, err) = run(&place, &tell.concat(), 2);
    assert!(err.contains("`deltamem pull Qwen3-4B-Instruct` downloads it"), "{err}");

    let (out, _) = run(&place, &["pull", name], 0);
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, err) = run(&place, &tell.concat(), 0);
    assert!(err.contains("weights as q4, as the registry has it"), "{err}");
    let (out, _) = run(&place, &[&model[..], &["--memory", "me", "Where do I live?"]].concat(), 0);
    assert!(out.contains("Lisbon"), "{out}");
    let (_, err) = run(&place, &[&tell.concat()[..], &["--no-adapter"]].concat(), 2);
    assert!(err.contains("needs a model with a δ-mem adapter"), "{err}");
    let (out, _) = run(&place, &["list"], 0);
    assert!(
        out.contains("adapter of Qwen3-4B-Instruct") && out.contains("complete, adapter"),
        "{out}"
    );
}

#[test]
fn what_is_here_is_listed_and_removed() {
    let place = with_nano();
    let (out, err) = run(&place, &["list"], 0);
    assert!(
        out.starts_with("nothing in ") && err.contains("deltamem pull SmolLM3-3B"),
        "{out}{err}"
    );
    let (out, _) = run(&place, &["pull", "--json", REPO], 0);
    let pulled: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(pulled["pulled"][0]["files"].as_array().map(Vec::len), Some(8));
    let (out, _) = run(&place, &["list"], 0);
    assert!(out.contains("ada/nano") && out.contains("01234567 (main)"), "{out}");
    assert!(out.contains("complete, safetensors"), "{out}");
    let (out, _) = run(&place, &["list", "--json"], 0);
    let listed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(listed["repos"][0]["revisions"][0]["is_complete"], true, "{listed}");

    let (_, err) = run(&place, &["rm", REPO], 2);
    assert!(err.contains("add --yes"), "{err}");
    let (out, _) = run(&place, &["rm", "--yes", REPO], 0);
    assert!(out.contains("ada/nano: 4.") && out.contains("MiB freed"), "{out}");
    let (_, err) = run(&place, &["rm", "--yes", REPO], 1);
    assert!(err.contains("[not_found]"), "{err}");
    assert!(!place.repo(REPO).exists());
}

#[test]
fn names_that_cannot_be_are_wrong_command_lines() {
    let place = Place::new();
    for name in ["no-such-model", "nano", "a/../b", "a/b:../../c"] {
        let (_, err) = run(&place, &["pull", name], 2);
        assert!(err.contains("[hub_name]"), "{err}");
    }
    let (_, err) = run(&place, &["generate", "--cpu", "--model", "no/such/folder", "x"], 1);
    assert!(err.contains("[io]"), "{err}");
    let (_, err) = run(&place, &["generate", "--cpu", "--model", "SmolLM3-3B", "x"], 1);
    assert!(err.contains("`deltamem pull SmolLM3-3B`"), "{err}");
    let (_, err) = run(&place, &["generate", "--cpu", "--adapter", "ada/adapter", "x"], 1);
    assert!(err.contains("`deltamem pull ada/adapter`"), "{err}");
    // the built-in model has a name, too
    let (out, _) = run(&place, &["generate", "--cpu", "--model", "nano", "--json", "Hello!"], 0);
    assert!(out.contains("\"nano\""), "{out}");
    let offline = command(&place, &["pull", "ada/model"]).env("HF_HUB_OFFLINE", "1").output();
    let (_, err) = output(offline.expect("the program"), 1);
    assert!(err.contains("[offline]"), "{err}");
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let place = Place::new();
    let bytes = noise(3_000_000, 2);
    place.mirror.put("ada/big", COMMIT, &[("m.gguf", bytes.clone())]);
    // the host sends a part and then nothing
    place.mirror.meddle(|request, response| {
        if request.is_bytes() {
            response.set("content-length", "3000000");
            response.body.truncate(1_000_000);
        }
    });
    let mut child = command(&place, &["pull", "ada/big"]).spawn().expect("the program");
    let blobs = place.repo("ada/big").join("blobs");
    let begin = Instant::now();
    let so_far = loop {
        let parts = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        let len: u64 = parts.map(|part| part.metadata().map_or(0, |m| m.len())).sum();
        if len >= 1_000_000 {
            break len;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{len} bytes came");
        std::thread::sleep(Duration::from_millis(20));
    };
    child.kill().expect("killed");
    child.wait().expect("it ended");
    let (out, _) = run(&place, &["list"], 0);
    assert!(out.contains("incomplete: 976.6 KiB of unfinished files"), "{out}");
    let (_, err) = run(&place, &["chat", "--model", "ada/big"], 1);
    assert!(err.contains("[not_downloaded]"), "{err}");

    place.mirror.behave();
    place.mirror.requests();
    let (out, _) = run(&place, &["pull", "ada/big"], 0);
    assert_eq!(std::fs::read(out.trim()).expect("the file"), bytes);
    let requests = place.mirror.requests();
    let asked: Vec<&Request> = requests.iter().filter(|request| request.is_bytes()).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some(format!("bytes={so_far}-").as_str()));
}
