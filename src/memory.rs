//! The δ-mem state as a value: what the scan reads and writes, outside the GPU. Owns its layout;
//! its file format is in `memory_file`, the mathematics in `reference/` and `shaders/`.

use crate::error::{Error, Result};

/// Which states there are. Two memories with equal dimensions hold the same number of floats in
/// the same order, but belong together only if backbone and adapter agree too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDims {
    /// Wrapped backbone layers, ascending.
    pub layers: Vec<usize>,
    /// H_s
    pub num_state_heads: usize,
    /// r
    pub rank: usize,
}

impl MemoryDims {
    /// Floats of one layer, H_s·r·r.
    pub fn layer_len(&self) -> usize {
        self.num_state_heads * self.rank * self.rank
    }

    /// Floats of the whole memory.
    pub fn len(&self) -> usize {
        self.layers.len() * self.layer_len()
    }

    /// True for a model without δ-mem.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The states of all wrapped layers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryState {
    pub dims: MemoryDims,
    /// `[layers, H_s, r, r]` f32, row-major; S[i][j] has value row i and key column j.
    pub values: Vec<f32>,
}

impl MemoryState {
    /// The state before the first write.
    pub fn zeros(dims: MemoryDims) -> MemoryState {
        MemoryState {
            values: vec![0.0; dims.len()],
            dims,
        }
    }

    /// Checks that this state is one of a model with these dimensions.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] naming the first dimension that differs.
    pub fn expect_dims(&self, dims: &MemoryDims) -> Result<()> {
        let differing = [
            ("rank", self.dims.rank != dims.rank),
            ("state heads", self.dims.num_state_heads != dims.num_state_heads),
            ("wrapped layers", self.dims.layers != dims.layers),
            ("number of values", self.values.len() != dims.len()),
        ];
        match differing.iter().find(|(_, differs)| *differs) {
            None => Ok(()),
            Some((field, _)) => Err(Error::MemoryMismatch {
                field,
                expected: format!("{dims:?}"),
                found: format!("{:?} with {} values", self.dims, self.values.len()),
            }),
        }
    }

    /// The state of the `index`-th wrapped layer, `[H_s, r, r]`.
    pub fn layer(&self, index: usize) -> &[f32] {
        &self.values[index * self.dims.layer_len()..][..self.dims.layer_len()]
    }

    /// Frobenius norm of one wrapped layer's state.
    pub fn layer_norm(&self, index: usize) -> f32 {
        self.layer(index).iter().map(|x| x * x).sum::<f32>().sqrt()
    }

    /// Frobenius norm of everything.
    pub fn norm(&self) -> f32 {
        self.values.iter().map(|x| x * x).sum::<f32>().sqrt()
    }
}
