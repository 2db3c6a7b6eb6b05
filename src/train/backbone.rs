//! The frozen weights as tensors. Owns what is read and how it is rounded; no gradient ever reaches
//! them, so a gradient step keeps none of their inputs.

use super::Device;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::reference::read_matrix;
use crate::shader::Storage;
use crate::weights::TensorSource;
use burn_tensor::{Tensor, TensorData};

/// A backbone on a device, in f32.
pub struct Backbone {
    pub config: ModelConfig,
    /// `[vocab, h]`
    pub(super) embed_tokens: Tensor<2>,
    pub(super) layers: Vec<Layer>,
    /// `[h]`
    pub(super) norm: Tensor<1>,
    /// `[h, vocab]`
    pub(super) head: Tensor<2>,
    pub(super) device: Device,
}

/// One decoder layer; matrices are `[in, out]`, the transposed file.
pub(super) struct Layer {
    /// `[h]`
    pub input_norm: Tensor<1>,
    /// `[h, n_q·d]`
    pub q: Tensor<2>,
    /// `[h, n_kv·d]`
    pub k: Tensor<2>,
    /// `[h, n_kv·d]`
    pub v: Tensor<2>,
    /// q_norm and k_norm, `[d]` each.
    pub qk_norm: Option<(Tensor<1>, Tensor<1>)>,
    /// `[n_q·d, h]`
    pub o: Tensor<2>,
    /// `[h]`
    pub post_norm: Tensor<1>,
    /// `[h, i]`
    pub gate: Tensor<2>,
    /// `[h, i]`
    pub up: Tensor<2>,
    /// `[i, h]`
    pub down: Tensor<2>,
}

impl Backbone {
    /// Reads a backbone onto a device. `storage` rounds its matrices to what inference keeps of them
    /// (an adapter trained on exact weights can lose its gain on 4-bit ones).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`]; what reading gives.
    pub fn load(
        config: &ModelConfig,
        weights: &dyn TensorSource,
        storage: Storage,
        device: &Device,
    ) -> Result<Backbone> {
        for (name, shape) in config.tensor_shapes() {
            weights.check_shape(&name, &shape)?;
        }
        let (h, i) = (config.hidden_size, config.intermediate_size);
        let stored = |name: &str, n_out: usize, n_in: usize| -> Result<Tensor<2>> {
            let values = read_matrix(weights, name, storage)?;
            Ok(Tensor::from_data(TensorData::new(values, [n_out, n_in]), device))
        };
        let vector = |name: &str, n: usize| -> Result<Tensor<1>> {
            Ok(Tensor::from_data(TensorData::new(weights.read_all(name)?, [n]), device))
        };
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let matrix = |part: &str, n_out, n_in| -> Result<Tensor<2>> {
                Ok(stored(&name(part), n_out, n_in)?.transpose())
            };
            let vector = |part: &str, n| vector(&name(part), n);
            layers.push(Layer {
                input_norm: vector("input_layernorm", h)?,
                q: matrix("self_attn.q_proj", config.q_size(), h)?,
                k: matrix("self_attn.k_proj", config.kv_size(), h)?,
                v: matrix("self_attn.v_proj", config.kv_size(), h)?,
                qk_norm: match config.has_qk_norm() {
                    true => Some((
                        vector("self_attn.q_norm", config.head_dim)?,
                        vector("self_attn.k_norm", config.head_dim)?,
                    )),
                    false => None,
                },
                o: matrix("self_attn.o_proj", h, config.q_size())?,
                post_norm: vector("post_attention_layernorm", h)?,
                gate: matrix("mlp.gate_proj", i, h)?,
                up: matrix("mlp.up_proj", i, h)?,
                down: matrix("mlp.down_proj", h, i)?,
            });
        }
        let embed_tokens = stored("model.embed_tokens.weight", config.vocab_size, h)?;
        let head = match config.tie_word_embeddings {
            true => embed_tokens.clone().transpose(),
            false => stored("lm_head.weight", config.vocab_size, h)?.transpose(),
        };
        Ok(Backbone {
            embed_tokens,
            layers,
            norm: vector("model.norm.weight", h)?,
            head,
            device: device.clone(),
            config: config.clone(),
        })
    }
}
