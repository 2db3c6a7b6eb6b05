//! A model's files as a page hands them over: by name, each as bytes or as something to read from.
//! Owns how JavaScript's bytes reach [`Blob`], a piece at a time, so that weights never pass as a
//! whole through the memory of WebAssembly.

use super::{MAX_EXACT, setting};
use crate::error::{Error, Result};
use crate::model_folder::{Adapter, BesideGguf, ModelFiles, ModelFolder};
use crate::weights::TensorSource;
use crate::weights::bytes::Blob;
use crate::weights::gguf::GgufSource;
use crate::weights::safetensors::{SafetensorsFile, SafetensorsShards};
use js_sys::{Array, Function, Map, Object, Reflect, Uint8Array};
use std::collections::BTreeMap;
use wasm_bindgen::prelude::*;

/// Bytes that pass through JavaScript at a time.
const PIECE_BYTES: u32 = 1 << 20;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER_CONFIG: &str = "delta_mem_config.json";
const ADAPTERS: [&str; 2] = ["delta_mem_adapter.safetensors", "delta_mem_adapter.pt"];

thread_local! {
    /// Where files are read into before the bytes are copied to where they belong.
    static PIECE: Uint8Array = Uint8Array::new_with_length(PIECE_BYTES);
}

/// The model and its adapter, if `delta_mem_config.json` is there, from a `Map` or an object of
/// `Uint8Array`s and `ByteFile`s by name. A file whose name ends in `.gguf` is the model, if there is
/// one.
pub(super) fn open(files: JsValue, name: Option<String>) -> Result<(ModelFolder, Option<Adapter>)> {
    let mut files = by_name(files)?;
    let text_names = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        ADAPTER_CONFIG,
        INDEX,
    ];
    let mut texts = BTreeMap::new();
    for name in text_names {
        if let Some(blob) = files.remove(name) {
            texts.insert(name, whole(&blob)?);
        }
    }
    let tokenizer_json = texts.remove("tokenizer.json");
    let name = name.unwrap_or_else(|| "model".into());
    let gguf = take_gguf(&mut files);
    let folder = if gguf.is_empty() {
        from_folder(name, tokenizer_json, &texts, &mut files)?
    } else {
        let beside = BesideGguf {
            tokenizer_json,
            generation_config: texts.remove("generation_config.json"),
            chat_template: texts.remove("chat_template.jinja"),
        };
        ModelFolder::from_gguf(name, GgufSource::from_blobs(gguf)?, beside)?
    };
    let Some(config) = texts.get(ADAPTER_CONFIG) else { return Ok((folder, None)) };
    let weights = ADAPTERS.iter().find_map(|name| files.remove(*name));
    let weights = weights.ok_or_else(|| missing(ADAPTERS[0]))?;
    let adapter = Adapter::from_blob(config, weights, &folder.config)?;
    Ok((folder, Some(adapter)))
}

/// The tensors of a GGUF file among the files.
pub(super) fn open_gguf(files: JsValue) -> Result<GgufSource> {
    match take_gguf(&mut by_name(files)?) {
        gguf if gguf.is_empty() => Err(missing("a GGUF file")),
        gguf => GgufSource::from_blobs(gguf),
    }
}

/// Takes the files whose names end in `.gguf` out, shards in the order of their names.
fn take_gguf(files: &mut BTreeMap<String, Blob>) -> Vec<Blob> {
    let (gguf, others) = std::mem::take(files)
        .into_iter()
        .partition(|(name, _)| name.to_ascii_lowercase().ends_with(".gguf"));
    *files = others;
    let gguf: BTreeMap<String, Blob> = gguf;
    gguf.into_values().collect()
}

/// The files of a Hugging Face folder.
fn from_folder(
    name: String,
    tokenizer_json: Option<Vec<u8>>,
    texts: &BTreeMap<&str, Vec<u8>>,
    files: &mut BTreeMap<String, Blob>,
) -> Result<ModelFolder> {
    let get = |name: &str| texts.get(name).map(Vec::as_slice);
    let model_files = ModelFiles {
        name,
        config: get("config.json").ok_or_else(|| missing("config.json"))?,
        generation_config: get("generation_config.json"),
        tokenizer_json,
        tokenizer_config: get("tokenizer_config.json"),
        chat_template: get("chat_template.jinja"),
    };
    ModelFolder::from_files(model_files, |_| tensors(files, get(INDEX)))
}

/// The single file or, as on disk, the shards that the index lists if there is no such file.
fn tensors(
    files: &mut BTreeMap<String, Blob>,
    index: Option<&[u8]>,
) -> Result<Box<dyn TensorSource + Send>> {
    let mut take = |name: &str| {
        let blob = files.remove(name).ok_or_else(|| missing(name))?;
        SafetensorsFile::from_blob(blob)
    };
    match (take(SINGLE), index) {
        (Err(Error::Setting { .. }), Some(index)) => {
            Ok(Box::new(SafetensorsShards::from_index(index, INDEX, take)?))
        }
        (single, _) => Ok(Box::new(single?)),
    }
}

fn missing(name: &str) -> Error {
    setting("files", format!("{name} is missing"))
}

/// All files, read whole into this module's memory: for small ones.
pub(super) fn whole_by_name(files: JsValue) -> Result<BTreeMap<String, Vec<u8>>> {
    let files = by_name(files)?.into_iter();
    files.map(|(name, blob)| Ok((name, whole(&blob)?))).collect()
}

/// All bytes of a small file.
fn whole(blob: &Blob) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = usize::try_from(blob.len()).unwrap_or(usize::MAX);
    if bytes.try_reserve_exact(length).is_err() {
        return Err(Error::Unsupported {
            what: format!("{} with {length} bytes", blob.label()),
            reason: "it does not fit into the memory of WebAssembly".into(),
        });
    }
    bytes.resize(length, 0);
    blob.read(0, &mut bytes)?;
    Ok(bytes)
}

fn by_name(files: JsValue) -> Result<BTreeMap<String, Blob>> {
    let refuse = |reason: &str| setting("files", reason.into());
    let entries = match files.dyn_ref::<Map>() {
        Some(map) => Array::from(map),
        None if files.is_object() => Object::entries(files.unchecked_ref()),
        None => return Err(refuse("expected a Map or an object of files by name")),
    };
    let mut by_name = BTreeMap::new();
    for entry in entries.iter() {
        let entry = Array::from(&entry);
        let name = entry.get(0).as_string().ok_or_else(|| refuse("a name is not a string"))?;
        let blob = match entry.get(1).dyn_into::<Uint8Array>() {
            Ok(array) => bytes_blob(array, &name),
            Err(file) => file_blob(file, &name)?,
        };
        by_name.insert(name, blob);
    }
    Ok(by_name)
}

/// Bytes that stay where JavaScript has them.
fn bytes_blob(array: Uint8Array, name: &str) -> Blob {
    let len = u64::from(array.length());
    let reader = move |offset: u64, out: &mut [u8]| {
        // `Blob` checks that the range lies inside the array
        let (from, to) = (offset as u32, offset as u32 + out.len() as u32);
        if to > array.length() {
            return Ok(0); // its buffer was handed to somebody else meanwhile
        }
        array.subarray(from, to).copy_to(out);
        Ok(out.len())
    };
    Blob::from_reader(len, name, Box::new(reader))
}

/// A `ByteFile`: `{ size, read(into, offset) }`.
fn file_blob(file: JsValue, name: &str) -> Result<Blob> {
    let get = |key: &str| Reflect::get(&file, &key.into()).unwrap_or(JsValue::UNDEFINED);
    let size = get("size").as_f64().filter(|size| (0.0..=MAX_EXACT).contains(size));
    let (Some(size), Ok(read)) = (size, get("read").dyn_into::<Function>()) else {
        let reason = format!("{name} is neither a Uint8Array nor a file with `size` and `read`");
        return Err(setting("files", reason));
    };
    let label = name.to_string();
    let reader = move |offset: u64, out: &mut [u8]| {
        let n_wanted = out.len().min(PIECE_BYTES as usize);
        PIECE.with(|piece| {
            let into = piece.subarray(0, n_wanted as u32);
            let n_read = read
                .call2(&file, &into, &JsValue::from_f64(offset as f64))
                .map_err(|thrown| unreadable(&label, &thrown))?;
            // what is no count of at most this many bytes makes the file end here
            let n_read = n_read.as_f64().map_or(0, |n| n as usize);
            if n_read > n_wanted {
                return Ok(0);
            }
            into.subarray(0, n_read as u32).copy_to(&mut out[..n_read]);
            Ok(n_read)
        })
    };
    Ok(Blob::from_reader(size as u64, name, Box::new(reader)))
}

/// What a page's file threw while it was read.
fn unreadable(name: &str, thrown: &JsValue) -> Error {
    let text = match thrown.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.to_string()),
        None => format!("{thrown:?}"),
    };
    Error::io(name)(std::io::Error::other(text))
}
