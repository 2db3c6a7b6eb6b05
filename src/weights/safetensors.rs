//! Weights from safetensors files, one or several. Owns the header (checked here, so that a large
//! file is never read whole) and the shard index; source:
//! <https://github.com/huggingface/safetensors#format>.

use super::bytes::{Blob, Stored};
use super::{DType, TensorInfo, TensorSource};
use crate::error::{Error, Result};
use safetensors::Dtype as StoredType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

/// Longest header accepted, the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors in a header. Large models have some thousands.
const MAX_TENSORS: usize = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// Longest `model.safetensors.index.json` accepted.
pub(crate) const MAX_INDEX_BYTES: u64 = 32 << 20;
/// Most shards of a model.
const MAX_SHARDS: usize = 1 << 12;

const FORMAT: &str = "safetensors file";

/// One safetensors file, on disk or in memory.
pub struct SafetensorsFile {
    blob: Blob,
    tensors: BTreeMap<String, Entry>,
}

enum Entry {
    Readable(Stored),
    /// Integers, 8-bit floats and so on; refused only when somebody asks for the tensor.
    Other(StoredType),
}

impl SafetensorsFile {
    /// Reads and checks the header of a file; tensors are read when asked for.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Format`] for a file that is not valid safetensors.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        SafetensorsFile::from_blob(Blob::open(path.as_ref())?)
    }

    /// A file that is in memory already. `label` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are not valid safetensors.
    pub fn from_bytes(
        bytes: impl Into<Cow<'static, [u8]>>,
        label: impl Into<String>,
    ) -> Result<SafetensorsFile> {
        SafetensorsFile::from_blob(Blob::from_bytes(bytes, label))
    }

    /// A file whose bytes lie anywhere; only its header is read.
    ///
    /// # Errors
    /// As [`SafetensorsFile::from_bytes`], and what reading gives.
    pub fn from_blob(blob: Blob) -> Result<SafetensorsFile> {
        let bad = |reason: String| Error::format(blob.label(), FORMAT, reason);
        let mut len = [0; 8];
        if blob.len() < 8 {
            return Err(bad(format!("{} bytes, too short for a header", blob.len())));
        }
        blob.read(0, &mut len)?;
        let len = u64::from_le_bytes(len);
        if len > MAX_HEADER_BYTES || len > blob.len() - 8 {
            return Err(bad(format!("header of {len} bytes in a file of {}", blob.len())));
        }
        let header = blob.read_vec(8, len as usize)?;
        let Header(entries) =
            serde_json::from_slice(&header).map_err(|e| bad(format!("header: {e}")))?;
        drop(header);
        check_layout(&entries, blob.len() - 8 - len).map_err(bad)?;
        let stored = |entry: HeaderEntry| {
            let dtype = match entry.dtype {
                StoredType::F32 => DType::F32,
                StoredType::F16 => DType::F16,
                StoredType::BF16 => DType::BF16,
                other => return Entry::Other(other),
            };
            Entry::Readable(Stored {
                info: TensorInfo { dtype, shape: entry.shape.0 },
                offset: 8 + len + entry.data_offsets.0,
            })
        };
        Ok(SafetensorsFile {
            tensors: entries.into_iter().map(|(n, e)| (n, stored(e))).collect(),
            blob,
        })
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        match self.tensors.get(name) {
            Some(Entry::Readable(stored)) => Ok(stored),
            Some(Entry::Other(dtype)) => Err(Error::Unsupported {
                what: format!("{}: tensor `{name}` of type {dtype}", self.blob.label()),
                reason: "weights are read from F32, F16 and BF16".into(),
            }),
            None => Err(Error::MissingTensor { file: self.blob.label().into(), name: name.into() }),
        }
    }
}

impl TensorSource for SafetensorsFile {
    fn label(&self) -> &str {
        self.blob.label()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.stored(name).ok().map(|stored| &stored.info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.blob.read_f32(self.stored(name)?, start, out)
    }

    /// As the default, but a tensor of another type is [`Error::Unsupported`], not missing.
    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = &self.stored(name)?.info.shape;
        if found == shape {
            return Ok(());
        }
        Err(Error::TensorShape {
            file: self.label().into(),
            name: name.into(),
            expected: shape.to_vec(),
            found: found.clone(),
        })
    }

    fn read_all(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let mut out = vec![0.0; stored.info.n_elements()];
        self.blob.read_f32(stored, 0, &mut out)?;
        Ok(out)
    }
}

/// A model's weights in one or several safetensors files.
pub struct SafetensorsShards {
    label: String,
    files: Vec<SafetensorsFile>,
    /// Tensor name → index into `files`.
    owners: BTreeMap<String, usize>,
}

impl SafetensorsShards {
    /// Opens `model.safetensors` of a folder, or the shards that `model.safetensors.index.json`
    /// lists.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] for an invalid file, index or shard name,
    /// [`Error::MissingTensor`] if a shard lacks a tensor that the index promises.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: impl AsRef<Path>) -> Result<SafetensorsShards> {
        let folder = folder.as_ref();
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() || !index.exists() {
            let file = SafetensorsFile::open(&single)?;
            return SafetensorsShards::new(folder.display().to_string(), vec![file]);
        }
        let json = super::bytes::read_bounded(&index, MAX_INDEX_BYTES)?;
        SafetensorsShards::from_index(&json, &index.display().to_string(), |shard| {
            SafetensorsFile::open(folder.join(shard))
        })
    }

    /// The shards that an index lists. `open` gets the plain file name of each, once.
    ///
    /// # Errors
    /// As [`SafetensorsShards::open`].
    pub fn from_index(
        index: &[u8],
        label: &str,
        mut open: impl FnMut(&str) -> Result<SafetensorsFile>,
    ) -> Result<SafetensorsShards> {
        let bad = |reason: String| Error::format(label, "safetensors index", reason);
        if index.len() as u64 > MAX_INDEX_BYTES {
            return Err(bad(format!("{} bytes are too many", index.len())));
        }
        let Index { weight_map } = serde_json::from_slice(index).map_err(|e| bad(e.to_string()))?;
        let mut shards: Vec<&str> = weight_map.0.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > MAX_SHARDS {
            return Err(bad(format!("{} shards are too many", shards.len())));
        }
        if let Some(name) = shards.iter().find(|name| !is_plain_file_name(name)) {
            return Err(bad(format!("shard {name:?} is not the name of a file beside the index")));
        }
        let mut files = Vec::with_capacity(shards.len());
        for shard in &shards {
            files.push(open(shard)?);
        }
        for (name, shard) in &weight_map.0 {
            // Every shard of the map is in the list, by construction.
            let file = &files[shards.partition_point(|s| *s < shard.as_str())];
            if !file.tensors.contains_key(name) {
                return Err(Error::MissingTensor { file: file.label().into(), name: name.clone() });
            }
        }
        SafetensorsShards::new(label.into(), files)
    }

    fn new(label: String, files: Vec<SafetensorsFile>) -> Result<SafetensorsShards> {
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if let Some(first) = owners.insert(name.clone(), i) {
                    return Err(Error::format(
                        file.label(),
                        FORMAT,
                        format!("tensor `{name}` is in {} too", files[first].label()),
                    ));
                }
            }
        }
        Ok(SafetensorsShards { label, files, owners })
    }

    fn owner(&self, name: &str) -> Result<&SafetensorsFile> {
        match self.owners.get(name) {
            Some(&i) => Ok(&self.files[i]),
            None => Err(Error::MissingTensor { file: self.label.clone(), name: name.into() }),
        }
    }
}

impl TensorSource for SafetensorsShards {
    fn label(&self) -> &str {
        &self.label
    }

    fn names(&self) -> Vec<&str> {
        self.owners.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.owner(name).ok()?.info(name)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.owner(name)?.read_f32(name, start, out)
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.owner(name)?.check_shape(name, shape)
    }

    fn read_all(&self, name: &str) -> Result<Vec<f32>> {
        self.owner(name)?.read_all(name)
    }
}

/// True for a name that stays in its folder on every system.
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains(['/', '\\', ':', '\0'])
}

/// The tensors must cover the data without gaps or overlaps, as the format demands.
fn check_layout(entries: &BTreeMap<String, HeaderEntry>, data_len: u64) -> Result<(), String> {
    let mut by_position: Vec<_> = entries.iter().collect();
    by_position.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut position = 0;
    for (name, entry) in by_position {
        let (start, end) = entry.data_offsets;
        if start != position || end < start || end > data_len {
            return Err(format!(
                "tensor `{name}` at {start}..{end} overlaps another, leaves a gap or ends outside \
                 the {data_len} bytes of data"
            ));
        }
        let n_bits = (entry.shape.0.iter().map(|&n| n as u64))
            .try_fold(entry.dtype.bitsize() as u64, u64::checked_mul);
        if n_bits != (end - start).checked_mul(8) || n_bits.is_none() {
            return Err(format!(
                "tensor `{name}` of type {} and shape {:?} does not take {} bytes",
                entry.dtype,
                entry.shape.0,
                end - start
            ));
        }
        position = end;
    }
    if position != data_len {
        return Err(format!(
            "the tensors take {position} bytes, the file has {data_len} after its header"
        ));
    }
    Ok(())
}

struct Header(BTreeMap<String, HeaderEntry>);

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: StoredType,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`MAX_DIMENSIONS`] sizes; more are refused while parsing, before they take memory.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of at most {MAX_DIMENSIONS} sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == MAX_DIMENSIONS {
                        return Err(A::Error::custom(format!(
                            "a tensor has more than {MAX_DIMENSIONS} dimensions"
                        )));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        insert_once(&mut entries, name, map.next_value()?)?;
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor name → shard file name.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, shard)) = map.next_entry()? {
                    insert_once(&mut entries, name, shard)?;
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn insert_once<T, E: serde::de::Error>(
    entries: &mut BTreeMap<String, T>,
    name: String,
    value: T,
) -> Result<(), E> {
    if entries.len() == MAX_TENSORS {
        return Err(E::custom(format!("more than {MAX_TENSORS} tensors")));
    }
    if entries.contains_key(&name) {
        return Err(E::custom(format!("tensor {name:?} is listed twice")));
    }
    entries.insert(name, value);
    Ok(())
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;
