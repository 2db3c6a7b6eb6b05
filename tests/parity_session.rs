//! Session folders through the turn loop, on the shaders and on the CPU twin: prompt, ingest
//! counts, generated ids and the memory after every ingest are the reference's.

mod common;

use common::{fixtures, gpu};
use deltamem::loaded::Device;
use deltamem::model::LoadOptions;
use deltamem::replay::Fixture;
use deltamem::shader::Storage;

fn play_all(device: &Device) {
    let options = LoadOptions { weights: Storage::F32, kv: Storage::F32, ..LoadOptions::default() };
    let mut failed = Vec::new();
    let mut deviations = 0;
    for folder in fixtures(|name| name.contains("session")) {
        let fixture = Fixture::open(&folder).expect("a fixture");
        let report = pollster::block_on(fixture.replay_session(device, &options));
        let report = report.expect("a replay").expect("a session folder");
        println!("{}: {}", fixture.case.name, serde_json::to_string(&report).expect("JSON"));
        assert!(report.turns >= 2 && report.state.is_some(), "{}", fixture.case.name);
        deviations += report.deviations.len();
        if !report.passed {
            failed.push((fixture.case.name, report));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(deviations > 0, "one folder has a rebuild, which we do otherwise");
}

#[test]
fn sessions_play_as_recorded_on_the_twin() {
    play_all(&Device::Cpu);
}

#[test]
fn sessions_play_as_recorded_on_the_gpu() {
    if let Some(gpu) = gpu(false) {
        play_all(&Device::Gpu(gpu));
    }
}
