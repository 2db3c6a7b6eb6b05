//! The shaders against the recorded runs of the reference.

mod common;

use common::{fixtures, gpu};
use deltamem::gpu::Gpu;
use deltamem::model::LoadOptions;
use deltamem::replay::{Fixture, Labels, ReplayReport, replay};
use deltamem::shader::Storage;
use std::path::{Path, PathBuf};

async fn replay_gpu(folder: &Path, gpu: &Gpu, options: &LoadOptions) -> ReplayReport {
    let fixture = Fixture::open(folder).expect("a fixture");
    let engine = fixture.gpu_engine(gpu.clone(), options.clone()).await;
    let labels = Labels {
        adapter: gpu.info.name.clone(),
        weights: options.weights.name().into(),
        kv: options.kv.name().into(),
        chunk: Some(options.chunk),
    };
    let mut engine = engine.expect("an engine");
    let run = replay(&fixture.case, fixture.expected.as_ref(), &mut engine, labels);
    run.await.expect("a replay")
}

fn exact(chunk: usize) -> LoadOptions {
    LoadOptions {
        weights: Storage::F32,
        kv: Storage::F32,
        chunk,
        logits_rows: chunk,
        ..LoadOptions::default()
    }
}

/// Replays all, prints a line for each, and only then fails.
fn assert_all_pass(folders: &[PathBuf], gpu: &Gpu, options: &LoadOptions) {
    let mut failed = Vec::new();
    for folder in folders {
        let report = pollster::block_on(replay_gpu(folder, gpu, options));
        println!("{}", serde_json::to_string(&report).expect("JSON"));
        assert_eq!(report.tolerance, 1e-4, "{}", report.name);
        assert!(report.logits.is_some(), "{}: nothing compared", report.name);
        if !report.passed {
            failed.push(report);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_fixture_replays_within_tolerance() {
    let Some(gpu) = gpu(false) else { return };
    assert_all_pass(&fixtures(|_| true), &gpu, &exact(64));
}
