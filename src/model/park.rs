//! KV cache and memory set aside and taken back, without leaving the GPU. Owns the copies: as many
//! positions as are filled, in one submission.

use super::Model;
use crate::engine::foreign_context;
use crate::error::Result;
use std::sync::Arc;

/// KV cache and memory of a [`Model`] at one moment.
#[derive(Debug)]
pub struct ParkedContext {
    n_past: usize,
    /// Keys and values of each layer, `[n_past, n_kv, d]`; none if nothing was cached.
    layers: Vec<(Own, Own)>,
    /// `[wrapped layers, H_s, r, r]` f32
    state: Own,
    identity: Arc<()>,
}

/// A buffer that is given back at once when it is dropped; a browser would wait for its garbage
/// collector.
#[derive(Debug)]
struct Own(wgpu::Buffer);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

impl Model {
    /// A copy of KV cache and memory as they are now.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Gpu`].
    pub async fn park(&self) -> Result<ParkedContext> {
        let cached_bytes = self.cached_bytes();
        let state_bytes = 4 * self.dims.len() as u64;
        let mut layers = Vec::new();
        for _ in 0..if cached_bytes > 0 { self.cache.layers.len() } else { 0 } {
            layers.push((
                self.own("parked keys", cached_bytes).await?,
                self.own("parked values", cached_bytes).await?,
            ));
        }
        let state = self.own("parked memory", state_bytes).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for ((keys, values), (parked_keys, parked_values)) in self.cache.layers.iter().zip(&layers)
        {
            encoder.copy_buffer_to_buffer(keys, 0, &parked_keys.0, 0, cached_bytes);
            encoder.copy_buffer_to_buffer(values, 0, &parked_values.0, 0, cached_bytes);
        }
        if state_bytes > 0 {
            encoder.copy_buffer_to_buffer(&self.buffers.state, 0, &state.0, 0, state_bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()?;
        let (n_past, identity) = (self.n_past, self.identity.clone());
        Ok(ParkedContext { n_past, layers, state, identity })
    }

    /// Puts a copy in the place of KV cache and memory.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if another model made the copy; nothing has changed then.
    /// [`crate::Error::Gpu`].
    pub fn adopt(&mut self, parked: &ParkedContext) -> Result<()> {
        if !Arc::ptr_eq(&self.identity, &parked.identity) {
            return Err(foreign_context());
        }
        self.settle_decoding();
        self.n_past = parked.n_past;
        self.last_logits_row = None;
        let (cached_bytes, state_bytes) = (self.cached_bytes(), 4 * self.dims.len() as u64);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for ((keys, values), (parked_keys, parked_values)) in
            self.cache.layers.iter().zip(&parked.layers)
        {
            encoder.copy_buffer_to_buffer(&parked_keys.0, 0, keys, 0, cached_bytes);
            encoder.copy_buffer_to_buffer(&parked_values.0, 0, values, 0, cached_bytes);
        }
        if state_bytes > 0 {
            encoder.copy_buffer_to_buffer(&parked.state.0, 0, &self.buffers.state, 0, state_bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// Bytes of one layer's keys that are filled.
    fn cached_bytes(&self) -> u64 {
        self.n_past as u64 * self.cache.position_bytes
    }

    async fn own(&self, label: &str, size_bytes: u64) -> Result<Own> {
        use wgpu::BufferUsages as Usage;
        Ok(Own(self.gpu.buffer(label, size_bytes, Usage::COPY_SRC | Usage::COPY_DST).await?))
    }
}
