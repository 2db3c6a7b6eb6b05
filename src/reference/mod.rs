//! The CPU twin: every GPU kernel once more in plain f32 Rust under the same name, and a model
//! built of them. Proved against the reference fixtures; the shaders are proved against it.
//! Written to be read; only `matmul` is also written to be fast.

mod adapter;
mod attention;
mod decoding;
mod kv_bytes;
mod linear;
mod memory;
mod mlp;
mod model;
mod norm;
mod sampling;
#[cfg(test)]
mod tests;

pub use attention::{KvCache, attention, kv_write, rope};
pub use linear::{embed, low_rank_add, matmul};
pub use memory::{Projected, memory_project, memory_read, memory_scan, segment_mean};
pub use mlp::{sigmoid, silu_mul};
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub(crate) use model::read_matrix;
pub use model::{Model, Options, ParkedContext};
pub use norm::rms_norm;
pub use sampling::{
    ChooseSettings, DecodeStep, argmax, choose, mask_logits, next_step, note_token,
    repetition_penalty, top_k,
};

/// What a kernel does with the place it writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Overwrites it.
    Store,
    /// Adds to it, for residuals and corrections.
    Add,
}

/// Calls `body(index, row)` for each `row_len` long row of `data`; on all cores where there are
/// threads. Rows never depend on each other, so the order has no influence on a result.
fn for_each_row(data: &mut [f32], row_len: usize, body: impl Fn(usize, &mut [f32]) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        let rows = data.par_chunks_mut(row_len).enumerate();
        rows.for_each(|(index, row)| body(index, row));
    }
    #[cfg(target_arch = "wasm32")]
    for (index, row) in data.chunks_mut(row_len).enumerate() {
        body(index, row);
    }
}
