//! The CPU twin against the recorded runs of the reference, and against itself when a prefill is
//! cut into chunks. `DELTAMEM_FIXTURES` may name another folder of fixtures.

mod common;

use common::{assert_all_pass, fixtures};
use deltamem::reference::Options;
use deltamem::replay::{Fixture, Labels, ReplayReport, replay};
use std::path::Path;

fn replay_cpu(folder: &Path, chunk: Option<usize>) -> ReplayReport {
    let fixture = Fixture::open(folder).expect("a fixture");
    let options = Options { chunk, ..Options::default() };
    let mut engine = fixture.cpu_engine(options).expect("an engine");
    let labels = Labels { adapter: "cpu".into(), weights: "f32".into(), kv: "f32".into(), chunk };
    let run = replay(&fixture.case, fixture.expected.as_ref(), &mut engine, labels);
    pollster::block_on(run).expect("a replay")
}

#[test]
fn the_twin_matches_every_fixture() {
    assert_all_pass(&fixtures(|_| true), |folder| replay_cpu(folder, None));
}

#[test]
fn chunks_never_change_a_result() {
    // All but the one whose weights take seconds to generate.
    let folders = fixtures(|name| name != "m_realistic4");
    for chunk in [1, 7, 64] {
        assert_all_pass(&folders, |folder| replay_cpu(folder, Some(chunk)));
    }
}
