//! Measuring in a page: the same as `deltamem bench`, with the same JSON. Owns the options.

use super::{JsResult, adapter_name, files, js_error, parse, setting, storage};
use crate::error::Result;
use crate::gpu::{Gpu, GpuOptions};
use crate::loaded::{Device, quantisation};
use crate::measure::{About, Settings, Subject, WriteMode, measure};
use crate::model::LoadOptions;
use crate::weights::TensorSource;
use js_sys::Function;
use serde::Deserialize;
use serde_json::Value;
use wasm_bindgen::prelude::*;
use web_time::Duration;

/// What a measurement can be told; what is not given is as in the native program, but for its budget.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BenchOptions {
    /// What to call the model.
    name: Option<String>,
    /// `f32`, `f16`, `q8` or `q4`; not for a GGUF file.
    weights: Option<String>,
    /// `f32` or `f16`
    kv: Option<String>,
    /// Tokens that are read together.
    chunk: Option<usize>,
    base_tier: bool,
    /// Tokens of the prompts.
    prefill: Option<Vec<usize>>,
    /// Tokens in the context before decoding.
    contexts: Option<Vec<usize>>,
    decode_tokens: Option<usize>,
    runs: Option<usize>,
    budget_seconds: Option<u32>,
    /// `off`, `tsw`, `msw`, `ssw`
    delta: Option<Vec<String>>,
}

/// Of models side by side: a page says nothing about its GPU's memory.
const MAX_LOADED_BYTES: u64 = 4 << 30;

/// Measures a model, given as its files by name, on this GPU. `on_progress` hears what is being done.
/// Resolves to the report as JSON.
#[wasm_bindgen]
pub async fn bench(
    #[wasm_bindgen(unchecked_param_type = "Map<string, Uint8Array> | Record<string, Uint8Array>")]
    files: JsValue,
    options: String,
    #[wasm_bindgen(unchecked_param_type = "(what: string) => void")] on_progress: Function,
) -> JsResult<String> {
    Ok(run(files, &options, &on_progress).await.map_err(js_error)?.to_string())
}

async fn run(files: JsValue, options: &str, on_progress: &Function) -> Result<Value> {
    let options: BenchOptions = parse(options)?;
    let defaults = LoadOptions::default();
    let load = LoadOptions {
        weights: storage("weights", options.weights, defaults.weights)?,
        kv: storage("kv", options.kv, defaults.kv)?,
        chunk: options.chunk.unwrap_or(defaults.chunk),
        ..defaults
    };
    let modes = match options.delta {
        None => WriteMode::ALL.to_vec(),
        Some(names) => names.iter().map(|name| mode(name)).collect::<Result<_>>()?,
    };
    let settings = Settings {
        modes,
        prefill: options.prefill.unwrap_or_else(|| vec![128, 512, 4096]),
        contexts: options.contexts.unwrap_or_else(|| vec![128, 4096, 16384]),
        decode_tokens: options.decode_tokens.unwrap_or(16),
        runs: options.runs.unwrap_or(3),
        budget: Duration::from_secs(options.budget_seconds.unwrap_or(60).into()),
        max_loaded_bytes: MAX_LOADED_BYTES,
        only_load: false,
    };
    let (folder, adapter) = files::open(files, options.name)?;
    let gpu = Gpu::open(&GpuOptions { adapter: None, base_tier: options.base_tier }).await?;
    let name = adapter_name(&gpu);
    let subject = Subject {
        config: &folder.config,
        tensors: folder.tensors.as_ref(),
        adapter: adapter.as_ref().map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource)),
    };
    let mut tell = |what: &str| {
        // whoever throws while being told has no say in the measuring
        let _ = on_progress.call1(&JsValue::UNDEFINED, &what.into());
    };
    let mut report = measure(&subject, &Device::Gpu(gpu), &load, &settings, &mut tell).await?;
    // browsers hide what wgpu asks for
    report.adapter = name;
    let about = About {
        model: folder.name.clone(),
        weights: quantisation(&folder, load.weights),
        given_adapter: adapter.as_ref().map(|adapter| WriteMode::of(&adapter.config)),
        base_tier: options.base_tier,
    };
    Ok(report.with(about))
}

fn mode(name: &str) -> Result<WriteMode> {
    let unknown = || setting("delta", format!("{name:?} is none of off, tsw, msw, ssw"));
    WriteMode::from_name(name).ok_or_else(unknown)
}
