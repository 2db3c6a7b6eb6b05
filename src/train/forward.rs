//! The forward pass of a batch, to be read beside SPEC.md sections 1 to 3 and the CPU twin
//! (`reference/model.rs`), whose order it follows.

use super::adapter::{AdapterLayer, DeviceAdapter};
use super::backbone::{Backbone, Layer};
use super::batch::{CachePositions, CallBatch, GroupWrites, TokenWrites};
use super::delta_scan::{self, Projected};
use crate::config::{DeltaConfig, DeltaHead, ModelConfig, StateUpdateMode};
use burn_tensor::activation::{log_sigmoid, sigmoid, silu, softmax};
use burn_tensor::{Int, Tensor, TensorData, s};

/// Smallest squared norm that q and k are divided by; the twin's 1e-6, squared.
const MIN_NORM_SQUARED: f32 = 1e-12;

/// KV cache and memory of a batch of episodes.
pub struct Context {
    pub(super) positions: CachePositions,
    /// Keys (after RoPE) and values, `[B, n_kv, P, d]` each; `None` = nothing cached.
    kv: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    /// S per layer of the backbone, `[B, H_s, r, r]`; `None` = all zero.
    pub(super) states: Vec<Option<Tensor<4>>>,
    n_batch: usize,
}

impl Context {
    /// Nothing cached, nothing remembered.
    pub fn new(model: &ModelConfig, n_batch: usize) -> Context {
        Context {
            positions: CachePositions::new(n_batch),
            kv: vec![None; model.n_layers],
            states: vec![None; model.n_layers],
            n_batch,
        }
    }

    /// No gradient passes back through what is remembered now.
    pub fn detach_memory(&mut self) {
        for state in self.states.iter_mut().flatten() {
            *state = state.clone().detach();
        }
    }

    /// Drops the KV cache; the memory stays.
    pub fn drop_cache(&mut self) {
        self.positions = CachePositions::new(self.n_batch);
        self.kv.fill(None);
    }
}

/// What a call is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The last layer's x, and everything that a call after it may need.
    Output,
    /// Only what the memory holds after it: nothing behind the last write is computed, and the KV
    /// cache must be dropped.
    Memory,
}

impl Backbone {
    /// One call: extends `context`, returns the last layer's x `[B, T, h]`, which has no meaning if
    /// only the memory is wanted. `truncate_tokens` as in [`delta_scan::scan`].
    pub(super) fn forward(
        &self,
        adapter: &DeviceAdapter,
        delta: &DeltaConfig,
        call: &CallBatch,
        context: &mut Context,
        purpose: Purpose,
        truncate_tokens: Option<usize>,
    ) -> Tensor<3> {
        let last_write = adapter.layers.iter().rposition(Option::is_some);
        let embedded = self.embed_tokens.clone().select(0, call.tokens.clone());
        let mut x = embedded.reshape([call.n_batch, call.n_tokens, self.config.hidden_size]);
        for (index, layer) in self.layers.iter().enumerate() {
            let adapter = adapter.layers[index].as_ref();
            let eps = self.config.rms_norm_eps;
            let n = rms_norm(x.clone(), &layer.input_norm, eps);
            let rho = adapter.map(|adapter| {
                let state = &mut context.states[index];
                remember(adapter, delta, n.clone(), call, state, truncate_tokens)
            });
            if purpose == Purpose::Memory && Some(index) == last_write {
                break;
            }
            let corrected = |y: Tensor<3>, head: DeltaHead| match (adapter, &rho) {
                (Some(adapter), Some(rho)) => match &adapter.corrections[head as usize] {
                    Some(d) => y + linear(rho.clone(), d),
                    None => y,
                },
                _ => y,
            };
            let q = corrected(linear(n.clone(), &layer.q), DeltaHead::Q);
            let k = corrected(linear(n.clone(), &layer.k), DeltaHead::K);
            let v = corrected(linear(n, &layer.v), DeltaHead::V);
            let attended = self.attend(index, layer, [q, k, v], call, &mut context.kv[index]);
            x = x + linear(attended, &layer.o);
            if let (Some(adapter), Some(rho)) = (adapter, rho)
                && let Some(d) = &adapter.corrections[DeltaHead::O as usize]
            {
                let delta_o = linear(rho, d);
                x = x + match &adapter.o_norm {
                    None => delta_o,
                    Some((weight, eps)) => rms_norm(delta_o, weight, *eps),
                };
            }
            let n = rms_norm(x.clone(), &layer.post_norm, eps);
            let gate = silu(linear(n.clone(), &layer.gate));
            x = x + linear(gate * linear(n, &layer.up), &layer.down);
        }
        x
    }

    /// Logits `[rows, vocab]` of some rows of x `[B, T, h]`, numbered through B·T.
    pub(super) fn logits(&self, x: Tensor<3>, rows: &[usize]) -> Tensor<2> {
        let [n_batch, n_tokens, h] = x.dims();
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let n = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [n]), &self.device);
        let x: Tensor<2> = x.reshape([n_batch * n_tokens, h]).select(0, rows);
        rms_norm(x, &self.norm, self.config.rms_norm_eps).matmul(self.head.clone())
    }

    /// softmax(q·kᵀ/√d)·v over cache and call, heads side by side: `[B, T, n_q·d]`.
    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        [q, k, v]: [Tensor<3>; 3],
        call: &CallBatch,
        cache: &mut Option<(Tensor<4>, Tensor<4>)>,
    ) -> Tensor<3> {
        let (config, n_batch, n_tokens) = (&self.config, call.n_batch, call.n_tokens);
        let (n_heads, n_kv, d) = (config.n_heads, config.n_kv_heads, config.head_dim);
        let heads = |x: Tensor<3>, n: usize| x.reshape([n_batch, n_tokens, n, d]);
        let (mut q, mut k) = (heads(q, n_heads), heads(k, n_kv));
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            q = rms_norm(q, q_norm, config.rms_norm_eps);
            k = rms_norm(k, k_norm, config.rms_norm_eps);
        }
        let (mut q, mut k) = (q.swap_dims(1, 2), k.swap_dims(1, 2));
        let mut v = heads(v, n_kv).swap_dims(1, 2);
        if config.use_rope[index] {
            q = rope(q, &call.rope);
            k = rope(k, &call.rope);
        }
        if let Some((past_k, past_v)) = cache.take() {
            k = Tensor::cat(vec![past_k, k], 2);
            v = Tensor::cat(vec![past_v, v], 2);
        }
        *cache = Some((k.clone(), v.clone()));
        // Query heads that share a KV head lie one after the other: one product for all of them.
        let n_positions = k.dims()[2];
        let shared = n_heads / n_kv * n_tokens;
        let scores = q.reshape([n_batch, n_kv, shared, d]).matmul(k.swap_dims(2, 3));
        let scores: Tensor<4> = scores.reshape([n_batch, n_heads, n_tokens, n_positions]);
        let scores = scores * (1.0 / (d as f32).sqrt()) + call.visibility.clone();
        let weights = softmax(scores, 3).reshape([n_batch, n_kv, shared, n_positions]);
        let attended: Tensor<4> = weights.matmul(v).reshape([n_batch, n_heads, n_tokens, d]);
        attended.swap_dims(1, 2).reshape([n_batch, n_tokens, n_heads * d])
    }
}

/// Reads `[B, T, R]` of one wrapped layer, and its writes into `state`.
fn remember(
    adapter: &AdapterLayer,
    delta: &DeltaConfig,
    n: Tensor<3>,
    call: &CallBatch,
    state: &mut Option<Tensor<4>>,
    truncate_tokens: Option<usize>,
) -> Tensor<3> {
    let (n_batch, n_heads, rank) = (call.n_batch, delta.num_state_heads, delta.rank);
    let before =
        state.take().unwrap_or_else(|| Tensor::zeros([n_batch, n_heads, rank, rank], &n.device()));
    let raw = linear(n, &adapter.rows);
    let projected = project(adapter, delta, raw.clone());
    let (reads, mut after) = match &call.plan.tokens {
        TokenWrites::None => (delta_scan::read(before.clone(), projected.q), before),
        TokenWrites::All => delta_scan::scan(before, &projected, truncate_tokens),
        TokenWrites::Masked(mask) => {
            delta_scan::scan(before, &projected.masked(mask), truncate_tokens)
        }
    };
    if let Some(GroupWrites { weight, mask }) = &call.plan.groups {
        // The rows are linear in n, so their mean is the row of the mean (SPEC.md section 3).
        let means = project(adapter, delta, weight.clone().matmul(raw)).masked(mask);
        after = delta_scan::scan(after, &means, None).1;
    }
    *state = Some(after);
    reads.swap_dims(1, 2).reshape([n_batch, call.n_tokens, n_heads * rank])
}

/// Linear rows mq | mk | mv | β | (λ) `[B, T, 3R + G (+ G)]` to what the scan needs.
fn project(adapter: &AdapterLayer, delta: &DeltaConfig, raw: Tensor<3>) -> Projected {
    let [n_batch, n_tokens, _] = raw.dims();
    let (n_heads, rank) = (delta.num_state_heads, delta.rank);
    let (n_rows, n_gates) = (delta.n_rows(), delta.n_gates());
    let per_head = |start: usize, width: usize| -> Tensor<4> {
        let part = raw.clone().slice(s![.., .., start..start + width]);
        part.reshape([n_batch, n_tokens, n_heads, width / n_heads]).swap_dims(1, 2)
    };
    // One gate a row, or one a state head, repeated over its rows.
    let gate = |start: usize, bias: &Tensor<1>| -> Tensor<4> {
        let bias = bias.clone().reshape([1, n_heads, 1, n_gates / n_heads]);
        (per_head(start, n_gates) + bias).expand([n_batch, n_heads, n_tokens, rank])
    };
    let normed = |y: Tensor<4>| match delta.normalize_qk {
        false => y,
        true => {
            let y = y.tanh();
            let squared = (y.clone() * y.clone()).sum_dim(3);
            y / squared.clamp_min(MIN_NORM_SQUARED).sqrt()
        }
    };
    let beta_raw = gate(3 * n_rows, &adapter.beta_bias);
    let beta = sigmoid(beta_raw.clone());
    // λ = sigmoid(its own gate), or 1 − β = sigmoid(−β's gate)
    let lambda_raw = match &adapter.lambda_bias {
        Some(bias) => gate(3 * n_rows + n_gates, bias),
        None => beta_raw.neg(),
    };
    let (log_keep, erase) = match delta.state_update_mode {
        StateUpdateMode::Standard => (log_sigmoid(lambda_raw), beta.clone()),
        StateUpdateMode::LambdaOutside => {
            (log_sigmoid(lambda_raw.clone()), sigmoid(lambda_raw) * beta.clone())
        }
        StateUpdateMode::NoLambda => (beta.zeros_like(), beta.clone()),
    };
    Projected {
        q: normed(per_head(0, n_rows)),
        k: normed(per_head(n_rows, n_rows)),
        v: per_head(2 * n_rows, n_rows),
        log_keep,
        erase,
        write: beta,
    }
}

/// x·W for W `[in, out]`, as one product over all tokens.
fn linear(x: Tensor<3>, w: &Tensor<2>) -> Tensor<3> {
    let [n_batch, n_tokens, n_in] = x.dims();
    let y: Tensor<2> = x.reshape([n_batch * n_tokens, n_in]).matmul(w.clone());
    let n_out = y.dims()[1];
    y.reshape([n_batch, n_tokens, n_out])
}

/// w · x / sqrt(mean(x²) + eps) over the last dimension.
fn rms_norm<const D: usize>(x: Tensor<D>, weight: &Tensor<1>, eps: f32) -> Tensor<D> {
    let mean = (x.clone() * x.clone()).mean_dim(D - 1);
    let mut shape = [1; D];
    shape[D - 1] = weight.dims()[0];
    x / (mean + eps).sqrt() * weight.clone().reshape(shape)
}

/// Rotate-half form, x `[B, heads, T, d]`.
fn rope(x: Tensor<4>, (cos, sin): &(Tensor<4>, Tensor<4>)) -> Tensor<4> {
    let n_pairs = cos.dims()[3];
    let low = x.clone().slice(s![.., .., .., 0..n_pairs]);
    let high = x.slice(s![.., .., .., n_pairs..]);
    Tensor::cat(
        vec![
            low.clone() * cos.clone() - high.clone() * sin.clone(),
            high * cos.clone() + low * sin.clone(),
        ],
        3,
    )
}
