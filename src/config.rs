//! What `config.json` and `delta_mem_config.json` say, checked once at load. Owns the meaning of
//! the keys (SPEC.md sections 1 and 5); reads no weights.

use crate::error::{Error, Result};
use crate::memory::MemoryDims;
use serde_json::{Map, Value};

/// Largest JSON configuration accepted, in bytes. Real ones have a few kilobytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Backbone families whose forward pass is implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// SmolLM3: RoPE left out on some layers, no q/k norms.
    SmolLm3,
    /// Qwen3: RoPE everywhere, RMSNorm over each query and key head.
    Qwen3,
}

impl Architecture {
    /// The `model_type` of config.json.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::SmolLm3 => "smollm3",
            Architecture::Qwen3 => "qwen3",
        }
    }
}

/// Dimensions and constants of the frozen backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    /// h
    pub hidden_size: usize,
    /// Rows of gate and up.
    pub intermediate_size: usize,
    /// L
    pub n_layers: usize,
    /// n_q
    pub n_heads: usize,
    /// n_kv
    pub n_kv_heads: usize,
    /// d; may differ from `hidden_size / n_heads`.
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    /// Positions that the backbone was trained for.
    pub max_position_embeddings: usize,
    /// Per layer: true = RoPE, false = NoPE. `[n_layers]`
    pub use_rope: Vec<bool>,
    /// The head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token ids that end a reply, as config.json lists them (generation_config.json may add more).
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Parses `config.json`. `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for anything but a JSON object, [`Error::Config`] for a missing key or a
    /// value out of range, [`Error::Unsupported`] for another architecture or a variant that the
    /// forward pass does not implement (biases, sliding window, scaled RoPE, other activations).
    pub fn from_json(bytes: &[u8], file: &str) -> Result<ModelConfig> {
        let k = Keys::parse(bytes, file, MAX_CONFIG_BYTES)?;
        let architecture = match k.string("model_type")?.as_deref() {
            Some("smollm3") => Architecture::SmolLm3,
            Some("qwen3") => Architecture::Qwen3,
            other => {
                return Err(Error::Unsupported {
                    what: format!("{file}: model_type {}", other.unwrap_or("(absent)")),
                    reason: "this crate runs smollm3 and qwen3".into(),
                });
            }
        };
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            if k.boolean(key)?.unwrap_or(false) {
                return Err(k.unsupported(key, "only `false` is implemented"));
            }
        }
        if let Some(act) = k.string("hidden_act")?
            && act != "silu"
        {
            return Err(k.unsupported("hidden_act", "only `silu` is implemented"));
        }
        match k.get("layer_types") {
            Some(Value::Array(types)) if types.iter().any(|t| t != "full_attention") => {
                return Err(k.unsupported("layer_types", "only `full_attention` is implemented"));
            }
            None | Some(Value::Array(_)) => {}
            Some(v) => return Err(k.error("layer_types", format!("expected a list, found {v}"))),
        }

        let hidden_size = k.size("hidden_size", 1 << 16)?;
        let n_layers = k.size("num_hidden_layers", 1 << 10)?;
        let n_heads = k.size("num_attention_heads", 1 << 10)?;
        let n_kv_heads = match k.get("num_key_value_heads") {
            Some(_) => k.size("num_key_value_heads", 1 << 10)?,
            None => n_heads,
        };
        if n_heads % n_kv_heads != 0 {
            return Err(k.error(
                "num_key_value_heads",
                format!("{n_kv_heads} does not divide the {n_heads} attention heads"),
            ));
        }
        let head_dim = match k.get("head_dim") {
            Some(_) => k.size("head_dim", MAX_HEAD_DIM)?,
            None if hidden_size % n_heads == 0 && hidden_size / n_heads <= MAX_HEAD_DIM => {
                hidden_size / n_heads
            }
            None => {
                return Err(k.error(
                    "head_dim",
                    format!("absent, and hidden_size {hidden_size} / {n_heads} heads is not a usable size"),
                ));
            }
        };
        if head_dim % 2 != 0 {
            return Err(k.error("head_dim", format!("{head_dim} is odd; RoPE needs pairs")));
        }
        let rope_theta = k.rope_theta(architecture)?;
        let use_rope = match architecture {
            Architecture::SmolLm3 => k.use_rope(n_layers)?,
            Architecture::Qwen3 => vec![true; n_layers],
        };
        let rms_norm_eps = match k.get("rms_norm_eps") {
            Some(_) => k.number("rms_norm_eps")?,
            None => 1e-6,
        };
        if !(rms_norm_eps as f32 > 0.0 && rms_norm_eps < 1.0) {
            return Err(k.error("rms_norm_eps", format!("{rms_norm_eps} is not in (0, 1)")));
        }
        Ok(ModelConfig {
            architecture,
            hidden_size,
            intermediate_size: k.size("intermediate_size", 1 << 18)?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: k.size("vocab_size", 1 << 22)?,
            rms_norm_eps: rms_norm_eps as f32,
            rope_theta,
            max_position_embeddings: match k.get("max_position_embeddings") {
                Some(_) => k.size("max_position_embeddings", 1 << 24)?,
                None => 32768,
            },
            use_rope,
            tie_word_embeddings: k
                .boolean("tie_word_embeddings")?
                .unwrap_or(architecture == Architecture::SmolLm3),
            eos_token_ids: token_ids(k.get("eos_token_id"))
                .ok_or_else(|| k.error("eos_token_id", "expected an id or a list of ids"))?,
        })
    }

    /// Width of the concatenated query heads, n_q·d.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of the concatenated key (or value) heads, n_kv·d.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// True where q and k heads pass an RMSNorm before RoPE (Qwen3).
    pub fn has_qk_norm(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Every weight tensor with its shape, in file order: `[out, in]` for matrices.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (h, i, d) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let (q, kv) = (self.q_size(), self.kv_size());
        let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, h])];
        for layer in 0..self.n_layers {
            let mut add = |name: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            add("input_layernorm", &[h]);
            add("self_attn.q_proj", &[q, h]);
            add("self_attn.k_proj", &[kv, h]);
            add("self_attn.v_proj", &[kv, h]);
            add("self_attn.o_proj", &[h, q]);
            if self.has_qk_norm() {
                add("self_attn.q_norm", &[d]);
                add("self_attn.k_norm", &[d]);
            }
            add("post_attention_layernorm", &[h]);
            add("mlp.gate_proj", &[i, h]);
            add("mlp.up_proj", &[i, h]);
            add("mlp.down_proj", &[h, i]);
        }
        shapes.push(("model.norm.weight".to_string(), vec![h]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_string(), vec![self.vocab_size, h]));
        }
        shapes
    }

    /// Number of backbone weights.
    pub fn n_parameters(&self) -> u64 {
        self.tensor_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>())
            .sum()
    }
}

/// Largest head dimension of the attention kernel (its accumulators are sized by it).
pub const MAX_HEAD_DIM: usize = 256;
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

/// `null`, one id or a list of ids; `None` for anything else.
pub(crate) fn token_ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    }
}

/// A JSON object with the file it came from, for typed look-ups with named errors.
pub(crate) struct Keys<'a> {
    map: Map<String, Value>,
    file: &'a str,
}

impl<'a> Keys<'a> {
    /// Parses a JSON object of at most `max_bytes`.
    pub(crate) fn parse(bytes: &[u8], file: &'a str, max_bytes: usize) -> Result<Keys<'a>> {
        if bytes.len() > max_bytes {
            return Err(Error::format(
                file,
                "configuration",
                format!("{} bytes; at most {max_bytes} are accepted", bytes.len()),
            ));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Keys { map, file }),
            Ok(_) => Err(Error::format(file, "configuration", "expected a JSON object")),
            Err(e) => Err(Error::format(file, "configuration", e.to_string())),
        }
    }

    /// The value of a key; `null` counts as absent, as in the reference.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.into(), key: key.into(), reason: reason.into() }
    }

    fn unsupported(&self, key: &str, reason: &str) -> Error {
        let found = self.get(key).map(Value::to_string).unwrap_or_default();
        Error::Unsupported {
            what: format!("{}: `{key}` = {found}", self.file),
            reason: reason.into(),
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.error(key, format!("expected true or false, found {v}"))),
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.trim().to_lowercase())),
            Some(v) => Err(self.error(key, format!("expected a string, found {v}"))),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64> {
        self.get(key)
            .and_then(Value::as_f64)
            .filter(|x| x.is_finite() && (*x as f32).is_finite())
            .ok_or_else(|| self.error(key, "expected a finite number"))
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |_| self.number(key))
    }

    /// An integer in 1..=max.
    fn size(&self, key: &str, max: usize) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.error(key, "missing"))?;
        match value.as_u64() {
            Some(n) if n >= 1 && n <= max as u64 => Ok(n as usize),
            _ => {
                Err(self.error(key, format!("expected an integer from 1 to {max}, found {value}")))
            }
        }
    }

    fn size_or(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |_| self.size(key, max))
    }

    /// One of several strings; the first is the default.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let Some(found) = self.string(key)? else {
            return Ok(choices[0].1);
        };
        match choices.iter().find(|(name, _)| *name == found) {
            Some((_, value)) => Ok(*value),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.error(key, format!("expected one of {names:?}, found {found:?}")))
            }
        }
    }

    /// A list of strings or one comma-separated string; trimmed, lower-cased, empty parts dropped.
    fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let parts: Vec<String> = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(s)) => s.split(',').map(str::to_string).collect(),
            Some(Value::Array(a)) if a.iter().all(Value::is_string) => {
                a.iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
            }
            Some(v) => {
                return Err(self.error(key, format!("expected a list of strings, found {v}")));
            }
        };
        let parts = parts.iter().map(|s| s.trim().to_lowercase());
        Ok(Some(parts.filter(|s| !s.is_empty()).collect()))
    }

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

    /// Top-level `rope_theta` (hub files) or `rope_parameters.rope_theta` (transformers 5).
    fn rope_theta(&self, architecture: Architecture) -> Result<f32> {
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(key) else { continue };
            let Value::Object(map) = value else {
                return Err(self.error(key, format!("expected an object, found {value}")));
            };
            let kind = map.get("rope_type").or_else(|| map.get("type"));
            if kind.is_some_and(|k| !k.is_null() && k != "default") {
                return Err(self.unsupported(key, "only unscaled RoPE is implemented"));
            }
        }
        let nested = self
            .get("rope_parameters")
            .and_then(|p| p.get("rope_theta"))
            .filter(|theta| !theta.is_null());
        let theta = match (nested.or(self.get("rope_theta")), architecture) {
            (Some(v), _) => v.as_f64(),
            (None, Architecture::SmolLm3) => Some(2e6),
            (None, Architecture::Qwen3) => None,
        };
        theta
            .map(|t| t as f32)
            .filter(|t| t.is_finite() && *t > 0.0)
            .ok_or_else(|| self.error("rope_theta", "expected a positive number"))
    }

    /// `no_rope_layers` (1 = RoPE, 0 = NoPE; the name reads backwards) wins over the interval.
    fn use_rope(&self, n_layers: usize) -> Result<Vec<bool>> {
        match self.get("no_rope_layers") {
            Some(Value::Array(list)) if !list.is_empty() => {
                if list.len() != n_layers {
                    return Err(self.error(
                        "no_rope_layers",
                        format!("{} entries for {n_layers} layers", list.len()),
                    ));
                }
                list.iter()
                    .map(|v| match (v.as_u64(), v.as_bool()) {
                        (Some(0), _) | (_, Some(false)) => Ok(false),
                        (Some(1), _) | (_, Some(true)) => Ok(true),
                        _ => {
                            Err(self.error("no_rope_layers", format!("expected 0 or 1, found {v}")))
                        }
                    })
                    .collect()
            }
            None | Some(Value::Array(_)) => {
                let interval = self.size_or("no_rope_layer_interval", 4, 1 << 16)?;
                Ok((0..n_layers).map(|l| (l + 1) % interval != 0).collect())
            }
            Some(v) => Err(self.error("no_rope_layers", format!("expected a list, found {v}"))),
        }
    }
}
