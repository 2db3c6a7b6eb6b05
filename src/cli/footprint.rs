//! How much memory a model takes on a device. Owns the arithmetic that `doctor` and `bench` share;
//! the sizes of rows and caches are the library's.

use deltamem::config::{DeltaConfig, DeltaHead, ModelConfig};
use deltamem::error::Result;
use deltamem::kv_cache::cache_bytes;
use deltamem::shader::Storage;
use deltamem::weights::quantize::row_bytes;

/// How a model is kept.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub weights: Storage,
    pub kv: Storage,
    pub context_window: usize,
    pub chunk: usize,
}

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    pub weights: u64,
    /// Projections and corrections of δ-mem, f32.
    pub adapter: u64,
    pub kv: u64,
    /// S of all layers.
    pub state: u64,
    /// Buffers of a chunk; without a few small tables.
    pub activations: u64,
}

impl Footprint {
    /// Of a backbone with or without δ-mem.
    ///
    /// # Errors
    /// If the adapter's layers are not the backbone's.
    pub fn new(
        config: &ModelConfig,
        delta: Option<&DeltaConfig>,
        layout: &Layout,
    ) -> Result<Footprint> {
        let shapes = config.tensor_shapes();
        let weights = shapes.iter().map(|(_, shape)| match shape[..] {
            [rows, k] => matrix_bytes(layout.weights, rows, k).iter().sum(),
            _ => 4 * shape.iter().product::<usize>() as u64,
        });
        let (adapter, state) = match delta {
            None => (0, 0),
            Some(delta) => (adapter_bytes(config, delta)?, 4 * delta.memory_dims(config)?.len()),
        };
        Ok(Footprint {
            weights: weights.sum(),
            adapter,
            kv: cache_bytes(config, layout.kv, layout.context_window),
            state: state as u64,
            activations: activation_bytes(config, delta, layout),
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.adapter + self.kv + self.state + self.activations
    }
}

/// Values and scales of a matrix.
fn matrix_bytes(storage: Storage, rows: usize, k: usize) -> [u64; 2] {
    let (values, scales) = row_bytes(storage, k);
    [rows as u64 * values as u64, rows as u64 * scales as u64]
}

fn adapter_bytes(config: &ModelConfig, delta: &DeltaConfig) -> Result<u64> {
    let (rows, h) = (delta.n_rows(), config.hidden_size);
    let gates = delta.n_gates() * (1 + usize::from(delta.uses_lambda()));
    let corrected: usize = delta
        .delta_heads
        .iter()
        .map(|head| match head {
            DeltaHead::Q => config.q_size(),
            DeltaHead::K | DeltaHead::V => config.kv_size(),
            DeltaHead::O => h,
        })
        .sum();
    let layer = matrix_bytes(Storage::F32, 3 * rows + gates, h)[0] + 4 * (corrected * rows) as u64;
    Ok(delta.wrapped_layers(config)?.len() as u64 * layer)
}

fn activation_bytes(config: &ModelConfig, delta: Option<&DeltaConfig>, layout: &Layout) -> u64 {
    let qkv = config.q_size() + 2 * config.kv_size();
    let copies_of_qkv = 1 + usize::from(config.has_qk_norm());
    let memory = delta.map_or(0, |delta| 10 * delta.n_rows() + 2 * delta.n_gates());
    let token = 3 * config.hidden_size
        + copies_of_qkv * qkv
        + 2 * config.q_size()
        + 3 * config.intermediate_size
        + memory;
    let once = 2 * config.vocab_size + layout.context_window * config.head_dim;
    4 * (layout.chunk * token + once) as u64
}

/// A matrix that has to be cut to fit into one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub tensor: &'static str,
    pub size_bytes: u64,
    pub n_parts: u64,
}

/// The matrices, as they are stacked on the device, that are larger than one binding.
pub fn splits(config: &ModelConfig, storage: Storage, max_binding_bytes: u64) -> Vec<Split> {
    let (h, ffn) = (config.hidden_size, config.intermediate_size);
    let matrices = [
        ("embedding", config.vocab_size, h),
        ("q, k and v", config.q_size() + 2 * config.kv_size(), h),
        ("attention output", h, config.q_size()),
        ("gate and up", 2 * ffn, h),
        ("down", h, ffn),
    ];
    let cut = |(tensor, rows, k): (&'static str, usize, usize)| {
        let size_bytes = matrix_bytes(storage, rows, k)[0];
        let most_rows = (max_binding_bytes / row_bytes(storage, k).0.max(1) as u64).max(1);
        let n_parts = (rows as u64).div_ceil(most_rows);
        (n_parts > 1).then_some(Split { tensor, size_bytes, n_parts })
    };
    matrices.into_iter().filter_map(cut).collect()
}

/// Bytes of one layer's keys, which have to fit into one binding.
pub fn layer_keys_bytes(config: &ModelConfig, layout: &Layout) -> u64 {
    cache_bytes(config, layout.kv, layout.context_window) / (2 * config.n_layers as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::{QWEN3_4B, SMOLLM3_3B};

    fn layout(weights: Storage) -> Layout {
        Layout { weights, kv: Storage::F16, context_window: 4096, chunk: 64 }
    }

    #[test]
    fn known_models_have_their_published_sizes() {
        let smollm3 = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        assert_eq!(smollm3.n_parameters(), 3_075_098_624);
        let qwen3 = ModelConfig::from_json(QWEN3_4B, "config.json").unwrap();
        assert_eq!(qwen3.n_parameters(), 4_022_468_096);
        let print = Footprint::new(&smollm3, None, &layout(Storage::F16)).unwrap();
        // matrices in two bytes; 73 norms of 2,048 in four
        assert_eq!(print.weights, 2 * 3_075_098_624 + 2 * 73 * 2048);
        assert_eq!(print.kv, 4096 * 36 * 2 * 512 * 2);
        assert_eq!(print.state, 0);
    }

    #[test]
    fn only_what_exceeds_a_binding_is_split() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        assert_eq!(splits(&config, Storage::Q4, 128 << 20), []);
        let found = splits(&config, Storage::F32, 128 << 20);
        let parts: Vec<_> = found.iter().map(|s| (s.tensor, s.n_parts)).collect();
        assert_eq!(parts, [("embedding", 8), ("gate and up", 2)]);
    }
}
