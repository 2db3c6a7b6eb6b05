//! The shaders against the recorded runs of the reference.

mod common;

use common::{fixtures, gpu};
use deltamem::engine::{Call, Engine, Outputs, Wanted, WantedLogits};
use deltamem::gpu::Gpu;
use deltamem::model::LoadOptions;
use deltamem::reference;
use deltamem::replay::{Fixture, Labels, ReplayReport, relative_error, replay};
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

fn assert_all_pass(folders: &[PathBuf], gpu: &Gpu, options: &LoadOptions) {
    common::assert_all_pass(folders, |folder| pollster::block_on(replay_gpu(folder, gpu, options)));
}

#[test]
fn every_fixture_replays_within_tolerance() {
    let Some(gpu) = gpu(false) else { return };
    assert_all_pass(&fixtures(|_| true), &gpu, &exact(64));
}

/// One folder for each way to write: tokens, tokens in four heads on Qwen3's backbone, messages,
/// messages with everything else unusual, sentences.
const WRITE_MODES: [&str; 5] =
    ["c_msw4", "k_qwen3_tsw", "d2_ssw_edges", "i10_kitchen_sink", "s3_session_sentence_smollm3"];

#[test]
fn chunks_never_change_a_result() {
    let Some(gpu) = gpu(false) else { return };
    let folders = fixtures(|name| WRITE_MODES.contains(&name));
    assert_eq!(folders.len(), WRITE_MODES.len());
    // 64 is above; 512 holds every call whole
    for chunk in [1, 7, 512] {
        assert_all_pass(&folders, &gpu, &exact(chunk));
    }
}

#[test]
fn every_tier_replays_within_tolerance() {
    let (Some(full), Some(base)) = (gpu(false), gpu(true)) else { return };
    assert!(!base.tier.subgroups && !base.tier.f16);
    let folders = fixtures(|name| WRITE_MODES[1..4].contains(&name) || name == "o_untied_smollm3");
    // the workgroups of a real GPU, on whatever adapter this is
    let wide = |gpu: &Gpu| {
        let mut gpu = gpu.clone();
        gpu.tier.software = false;
        gpu
    };
    for gpu in [&base, &wide(&base), &wide(&full)] {
        assert_all_pass(&folders, gpu, &exact(64));
    }
}

/// Runs a prefill of the case's first tokens and a few decode steps; everything that comes out.
fn run(engine: &mut Engine, fixture: &Fixture) -> Vec<(String, Vec<f32>)> {
    let first = &fixture.case.steps[0];
    let n = first.input_ids.len();
    let mut results = Vec::new();
    for (index, range) in [0..n - 3, n - 3..n - 2, n - 2..n - 1, n - 1..n].into_iter().enumerate() {
        let ids = first.message_ids.as_ref().map(|ids| &ids[range.clone()]);
        let call = Call {
            tokens: &first.input_ids[range],
            message_ids: ids,
            sentence_ids: None,
            write_enabled: true,
        };
        let wanted = Wanted { logits: WantedLogits::All, intermediates: true, ..Wanted::default() };
        let outputs = pollster::block_on(engine.forward(&call, wanted)).expect("a call");
        let Outputs { logits, reads, hidden, .. } = outputs;
        results.push((format!("logits of call {index}"), logits));
        results.push((format!("reads of call {index}"), reads.concat()));
        results.push((format!("hidden states of call {index}"), hidden.concat()));
        let memory = pollster::block_on(engine.read_memory()).expect("a memory");
        results.push((format!("memory after call {index}"), memory.values));
    }
    results
}

#[test]
fn every_storage_agrees_with_the_twin_in_the_same_storage() {
    let (Some(full), Some(base)) = (gpu(false), gpu(true)) else { return };
    let mut failed = Vec::new();
    for folder in fixtures(|name| ["k_qwen3_tsw", "i10_kitchen_sink"].contains(&name)) {
        let fixture = Fixture::open(&folder).expect("a fixture");
        for weights in [Storage::F32, Storage::F16, Storage::Q8, Storage::Q4] {
            for kv in Storage::KV {
                if kv == Storage::Q8 && weights != Storage::F32 {
                    continue; // the cache knows nothing of the weights' storage
                }
                let options = reference::Options { weights, kv, ..reference::Options::default() };
                let mut twin = fixture.cpu_engine(options).expect("the twin");
                let expected = run(&mut twin, &fixture);
                // Both sides see the same rounded weights, so only the order of sums differs. A
                // key or value close to the middle of two f16 numbers may go either way, which is
                // 2^-10 of it; one between two quants of q8, a 127th of the head's largest.
                let tolerance = match kv {
                    Storage::Q8 => 1e-2,
                    Storage::F16 => 1e-3,
                    _ => 1e-4,
                };
                for gpu in [&full, &base] {
                    let options = LoadOptions { weights, kv, chunk: 16, ..exact(16) };
                    let engine = fixture.gpu_engine(gpu.clone(), options);
                    let mut engine = pollster::block_on(engine).expect("an engine");
                    let found = run(&mut engine, &fixture);
                    let mut worst = (0.0, String::new());
                    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                        let error = relative_error(found, expected);
                        if error >= worst.0 {
                            worst = (error, name.clone());
                        }
                    }
                    let name = &fixture.case.name;
                    let storage = format!("{name} {} kv {}", weights.name(), kv.name());
                    println!("{storage}: {:.1e} in {}", worst.0, worst.1);
                    if worst.0 >= tolerance {
                        failed.push((storage, worst));
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
