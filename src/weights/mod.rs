//! Where weights come from. Owns the one interface between files and the GPU: a named tensor is
//! read piece by piece as f32, so that nothing is ever held twice. One file a format.

pub mod bytes;
pub mod gguf;
pub mod quantize;
pub mod recipe;
pub mod safetensors;
pub mod torch;

use crate::error::{Error, Result};
use crate::shader::Storage;
use gguf::blocks::GgmlType;

/// The type in which a file stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F16,
    BF16,
    /// A few bits an element, with scales that a block shares; rows are whole blocks.
    Blocks(GgmlType),
}

impl DType {
    /// Elements of a block; 1 where each stands alone.
    pub fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Blocks(ty) => ty.block_len(),
        }
    }

    /// Bytes a block takes in the file, or an element where each stands alone.
    pub fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Blocks(ty) => ty.block_bytes(),
        }
    }

    /// As people write it: `bf16`, `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::Blocks(ty) => ty.name(),
        }
    }
}

/// Shape and stored type of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: DType,
    /// Row-major; `[out, in]` for matrices.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A set of named tensors that can be read in pieces.
pub trait TensorSource {
    /// What to call this source in errors: a file or folder name.
    fn label(&self) -> &str;

    /// The names of all tensors, in a stable order.
    fn names(&self) -> Vec<&str>;

    /// Shape and type of a tensor, `None` if there is none of this name.
    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// Reads `out.len()` elements of `name`, from row-major flat index `start` on, as f32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name, [`Error::Io`] or [`Error::Format`] if the
    /// file cannot deliver them.
    ///
    /// # Panics
    /// If the range reaches past the tensor's end.
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;

    /// The storage in which a matrix is kept whatever the caller asks for, because the file has it in
    /// blocks that the kernels read; `None` for all others.
    fn own_storage(&self, _name: &str) -> Option<Storage> {
        None
    }

    /// Reads rows of a matrix in its [`TensorSource::own_storage`], from row `row_start` on, as many
    /// as `values` and `scales` have room for; both are laid out as `quantize` says.
    ///
    /// # Errors
    /// As [`TensorSource::read_f32`]; [`Error::MissingTensor`] if it has no storage of its own.
    fn read_rows(
        &self,
        name: &str,
        _row_start: usize,
        _values: &mut [u8],
        _scales: &mut [u8],
    ) -> Result<()> {
        Err(Error::MissingTensor { file: self.label().into(), name: name.into() })
    }

    /// Checks that `name` is there with exactly this shape.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorShape`].
    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.info(name) {
            None => Err(Error::MissingTensor { file: self.label().into(), name: name.into() }),
            Some(info) if info.shape != shape => Err(Error::TensorShape {
                file: self.label().into(),
                name: name.into(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// The whole tensor as f32; for small ones (norms, adapter projections, the CPU twin).
    ///
    /// # Errors
    /// As [`TensorSource::read_f32`].
    fn read_all(&self, name: &str) -> Result<Vec<f32>> {
        let info = self
            .info(name)
            .ok_or_else(|| Error::MissingTensor { file: self.label().into(), name: name.into() })?;
        let mut out = vec![0.0; info.n_elements()];
        self.read_f32(name, 0, &mut out)?;
        Ok(out)
    }
}

/// The same tensors without storages of their own: matrices are widened and stored as the caller asks.
pub struct Widened(pub Box<dyn TensorSource + Send>);

impl TensorSource for Widened {
    fn label(&self) -> &str {
        self.0.label()
    }

    fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.info(name)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.0.read_f32(name, start, out)
    }
}
