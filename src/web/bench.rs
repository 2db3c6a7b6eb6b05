//! Measuring in a page: the same as `deltamem bench`, with the same JSON. Owns the options, and how a
//! peer in JavaScript is asked.

use super::{JsResult, adapter_name, files, js_error, parse, setting, storage};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions};
use crate::loaded::{Device, quantisation};
use crate::measure::peer::{PeerRun, PeerTime};
use crate::measure::{About, Peer, PeerAbout, Settings, Subject, WriteMode, measure};
use crate::model::LoadOptions;
use crate::weights::TensorSource;
use js_sys::{Function, Promise, Reflect};
use serde::Deserialize;
use serde_json::Value;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
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
/// `peer` is another engine, which runs in the same rounds. Resolves to the report as JSON.
#[wasm_bindgen]
pub async fn bench(
    #[wasm_bindgen(unchecked_param_type = "Map<string, Uint8Array> | Record<string, Uint8Array>")]
    files: JsValue,
    options: String,
    #[wasm_bindgen(unchecked_param_type = "(what: string) => void")] on_progress: Function,
    #[wasm_bindgen(
        unchecked_optional_param_type = "{ about: { name: string; version: string; engine: string }; prefill(n: number): Promise<number>; decode(n: number, context: number): Promise<number> }"
    )]
    peer: JsValue,
) -> JsResult<String> {
    Ok(run(files, &options, &on_progress, peer).await.map_err(js_error)?.to_string())
}

async fn run(
    files: JsValue,
    options: &str,
    on_progress: &Function,
    peer: JsValue,
) -> Result<Value> {
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
    let mut peer = match peer.is_undefined() {
        true => None,
        false => Some(JsPeer::new(peer)?),
    };
    let peer = peer.as_mut().map(|peer| peer as &mut dyn Peer);
    let device = Device::Gpu(gpu);
    let mut report = measure(&subject, &device, &load, &settings, peer, &mut tell).await?;
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

/// An object with `about`, `prefill(n)` and `decode(n, context)`; both resolve to seconds.
struct JsPeer {
    about: PeerAbout,
    object: JsValue,
}

impl JsPeer {
    fn new(object: JsValue) -> Result<JsPeer> {
        let text = |key: &str| {
            let about = Reflect::get(&object, &"about".into()).ok()?;
            Reflect::get(&about, &key.into()).ok()?.as_string()
        };
        let about = || {
            Some(PeerAbout {
                name: text("name")?,
                version: text("version")?,
                engine: text("engine")?,
            })
        };
        let reason = "about.name, about.version and about.engine must be texts";
        let about = about().ok_or_else(|| setting("peer", reason.into()))?;
        Ok(JsPeer { about, object })
    }

    async fn ask(&self, method: &str, numbers: [usize; 2]) -> Result<PeerTime> {
        let failed = |error: JsValue| Error::Peer {
            name: self.about.name.clone(),
            reason: format!("{method}: {}", text_of(&error)),
        };
        let function = Reflect::get(&self.object, &method.into()).map_err(failed)?;
        let function: Function =
            function.dyn_into().map_err(|_| failed("is no function".into()))?;
        let [n, context] = numbers.map(|number| JsValue::from_f64(number as f64));
        let answer = function.call2(&self.object, &n, &context).map_err(failed)?;
        let seconds = JsFuture::from(Promise::resolve(&answer)).await.map_err(failed)?;
        let seconds = seconds.as_f64();
        let seconds = seconds.ok_or_else(|| failed("did not resolve to a number".into()))?;
        Ok(PeerTime { seconds, cpu_seconds: None })
    }
}

impl Peer for JsPeer {
    fn about(&self) -> &PeerAbout {
        &self.about
    }

    fn prefill(&mut self, n: usize) -> PeerRun<'_> {
        Box::pin(self.ask("prefill", [n, 0]))
    }

    fn decode(&mut self, context: usize, n: usize) -> PeerRun<'_> {
        Box::pin(self.ask("decode", [n, context]))
    }
}

/// What was thrown, as a text.
fn text_of(error: &JsValue) -> String {
    let message = error.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message()));
    message.or_else(|| error.as_string()).unwrap_or_else(|| "failed".into())
}
