//! How much there is to do at least for a prefill or a token: bytes that must be read and operations
//! that must be done, whatever the kernels are like. Owns the arithmetic behind
//! `fraction_of_limit`.

use super::roofline::Limits;
use crate::config::ModelConfig;
use crate::footprint::{Footprint, matrix_bytes};
use crate::kv_cache::cache_bytes;
use crate::shader::Storage;

/// What one model does in a call.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Weights that every call reads, with those of δ-mem.
    weight_bytes: u64,
    /// Keys and values of one token.
    kv_bytes_per_token: u64,
    /// Weights that every token is multiplied with, without the head's.
    layer_weights: u64,
    /// Weights of the head, which only a token whose logits are wanted needs.
    head_weights: u64,
    /// Multiplications and additions that a token's attention does for each token before it.
    attention_operations: u64,
}

impl Work {
    /// Of a model kept as `print` says, less `spared` bytes of its adapter, its embedding in
    /// `embedding` and its cache in `kv`.
    pub fn new(
        config: &ModelConfig,
        print: &Footprint,
        spared: u64,
        embedding: Storage,
        kv: Storage,
    ) -> Work {
        let (vocab, h) = (config.vocab_size, config.hidden_size);
        let embedding_weights = (vocab * h) as u64;
        // an embedding that is not the head as well gives one row a token
        let unread = match config.tie_word_embeddings {
            true => 0,
            false => matrix_bytes(embedding, vocab, h).iter().sum(),
        };
        let n_embeddings = if config.tie_word_embeddings { 1 } else { 2 };
        Work {
            weight_bytes: print.weights + print.adapter - spared - unread,
            kv_bytes_per_token: cache_bytes(config, kv, 1),
            // δ-mem's matrices are f32 there
            layer_weights: config.n_parameters() - n_embeddings * embedding_weights
                + print.adapter / 4,
            head_weights: embedding_weights,
            attention_operations: 4 * (config.n_layers * config.q_size()) as u64,
        }
    }

    /// Seconds that an adapter needs at least to read a prompt of `n` tokens.
    pub fn prefill_seconds(&self, n: usize, limits: &Limits) -> f64 {
        let n = n as u64;
        let operations = 2 * (n * self.layer_weights + self.head_weights)
            + self.attention_operations * (n * (n + 1) / 2);
        seconds(self.weight_bytes + n * self.kv_bytes_per_token, operations, limits)
    }

    /// The same for one token behind `context` others.
    pub fn decode_seconds(&self, context: usize, limits: &Limits) -> f64 {
        let context = context as u64;
        let operations =
            2 * (self.layer_weights + self.head_weights) + self.attention_operations * context;
        seconds(self.weight_bytes + context * self.kv_bytes_per_token, operations, limits)
    }
}

/// Both at once at best: the longer of the two.
fn seconds(n_bytes: u64, n_operations: u64, limits: &Limits) -> f64 {
    let reading = n_bytes as f64 / limits.read_bytes_per_second;
    reading.max(n_operations as f64 / limits.operations_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::{Layout, SMOLLM3_3B};

    fn limits(read: f64, operations: f64) -> Limits {
        Limits {
            read_bytes_per_second: read,
            f32_operations_per_second: operations,
            f16_operations_per_second: None,
            read_from_bytes: 0,
            shapes: Vec::new(),
        }
    }

    #[test]
    fn decode_is_bound_by_reading_and_prefill_by_arithmetic() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let layout = Layout {
            weights: Storage::F16,
            kv: Storage::F16,
            context_window: 4096,
            chunk: 64,
            software: false,
        };
        let print = Footprint::new(&config, None, &layout).unwrap();
        let work = Work::new(&config, &print, 0, Storage::F16, Storage::F16);
        // 1 TB/s and 100 T operations/s
        let gpu = limits(1e12, 1e14);
        let read = 2.0 * 3_075_098_624.0 + 2.0 * 73.0 * 2048.0;
        let kv = 36.0 * 2.0 * 512.0 * 2.0;
        let decode = work.decode_seconds(128, &gpu);
        assert!((decode - (read + 128.0 * kv) / 1e12).abs() < 1e-12);
        // 2 operations a weight; the head once; attention 4 · 36 · 2,048 for each pair of tokens
        let head = 128_256.0 * 2048.0;
        let operations = 2.0 * (512.0 * (3_075_098_624.0 - head) + head)
            + 4.0 * 36.0 * 2048.0 * (512.0 * 513.0 / 2.0);
        let prefill = work.prefill_seconds(512, &gpu);
        assert!((prefill - operations / 1e14).abs() < 1e-9, "{prefill}");
        // f16, where there is more of it, counts
        let faster = Limits { f16_operations_per_second: Some(2e14), ..gpu };
        assert!((work.prefill_seconds(512, &faster) - prefill / 2.0).abs() < 1e-9);
    }
}
