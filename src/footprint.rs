//! How much memory a model takes on a device, before it is loaded. Owns the arithmetic that `doctor`,
//! `bench` and a page share; the sizes of rows and caches are those of `quantize` and `kv_cache`.

use crate::config::{DeltaConfig, DeltaHead, ModelConfig};
use crate::error::Result;
use crate::gpu::Tier;
use crate::kernels::most_attention_parts;
use crate::kv_cache::cache_bytes;
use crate::model::{MANY_ON_GPUS, history_bytes};
use crate::shader::Storage;
use crate::weights::TensorSource;
use crate::weights::quantize::row_bytes;

/// SmolLM3-3B as far as its size goes.
pub const SMOLLM3_3B: &[u8] = br#"{"model_type": "smollm3", "hidden_size": 2048,
    "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 4, "vocab_size": 128256, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
    "max_position_embeddings": 65536, "tie_word_embeddings": true}"#;
/// Qwen3-4B-Instruct-2507 as far as its size goes.
pub const QWEN3_4B: &[u8] = br#"{"model_type": "qwen3", "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6,
    "rope_theta": 5e6, "max_position_embeddings": 262144, "tie_word_embeddings": true}"#;

/// How a model is kept.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub weights: Storage,
    pub kv: Storage,
    pub context_window: usize,
    pub chunk: usize,
    /// True for a CPU that plays the GPU: its products store silu(gate)·up and not gate and up, where
    /// these are in one storage. (Nor where they exceed a binding, which is not reckoned with here.)
    pub software: bool,
}

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    pub weights: u64,
    /// Projections and corrections of δ-mem, f32; an adapter that was saved in bf16 takes less on a GPU.
    pub adapter: u64,
    pub kv: u64,
    /// S of all layers.
    pub state: u64,
    /// Buffers of a chunk, and of a reply the memories before its last tokens; without a few small tables.
    pub activations: u64,
}

impl Footprint {
    /// Of a backbone with or without δ-mem, all its matrices in one storage.
    ///
    /// # Errors
    /// If the adapter's layers are not the backbone's.
    pub fn new(
        config: &ModelConfig,
        delta: Option<&DeltaConfig>,
        layout: &Layout,
    ) -> Result<Footprint> {
        Footprint::with(config, delta, layout, |_| None)
    }

    /// The same with the weights of a file, which may have storages of their own.
    ///
    /// # Errors
    /// As [`Footprint::new`].
    pub fn of_source(
        config: &ModelConfig,
        delta: Option<&DeltaConfig>,
        layout: &Layout,
        tensors: &dyn TensorSource,
    ) -> Result<Footprint> {
        Footprint::with(config, delta, layout, |name| tensors.own_storage(name))
    }

    fn with(
        config: &ModelConfig,
        delta: Option<&DeltaConfig>,
        layout: &Layout,
        own_storage: impl Fn(&str) -> Option<Storage>,
    ) -> Result<Footprint> {
        let shapes = config.tensor_shapes();
        let weights = shapes.iter().map(|(name, shape)| match shape[..] {
            [rows, k] => {
                let storage = own_storage(name).unwrap_or(layout.weights);
                matrix_bytes(storage, rows, k).iter().sum()
            }
            _ => 4 * shape.iter().product::<usize>() as u64,
        });
        let (adapter, state) = match delta {
            None => (0, 0),
            Some(delta) => (adapter_bytes(config, delta)?, 4 * delta.memory_dims(config)?.len()),
        };
        let mlp = |layer, part| own_storage(&format!("model.layers.{layer}.mlp.{part}.weight"));
        let is_split =
            (0..config.n_layers).any(|layer| mlp(layer, "gate_proj") != mlp(layer, "up_proj"));
        Ok(Footprint {
            weights: weights.sum(),
            adapter,
            kv: cache_bytes(config, layout.kv, layout.context_window),
            state: state as u64,
            activations: activation_bytes(config, delta, layout, is_split),
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.adapter + self.kv + self.state + self.activations
    }
}

/// Values and scales of a matrix.
pub(crate) fn matrix_bytes(storage: Storage, rows: usize, k: usize) -> [u64; 2] {
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

/// `is_split`: gate and up of some layer are not in one storage.
fn activation_bytes(
    config: &ModelConfig,
    delta: Option<&DeltaConfig>,
    layout: &Layout,
    is_split: bool,
) -> u64 {
    let gate_up = if layout.software && !is_split { 0 } else { 2 * config.intermediate_size };
    let qkv = config.q_size() + 2 * config.kv_size();
    let copies_of_qkv = 1 + usize::from(config.has_qk_norm());
    let memory = delta.map_or(0, |delta| 10 * delta.n_rows() + 2 * delta.n_gates());
    let token = 3 * config.hidden_size
        + copies_of_qkv * qkv
        + config.q_size()
        + config.intermediate_size
        + gate_up
        + memory;
    let once = 2 * config.vocab_size + layout.context_window * config.head_dim;
    let n_few = MANY_ON_GPUS as usize - 1;
    let parts = most_attention_parts(layout.chunk, n_few, config.n_heads, config.head_dim);
    let state = delta.and_then(|delta| delta.memory_dims(config).ok());
    let history = state.map_or(0, |dims| history_bytes(4 * dims.len() as u64));
    4 * (layout.chunk * token + once + parts) as u64 + history
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
    let cut = |(tensor, rows, k): (&'static str, usize, usize)| {
        let size_bytes = matrix_bytes(storage, rows, k)[0];
        let n_parts = (rows as u64).div_ceil(part_rows(storage, k, max_binding_bytes));
        (n_parts > 1).then_some(Split { tensor, size_bytes, n_parts })
    };
    matrices(config).into_iter().filter_map(cut).collect()
}

/// (name, rows, elements a row) of the matrices as they are stacked on the device.
fn matrices(config: &ModelConfig) -> [(&'static str, usize, usize); 5] {
    let (h, ffn) = (config.hidden_size, config.intermediate_size);
    [
        ("embedding", config.vocab_size, h),
        ("q, k and v", config.q_size() + 2 * config.kv_size(), h),
        ("attention output", h, config.q_size()),
        ("gate and up", 2 * ffn, h),
        ("down", h, ffn),
    ]
}

/// Rows of a matrix that fit into one binding; at least one.
fn part_rows(storage: Storage, k: usize, max_binding_bytes: u64) -> u64 {
    (max_binding_bytes / row_bytes(storage, k).0.max(1) as u64).max(1)
}

/// The largest buffer that loading makes: a part of a matrix, a layer's keys, or a chunk's widest
/// activation.
pub fn largest_buffer_bytes(config: &ModelConfig, layout: &Layout, max_binding_bytes: u64) -> u64 {
    let part = |(_, rows, k): (&'static str, usize, usize)| {
        let rows = part_rows(layout.weights, k, max_binding_bytes).min(rows as u64);
        rows * row_bytes(layout.weights, k).0 as u64
    };
    let rows = [
        2 * layout.chunk * config.intermediate_size,
        layout.chunk * (config.q_size() + 2 * config.kv_size()),
        layout.context_window * config.head_dim,
        config.vocab_size + 2,
    ];
    let floats = rows.into_iter().map(|n| 4 * n as u64);
    let parts = matrices(config).into_iter().map(part);
    parts.chain(floats).chain([layer_keys_bytes(config, layout)]).max().unwrap_or(0)
}

/// Whether a model can be loaded, as far as that can be told without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// There is room.
    Yes,
    /// If the GPU, or a machine that does not say, has that much memory.
    IfMemory,
    /// A buffer that cannot be cut is larger than this device allows.
    BufferTooLarge { needed: u64, limit: u64 },
    /// The main memory, which is where this device keeps it, is too small.
    HostTooSmall { needed: u64, available: u64 },
}

/// Compares a model's footprint with a device (`None`: the CPU) and, if known, with the main memory.
pub fn fit(
    print: &Footprint,
    config: &ModelConfig,
    layout: &Layout,
    tier: Option<&Tier>,
    host_bytes: Option<u64>,
) -> Fit {
    if let Some(tier) = tier {
        let limit = tier.max_binding_bytes.min(tier.max_buffer_bytes);
        let needed = largest_buffer_bytes(config, layout, limit);
        if needed > limit {
            return Fit::BufferTooLarge { needed, limit };
        }
    }
    let needed = print.total();
    match host_bytes {
        // wgpu does not say how much memory a GPU has
        _ if tier.is_some_and(|tier| !tier.software) => Fit::IfMemory,
        Some(available) if needed > available => Fit::HostTooSmall { needed, available },
        Some(_) => Fit::Yes,
        None => Fit::IfMemory,
    }
}

/// Bytes of one layer's keys, which have to fit into one binding.
pub fn layer_keys_bytes(config: &ModelConfig, layout: &Layout) -> u64 {
    cache_bytes(config, layout.kv, layout.context_window) / (2 * config.n_layers as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(weights: Storage) -> Layout {
        let (kv, software) = (Storage::F16, true);
        Layout { weights, kv, context_window: 4096, chunk: 64, software }
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
    fn gate_and_up_have_a_buffer_where_silu_is_apart() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let software = layout(Storage::Q4);
        let gpu = Layout { software: false, ..software };
        let total = |layout: &Layout, own: fn(&str) -> Option<Storage>| {
            Footprint::with(&config, None, layout, own).unwrap().activations
        };
        let saved = total(&gpu, |_| None) - total(&software, |_| None);
        assert_eq!(saved, 4 * 64 * 2 * 11_008);
        let mixed = |name: &str| name.ends_with("gate_proj.weight").then_some(Storage::Q6K);
        assert_eq!(total(&gpu, mixed), total(&software, mixed));
    }

    #[test]
    fn only_what_exceeds_a_binding_is_split() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        assert_eq!(splits(&config, Storage::Q4, 128 << 20), []);
        let found = splits(&config, Storage::F32, 128 << 20);
        let parts: Vec<_> = found.iter().map(|s| (s.tensor, s.n_parts)).collect();
        assert_eq!(parts, [("embedding", 8), ("gate and up", 2)]);
    }

    #[test]
    fn what_fits_depends_on_buffers_and_main_memory() {
        let config = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let mut tier = Tier {
            subgroups: false,
            min_subgroup_size: 0,
            f16: false,
            software: true,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_workgroups: 65_535,
        };
        let q4 = layout(Storage::Q4);
        let print = Footprint::new(&config, None, &q4).unwrap();
        let (limit, needed) = (128 << 20, print.total());
        // 128,256 rows of 1,024 bytes
        assert_eq!(largest_buffer_bytes(&config, &q4, limit), 128_256 * 1024);
        assert_eq!(fit(&print, &config, &q4, Some(&tier), Some(needed)), Fit::Yes);
        assert_eq!(fit(&print, &config, &q4, None, None), Fit::IfMemory);
        let available = needed - 1;
        assert_eq!(
            fit(&print, &config, &q4, Some(&tier), Some(available)),
            Fit::HostTooSmall { needed, available }
        );
        tier.software = false;
        assert_eq!(fit(&print, &config, &q4, Some(&tier), Some(available)), Fit::IfMemory);
        let long = Layout { context_window: 65_536, kv: Storage::F32, ..q4 };
        assert_eq!(layer_keys_bytes(&config, &long), limit);
        tier.max_binding_bytes = limit - 256;
        assert_eq!(
            fit(&print, &config, &long, Some(&tier), None),
            Fit::BufferTooLarge { needed: limit, limit: limit - 256 }
        );
    }
}
