//! What a model would take on this page's GPU, told from its configuration alone.

use super::files;
use super::{JsResult, WebLoadOptions, js_error, parse, storage};
use crate::config::{DeltaConfig, ModelConfig};
use crate::error::Result;
use crate::footprint::{Fit, Footprint, Layout, fit, largest_buffer_bytes};
use crate::gpu::{Gpu, GpuOptions, Tier};
use crate::model::{LoadOptions, context_window};
use crate::weights::TensorSource;
use crate::weights::gguf::{GgufSource, config_json};
use js_sys::Reflect;
use serde_json::json;
use wasm_bindgen::prelude::*;

/// Reckons a model from its `config.json` (and `options.deltaConfig`, the text of its adapter's
/// `delta_mem_config.json`) against this GPU; resolves to a `Footprint` as JSON. The other options
/// are those of `WebModel.load`.
#[wasm_bindgen]
pub async fn inspect(config: String, options: String) -> JsResult<String> {
    let report = async || {
        let config = ModelConfig::from_json(config.as_bytes(), "config.json")?;
        report(&config, None, &options).await
    };
    report().await.map_err(js_error)
}

/// The same of a GGUF file, or of all its shards: a `Map` or an object as `WebModel.load` takes it. Only
/// what stands in front of the tensors is read.
#[wasm_bindgen]
pub async fn inspect_gguf(files: JsValue, options: String) -> JsResult<String> {
    let report = async || {
        let source = files::open_gguf(files)?;
        let config = ModelConfig::from_json(&config_json(&source)?, source.label())?;
        report(&config, Some(&source), &options).await
    };
    report().await.map_err(js_error)
}

async fn report(
    config: &ModelConfig,
    source: Option<&GgufSource>,
    options: &str,
) -> Result<String> {
    let options: WebLoadOptions = parse(options)?;
    let defaults = LoadOptions::default();
    let delta = match &options.delta_config {
        None => None,
        Some(text) => Some(DeltaConfig::from_json(text.as_bytes(), "delta_mem_config.json")?),
    };
    let tier = Gpu::probe(&GpuOptions { adapter: None, base_tier: options.base_tier }).await?;
    let layout = Layout {
        weights: storage("weights", options.weights, defaults.weights)?,
        kv: storage("kv", options.kv, defaults.kv)?,
        context_window: context_window(config, options.context)?,
        chunk: defaults.chunk,
        software: tier.software,
    };
    let print = match source {
        None => Footprint::new(config, delta.as_ref(), &layout)?,
        Some(source) => Footprint::of_source(config, delta.as_ref(), &layout, source)?,
    };
    // Where the browser tells that there is little main memory, the GPU shares it.
    let sharing = Tier { software: true, ..tier };
    let verdict = fit(&print, config, &layout, Some(&sharing), device_memory_bytes());
    let reason = match verdict {
        Fit::Yes | Fit::IfMemory => None,
        Fit::BufferTooLarge { needed, limit } => Some(format!(
            "it needs one buffer of {}, this GPU allows {}; try a smaller context or kv f16",
            megabytes(needed),
            megabytes(limit)
        )),
        Fit::HostTooSmall { needed, available } => Some(format!(
            "it needs {}, this computer has {} of memory; try weights q4, a smaller context or a \
             smaller model",
            megabytes(needed),
            megabytes(available)
        )),
    };
    let limit = tier.max_binding_bytes.min(tier.max_buffer_bytes);
    let footprint = json!({
        "weightBytes": print.weights,
        "kvBytes": print.kv,
        "otherBytes": print.adapter + print.state + print.activations,
        "largestBufferBytes": largest_buffer_bytes(config, &layout, limit),
        "maxBufferBytes": tier.max_buffer_bytes,
        "maxBindingBytes": tier.max_binding_bytes,
        "parameters": config.n_parameters(),
        "contextWindow": layout.context_window,
        "weights": source.map_or(layout.weights.name(), |_| "GGUF"),
        "kv": layout.kv.name(),
        "fits": reason.is_none(),
        "reason": reason,
    });
    Ok(footprint.to_string())
}

/// The computer's memory, where the browser tells it. Browsers round it and stop counting at 8 GiB
/// or more, so that much says nothing.
fn device_memory_bytes() -> Option<u64> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).ok()?;
    let gibibytes = Reflect::get(&navigator, &"deviceMemory".into()).ok()?.as_f64()?;
    (gibibytes < 8.0).then_some((gibibytes * f64::from(1 << 30)) as u64)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}
