//! The CPU twin against the recorded runs of the reference, and against itself when a prefill is
//! cut into chunks. `DELTAMEM_FIXTURES` may name another folder of fixtures.

use deltamem::reference::Options;
use deltamem::replay::{Fixture, Labels, ReplayReport, replay};
use std::path::{Path, PathBuf};

/// Every folder of fixtures whose name `is_wanted`, by name; never none.
fn fixtures(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let root = std::env::var_os("DELTAMEM_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        PathBuf::from,
    );
    let entries = std::fs::read_dir(&root).expect("the folder of fixtures");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("case.json").exists())
        .filter(|path| is_wanted(&path.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no fixtures in {}", root.display());
    folders
}

fn replay_cpu(folder: &Path, chunk: Option<usize>) -> ReplayReport {
    let fixture = Fixture::open(folder).expect("a fixture");
    let options = Options { chunk, ..Options::default() };
    let mut engine = fixture.cpu_engine(options).expect("an engine");
    let labels = Labels { adapter: "cpu".into(), weights: "f32".into(), kv: "f32".into(), chunk };
    let run = replay(&fixture.case, fixture.expected.as_ref(), &mut engine, labels);
    pollster::block_on(run).expect("a replay")
}

/// Replays all, prints a line for each, and only then fails.
fn assert_all_pass(folders: &[PathBuf], chunk: Option<usize>) {
    let mut failed = Vec::new();
    for folder in folders {
        let report = replay_cpu(folder, chunk);
        println!("{}", serde_json::to_string(&report).expect("JSON"));
        assert_eq!(report.tolerance, 1e-4, "{}", report.name);
        assert!(report.logits.is_some(), "{}: nothing compared", report.name);
        if !report.passed || !report.notes.is_empty() {
            failed.push(report);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_twin_matches_every_fixture() {
    assert_all_pass(&fixtures(|_| true), None);
}

#[test]
fn chunks_never_change_a_result() {
    // All but the one whose weights take seconds to generate.
    let folders = fixtures(|name| name != "m_realistic4");
    for chunk in [1, 7, 64] {
        assert_all_pass(&folders, Some(chunk));
    }
}
