//! The file of a kept context: KV positions of a conversation's beginning and the memory after it, as
//! bytes. Owns the format and its checks; what a context is kept under is `session/prefix.rs`, where
//! the bytes lie is `prefix_folder` (native) and the page.
//!
//! ```text
//! 0    8   "dmprefix"
//! 8    4   version, 1                     all numbers little-endian
//! 12   4   tokens
//! 16   4   layers
//! 20   4   bytes of one position in a layer's keys (its values have as many)
//! 24   4   floats of the memory
//! 28   4   0
//! 32  24   what reading added to the memory's counters: tokens seen, tokens written, writes
//! 56  32   key
//! 88       memory, f32; then of each layer the keys and the values, [tokens, bytes of a position]
//! end 32   SHA-256 of everything before
//! ```
//!
//! The parts come and go one after the other, so that nobody has to hold a whole file.

use crate::error::Error;
use sha2::{Digest, Sha256};

/// The version that is written; others are not read.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes before the memory.
pub const HEADER_BYTES: usize = 88;
/// SHA-256.
pub const CHECKSUM_BYTES: usize = 32;
/// What such files are called: the key as 64 hex digits, and this.
pub const FILE_EXTENSION: &str = "dmprefix";

const FORMAT_NAME: &str = "kept context";
const MAGIC: &[u8; 8] = b"dmprefix";

/// Everything in front of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixHeader {
    pub n_tokens: u32,
    pub n_layers: u32,
    pub position_bytes: u32,
    pub n_state: u32,
    /// Tokens seen, tokens written, writes.
    pub added: [u64; 3],
    /// SHA-256 of everything that the contents depend on.
    pub key: [u8; 32],
}

impl PrefixHeader {
    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let words =
            [FORMAT_VERSION, self.n_tokens, self.n_layers, self.position_bytes, self.n_state];
        for (out, word) in bytes[8..28].chunks_exact_mut(4).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        for (out, count) in bytes[32..56].chunks_exact_mut(8).zip(self.added) {
            out.copy_from_slice(&count.to_le_bytes());
        }
        bytes[56..].copy_from_slice(&self.key);
        bytes
    }

    /// Checks that `found`, the beginning of a file of `size_bytes`, is of a context like this one:
    /// the same key and the same shape. Gives it, with the counters that only the file knows.
    ///
    /// # Errors
    /// [`Error::Format`] with the first difference.
    pub fn accept(
        &self,
        found: &[u8; HEADER_BYTES],
        size_bytes: u64,
        file: &str,
    ) -> Result<PrefixHeader, Error> {
        let refuse = |reason: String| Err(Error::format(file, FORMAT_NAME, reason));
        let word = |at: usize| u32::from_le_bytes(found[at..at + 4].try_into().expect("4 bytes"));
        let count = |at: usize| u64::from_le_bytes(found[at..at + 8].try_into().expect("8 bytes"));
        if &found[..8] != MAGIC {
            return refuse("it begins otherwise".into());
        }
        if word(8) != FORMAT_VERSION {
            return refuse(format!("version {}, expected {FORMAT_VERSION}", word(8)));
        }
        let header = PrefixHeader { added: [count(32), count(40), count(48)], ..*self };
        if header.encode() != *found {
            return refuse("it is of another context".into());
        }
        let expected = self.file_bytes();
        if size_bytes != expected {
            return refuse(format!("{size_bytes} bytes, expected {expected}"));
        }
        Ok(header)
    }

    /// Bytes of the memory.
    pub fn state_bytes(&self) -> usize {
        4 * self.n_state as usize
    }

    /// Bytes of one layer's keys, and of its values.
    pub fn layer_bytes(&self) -> usize {
        self.n_tokens as usize * self.position_bytes as usize
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let around = (HEADER_BYTES + self.state_bytes() + CHECKSUM_BYTES) as u64;
        around + 2 * u64::from(self.n_layers) * self.layer_bytes() as u64
    }
}

/// What the end of a file must be.
#[derive(Default)]
pub struct Checksum(Sha256);

impl Checksum {
    /// Goes on with the next part of the file.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The last bytes of the file.
    pub fn bytes(self) -> [u8; CHECKSUM_BYTES] {
        self.0.finalize().into()
    }

    /// Compares with the last bytes of a file.
    ///
    /// # Errors
    /// [`Error::Format`] if they differ.
    pub fn check(self, found: &[u8; CHECKSUM_BYTES], file: &str) -> Result<(), Error> {
        match self.bytes() == *found {
            true => Ok(()),
            false => Err(Error::format(file, FORMAT_NAME, "its checksum differs")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PrefixHeader {
        PrefixHeader {
            n_tokens: 64,
            n_layers: 3,
            position_bytes: 16,
            n_state: 5,
            added: [0; 3],
            key: [7; 32],
        }
    }

    #[test]
    fn the_layout_is_the_one_that_is_documented() {
        let written = PrefixHeader { added: [64, 63, 62], ..header() };
        let bytes = written.encode();
        assert_eq!(&bytes[..8], b"dmprefix");
        let words: Vec<u32> =
            bytes[8..32].chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(words, [1, 64, 3, 16, 5, 0]);
        assert_eq!([bytes[32], bytes[40], bytes[48]], [64, 63, 62]);
        assert_eq!(bytes[56..], [7; 32]);
        assert_eq!(written.file_bytes(), 88 + 20 + 3 * 2 * 64 * 16 + 32);
        assert_eq!(header().accept(&bytes, written.file_bytes(), "f").unwrap(), written);
    }

    #[test]
    fn nothing_else_is_accepted() {
        let (expected, size_bytes) = (header(), header().file_bytes());
        let good = header().encode();
        for at in (0..32).chain(56..HEADER_BYTES) {
            let mut bytes = good;
            bytes[at] ^= 1;
            let error = expected.accept(&bytes, size_bytes, "f").unwrap_err();
            assert_eq!(error.code(), "format", "byte {at}");
        }
        for size_bytes in [0, size_bytes - 1, size_bytes + 1, u64::MAX] {
            assert!(expected.accept(&good, size_bytes, "f").is_err());
        }
    }

    #[test]
    fn a_changed_part_changes_the_checksum() {
        let mut sum = Checksum::default();
        sum.add(b"ab");
        sum.add(b"c");
        let bytes = sum.bytes();
        let mut other = Checksum::default();
        other.add(b"abd");
        assert!(other.check(&bytes, "f").is_err());
        let mut same = Checksum::default();
        same.add(b"abc");
        same.check(&bytes, "f").unwrap();
    }
}
