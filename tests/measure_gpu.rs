//! `scripts/measure-gpu`, on the CPU twin: what it runs and keeps, the report, and its exit status.
//! Unix only, and it needs Python 3, as the script does.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

fn measure(out: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/measure-gpu");
    let mut command = Command::new("python3");
    command.arg(script).args(["--bin", env!("CARGO_BIN_EXE_deltamem"), "--cpu", "--models", "S"]);
    command.args(["--prefill", "8", "--contexts", "8", "--decode", "2", "--runs", "1"]);
    command.arg("--out").arg(out).args(arguments).env("HOME", out).env("XDG_CACHE_HOME", out);
    command.output().expect("python3")
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_report_has_replays_speeds_and_aims() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixtures = fixture("c_msw4");
    let done = measure(folder.path(), &["--tiers", "full", "--fixtures", &fixtures]);
    assert!(done.status.success(), "{done:?}");
    let printed = String::from_utf8(done.stdout).expect("text");
    let kept = std::fs::read_to_string(folder.path().join("report.md")).expect("a report");
    assert_eq!(printed, kept);
    assert!(kept.contains("full tier: 1 of 1 recorded runs agree.\n"), "{kept}");
    let row = |start: &str| {
        let line = kept.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("{start} in {kept}"));
        line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    for start in ["| prefill 8 |", "| decode at 8 |"] {
        let cells = row(start);
        for speed in [&cells[2], &cells[4]] {
            assert!(speed.parse::<f64>().expect("a number") > 0.0, "{cells:?}");
        }
    }
    // of 128 and 512 nothing was measured
    assert_eq!(row("| TSW to off, decode at 128 |")[2..5], ["≥ 0.98", "–", "not measured"]);
    let bench = std::fs::read(folder.path().join("bench-S-full.json")).expect("a file");
    let bench: serde_json::Value = serde_json::from_slice(&bench).expect("JSON");
    assert_eq!((&bench["adapter"], &bench["runs"]), (&"cpu".into(), &1.into()));
}

#[test]
fn what_fails_is_in_the_report_and_the_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = fixture("there-is-none");
    let done = measure(folder.path(), &["--tiers", "full", "--fixtures", &missing]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let report = String::from_utf8(done.stdout).expect("text");
    assert!(report.contains("**Failed:** replay-full ended with status"), "{report}");
    assert!(report.contains("| prefill 8 |"), "the rest is measured: {report}");
    let refused = measure(folder.path(), &["--tiers", "best"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no tier best: full, base"));
}
