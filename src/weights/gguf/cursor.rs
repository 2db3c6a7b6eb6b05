//! Reading a header of unknown length from the front. Owns how much is fetched at a time and that
//! nothing is taken beyond the file's end or the limit of a header.

use super::FORMAT;
use crate::error::{Error, Result};
use crate::weights::bytes::Blob;

/// Longest header accepted. Vocabularies of 150,000 tokens with their merges take 6 MB.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// Bytes fetched at first, and at most. A small header then is one small request, a large one
/// does not become hundreds where each is a round trip.
const FETCH_BYTES: std::ops::RangeInclusive<usize> = 1 << 16..=1 << 20;

/// A position in a file and the bytes behind it that have been fetched.
pub(super) struct Cursor<'a> {
    blob: &'a Blob,
    /// Position in the file of `buffer`'s end.
    fetched: u64,
    buffer: Vec<u8>,
    /// Where to read on in `buffer`.
    at: usize,
    fetch_bytes: usize,
}

impl<'a> Cursor<'a> {
    /// At the file's first byte.
    pub fn new(blob: &'a Blob) -> Cursor<'a> {
        Cursor { blob, fetched: 0, buffer: Vec::new(), at: 0, fetch_bytes: *FETCH_BYTES.start() }
    }

    /// What to call the file in errors.
    pub fn label(&self) -> &str {
        self.blob.label()
    }

    /// An [`Error::Format`] of this file.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        Error::format(self.label(), FORMAT, reason)
    }

    /// Bytes of the file before this position.
    pub fn position(&self) -> u64 {
        self.fetched - (self.buffer.len() - self.at) as u64
    }

    /// Bytes that a header may still take.
    pub fn remaining(&self) -> u64 {
        self.blob.len().min(MAX_HEADER_BYTES) - self.position()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Error::Format`] if the file or the longest header ends before, and what reading gives.
    pub fn take(&mut self, n: u64) -> Result<&[u8]> {
        if n > self.remaining() {
            let (label, at) = (self.label(), self.position());
            let reason = match n > self.blob.len() - at {
                true => format!("it ends within its header, {n} bytes after {at} are missing"),
                false => format!("its header is longer than {MAX_HEADER_BYTES} bytes"),
            };
            return Err(Error::format(label, FORMAT, reason));
        }
        let n = n as usize; // at most the longest header
        if self.buffer.len() - self.at < n {
            self.fetch(n)?;
        }
        self.at += n;
        Ok(&self.buffer[self.at - n..self.at])
    }

    /// Makes at least `n` bytes available, which are in the file.
    fn fetch(&mut self, n: usize) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let held = self.buffer.len();
        let in_file = self.blob.len() - self.fetched;
        let wanted = (n - held).max(self.fetch_bytes) as u64;
        let wanted = wanted.min(in_file) as usize;
        self.buffer.resize(held + wanted, 0);
        if let Err(error) = self.blob.read(self.fetched, &mut self.buffer[held..]) {
            self.buffer.truncate(held);
            return Err(error);
        }
        self.fetched += wanted as u64;
        self.fetch_bytes = (2 * self.fetch_bytes).min(*FETCH_BYTES.end());
        Ok(())
    }

    /// The next `N` bytes, for numbers.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text of at most `max` bytes with its length in front. `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for a longer one, or one that is not UTF-8.
    pub fn text(&mut self, max: u64, what: &str) -> Result<&str> {
        let (at, len) = (self.position(), self.u64()?);
        if len > max {
            return Err(self.bad(format!("{what} at position {at} has {len} bytes, over {max}")));
        }
        let label = self.blob.label();
        std::str::from_utf8(self.take(len)?).map_err(|_| {
            Error::format(label, FORMAT, format!("{what} at position {at} is not UTF-8"))
        })
    }
}
