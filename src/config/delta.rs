//! `delta_mem_config.json`: the δ-mem adapter (SPEC.md sections 2 and 5).

use super::{Keys, MAX_CONFIG_BYTES, ModelConfig};
use crate::error::{Error, Result};
use crate::memory::MemoryDims;
use serde_json::Value;

/// Largest rank of a state; the scan keeps one row of the state in registers.
pub const MAX_RANK: usize = 128;
/// Largest number of memory rows R = rank · num_state_heads.
pub const MAX_MEMORY_ROWS: usize = 1024;

/// How the gates enter the write (SPEC.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateUpdateMode {
    /// keep = λ, erase = β, write = β
    Standard,
    /// keep = λ, erase = λ·β, write = β
    LambdaOutside,
    /// keep = 1, erase = β, write = β
    NoLambda,
}

impl StateUpdateMode {
    /// The value of `state_update_mode`.
    pub fn name(self) -> &'static str {
        match self {
            StateUpdateMode::Standard => "standard",
            StateUpdateMode::LambdaOutside => "lambda_outside",
            StateUpdateMode::NoLambda => "no_lambda",
        }
    }
}

/// What is written at once (SPEC.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteGranularity {
    /// TSW, and MSW with several state heads: every token.
    Token,
    /// SSW: the mean over each message.
    MessageMean,
    /// The mean over each sentence.
    SentenceMean,
}

impl WriteGranularity {
    /// The value of `memory_write_granularity`.
    pub fn name(self) -> &'static str {
        match self {
            WriteGranularity::Token => "token",
            WriteGranularity::MessageMean => "message_mean",
            WriteGranularity::SentenceMean => "sentence_mean",
        }
    }
}

/// The projections that a read can correct, in the order of `delta_scale_raw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaHead {
    Q,
    K,
    V,
    O,
}

impl DeltaHead {
    /// In the order of `delta_scale_raw`.
    pub const ALL: [DeltaHead; 4] = [DeltaHead::Q, DeltaHead::K, DeltaHead::V, DeltaHead::O];

    /// The letter used in `delta_heads` and in `delta_*_proj`.
    pub fn name(self) -> &'static str {
        ["q", "k", "v", "o"][self as usize]
    }
}

/// The δ-mem adapter's configuration: the keys of `delta_mem_config.json` that matter at inference.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// r
    pub rank: usize,
    pub alpha: f32,
    pub normalize_qk: bool,
    pub couple_lambda: bool,
    pub state_update_mode: StateUpdateMode,
    pub rankwise_gates: bool,
    /// H_s
    pub num_state_heads: usize,
    pub write_granularity: WriteGranularity,
    /// Wrapped layers, ascending; empty = all.
    pub target_layers: Vec<usize>,
    pub delta_heads: Vec<DeltaHead>,
    /// `Some(eps)` if Δo passes an RMSNorm.
    pub delta_o_rmsnorm_eps: Option<f32>,
    /// `Some` if the corrections carry a trained multiplier.
    pub delta_scale: Option<DeltaScale>,
}

/// `sigmoid(delta_scale_raw)·max`, one for all corrections of a layer or one for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaScale {
    pub max: f32,
    /// True: one each for q, k, v, o ("head" granularity); false: one a layer.
    pub per_head: bool,
}

impl DeltaConfig {
    /// Parses `delta_mem_config.json`; absent keys take the reference's defaults.
    ///
    /// # Errors
    /// [`Error::Format`] for anything but a JSON object; [`Error::Config`], naming the key, for an
    /// unknown key, an archived key that left its default, or a value out of range.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<DeltaConfig> {
        let k = Keys::parse(bytes, file, MAX_CONFIG_BYTES)?;
        for key in k.map.keys() {
            if !DELTA_KEYS.contains(&key.as_str()) && !ARCHIVED.iter().any(|(name, _)| name == key)
            {
                return Err(k.error(key, "unknown key"));
            }
        }
        for (key, default) in ARCHIVED {
            let default: Value = serde_json::from_str(default).expect("the table is valid JSON");
            if let Some(found) = k.get(key)
                && !archived_equal(found, &default)
            {
                return Err(
                    k.error(key, format!("archived feature: must be {default}, found {found}"))
                );
            }
        }
        let rank = k.size_or("rank", 8, MAX_RANK)?;
        let num_state_heads = k.size_or("num_state_heads", 1, MAX_MEMORY_ROWS)?;
        if rank * num_state_heads > MAX_MEMORY_ROWS {
            return Err(k.error(
                "num_state_heads",
                format!("rank {rank} × {num_state_heads} heads exceeds {MAX_MEMORY_ROWS} rows"),
            ));
        }
        let alpha = k.number_or("alpha", 16.0)?;
        let state_update_mode = k.choice(
            "state_update_mode",
            &[
                ("standard", StateUpdateMode::Standard),
                ("lambda_outside", StateUpdateMode::LambdaOutside),
                ("no_lambda", StateUpdateMode::NoLambda),
            ],
        )?;
        let write_granularity = k.choice(
            "memory_write_granularity",
            &[
                ("token", WriteGranularity::Token),
                ("message_mean", WriteGranularity::MessageMean),
                ("sentence_mean", WriteGranularity::SentenceMean),
            ],
        )?;
        let modules = k.names("target_modules")?;
        if modules.is_some_and(|m| m != ["self_attn"]) {
            return Err(k.error("target_modules", "only `self_attn` can be wrapped"));
        }
        let eps = k.number_or("delta_o_rmsnorm_eps", 1e-6)?;
        // Also refuses what rounds to 0 in f32: an all-zero read would then give NaN.
        if eps as f32 <= 0.0 {
            return Err(k.error("delta_o_rmsnorm_eps", format!("{eps} must be positive")));
        }
        let delta_scale_max = k.number_or("delta_scale_max", 2.0)?;
        let init = k.number_or("delta_scale_init", 1.0)?;
        if !(init > 0.0 && init < delta_scale_max) {
            return Err(k.error(
                "delta_scale_init",
                format!("{init} is not between 0 and delta_scale_max {delta_scale_max}"),
            ));
        }
        let per_head = k.choice("delta_scale_granularity", &[("layer", false), ("head", true)])?;
        Ok(DeltaConfig {
            rank,
            alpha: alpha as f32,
            normalize_qk: k.boolean("normalize_qk")?.unwrap_or(true),
            couple_lambda: k.boolean("couple_lambda")?.unwrap_or(true),
            state_update_mode,
            rankwise_gates: k.boolean("rankwise_gates")?.unwrap_or(true),
            num_state_heads,
            write_granularity,
            target_layers: k.target_layers()?,
            delta_heads: k.delta_heads()?,
            delta_o_rmsnorm_eps: k
                .boolean("delta_o_rmsnorm")?
                .unwrap_or(false)
                .then_some(eps as f32),
            delta_scale: k
                .boolean("trainable_delta_scale")?
                .unwrap_or(false)
                .then_some(DeltaScale { max: delta_scale_max as f32, per_head }),
        })
    }

    /// R = rank · num_state_heads, the length of a read.
    pub fn n_rows(&self) -> usize {
        self.rank * self.num_state_heads
    }

    /// G, the rows of `beta_proj` and `lambda_proj`.
    pub fn n_gates(&self) -> usize {
        self.num_state_heads * if self.rankwise_gates { self.rank } else { 1 }
    }

    /// c·m_X, the factor of the correction of `head`: alpha / rank, times the trained multiplier if
    /// there is one. `raw` is the layer's `delta_scale_raw`, empty without one.
    ///
    /// # Panics
    /// If `raw` has not the length that [`DeltaConfig::tensor_shapes`] states.
    pub fn correction_scale(&self, head: DeltaHead, raw: &[f32]) -> f32 {
        let scale = self.alpha / self.rank as f32;
        match self.delta_scale {
            None => scale,
            Some(DeltaScale { max, per_head }) => {
                let raw = raw[if per_head { head as usize } else { 0 }];
                scale * max / (1.0 + (-raw).exp())
            }
        }
    }

    /// The dimensions of this adapter's memory on a backbone.
    ///
    /// # Errors
    /// As [`DeltaConfig::wrapped_layers`].
    pub fn memory_dims(&self, model: &ModelConfig) -> Result<MemoryDims> {
        Ok(MemoryDims {
            layers: self.wrapped_layers(model)?,
            num_state_heads: self.num_state_heads,
            rank: self.rank,
        })
    }

    /// True if `lambda_proj` has a say in the update.
    pub fn uses_lambda(&self) -> bool {
        !self.couple_lambda && self.state_update_mode != StateUpdateMode::NoLambda
    }

    /// The wrapped layers of a backbone, ascending.
    ///
    /// # Errors
    /// [`Error::Config`] if a target layer does not exist.
    pub fn wrapped_layers(&self, model: &ModelConfig) -> Result<Vec<usize>> {
        if let Some(&layer) = self.target_layers.iter().find(|&&l| l >= model.n_layers) {
            return Err(Error::Config {
                file: "delta_mem_config.json".into(),
                key: "target_layers".into(),
                reason: format!(
                    "layer {layer} does not exist, the backbone has {}",
                    model.n_layers
                ),
            });
        }
        Ok(if self.target_layers.is_empty() {
            (0..model.n_layers).collect()
        } else {
            self.target_layers.clone()
        })
    }

    /// Every adapter tensor with its shape (SPEC.md section 2), by wrapped layer.
    ///
    /// # Errors
    /// As [`DeltaConfig::wrapped_layers`].
    pub fn tensor_shapes(&self, model: &ModelConfig) -> Result<Vec<(String, Vec<usize>)>> {
        let (h, rows, gates) = (model.hidden_size, self.n_rows(), self.n_gates());
        let (q, kv) = (model.q_size(), model.kv_size());
        let mut shapes = Vec::new();
        for layer in self.wrapped_layers(model)? {
            let mut add = |name: &str, shape: &[usize]| {
                shapes.push((adapter_tensor_name(layer, name), shape.to_vec()));
            };
            if let Some(scale) = self.delta_scale {
                add("delta_scale_raw", &[if scale.per_head { 4 } else { 1 }]);
            }
            for name in ["memory_q_proj", "memory_k_proj", "memory_v_proj"] {
                add(name, &[rows, h]);
            }
            add("delta_q_proj", &[q, rows]);
            add("delta_k_proj", &[kv, rows]);
            add("delta_v_proj", &[kv, rows]);
            add("delta_o_proj", &[h, rows]);
            if self.delta_o_rmsnorm_eps.is_some() {
                add("delta_o_rmsnorm_weight", &[h]);
            }
            add("beta_proj", &[gates, h]);
            add("beta_bias", &[gates]);
            if !self.couple_lambda {
                add("lambda_proj", &[gates, h]);
                add("lambda_bias", &[gates]);
            }
        }
        Ok(shapes)
    }

    /// Parameters that training changes, as the paper counts them: the corrections of `delta_heads`
    /// alone, although the files have those of all four, and λ's gate only where it has a say.
    ///
    /// # Errors
    /// As [`DeltaConfig::wrapped_layers`].
    pub fn n_trainable(&self, model: &ModelConfig) -> Result<u64> {
        let heads = |head: DeltaHead| self.delta_heads.contains(&head);
        let is_trained = |part: &str| match part {
            "delta_q_proj" => heads(DeltaHead::Q),
            "delta_k_proj" => heads(DeltaHead::K),
            "delta_v_proj" => heads(DeltaHead::V),
            "delta_o_proj" | "delta_o_rmsnorm_weight" => heads(DeltaHead::O),
            "lambda_proj" | "lambda_bias" => self.uses_lambda(),
            _ => true,
        };
        let shapes = self.tensor_shapes(model)?;
        let trained = shapes
            .iter()
            .filter(|(name, _)| is_trained(name.rsplit('.').next().unwrap_or_default()));
        Ok(trained.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum())
    }
}

/// `model.layers.{layer}.self_attn.{name}`, the name of an adapter tensor.
pub fn adapter_tensor_name(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.self_attn.{name}")
}

/// Keys that are read here, or that only matter to training and are inert at inference.
const DELTA_KEYS: &[&str] = &[
    "rank",
    "alpha",
    "normalize_qk",
    "couple_lambda",
    "state_update_mode",
    "rankwise_gates",
    "num_state_heads",
    "memory_write_granularity",
    "target_modules",
    "target_layers",
    "delta_heads",
    "delta_o_rmsnorm",
    "delta_o_rmsnorm_eps",
    "trainable_delta_scale",
    "delta_scale_max",
    "delta_scale_granularity",
    // initialisation and training only
    "beta_bias_init",
    "output_init",
    "base_slice_ref_width",
    "online_gain",
    "delta_scale_init",
    "delta_scale_parameterization",
    // parameters of archived features, without effect while those are off
    "memory_partition_sigmoid_gate_bias_init",
    "global_memory_gate_bias_init",
    "global_memory_read_logit_bias",
    "memory_reader_hidden_size",
    "memory_reader_residual_scale",
    "memory_reader_read_only",
    "latent_memory_hidden_size",
    "latent_memory_residual_scale",
    "latent_memory_slots",
    "latent_memory_init_std",
    "latent_gate_init",
];

/// Archived keys with the only value (as JSON) that the reference still accepts.
const ARCHIVED: &[(&str, &str)] = &[
    ("num_memory_partitions", "1"),
    ("num_global_memory_partitions", "0"),
    ("memory_partition_routing", "\"soft\""),
    ("memory_partition_basis", "\"shared\""),
    ("tie_memory_partition_read_write", "false"),
    ("memory_partition_read_mode", "\"softmax\""),
    ("slot_read_top_k", "0"),
    ("global_memory_mode", "\"shared_rw\""),
    ("global_memory_read_top_k", "0"),
    ("global_memory_merge_mode", "\"gated_residual\""),
    ("memory_reader_layers", "[]"),
    ("memory_readout_mode", "\"delta\""),
    ("memory_write_source", "\"learned_hidden\""),
    ("memory_write_proposals_per_message", "2"),
    ("synthetic_memory_slots", "1"),
    ("latent_memory_layers", "[]"),
];

/// Equality up to what the reference normalises: strings trimmed and lower-cased, 1 = 1.0.
fn archived_equal(found: &Value, default: &Value) -> bool {
    match (found, default) {
        (Value::String(a), Value::String(b)) => a.trim().to_lowercase() == *b,
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => found == default,
    }
}

impl Keys<'_> {
    fn delta_heads(&self) -> Result<Vec<DeltaHead>> {
        let Some(names) = self.names("delta_heads")? else {
            return Ok(DeltaHead::ALL.to_vec());
        };
        for name in &names {
            if !DeltaHead::ALL.iter().any(|h| h.name() == name) {
                return Err(
                    self.error("delta_heads", format!("expected q, k, v or o, found {name:?}"))
                );
            }
        }
        let named = |h: &DeltaHead| names.iter().any(|n| n == h.name());
        Ok(DeltaHead::ALL.into_iter().filter(named).collect())
    }

    fn target_layers(&self) -> Result<Vec<usize>> {
        let bad = |v: &Value| {
            self.error("target_layers", format!("expected a list of layer numbers, found {v}"))
        };
        let mut layers = match self.get("target_layers") {
            None => Vec::new(),
            Some(Value::Array(a)) => a
                .iter()
                .map(|v| {
                    v.as_u64().filter(|&n| n < 1 << 16).map(|n| n as usize).ok_or_else(|| bad(v))
                })
                .collect::<Result<Vec<_>>>()?,
            Some(v) => return Err(bad(v)),
        };
        layers.sort_unstable();
        layers.dedup();
        Ok(layers)
    }
}
