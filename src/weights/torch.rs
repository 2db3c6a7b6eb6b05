//! Adapters as the reference saves them (`delta_mem_adapter.pt`, SPEC.md section 6): `torch.save`
//! of a dict of contiguous tensors. Owns how archive and pickle fit together; executes nothing.

mod pickle;
mod zip;

use super::bytes::{Blob, Stored};
use super::{TensorInfo, TensorSource};
use crate::error::{Error, Result};
use pickle::Refusal;
use std::borrow::Cow;
use std::collections::BTreeMap;

const FORMAT: &str = "torch file";

/// One file of `torch.save`, on disk or in memory.
pub struct TorchFile {
    blob: Blob,
    tensors: BTreeMap<String, Stored>,
}

impl TorchFile {
    /// Reads and checks the directory and the pickle; tensors are read when asked for.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`TorchFile::from_bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<TorchFile> {
        TorchFile::from_blob(Blob::open(path.as_ref())?)
    }

    /// A file that is in memory already. `label` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for a damaged file; [`Error::Unsupported`], with the name, for anything
    /// but contiguous little-endian tensors of type f32, f16 or bf16 in a plain dict.
    pub fn from_bytes(
        bytes: impl Into<Cow<'static, [u8]>>,
        label: impl Into<String>,
    ) -> Result<TorchFile> {
        TorchFile::from_blob(Blob::from_bytes(bytes, label))
    }

    /// A file whose bytes lie anywhere; only its directory and pickle are read.
    ///
    /// # Errors
    /// As [`TorchFile::from_bytes`], and what reading gives.
    pub fn from_blob(blob: Blob) -> Result<TorchFile> {
        let bad = |reason: String| Error::format(blob.label(), FORMAT, reason);
        let unsupported = |what: String, reason: &str| Error::Unsupported {
            what: format!("{}: {what}", blob.label()),
            reason: reason.into(),
        };
        let entries = zip::read_directory(&blob)?;
        let mut pickles = entries
            .iter()
            .filter_map(|(name, entry)| Some((name.strip_suffix("/data.pkl")?, entry)))
            .filter(|(folder, _)| !folder.contains('/'));
        let (Some((folder, pickle)), None) = (pickles.next(), pickles.next()) else {
            return Err(bad("it does not hold exactly one `data.pkl`".into()));
        };
        if let Some(order) = entries.get(&format!("{folder}/byteorder"))
            && (order.len != 6 || blob.read_vec(order.offset, 6)? != b"little")
        {
            return Err(unsupported(
                "big-endian tensors".into(),
                "only little-endian files are read",
            ));
        }
        if pickle.len > pickle::MAX_PICKLE_BYTES {
            return Err(bad(format!("a pickle of {} bytes is too large", pickle.len)));
        }
        let pickle = blob.read_vec(pickle.offset, pickle.len as usize)?;
        let described = pickle::read_tensors(&pickle).map_err(|refusal| match refusal {
            Refusal::Invalid(reason) => bad(format!("pickle: {reason}")),
            Refusal::Unsupported(what) => {
                unsupported(what, "only a dict of tensors is read, and nothing in it is executed")
            }
        })?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in described {
            let key = &tensor.storage_key;
            let storage = entries
                .get(&format!("{folder}/data/{key}"))
                .ok_or_else(|| bad(format!("tensor `{name}`: storage `{key}` is missing")))?;
            if !is_contiguous(&tensor.shape, &tensor.stride) {
                return Err(unsupported(
                    format!("tensor `{name}` with strides {:?}", tensor.stride),
                    "only contiguous tensors are read; save it with .contiguous()",
                ));
            }
            let stored = place(&tensor, storage)
                .ok_or_else(|| bad(format!("tensor `{name}` reaches outside its storage")))?;
            tensors.insert(name.to_string(), stored);
        }
        Ok(TorchFile { blob, tensors })
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            file: self.blob.label().into(),
            name: name.into(),
        })
    }
}

impl TensorSource for TorchFile {
    fn label(&self) -> &str {
        self.blob.label()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.blob.read_f32(self.stored(name)?, start, out)
    }
}

/// The tensor's place in the archive; `None` if it, or what the pickle says of its storage, does
/// not fit into the storage's entry.
fn place(tensor: &pickle::Tensor, storage: &zip::Entry) -> Option<Stored> {
    let size = tensor.dtype.block_bytes() as u64;
    let n = (tensor.shape.iter()).try_fold(1, |n: u64, &d| n.checked_mul(d))?;
    let end = tensor.offset.checked_add(n)?;
    if tensor.storage_len.checked_mul(size)? != storage.len || end > tensor.storage_len {
        return None;
    }
    let shape = tensor.shape.iter().map(|&d| usize::try_from(d).ok());
    Some(Stored {
        info: TensorInfo { dtype: tensor.dtype, shape: shape.collect::<Option<_>>()? },
        // Inside the archive, because `end` is.
        offset: storage.offset + tensor.offset * size,
    })
}

/// True for row-major strides; those of dimensions with one element or none do not matter.
fn is_contiguous(shape: &[u64], stride: &[u64]) -> bool {
    let mut expected = Some(1u64);
    shape.len() == stride.len()
        && (shape.contains(&0)
            || shape.iter().zip(stride).rev().all(|(&n, &stride)| {
                let fits = n == 1 || expected == Some(stride);
                expected = expected.and_then(|e| e.checked_mul(n));
                fits
            }))
}

#[cfg(test)]
#[path = "torch_tests.rs"]
mod tests;
