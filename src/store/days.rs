//! On which day conversations began, kept beside the memory. Owns the file; what a digest is of, its
//! callers say. Templates print the day in their header, so a conversation that is taken up on another
//! day is the same prompt only with its own.

use super::{MemoryWriter, StoredMemory, files};
use crate::chat::CivilDate;
use crate::error::{Error, Result};
use std::fmt::Write as _;
use std::io::ErrorKind;

/// Most conversations kept; the oldest leave first.
pub const MAX_DAYS: usize = 1024;

const FILE_NAME: &str = "days.txt";
/// 16 hex digits, a space, `2025-07-04` and a line feed.
const LINE_BYTES: usize = 28;

impl StoredMemory {
    /// What was last saved with [`MemoryWriter::save_days`], oldest first; nothing if nothing was, or
    /// if the memory was forgotten since.
    ///
    /// # Errors
    /// [`Error::Format`] for another file, [`Error::Io`].
    pub fn days(&self) -> Result<Vec<(u64, CivilDate)>> {
        let path = self.folder().join(FILE_NAME);
        let bytes = match files::read_bounded(&path, MAX_DAYS * LINE_BYTES, "list of days") {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            result => result?,
        };
        let parse = |line: &str| {
            let (digest, day) = line.split_once(' ').filter(|(digest, _)| digest.len() == 16)?;
            Some((u64::from_str_radix(digest, 16).ok()?, day.parse().ok()?))
        };
        let text = std::str::from_utf8(&bytes).ok();
        let days = text.and_then(|text| text.lines().map(parse).collect());
        days.ok_or_else(|| {
            let reason = "it is not one of 16 hex digits and a date a line";
            Error::format(path.display().to_string(), "list of days", reason)
        })
    }
}

impl MemoryWriter {
    /// Replaces the list of this memory by the newest [`MAX_DAYS`] of `days`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_days(&mut self, days: &[(u64, CivilDate)]) -> Result<()> {
        let newest = &days[days.len().saturating_sub(MAX_DAYS)..];
        let mut text = String::with_capacity(newest.len() * LINE_BYTES);
        for (digest, day) in newest {
            // writing to a String cannot fail
            let _ = writeln!(text, "{digest:016x} {day}");
        }
        let folder = self.memory().folder();
        files::create_folder(folder)?;
        let temporary = folder.join(super::writer::TEMPORARY_NAME);
        files::write_durably(&temporary, &folder.join(FILE_NAME), text.as_bytes())?;
        files::sync_folder(folder)
    }
}
