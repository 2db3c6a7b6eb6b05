//! Bytes that a weight file consists of, on disk or in memory. Owns positional reading with bounds
//! checks and the widening to f32; knows no format.
//!
//! Files are read, not mapped: a file that another program shortens while it is read gives an
//! error here, where a mapping would kill the process.

use super::gguf::blocks::{GgmlType, decode};
use super::{DType, TensorInfo};
use crate::error::{Error, Result};
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
#[cfg(not(target_arch = "wasm32"))]
use std::path::{Path, PathBuf};

/// Bytes on disk or in memory that can be read at any position.
pub struct Blob {
    label: String,
    len: u64,
    place: Place,
}

enum Place {
    Memory(Cow<'static, [u8]>),
    #[cfg(not(target_arch = "wasm32"))]
    File {
        file: std::fs::File,
        path: PathBuf,
    },
    Reader(Reader),
}

/// Fills the slice with bytes from a position on and returns how many it could.
pub type Reader = Box<dyn Fn(u64, &mut [u8]) -> Result<usize> + Send>;

/// Where a tensor lies in a [`Blob`]: shape, type and the position of its first byte.
pub(super) struct Stored {
    pub info: TensorInfo,
    pub offset: u64,
}

impl Stored {
    /// # Panics
    /// If `len` elements from `start` on reach past the tensor's end.
    pub(super) fn check_range(&self, start: usize, len: usize) {
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.info.n_elements()),
            "{len} elements from {start} on are not inside shape {:?}",
            self.info.shape
        );
    }
}

/// Elements of a 16-bit tensor that are widened at once (256 KiB).
const CHUNK: usize = 1 << 17;
/// Bytes of blocks that are widened at once.
const BLOCKS_BYTES: usize = 1 << 18;

impl Blob {
    /// Bytes in memory. `label` names them in errors.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>, label: impl Into<String>) -> Blob {
        let bytes = bytes.into();
        Blob { label: label.into(), len: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    /// An ordinary file; nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or is not an ordinary file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Blob> {
        let (file, len) = open_file(path)?;
        Ok(Blob {
            label: path.display().to_string(),
            len,
            place: Place::File { file, path: path.to_path_buf() },
        })
    }

    /// `len` bytes that lie elsewhere (a page's storage) and are asked for piece by piece. `label`
    /// names them in errors.
    pub fn from_reader(len: u64, label: impl Into<String>, reader: Reader) -> Blob {
        Blob { label: label.into(), len, place: Place::Reader(reader) }
    }

    /// What to call these bytes in errors.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Number of bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Format`] if they reach past the end, [`Error::Io`] if reading fails.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(self.short(offset, out.len()));
        }
        match &self.place {
            Place::Memory(bytes) => {
                // The bounds were checked above, so `offset` fits into usize.
                out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
                Ok(())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Place::File { file, path } => {
                use std::os::unix::fs::FileExt;
                match file.read_exact_at(out, offset) {
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                        Err(self.short(offset, out.len()))
                    }
                    other => other.map_err(Error::io(path)),
                }
            }
            Place::Reader(reader) => {
                let mut done = 0;
                while done < out.len() {
                    let rest = &mut out[done..];
                    match reader(offset + done as u64, rest)? {
                        n if (1..=rest.len()).contains(&n) => done += n,
                        _ => return Err(self.short(offset, out.len())),
                    }
                }
                Ok(())
            }
        }
    }

    /// `len` bytes from `offset` on; the length is checked before anything is allocated.
    ///
    /// # Errors
    /// As [`Blob::read`].
    pub fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(self.short(offset, len));
        }
        let mut out = vec![0; len];
        self.read(offset, &mut out)?;
        Ok(out)
    }

    fn short(&self, offset: u64, len: usize) -> Error {
        Error::format(
            &self.label,
            "file",
            format!(
                "{len} bytes at position {offset} reach past its end ({} bytes); was it truncated?",
                self.len
            ),
        )
    }

    /// Elements `start..` of a tensor as f32.
    ///
    /// # Panics
    /// If the range reaches past the tensor's end.
    pub(super) fn read_f32(&self, tensor: &Stored, start: usize, out: &mut [f32]) -> Result<()> {
        tensor.check_range(start, out.len());
        let dtype = tensor.info.dtype;
        if let DType::Blocks(ty) = dtype {
            return self.read_blocks(ty, tensor.offset, start, out);
        }
        let offset = tensor.offset + start as u64 * dtype.block_bytes() as u64;
        if dtype == DType::F32 {
            self.read(offset, bytemuck::cast_slice_mut(out))?;
            // Files are little-endian; nothing to do on little-endian machines.
            for x in out {
                *x = f32::from_bits(u32::from_le(x.to_bits()));
            }
            return Ok(());
        }
        let mut scratch = vec![0u16; out.len().min(CHUNK)];
        for (i, out) in out.chunks_mut(CHUNK).enumerate() {
            let halves = &mut scratch[..out.len()];
            let offset = offset + (i * CHUNK * dtype.block_bytes()) as u64;
            self.read(offset, bytemuck::cast_slice_mut(halves))?;
            for x in halves.iter_mut() {
                *x = u16::from_le(*x);
            }
            match dtype {
                DType::F16 => {
                    bytemuck::cast_slice::<u16, half::f16>(halves).convert_to_f32_slice(out)
                }
                _ => bytemuck::cast_slice::<u16, half::bf16>(halves).convert_to_f32_slice(out),
            }
        }
        Ok(())
    }

    /// Elements `start..` of the blocks of type `ty` that begin at `offset`.
    fn read_blocks(
        &self,
        ty: GgmlType,
        offset: u64,
        start: usize,
        mut out: &mut [f32],
    ) -> Result<()> {
        let (block_len, block_bytes) = (ty.block_len(), ty.block_bytes());
        let mut block = start / block_len;
        let mut skipped = start % block_len;
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        while !out.is_empty() {
            let n_left = (skipped + out.len()).div_ceil(block_len);
            let n_blocks = n_left.min(BLOCKS_BYTES / block_bytes);
            bytes.resize(n_blocks * block_bytes, 0);
            self.read(offset + block as u64 * block_bytes as u64, &mut bytes)?;
            let n = (n_blocks * block_len - skipped).min(out.len());
            let (piece, rest) = out.split_at_mut(n);
            if n == n_blocks * block_len {
                decode(ty, &bytes, piece);
            } else {
                whole.resize(n_blocks * block_len, 0.0);
                decode(ty, &bytes, &mut whole);
                piece.copy_from_slice(&whole[skipped..][..n]);
            }
            (block, skipped, out) = (block + n_blocks, 0, rest);
        }
        Ok(())
    }
}

/// A whole small file (configuration, tokenizer, template).
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] if it has more than `max` bytes.
#[cfg(not(target_arch = "wasm32"))]
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let (file, len) = open_file(path)?;
    let too_large = |len: u64| {
        Error::format(
            path.display().to_string(),
            "file",
            format!("{len} bytes; at most {max} are accepted"),
        )
    };
    if len > max {
        return Err(too_large(len));
    }
    let mut bytes = Vec::new();
    // The file may grow between the check and the read.
    file.take(max + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Opens an ordinary file. Asks for its kind first, because opening a named pipe waits for a writer.
#[cfg(not(target_arch = "wasm32"))]
fn open_file(path: &Path) -> Result<(std::fs::File, u64)> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        let kind = std::io::Error::other("not an ordinary file");
        return Err(Error::io(path)(kind));
    }
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    Ok((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(dtype: DType, n: usize) -> Stored {
        Stored { info: TensorInfo { dtype, shape: vec![n] }, offset: 3 }
    }

    #[test]
    fn widens_every_type_and_any_range() {
        let n = CHUNK + 70;
        let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.25 - 100.0).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (mut bytes, mut expected) = (vec![0xFF; 3], Vec::new());
            for &x in &values {
                match dtype {
                    DType::F32 => {
                        bytes.extend(x.to_le_bytes());
                        expected.push(x);
                    }
                    DType::F16 => {
                        let h = half::f16::from_f32(x);
                        bytes.extend(h.to_le_bytes());
                        expected.push(h.to_f32());
                    }
                    _ => {
                        let h = half::bf16::from_f32(x);
                        bytes.extend(h.to_le_bytes());
                        expected.push(h.to_f32());
                    }
                }
            }
            let blob = Blob::from_bytes(bytes, "test");
            let tensor = stored(dtype, n);
            for (start, len) in [(0, n), (1, n - 1), (CHUNK - 2, 9), (n, 0), (n - 1, 1)] {
                let mut out = vec![0.0; len];
                blob.read_f32(&tensor, start, &mut out).unwrap();
                assert_eq!(out, &expected[start..start + len], "{dtype:?} {start}+{len}");
            }
        }
    }

    #[test]
    fn past_the_end_is_an_error_in_memory_and_on_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1, 2, 3, 4]).unwrap();
        let on_disk = Blob::open(file.path()).unwrap();
        for blob in [&Blob::from_bytes(vec![1, 2, 3, 4], "memory"), &on_disk] {
            assert_eq!(blob.read_vec(1, 3).unwrap(), [2, 3, 4]);
            for (offset, len) in [(2, 3), (5, 0), (u64::MAX, 2), (0, usize::MAX)] {
                assert_eq!(blob.read_vec(offset, len).unwrap_err().code(), "format");
            }
        }
        // Shortened behind our back.
        std::fs::write(file.path(), [1, 2]).unwrap();
        assert_eq!(on_disk.read_vec(0, 4).unwrap_err().code(), "format");
    }

    #[test]
    fn a_reader_is_asked_until_all_is_there() {
        let stored: Vec<u8> = (0..100).collect();
        let pieces = stored.clone();
        let reader = move |offset: u64, out: &mut [u8]| {
            let n = out.len().min(7);
            out[..n].copy_from_slice(&pieces[offset as usize..][..n]);
            Ok(n)
        };
        let blob = Blob::from_reader(100, "reader", Box::new(reader));
        assert_eq!(blob.read_vec(0, 100).unwrap(), stored);
        assert_eq!(blob.read_vec(95, 5).unwrap(), stored[95..]);
        assert_eq!(blob.read_vec(95, 6).unwrap_err().code(), "format");
        let given = |answer: fn() -> Result<usize>| {
            let blob = Blob::from_reader(100, "reader", Box::new(move |_, _| answer()));
            blob.read_vec(0, 100).unwrap_err().code()
        };
        assert_eq!(given(|| Ok(0)), "format");
        assert_eq!(given(|| Ok(101)), "format");
        assert_eq!(given(|| Err(Error::Cancelled)), "cancelled");
    }

    #[test]
    fn folders_and_large_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Blob::open(folder.path()), Err(Error::Io { .. })));
        assert!(matches!(read_bounded(folder.path(), 9), Err(Error::Io { .. })));
        let path = folder.path().join("ten");
        std::fs::write(&path, [0; 10]).unwrap();
        assert_eq!(read_bounded(&path, 9).unwrap_err().code(), "format");
        assert_eq!(read_bounded(&path, 10).unwrap().len(), 10);
    }
}
