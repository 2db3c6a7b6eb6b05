//! What a page or a worker calls: one class over [`Session`]. Owns the conversion between JavaScript
//! values and this crate's types, and nothing else; compiled for wasm32 only. Here is loading and
//! the memory; `web/` has the rest, a topic a file.
//!
//! Settings and results travel as JSON text with camelCase keys. Methods that write borrow the whole
//! model until their promise settles, so a second call before that throws wasm-bindgen's "recursive
//! use of an object": callers queue (the worker does).

mod bench;
mod constraint;
mod conversation;
mod files;
mod inspect;
mod prefixes;
mod probe;
mod self_test;
mod sha256;

use crate::chat::CivilDate;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions};
use crate::loaded::{Device, LoadedModel};
use crate::memory_file::MemoryFile;
use crate::model::LoadOptions;
use crate::nano;
use crate::session::{Session, SessionOptions};
use crate::shader::Storage;
use js_sys::{Float32Array, Function, JsString, Reflect, Uint8Array};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

/// Largest whole number that a JavaScript number keeps exact.
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;

/// What to call an imported memory in errors.
const IMPORTED: &str = "the imported memory";

/// What an exported method gives; the failure is an `Error` with `name` and `code`.
type JsResult<T> = std::result::Result<T, JsValue>;

/// What `load` can be told; what is not given is decided as in the native program.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WebLoadOptions {
    /// What to call the model.
    name: Option<String>,
    /// `f32`, `f16`, `q8` or `q4`
    weights: Option<String>,
    /// `f32` or `f16`
    kv: Option<String>,
    /// Tokens.
    context: Option<usize>,
    base_tier: bool,
    /// The system message.
    system: Option<String>,
    thinking: Option<bool>,
    /// `YYYY-MM-DD`; the local day if not given.
    date: Option<String>,
    /// The text of the adapter's configuration, for `inspect`, which gets no files.
    delta_config: Option<String>,
}

/// A loaded model and its conversation.
#[wasm_bindgen]
pub struct WebModel {
    session: Session,
}

/// Panics are bugs; the console then says where.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

#[wasm_bindgen]
impl WebModel {
    /// Loads a model from its files, by their names in a Hugging Face folder, in a Map or a plain
    /// object; those that are not bytes are read in pieces. `on_progress` gets (weights done, weights
    /// in all), `on_lost` the reason if the GPU device is lost, then or later.
    pub async fn load(
        #[wasm_bindgen(
            unchecked_param_type = "Map<string, Uint8Array | { readonly size: number; read(into: Uint8Array, offset: number): number }> | Record<string, Uint8Array | { readonly size: number; read(into: Uint8Array, offset: number): number }>"
        )]
        files: JsValue,
        options: String,
        #[wasm_bindgen(unchecked_param_type = "(done: number, total: number) => void")]
        on_progress: Function,
        #[wasm_bindgen(unchecked_optional_param_type = "(reason: string) => void")] on_lost: Option<
            Function,
        >,
    ) -> JsResult<WebModel> {
        let session = load(files, &options, &on_progress, on_lost).await.map_err(js_error)?;
        Ok(WebModel { session })
    }

    /// Name, identity, GPU and sizes, as JSON.
    pub fn info(&self) -> String {
        let model = self.session.model();
        let gpu = match &model.engine {
            Engine::Gpu(gpu) => gpu,
            Engine::Cpu(_) => return "{}".into(),
        };
        let (tier, options) = (gpu.gpu().tier, gpu.options());
        json!({
            "name": model.name,
            "identity": model.identity.as_ref().map(|identity| identity.digest()),
            "adapter": adapter_name(gpu.gpu()),
            "tier": {
                "subgroups": tier.subgroups,
                "f16": tier.f16,
                "software": tier.software,
                "maxBindingBytes": tier.max_binding_bytes,
                "maxBufferBytes": tier.max_buffer_bytes,
                "maxWorkgroups": tier.max_workgroups,
            },
            "contextWindow": self.context_window(),
            "weights": options.weights.name(),
            "kv": options.kv.name(),
            "notice": (model.name == nano::NAME).then_some(nano::NOTICE),
        })
        .to_string()
    }

    /// The memory as the bytes of a `.dmem` file; `now_ms` is Unix time.
    #[wasm_bindgen(js_name = exportMemory)]
    pub async fn export_memory(&mut self, now_ms: f64) -> JsResult<Uint8Array> {
        let file = self.session.memory(whole(now_ms)).await.map_err(js_error)?;
        let bytes = file.encode().map_err(js_error)?;
        Ok(Uint8Array::from(bytes.as_slice()))
    }

    /// Replaces the memory by the bytes of a `.dmem` file; after an error nothing has changed.
    #[wasm_bindgen(js_name = importMemory)]
    pub async fn import_memory(&mut self, bytes: Uint8Array) -> JsResult<()> {
        let bytes = copy(&bytes, IMPORTED).map_err(js_error)?;
        let file = MemoryFile::decode(&bytes, IMPORTED).map_err(js_error)?;
        self.session.set_memory(&file).await.map_err(js_error)
    }

    /// Empties the memory; the conversation stays.
    pub async fn forget(&mut self) -> JsResult<()> {
        self.session.forget().await.map_err(js_error)
    }

    /// Norms, counters and times of the memory as JSON; `now_ms` is Unix time.
    #[wasm_bindgen(js_name = memoryInfo)]
    pub async fn memory_info(&mut self, now_ms: f64) -> JsResult<String> {
        let file = self.session.memory(whole(now_ms)).await.map_err(js_error)?;
        let (state, header) = (&file.state, &file.header);
        let layers = state.dims.layers.iter().enumerate();
        let layers: Vec<Value> = layers
            .map(|(index, layer)| json!({ "layer": layer, "norm": state.layer_norm(index) }))
            .collect();
        let info = json!({
            "norm": state.norm(),
            "layers": layers,
            "counters": header.counters,
            "createdMs": header.created_ms,
            "updatedMs": header.updated_ms,
            "rank": state.dims.rank,
            "stateHeads": state.dims.num_state_heads,
        });
        Ok(camel_case(info).to_string())
    }

    /// The states, `[layers, H_s, r, r]` row-major.
    #[wasm_bindgen(js_name = memoryStates)]
    pub async fn memory_states(&self) -> JsResult<Float32Array> {
        let state = self.session.model().engine.read_memory().await.map_err(js_error)?;
        Ok(Float32Array::from(state.values.as_slice()))
    }

    /// Most tokens that fit into the context window.
    #[wasm_bindgen(js_name = contextWindow)]
    pub fn context_window(&self) -> usize {
        self.session.model().engine.context_window()
    }
}

/// The adapter's name or, as browsers hide that, its vendor and architecture.
fn adapter_name(gpu: &Gpu) -> String {
    if !gpu.info.name.is_empty() {
        return gpu.info.name.clone();
    }
    let get = |object: &JsValue, key: &str| Reflect::get(object, &key.into()).ok();
    let info = gpu.device.as_webgpu().and_then(|device| get(device.as_ref(), "adapterInfo"));
    let words = ["vendor", "architecture"].map(|key| get(info.as_ref()?, key)?.as_string());
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    match words.is_empty() {
        true => "unnamed".into(),
        false => words.join(" "),
    }
}

async fn load(
    files: JsValue,
    options: &str,
    on_progress: &Function,
    on_lost: Option<Function>,
) -> Result<Session> {
    let options: WebLoadOptions = parse(options)?;
    let session_options = SessionOptions {
        system: options.system,
        enable_thinking: options.thinking,
        date: match options.date {
            None => today(),
            Some(date) => date.parse().map_err(|reason| setting("date", reason))?,
        },
    };
    let defaults = LoadOptions::default();
    let load_options = LoadOptions {
        weights: storage("weights", options.weights, defaults.weights)?,
        kv: storage("kv", options.kv, defaults.kv)?,
        context_window: options.context,
        ..defaults
    };
    let (folder, adapter) = files::open(files, options.name)?;
    let gpu = Gpu::open(&GpuOptions { adapter: None, base_tier: options.base_tier }).await?;
    if let Some(on_lost) = on_lost {
        gpu.on_lost(move |reason| {
            // whoever throws while being told changes nothing about the loss
            let _ = on_lost.call1(&JsValue::UNDEFINED, &reason.into());
        });
    }
    let mut progress = |done: u64, total: u64| {
        // whoever throws while being told has no say in the loading
        let _ = on_progress.call2(
            &JsValue::UNDEFINED,
            &JsValue::from_f64(done as f64),
            &JsValue::from_f64(total as f64),
        );
    };
    let device = Device::Gpu(gpu);
    let model = LoadedModel::load(&folder, adapter.as_ref(), &device, &load_options, &mut progress);
    Session::new(model.await?, session_options).await
}

/// A file's bytes in this module's memory, which may be too small for them.
fn copy(array: &Uint8Array, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = array.length() as usize;
    if bytes.try_reserve_exact(length).is_err() {
        return Err(Error::Unsupported {
            what: format!("{name} with {length} bytes"),
            reason: "it does not fit into the memory of WebAssembly beside the other files".into(),
        });
    }
    bytes.resize(length, 0);
    array.copy_to(&mut bytes);
    Ok(bytes)
}

/// The same with every key as JavaScript writes it: `prev_tokens` becomes `prevTokens`.
fn camel_case(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().map(|(key, value)| (camel_case_key(&key), camel_case(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(camel_case).collect(),
        other => other,
    }
}

fn camel_case_key(key: &str) -> String {
    let mut words = key.split('_');
    let mut text = words.next().unwrap_or_default().to_string();
    for word in words {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}

fn parse<T: DeserializeOwned>(options: &str) -> Result<T> {
    serde_json::from_str(options).map_err(|e| setting("options", e.to_string()))
}

fn storage(setting_name: &'static str, given: Option<String>, default: Storage) -> Result<Storage> {
    let Some(given) = given else { return Ok(default) };
    let all = [Storage::F32, Storage::F16, Storage::Q8, Storage::Q4];
    all.into_iter()
        .find(|storage| storage.name() == given)
        .ok_or_else(|| setting(setting_name, format!("{given:?} is none of f32, f16, q8, q4")))
}

/// The local day.
fn today() -> CivilDate {
    let now = js_sys::Date::new_0();
    let (month, day) = (now.get_month() as u8 + 1, now.get_date() as u8);
    u16::try_from(now.get_full_year())
        .ok()
        .and_then(|year| CivilDate::new(year, month, day))
        .unwrap_or_else(|| CivilDate::from_unix_seconds((now.get_time() / 1000.0) as i64))
}

/// A JavaScript number as a count; what is below 0 or no number becomes 0.
fn whole(number: f64) -> u64 {
    (number as u64).min(MAX_EXACT as u64)
}

fn setting(name: &'static str, reason: String) -> Error {
    Error::Setting { name, reason }
}

/// An `Error` named `DeltamemError`, with the message and the stable `code`.
fn js_error(error: Error) -> JsValue {
    let object = js_sys::Error::new(&error.to_string());
    object.set_name("DeltamemError");
    // setting a property of an object just made cannot fail
    let _ = Reflect::set(&object, &JsString::from("code"), &error.code().into());
    object.into()
}
