//! The δ-mem state as a value: what the scan reads and writes, outside the GPU. Owns its layout;
//! its file format is in `memory_file`, the mathematics in `reference/` and `shaders/`.

use crate::error::{Error, Result};

/// Which states there are. Two memories with equal dimensions hold the same number of floats in
/// the same order, but belong together only if backbone and adapter agree too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
        MemoryState { values: vec![0.0; dims.len()], dims }
    }

    /// The state of the `index`-th wrapped layer, `[H_s, r, r]`.
    pub fn layer(&self, index: usize) -> &[f32] {
        &self.values[index * self.dims.layer_len()..][..self.dims.layer_len()]
    }

    /// As [`MemoryState::layer`], to be written.
    pub fn layer_mut(&mut self, index: usize) -> &mut [f32] {
        let layer_len = self.dims.layer_len();
        &mut self.values[index * layer_len..][..layer_len]
    }

    /// Checks that this state can be put into a model with memory dimensions `expected`.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] that names the first difference.
    pub fn check_dims(&self, expected: &MemoryDims) -> Result<()> {
        let mismatch = |field, expected: String, found: String| {
            Err(Error::MemoryMismatch { field, expected, found })
        };
        let found = &self.dims;
        if found.layers != expected.layers {
            let list = |layers: &[usize]| format!("{layers:?}");
            return mismatch("layers", list(&expected.layers), list(&found.layers));
        }
        if found.num_state_heads != expected.num_state_heads {
            let (expected, found) = (expected.num_state_heads, found.num_state_heads);
            return mismatch("num_state_heads", expected.to_string(), found.to_string());
        }
        if found.rank != expected.rank {
            return mismatch("rank", expected.rank.to_string(), found.rank.to_string());
        }
        if self.values.len() != expected.len() {
            let (expected, found) = (expected.len(), self.values.len());
            return mismatch("length", expected.to_string(), found.to_string());
        }
        Ok(())
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
