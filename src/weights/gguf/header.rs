//! What stands in front of a GGUF file's tensors: version, metadata, and where each tensor lies.
//! Owns all checks of the layout, so that a tensor can be read by range without further questions.

use super::blocks::GgmlType;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::weights::bytes::Blob;
use std::collections::BTreeSet;

const MAGIC: [u8; 4] = *b"GGUF";
/// Most tensors of a file. Large models have some thousands.
const MAX_TENSORS: u64 = 1 << 16;
/// Longest name of a tensor; the format's own limit is 64.
const MAX_NAME_BYTES: u64 = 256;
/// Most dimensions of a tensor, the format's own limit.
const MAX_DIMENSIONS: u32 = 4;
/// Where tensors begin if `general.alignment` is silent, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// A file's header, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3; they differ in nothing that matters here.
    pub version: u32,
    pub metadata: Metadata,
    /// In the file's order.
    pub tensors: Vec<Entry>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// As the file has it.
    pub name: String,
    pub ty: GgmlType,
    /// Row-major, `[out, in]` for matrices: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Position of its first byte in the file.
    pub offset: u64,
    pub size_bytes: u64,
}

impl Header {
    /// Reads and checks the header; of the tensors' bytes only the extent is looked at.
    ///
    /// # Errors
    /// [`Error::Format`] for what is no GGUF file or one that contradicts itself,
    /// [`Error::Unsupported`] for another version, byte order or tensor type, and what reading gives.
    pub fn read(blob: &Blob) -> Result<Header> {
        let mut cursor = Cursor::new(blob);
        let magic: [u8; 4] = cursor.array()?;
        if magic != MAGIC {
            return Err(cursor.bad("it does not begin with `GGUF`"));
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Error::Unsupported {
                what: match version.swap_bytes() {
                    1..=3 => format!("{}: a big-endian GGUF file", blob.label()),
                    _ => format!("{}: version {version} of GGUF", blob.label()),
                },
                reason: "little-endian files of versions 2 and 3 are read".into(),
            });
        }
        let (n_tensors, n_keys) = (cursor.u64()?, cursor.u64()?);
        let metadata = Metadata::read(&mut cursor, n_keys)?;
        // The shortest entry: a name of one byte, its length, one dimension, type and offset.
        if n_tensors > MAX_TENSORS || n_tensors > cursor.remaining() / 33 {
            return Err(cursor.bad(format!("{n_tensors} tensors are too many")));
        }
        let mut tensors = Vec::with_capacity(n_tensors as usize);
        for _ in 0..n_tensors {
            tensors.push(read_entry(&mut cursor)?);
        }
        let alignment = alignment(&metadata)?;
        let data_start = cursor.position().next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data_start, alignment, blob.len()).map_err(|r| cursor.bad(r))?;
        }
        check_apart(&tensors).map_err(|reason| cursor.bad(reason))?;
        Ok(Header { version, metadata, tensors })
    }
}

/// One entry; its offset still counts from the first tensor, and its size is right.
fn read_entry(cursor: &mut Cursor) -> Result<Entry> {
    let name = cursor.text(MAX_NAME_BYTES, "the name of a tensor")?.to_string();
    let n_dimensions = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&n_dimensions) {
        return Err(cursor.bad(format!("tensor {name:?} has {n_dimensions} dimensions")));
    }
    let mut dimensions = Vec::with_capacity(n_dimensions as usize);
    for _ in 0..n_dimensions {
        dimensions.push(cursor.u64()?);
    }
    let id = cursor.u32()?;
    let ty = GgmlType::from_id(id).ok_or_else(|| Error::Unsupported {
        what: format!("{}: tensor {name:?} of type {}", cursor.label(), type_name(id)),
        reason: format!("weights are read from {}", GgmlType::ALL.map(GgmlType::name).join(", ")),
    })?;
    let offset = cursor.u64()?;
    let bad = |reason: &str| {
        cursor.bad(format!(
            "tensor {name:?} of type {} and dimensions {dimensions:?} {reason}",
            ty.name()
        ))
    };
    if dimensions.contains(&0) {
        return Err(bad("has no elements"));
    }
    if !dimensions[0].is_multiple_of(ty.block_len() as u64) {
        return Err(bad("has rows that end within a block"));
    }
    let product = |first: u64, rest: &[u64]| {
        rest.iter().try_fold(first, |product, &n| product.checked_mul(n))
    };
    let size_bytes = ty.row_bytes(dimensions[0]).and_then(|row| product(row, &dimensions[1..]));
    let n_elements = product(1, &dimensions).map(usize::try_from);
    let (Some(size_bytes), Some(Ok(_))) = (size_bytes, n_elements) else {
        return Err(bad("is too large"));
    };
    // Each divides the number of elements, which fits.
    let shape = dimensions.iter().rev().map(|&n| n as usize).collect();
    Ok(Entry { name, ty, shape, offset, size_bytes })
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    const KEY: &str = "general.alignment";
    match metadata.count(KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n),
        Some(n) => {
            Err(metadata.error(KEY, format!("{n} is no power of two up to {MAX_ALIGNMENT}")))
        }
    }
}

/// Makes the offset one in the file, and checks that the tensor is inside it.
fn place(tensor: &mut Entry, data_start: u64, alignment: u64, len: u64) -> Result<(), String> {
    let Entry { name, offset, size_bytes, .. } = tensor;
    if *offset % alignment != 0 {
        return Err(format!("tensor {name:?} at {offset} is not aligned to {alignment} bytes"));
    }
    let start = data_start.checked_add(*offset);
    match start.and_then(|start| start.checked_add(*size_bytes)) {
        Some(end) if end <= len => {
            *offset += data_start;
            Ok(())
        }
        _ => Err(format!(
            "tensor {name:?} with {size_bytes} bytes at {data_start} + {offset} reaches past its end \
             ({len} bytes); was it truncated?"
        )),
    }
}

/// No two tensors share a byte or a name.
fn check_apart(tensors: &[Entry]) -> Result<(), String> {
    let mut by_position: Vec<&Entry> = tensors.iter().collect();
    by_position.sort_by_key(|tensor| tensor.offset);
    for pair in by_position.windows(2) {
        if pair[0].offset + pair[0].size_bytes > pair[1].offset {
            return Err(format!("tensors {:?} and {:?} overlap", pair[0].name, pair[1].name));
        }
    }
    let mut names = BTreeSet::new();
    match tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        Some(tensor) => Err(format!("tensor {:?} is listed twice", tensor.name)),
        None => Ok(()),
    }
}

/// ggml's name for a type that is not read here, as people know it from file names.
fn type_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {id}"),
    };
    name.into()
}
