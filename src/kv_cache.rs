//! Keys (after RoPE) and values of every layer on the GPU. Owns the buffers and their size; how
//! many positions are filled is the model's `n_past`.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::shader::Storage;

/// One pair of buffers a layer, each `[context_window, n_kv, d]` in f32 or packed f16, or
/// `[context_window, n_kv, 1 + d/4]` words of a scale and 4 × i8.
#[derive(Debug)]
pub struct KvCache {
    /// (keys, values) of each layer.
    pub layers: Vec<(wgpu::Buffer, wgpu::Buffer)>,
    /// Bytes of one position in one buffer.
    pub position_bytes: u64,
}

impl KvCache {
    /// # Errors
    /// As [`Gpu::buffer`]: one layer's keys must fit into one binding.
    pub async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        storage: Storage,
        context_window: usize,
    ) -> Result<KvCache> {
        let bytes = layer_bytes(config, storage, context_window);
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let keys = gpu.storage(&format!("keys of layer {layer}"), bytes).await?;
            let values = gpu.storage(&format!("values of layer {layer}"), bytes).await?;
            layers.push((keys, values));
        }
        Ok(KvCache { layers, position_bytes: layer_bytes(config, storage, 1) })
    }
}

/// Bytes of one layer's keys (its values take as many).
fn layer_bytes(config: &ModelConfig, storage: Storage, context_window: usize) -> u64 {
    let head_dim = config.head_dim as u64;
    let head_bytes = match storage {
        Storage::Q8 => 4 + head_dim,
        Storage::F16 => 2 * head_dim,
        _ => 4 * head_dim,
    };
    context_window as u64 * config.n_kv_heads as u64 * head_bytes
}

/// Bytes of the whole cache.
pub fn cache_bytes(config: &ModelConfig, storage: Storage, context_window: usize) -> u64 {
    2 * config.n_layers as u64 * layer_bytes(config, storage, context_window)
}
