//! KV positions of a [`Model`] as bytes: from the GPU to the host and back. Owns the two copies.

use super::Model;
use crate::error::Result;

/// Uploads that wait together, at most: as for weights.
const MOST_WAITING_BYTES: usize = 16 << 20;

impl Model {
    /// Bytes of one position in a layer's keys, as the cache's storage has them.
    pub fn kv_position_bytes(&self) -> usize {
        self.cache.position_bytes as usize
    }

    /// See [`crate::engine::Engine::read_kv`].
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] for the staging buffer, [`crate::Error::Gpu`].
    pub async fn read_kv(&self, layer: usize, n: usize) -> Result<[Vec<u8>; 2]> {
        assert!(n <= self.n_past, "{n} positions of {}", self.n_past);
        let (keys, values) = &self.cache.layers[layer];
        let n_bytes = n as u64 * self.cache.position_bytes;
        Ok([self.gpu.read(keys, 0, n_bytes).await?, self.gpu.read(values, 0, n_bytes).await?])
    }

    /// See [`crate::engine::Engine::write_kv`].
    ///
    /// # Errors
    /// [`crate::Error::Gpu`].
    pub async fn write_kv(&mut self, layer: usize, kv: [&[u8]; 2]) -> Result<()> {
        assert_eq!(self.n_past, 0, "the cache is not empty");
        self.settle_decoding();
        let (keys, values) = &self.cache.layers[layer];
        for (buffer, bytes) in [(keys, kv[0]), (values, kv[1])] {
            self.gpu.queue.write_buffer(buffer, 0, bytes);
        }
        let layer_bytes = (kv[0].len() + kv[1].len()).max(1);
        let layers_together = (MOST_WAITING_BYTES / layer_bytes).max(1);
        if (layer + 1).is_multiple_of(layers_together) || layer + 1 == self.cache.layers.len() {
            return self.gpu.finished().await;
        }
        Ok(())
    }

    /// See [`crate::engine::Engine::count_positions`].
    pub fn count_positions(&mut self, n: usize) {
        assert!(n <= self.context_window, "{n} tokens in a window of {}", self.context_window);
        self.settle_decoding();
        self.n_past = n;
        self.last_logits_row = None;
    }
}
