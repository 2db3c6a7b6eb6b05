//! Which turns a memory has read, kept beside it. Owns the file of their digests; what a digest
//! is of, its callers say. A caller that is sent whole histories knows from them what must not be
//! written again.

use super::{MemoryWriter, StoredMemory, files};
use crate::error::{Error, Result};
use std::fmt::Write as _;
use std::io::ErrorKind;

/// Most digests kept; the oldest leave first.
pub const MAX_TURN_DIGESTS: usize = 8192;

const FILE_NAME: &str = "turns.txt";
/// 16 hex digits and a line feed.
const LINE_BYTES: usize = 17;

impl StoredMemory {
    /// The digests last saved with [`MemoryWriter::save_turns`], oldest first; none if none were, or
    /// if the memory was forgotten since.
    ///
    /// # Errors
    /// [`Error::Format`] for another file, [`Error::Io`].
    pub fn turns(&self) -> Result<Vec<u64>> {
        let path = self.folder().join(FILE_NAME);
        let limit = MAX_TURN_DIGESTS * LINE_BYTES;
        let bytes = match files::read_bounded(&path, limit, "list of turns") {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            result => result?,
        };
        let parse = |line: &str| match line.len() {
            16 => u64::from_str_radix(line, 16).ok(),
            _ => None,
        };
        let text = std::str::from_utf8(&bytes).ok();
        let digests = text.and_then(|text| text.lines().map(parse).collect());
        digests.ok_or_else(|| {
            let reason = "it is not one of 16 hex digits a line";
            Error::format(path.display().to_string(), "list of turns", reason)
        })
    }
}

impl MemoryWriter {
    /// Replaces the list of digests of this memory by the newest [`MAX_TURN_DIGESTS`] of `digests`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_turns(&mut self, digests: &[u64]) -> Result<()> {
        let newest = &digests[digests.len().saturating_sub(MAX_TURN_DIGESTS)..];
        let mut text = String::with_capacity(newest.len() * LINE_BYTES);
        for digest in newest {
            // writing to a String cannot fail
            let _ = writeln!(text, "{digest:016x}");
        }
        let folder = self.memory().folder();
        files::create_folder(folder)?;
        let temporary = folder.join(super::writer::TEMPORARY_NAME);
        files::write_durably(&temporary, &folder.join(FILE_NAME), text.as_bytes())?;
        files::sync_folder(folder)
    }
}
