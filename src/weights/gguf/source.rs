//! Tensors out of GGUF files, one or several shards, as Hugging Face has them. Owns the order of
//! rows and reading any range out of blocks; what a block holds is `blocks.rs`.
//!
//! Where llama.cpp rotates neighbours (i, i + 1) instead of halves (i, i + d/2), its converter moves
//! the rows of q and k within each head: row `half·d/2 + i` goes to `2·i + half`. That is undone
//! here, so that everything downstream, corrections of q and k included, sees one order.

use super::blocks::GgmlType;
use super::header::{Entry, Header};
use super::metadata::Metadata;
use super::names::hugging_face_name;
use super::repack;
use super::{ARCHITECTURES, FORMAT};
use crate::error::{Error, Result};
use crate::shader::Storage;
use crate::weights::bytes::{Blob, Stored};
use crate::weights::quantize::row_bytes;
use crate::weights::{DType, TensorInfo, TensorSource};
use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

/// Bytes of a head that are read at once to put its rows in order; larger ones go row by row.
const HEAD_BYTES: usize = 4 << 20;
/// Most shards of a model.
const MAX_SHARDS: u64 = 1 << 12;

/// A model's weights in one or several GGUF files.
pub struct GgufSource {
    label: String,
    files: Vec<Blob>,
    /// Of the first file; the others have none that matter.
    metadata: Metadata,
    architecture: String,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    /// Index into `files`.
    file: usize,
    stored: Stored,
    /// Rows of a head, where the file has them in the other order.
    moved_head_rows: Option<usize>,
}

impl GgufSource {
    /// Reads and checks the header of a file; tensors are read when asked for. A name that ends in
    /// `-00001-of-00003.gguf` opens all three.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`GgufSource::from_blobs`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<Path>) -> Result<GgufSource> {
        let path = path.as_ref();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((stem, count)) = shard_of(name) else {
            return GgufSource::from_blobs(vec![Blob::open(path)?]);
        };
        let shard = |i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"));
        let blobs: Result<Vec<Blob>> = (1..=count).map(|i| Blob::open(&shard(i))).collect();
        GgufSource::from_blobs(blobs?)
    }

    /// Files whose bytes lie anywhere, the shards in order; only headers are read.
    ///
    /// # Errors
    /// As [`Header::read`]; [`Error::Unsupported`] for another architecture,
    /// [`Error::UnknownTensor`] for a tensor that no supported model has (biases, experts),
    /// [`Error::Format`] for shards that are not those of one model.
    pub fn from_blobs(files: Vec<Blob>) -> Result<GgufSource> {
        let mut headers = Vec::new();
        for blob in &files {
            headers.push(Header::read(blob)?);
        }
        let Some(first) = headers.first() else {
            return Err(Error::format("model.gguf", FORMAT, "there is no file"));
        };
        let metadata = first.metadata.clone();
        let label = metadata.label().to_string();
        let architecture = architecture(&metadata)?;
        let heads = match architecture.as_str() {
            "smollm3" => Some(n_heads(&metadata, &architecture)?),
            _ => None, // qwen3 rotates halves in llama.cpp too
        };
        check_shards(&headers)?;
        let mut tensors = BTreeMap::new();
        for (i, header) in headers.into_iter().enumerate() {
            let label = files[i].label();
            for entry in header.tensors {
                let unknown =
                    || Error::UnknownTensor { file: label.into(), name: entry.name.clone() };
                let name = hugging_face_name(&entry.name).ok_or_else(unknown)?;
                let place = Place {
                    file: i,
                    moved_head_rows: moved_head_rows(&name, &entry, heads)
                        .map_err(|reason| Error::format(label, FORMAT, reason))?,
                    stored: stored(&entry),
                };
                if tensors.insert(name, place).is_some() {
                    let reason = format!("tensor {:?} is in another shard too", entry.name);
                    return Err(Error::format(label, FORMAT, reason));
                }
            }
        }
        Ok(GgufSource { label, files, metadata, architecture, tensors })
    }

    /// The values in front of the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// `smollm3` or `qwen3`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    fn place(&self, name: &str) -> Result<&Place> {
        let missing = || Error::MissingTensor { file: self.label.clone(), name: name.into() };
        self.tensors.get(name).ok_or_else(missing)
    }
}

impl TensorSource for GgufSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|place| &place.stored.info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let place = self.place(name)?;
        let blob = &self.files[place.file];
        match place.moved_head_rows {
            None => blob.read_f32(&place.stored, start, out),
            Some(rows) => read_moved(blob, &place.stored, rows, start, out),
        }
    }

    fn own_storage(&self, name: &str) -> Option<Storage> {
        let info = self.info(name).filter(|info| info.shape.len() == 2)?;
        match info.dtype {
            DType::Blocks(ty) => repack::storage(ty),
            _ => None,
        }
    }

    fn read_rows(
        &self,
        name: &str,
        row_start: usize,
        values: &mut [u8],
        scales: &mut [u8],
    ) -> Result<()> {
        let place = self.place(name)?;
        let (DType::Blocks(ty), Some(storage)) = (place.stored.info.dtype, self.own_storage(name))
        else {
            return Err(Error::MissingTensor { file: self.label.clone(), name: name.into() });
        };
        let row_len = place.stored.info.shape[1];
        let row = row_len / ty.block_len() * ty.block_bytes();
        let (value_bytes, scale_bytes) = row_bytes(storage, row_len);
        let n_rows = values.len() / value_bytes;
        place.stored.check_range(row_start * row_len, n_rows * row_len);
        let blob = &self.files[place.file];
        let read = |file_row: usize, bytes: &mut [u8]| {
            blob.read(place.stored.offset + (file_row * row) as u64, bytes)
        };
        let mut targets =
            values.chunks_exact_mut(value_bytes).zip(scales.chunks_exact_mut(scale_bytes));
        let Some(head_rows) = place.moved_head_rows else {
            let mut bytes = vec![0; n_rows * row];
            read(row_start, &mut bytes)?;
            for (blocks, (values, scales)) in bytes.chunks_exact(row).zip(targets) {
                repack::repack_row(ty, blocks, values, scales);
            }
            return Ok(());
        };
        // a head at a time: its rows lie together in the file, in another order
        let row_end = row_start + n_rows;
        for first in (row_start / head_rows * head_rows..row_end).step_by(head_rows) {
            let mut head = vec![0; head_rows * row];
            read(first, &mut head)?;
            for wanted in first.max(row_start)..row_end.min(first + head_rows) {
                let at = (row_in_file(wanted, head_rows) - first) * row;
                if let Some((values, scales)) = targets.next() {
                    repack::repack_row(ty, &head[at..at + row], values, scales);
                }
            }
        }
        Ok(())
    }
}

/// Where the file has a row: halves of a head are interleaved there.
fn row_in_file(row: usize, head_rows: usize) -> usize {
    let (head, row) = (row / head_rows, row % head_rows);
    head * head_rows + row % (head_rows / 2) * 2 + row / (head_rows / 2)
}

fn stored(entry: &Entry) -> Stored {
    let dtype = match entry.ty {
        GgmlType::F32 => DType::F32,
        GgmlType::F16 => DType::F16,
        GgmlType::BF16 => DType::BF16,
        ty => DType::Blocks(ty),
    };
    Stored { info: TensorInfo { dtype, shape: entry.shape.clone() }, offset: entry.offset }
}

/// Elements `start..` in Hugging Face's order of a matrix whose heads of `head_rows` rows the file
/// has in the other one.
fn read_moved(
    blob: &Blob,
    stored: &Stored,
    head_rows: usize,
    start: usize,
    mut out: &mut [f32],
) -> Result<()> {
    stored.check_range(start, out.len());
    let row_len = stored.info.shape[1];
    let in_file = |row: usize| row_in_file(row, head_rows);
    let dtype = stored.info.dtype;
    // Rows are whole blocks, and the tensor is inside its file.
    let row_bytes = row_len / dtype.block_len() * dtype.block_bytes();
    let is_small = row_bytes.saturating_mul(head_rows) <= HEAD_BYTES;
    let mut head = Vec::new();
    let mut at = start;
    while !out.is_empty() {
        let (row, column) = (at / row_len, at % row_len);
        let head_end = (row / head_rows + 1) * head_rows * row_len;
        let n_in_head = (head_end - at).min(out.len());
        // Rows in order are every other row of the file, so nearly a whole head is read anyway.
        let n = if is_small && n_in_head > row_len {
            let first = row / head_rows * head_rows;
            head.resize(head_rows * row_len, 0.0);
            blob.read_f32(stored, first * row_len, &mut head)?;
            for (i, x) in out[..n_in_head].iter_mut().enumerate() {
                let (row, column) = ((at + i) / row_len, (at + i) % row_len);
                *x = head[(in_file(row) - first) * row_len + column];
            }
            n_in_head
        } else {
            let n = (row_len - column).min(out.len());
            blob.read_f32(stored, in_file(row) * row_len + column, &mut out[..n])?;
            n
        };
        (at, out) = (at + n, &mut out[n..]);
    }
    Ok(())
}

fn architecture(metadata: &Metadata) -> Result<String> {
    const KEY: &str = "general.architecture";
    match metadata.text(KEY)? {
        Some(name) if ARCHITECTURES.contains(&name) => Ok(name.into()),
        Some(name) => Err(Error::Unsupported {
            what: format!("{}: architecture {name:?}", metadata.label()),
            reason: format!("this crate runs {}", ARCHITECTURES.join(" and ")),
        }),
        None => Err(metadata.error(KEY, "it is missing")),
    }
}

/// Query and key heads.
fn n_heads(metadata: &Metadata, architecture: &str) -> Result<(u64, u64)> {
    let key = format!("{architecture}.attention.head_count");
    let n_heads = metadata.count(&key)?.ok_or_else(|| metadata.error(&key, "it is missing"))?;
    let n_kv_heads = metadata.count(&format!("{key}_kv"))?.unwrap_or(n_heads);
    Ok((n_heads, n_kv_heads))
}

/// Rows of a head, if this is a matrix whose rows the converter moved.
fn moved_head_rows(
    name: &str,
    entry: &Entry,
    heads: Option<(u64, u64)>,
) -> Result<Option<usize>, String> {
    let Some((n_heads, n_kv_heads)) = heads else { return Ok(None) };
    let n_heads = match name {
        _ if name.ends_with(".self_attn.q_proj.weight") => n_heads,
        _ if name.ends_with(".self_attn.k_proj.weight") => n_kv_heads,
        _ => return Ok(None),
    };
    let (rows, name) = (entry.shape[0] as u64, &entry.name);
    if entry.shape.len() != 2 || n_heads == 0 || !rows.is_multiple_of(2 * n_heads) {
        let shape = &entry.shape;
        return Err(format!("tensor {name:?} of shape {shape:?} is not {n_heads} heads of pairs"));
    }
    Ok(Some((rows / n_heads) as usize))
}

/// The files say themselves which shard of how many they are.
fn check_shards(headers: &[Header]) -> Result<()> {
    for (i, header) in headers.iter().enumerate() {
        let metadata = &header.metadata;
        let count = metadata.count("split.count")?.unwrap_or(1);
        if count > MAX_SHARDS || count.max(1) != headers.len() as u64 {
            let reason = format!("{count} shards belong together, {} are here", headers.len());
            return Err(metadata.error("split.count", reason));
        }
        let number = metadata.count("split.no")?.unwrap_or(0);
        if number != i as u64 {
            return Err(metadata.error("split.no", format!("shard {number} stands at place {i}")));
        }
    }
    let n_found: usize = headers.iter().map(|header| header.tensors.len()).sum();
    let first = &headers[0].metadata;
    match first.count("split.tensors.count")? {
        Some(n) if n != n_found as u64 => {
            let reason = format!("{n} tensors are promised, {n_found} are there");
            Err(first.error("split.tensors.count", reason))
        }
        _ => Ok(()),
    }
}

/// What comes before the number in the name of a shard, and how many there are.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn shard_of(name: &str) -> Option<(&str, u64)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let (number, count) = (digits(number)?, digits(count)?);
    ((1..=count).contains(&number) && count <= MAX_SHARDS).then_some((stem, count))
}
