//! "Check this GPU": a recorded run of the reference, replayed in a page. Owns the options and the
//! short report; the comparison is `replay`'s, as in `deltamem replay`.

use super::files::whole_by_name;
use super::{JsResult, adapter_name, js_error, parse, storage};
use crate::error::Result;
use crate::gpu::{Gpu, GpuOptions};
use crate::loaded::Device;
use crate::model::{DEFAULT_CHUNK, LoadOptions};
use crate::replay::{Fixture, FixtureFiles, Labels, ReplayReport, Worst};
use crate::shader::Storage;
use serde::Deserialize;
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;
use web_time::Instant;

/// What a test can be told.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SelfTestOptions {
    /// `f32` if not given; only with it, and such keys, is the outcome judged.
    weights: Option<String>,
    /// `f32` if not given.
    kv: Option<String>,
    base_tier: bool,
}

/// Replays a parity case on this GPU. `files` are those of its folder, by name. Resolves to the
/// report as JSON; wrong results are no rejection.
#[wasm_bindgen(js_name = selfTest)]
pub async fn self_test(
    #[wasm_bindgen(unchecked_param_type = "Map<string, Uint8Array> | Record<string, Uint8Array>")]
    files: JsValue,
    options: String,
) -> JsResult<String> {
    Ok(test(files, &options).await.map_err(js_error)?.to_string())
}

async fn test(files: JsValue, options: &str) -> Result<Value> {
    let begin = Instant::now();
    let options: SelfTestOptions = parse(options)?;
    let weights = storage("weights", options.weights, Storage::F32)?;
    let kv = storage("kv", options.kv, Storage::F32)?;
    let is_exact = weights == Storage::F32 && kv == Storage::F32;
    let fixture = Fixture::from_files(FixtureFiles::Memory(whole_by_name(files)?))?;
    let gpu = Gpu::open(&GpuOptions { adapter: None, base_tier: options.base_tier }).await?;
    let adapter = adapter_name(&gpu);
    let has_f16 = gpu.tier.f16;
    let chunk = DEFAULT_CHUNK.min(fixture.case.context_window());
    let load = LoadOptions { weights, kv, chunk, logits_rows: chunk, context_window: None };
    let report = fixture.replay(&Device::Gpu(gpu), &load, Labels::default(), is_exact).await?;

    let session = report.session.as_ref().and_then(|session| session.state.as_ref());
    Ok(json!({
        "name": report.name,
        "adapter": adapter,
        "hasF16": has_f16,
        "passed": is_exact.then_some(report.passed),
        "logitsError": worst([report.logits.as_ref(), None]),
        "readsError": worst([report.reads.as_ref(), None]),
        "statesError": worst([report.state.as_ref(), session]),
        "greedyTokens": report.greedy_tokens,
        "greedyMatching": report.greedy_matching,
        "seconds": begin.elapsed().as_secs_f64(),
        "reason": (is_exact && !report.passed).then(|| reason(&report)),
    }))
}

/// The largest error; 0 if nothing was recorded, null in JSON if something is not finite.
fn worst(kinds: [Option<&Worst>; 2]) -> f64 {
    kinds.into_iter().flatten().map(|worst| worst.error).fold(0.0, f64::max)
}

/// Everything that fell short, in one line.
fn reason(report: &ReplayReport) -> String {
    let mut parts = Vec::new();
    let session = report.session.as_ref();
    let kinds = [&report.logits, &report.state, &report.reads, &report.hidden];
    let state = session.and_then(|session| session.state.as_ref());
    for worst in kinds.into_iter().flatten().chain(state) {
        if worst.error >= report.tolerance {
            let Worst { error, tensor } = worst;
            parts.push(format!("{tensor} is off by {error:.1e} of its largest value"));
        }
    }
    parts.extend_from_slice(&report.argmax_failures);
    if report.greedy_matching < report.greedy_tokens {
        parts.push(format!("greedy tokens {}", report.greedy));
    }
    parts.extend(session.into_iter().flat_map(|session| session.failures.iter().cloned()));
    parts.join("; ")
}
