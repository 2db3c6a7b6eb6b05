//! Writing GGUF files. Owns the layout in front of the tensors, and that a file is either whole or
//! has another name.
//!
//! The header is known before the first tensor: a [`Plan`]. Bytes then go into `NAME.part` from front
//! to back, a piece at a time. Until the end, the eight bytes that later say `GGUF` and the version
//! hold how far the file is safely on disk, so that an interrupted run goes on from there and nobody
//! takes the half for a model. Another plan starts over.

use super::blocks::GgmlType;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// `GGUF`, version 3.
const MAGIC_AND_VERSION: [u8; 8] = *b"GGUF\x03\0\0\0";
/// Tensors begin at multiples of it, in bytes; what readers assume.
const ALIGNMENT: u64 = 32;
/// What is written before it is made safe: as much is done again after an interruption.
const SYNC_BYTES: u64 = 16 << 20;
/// Longest name of a tensor that llama.cpp takes.
const MAX_NAME_BYTES: usize = 63;

/// A value in front of the tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    Count(u32),
    Number(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
}

/// A tensor of a file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// As the file has it.
    pub name: String,
    pub ty: GgmlType,
    /// Row-major, `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// Position of its first byte in the file.
    pub offset: u64,
    pub size_bytes: u64,
}

impl PlannedTensor {
    /// Elements of a row.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        // The whole tensor was checked when it was planned.
        self.row_len() / self.ty.block_len() * self.ty.block_bytes()
    }
}

/// A file's header, and where everything will be.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    header: Vec<u8>,
    tensors: Vec<PlannedTensor>,
    size_bytes: u64,
}

impl Plan {
    /// Lays a file out.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that GGUF cannot hold: rows of broken blocks, too many or no
    /// dimensions, a name that is too long or there twice.
    pub fn new(
        metadata: &[(String, MetaValue)],
        tensors: Vec<(String, GgmlType, Vec<usize>)>,
    ) -> Result<Plan> {
        let mut header = MAGIC_AND_VERSION.to_vec();
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            put_value(&mut header, value);
        }
        let mut planned: Vec<PlannedTensor> = Vec::with_capacity(tensors.len());
        let mut next = 0u64;
        let mut names = std::collections::HashSet::new();
        for (name, ty, shape) in tensors {
            let bad = |reason: &str| {
                let ty = ty.name();
                Error::format(&name, "tensor of a GGUF file", format!("{ty} {shape:?} {reason}"))
            };
            if name.len() > MAX_NAME_BYTES || !names.insert(name.clone()) {
                return Err(bad("has a name that is too long or there already"));
            }
            if !(1..=4).contains(&shape.len()) || shape.contains(&0) {
                return Err(bad("needs one to four dimensions"));
            }
            let row = shape.last().map_or(0, |&n| n as u64);
            let row_bytes = ty.row_bytes(row).ok_or_else(|| bad("has rows of broken blocks"))?;
            let rows = shape[..shape.len() - 1].iter();
            let size_bytes = rows
                .map(|&n| n as u64)
                .try_fold(row_bytes, u64::checked_mul)
                .filter(|size| next.checked_add(*size).is_some_and(|end| end < 1 << 62))
                .ok_or_else(|| bad("is too large"))?;
            put_text(&mut header, &name);
            header.extend((shape.len() as u32).to_le_bytes());
            for &n in shape.iter().rev() {
                header.extend((n as u64).to_le_bytes());
            }
            header.extend(ty.id().to_le_bytes());
            header.extend(next.to_le_bytes());
            planned.push(PlannedTensor { name, ty, shape, offset: next, size_bytes });
            next = (next + size_bytes).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        let data_start = header.len() as u64;
        for tensor in &mut planned {
            tensor.offset += data_start;
        }
        Ok(Plan { header, tensors: planned, size_bytes: data_start + next })
    }

    /// Everything in front of the tensors, as the finished file has it.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// In the file's order.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// Length of the finished file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &MetaValue) {
    // the format's numbers for types
    let [u32_, i32_, f32_, bool_, text_, list_] = [4u32, 5, 6, 7, 8, 9];
    let mut kind = |kinds: &[u32]| kinds.iter().for_each(|k| out.extend(k.to_le_bytes()));
    match value {
        MetaValue::Count(n) => {
            kind(&[u32_]);
            out.extend(n.to_le_bytes());
        }
        MetaValue::Number(x) => {
            kind(&[f32_]);
            out.extend(x.to_le_bytes());
        }
        MetaValue::Bool(b) => {
            kind(&[bool_]);
            out.push(u8::from(*b));
        }
        MetaValue::Text(text) => {
            kind(&[text_]);
            put_text(out, text);
        }
        MetaValue::Texts(texts) => {
            kind(&[list_, text_]);
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| put_text(out, text));
        }
        MetaValue::Integers(list) => {
            kind(&[list_, i32_]);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}

/// A file that is being written, under the name `NAME.part`.
pub struct GgufWriter<'a> {
    plan: &'a Plan,
    path: PathBuf,
    part: PathBuf,
    file: File,
    /// Everything before it is there.
    position: u64,
    /// Everything before it survives a power cut.
    safe: u64,
    sync_bytes: u64,
}

impl<'a> GgufWriter<'a> {
    /// Begins to write `path`, or goes on where a run with the same plan ended.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process is writing it, [`Error::Io`].
    pub fn open(path: &Path, plan: &'a Plan) -> Result<GgufWriter<'a>> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(Error::io(path)(ErrorKind::IsADirectory.into()));
        };
        let mut part = name.to_os_string();
        part.push(".part");
        let part = path.with_file_name(part);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.map_err(Error::io(&part))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: part }),
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: part, source }),
        }
        let data_start = plan.header.len() as u64;
        let mut writer = GgufWriter {
            plan,
            path: path.to_path_buf(),
            part,
            file,
            position: data_start,
            safe: 0,
            sync_bytes: SYNC_BYTES,
        };
        match writer.found().map_err(Error::io(&writer.part))? {
            Some(safe) => (writer.position, writer.safe) = (safe, safe),
            None => writer.start_over().map_err(Error::io(&writer.part))?,
        }
        Ok(writer)
    }

    /// How much of the same plan is there already.
    fn found(&self) -> std::io::Result<Option<u64>> {
        let mut header = vec![0; self.plan.header.len()];
        let len = self.file.metadata()?.len();
        if len < header.len() as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, 0)?;
        let (mark, rest) = header.split_at(MAGIC_AND_VERSION.len());
        let mark = mark.try_into().map_or(0, u64::from_le_bytes);
        let is_same = rest == &self.plan.header[MAGIC_AND_VERSION.len()..];
        let is_inside =
            (self.plan.header.len() as u64..=len.min(self.plan.size_bytes)).contains(&mark);
        Ok((is_same && is_inside).then_some(mark))
    }

    fn start_over(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(&self.plan.header, 0)?;
        self.file.write_all_at(&[0; 8], 0)?;
        self.save()
    }

    /// Makes what is there safe, and says so in the file.
    fn save(&mut self) -> std::io::Result<()> {
        self.file.sync_data()?;
        self.file.write_all_at(&self.position.to_le_bytes(), 0)?;
        self.safe = self.position;
        Ok(())
    }

    /// Position in the finished file up to which everything is there.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends a piece; gaps up to `offset` are filled with zeros.
    ///
    /// # Errors
    /// [`Error::Io`]. What is there stays for the next run.
    ///
    /// # Panics
    /// If the piece begins before [`GgufWriter::position`] or ends behind the plan.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        assert!(self.position <= offset && end <= self.plan.size_bytes, "pieces come in order");
        let write = |writer: &mut GgufWriter| {
            // A gap is less than the alignment.
            let gap = [0; ALIGNMENT as usize];
            let n = (offset - writer.position).min(ALIGNMENT) as usize;
            writer.file.write_all_at(&gap[..n], writer.position)?;
            writer.file.write_all_at(bytes, offset)?;
            writer.position = end;
            match end - writer.safe >= writer.sync_bytes {
                true => writer.save(),
                false => Ok(()),
            }
        };
        write(self).map_err(Error::io(&self.part))
    }

    /// Bytes that were written before, to look at them once more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_back(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(Error::io(&self.part))
    }

    /// Makes the file whole: it gets its beginning and its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// If tensors are missing.
    pub fn finish(mut self) -> Result<()> {
        let end = self
            .plan
            .tensors
            .last()
            .map_or(self.plan.header.len() as u64, |tensor| tensor.offset + tensor.size_bytes);
        assert_eq!(self.position, end, "all tensors are written");
        let finish = |writer: &mut GgufWriter| {
            writer.file.set_len(writer.plan.size_bytes)?;
            writer.position = writer.plan.size_bytes;
            writer.save()?;
            writer.file.write_all_at(&MAGIC_AND_VERSION, 0)?;
            writer.file.sync_all()?;
            std::fs::rename(&writer.part, &writer.path)?;
            let folder = writer.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        finish(&mut self).map_err(Error::io(&self.part))
    }
}

impl Drop for GgufWriter<'_> {
    /// Keeps what is there for the next run, where an error ended this one.
    fn drop(&mut self) {
        if self.position > self.safe {
            // If this fails too, the next run begins at the mark before.
            let _ = self.save();
        }
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
