//! What `config.json` and `delta_mem_config.json` say, checked once at load. Owns the meaning of
//! the keys (SPEC.md sections 1 and 5); reads no weights.

mod delta;
mod keys;
mod rope;

pub use delta::{
    DeltaConfig, DeltaHead, DeltaScale, MAX_MEMORY_ROWS, MAX_RANK, StateUpdateMode,
    WriteGranularity, adapter_tensor_name,
};
pub(crate) use keys::{Keys, token_ids};
pub use rope::Yarn;
pub(crate) use rope::usual_attention_factor;

use crate::error::{Error, Result};
use serde_json::Value;

/// Largest JSON configuration accepted, in bytes. Real ones have a few kilobytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Most positions accepted.
const MAX_POSITIONS: usize = 1 << 24;
/// Largest head dimension of the attention kernel (its accumulators are sized by it).
pub const MAX_HEAD_DIM: usize = 256;

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
    /// How RoPE is stretched to more positions than the backbone was trained for.
    pub rope_scaling: Option<Yarn>,
    /// Positions that the backbone can tell apart, stretched ones included.
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
    /// forward pass does not implement (biases, sliding window, RoPE scaled otherwise than by YaRN,
    /// other activations).
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
        let trained_positions = k.size_or("max_position_embeddings", 32768, MAX_POSITIONS)?;
        let rope_scaling = k.rope_scaling(trained_positions)?;
        if rope_scaling.is_some() && rope_theta <= 1.0 {
            return Err(
                k.error("rope_theta", format!("{rope_theta} is not above 1, as YaRN needs"))
            );
        }
        let stretched = rope_scaling.map_or(0, |yarn| yarn.n_positions());
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
            rope_scaling,
            max_position_embeddings: trained_positions.max(stretched).min(MAX_POSITIONS),
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

impl Keys<'_> {
    /// Top-level `rope_theta` (hub files) or `rope_parameters.rope_theta` (transformers 5).
    fn rope_theta(&self, architecture: Architecture) -> Result<f32> {
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
