//! The directory of an uncompressed ZIP archive. Owns only what `torch.save` writes: stored
//! entries, one disk, zip64 where sizes ask for it; source: PKWARE APPNOTE 6.3, sections 4.3–4.5.

use crate::error::{Error, Result};
use crate::weights::bytes::Blob;
use std::collections::BTreeMap;

/// Longest central directory accepted.
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;
/// Most entries accepted.
const MAX_ENTRIES: u64 = 1 << 16;
/// End-of-directory record with the longest comment it can carry.
const MAX_TAIL_BYTES: u64 = 22 + 0xFFFF;

const END: &[u8] = b"PK\x05\x06";
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64: &[u8] = b"PK\x06\x06";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL_ENTRY: &[u8] = b"PK\x03\x04";

/// Where the bytes of an entry lie in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub offset: u64,
    pub len: u64,
}

/// The entries of an archive, by name.
///
/// # Errors
/// [`Error::Format`] for a broken archive, [`Error::Unsupported`] for compressed or encrypted
/// entries.
pub fn read_directory(blob: &Blob) -> Result<BTreeMap<String, Entry>> {
    let bad = |reason: &str| Error::format(blob.label(), "torch file (ZIP archive)", reason);
    let tail_len = blob.len().min(MAX_TAIL_BYTES);
    let tail_start = blob.len() - tail_len;
    let tail = blob.read_vec(tail_start, tail_len as usize)?;
    // The record ends with a comment that must reach exactly to the end of the file.
    let end = (0..tail.len().saturating_sub(21))
        .rev()
        .find(|&i| {
            tail[i..].starts_with(END) && i + 22 + le(&tail[i + 20..], 2) as usize == tail.len()
        })
        .ok_or_else(|| bad("it has no directory; truncated, or saved in torch's old format?"))?;
    let record = &tail[end..];
    let mut n_entries = le(&record[10..], 2);
    let mut len = le(&record[12..], 4);
    let mut start = le(&record[16..], 4);
    let mut directory_limit = tail_start + end as u64;
    if n_entries == 0xFFFF || len == 0xFFFF_FFFF || start == 0xFFFF_FFFF {
        let locator_at =
            directory_limit.checked_sub(20).ok_or_else(|| bad("the zip64 locator is missing"))?;
        let locator = blob.read_vec(locator_at, 20)?;
        if !locator.starts_with(END_64_LOCATOR) {
            return Err(bad("the zip64 locator is missing"));
        }
        directory_limit = le(&locator[8..], 8);
        let record = blob.read_vec(directory_limit, 56)?;
        if !record.starts_with(END_64) {
            return Err(bad("the zip64 record is missing"));
        }
        n_entries = le(&record[32..], 8);
        len = le(&record[40..], 8);
        start = le(&record[48..], 8);
    }
    if n_entries > MAX_ENTRIES || len > MAX_DIRECTORY_BYTES {
        return Err(bad(&format!(
            "a directory of {n_entries} entries and {len} bytes is too large"
        )));
    }
    if start.checked_add(len).is_none_or(|end| end > directory_limit) {
        return Err(bad("the directory lies outside the file"));
    }
    let directory = blob.read_vec(start, len as usize)?;
    let mut rest = directory.as_slice();
    let mut entries = BTreeMap::new();
    for _ in 0..n_entries {
        let (header, after) = split(rest, 46).ok_or_else(|| bad("the directory is cut short"))?;
        if !header.starts_with(DIRECTORY_ENTRY) {
            return Err(bad("the directory is damaged"));
        }
        let (name, after) = split(after, le(&header[28..], 2) as usize)
            .ok_or_else(|| bad("the directory is cut short"))?;
        let (extra, after) = split(after, le(&header[30..], 2) as usize)
            .ok_or_else(|| bad("the directory is cut short"))?;
        let (_comment, after) = split(after, le(&header[32..], 2) as usize)
            .ok_or_else(|| bad("the directory is cut short"))?;
        rest = after;
        let name = std::str::from_utf8(name).map_err(|_| bad("an entry's name is not UTF-8"))?;
        if le(&header[8..], 2) & 1 != 0 || le(&header[10..], 2) != 0 {
            return Err(Error::Unsupported {
                what: format!("{}: compressed or encrypted entry `{name}`", blob.label()),
                reason: "torch.save stores its entries as they are".into(),
            });
        }
        let [full, stored, local] = sizes(header, extra)
            .ok_or_else(|| bad(&format!("entry `{name}` lacks its zip64 sizes")))?;
        if full != stored {
            return Err(bad(&format!(
                "stored entry `{name}` claims {full} bytes, but takes {stored}"
            )));
        }
        let entry = locate(blob, name.as_bytes(), local, full)?
            .filter(|entry| entry.offset + entry.len <= start)
            .ok_or_else(|| bad(&format!("entry `{name}` does not lie inside the file")))?;
        if entries.insert(name.to_string(), entry).is_some() {
            return Err(bad(&format!("entry `{name}` is listed twice")));
        }
    }
    Ok(entries)
}

/// Follows a local header to the data; `None` if it does not belong to this name or the position
/// overflows.
fn locate(blob: &Blob, name: &[u8], local: u64, len: u64) -> Result<Option<Entry>> {
    let header = blob.read_vec(local, 30)?;
    let name_len = le(&header[26..], 2) as usize;
    if !header.starts_with(LOCAL_ENTRY) || name_len != name.len() {
        return Ok(None);
    }
    // `local + 30` is inside the file, since the header was read.
    if blob.read_vec(local + 30, name_len)? != name {
        return Ok(None);
    }
    let offset = local + 30 + name_len as u64 + le(&header[28..], 2);
    Ok(offset.checked_add(len).map(|_| Entry { offset, len }))
}

/// Full size, stored size and local header position, from the zip64 field where the 32-bit ones
/// are saturated.
fn sizes(header: &[u8], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut values = [le(&header[24..], 4), le(&header[20..], 4), le(&header[42..], 4)];
    if values.iter().all(|&v| v != 0xFFFF_FFFF) {
        return Some(values);
    }
    loop {
        let (head, after) = split(extra, 4)?;
        let (mut field, after) = split(after, le(&head[2..], 2) as usize)?;
        if le(head, 2) != 1 {
            extra = after;
            continue;
        }
        for value in values.iter_mut().filter(|v| **v == 0xFFFF_FFFF) {
            let (number, after) = split(field, 8)?;
            *value = le(number, 8);
            field = after;
        }
        return Some(values);
    }
}

fn split(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(at)
}

/// The first `n` ≤ 8 bytes as a little-endian number.
fn le(bytes: &[u8], n: usize) -> u64 {
    let mut padded = [0; 8];
    padded[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(padded)
}
