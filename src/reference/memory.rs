//! δ-mem: projections, gated delta rule, reads and group means. SPEC.md sections 2 and 3.

use super::linear::dot;
use super::mlp::sigmoid;
use crate::config::{DeltaConfig, StateUpdateMode};

/// Smallest norm that q and k are divided by.
const MIN_NORM: f32 = 1e-6;

/// What the memory needs of each token (or group mean); all `[T, R]` f32, state-head-major.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Projected {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// Factor of the old state, by value row.
    pub keep: Vec<f32>,
    /// Factor of what the state predicts for k.
    pub erase: Vec<f32>,
    /// Factor of v.
    pub write: Vec<f32>,
}

/// Turns the linear rows mq | mk | mv | β | (λ), `[T, 3R + G (+ G)]`, into reads and writes: tanh
/// and unit length for q and k, sigmoid of the biased gates, gates by update mode.
///
/// `lambda_bias` is only read if [`DeltaConfig::uses_lambda`].
///
/// # Panics
/// If the lengths do not agree with the configuration.
pub fn memory_project(
    delta: &DeltaConfig,
    raw: &[f32],
    beta_bias: &[f32],
    lambda_bias: &[f32],
) -> Projected {
    let (rank, n_rows, n_gates) = (delta.rank, delta.n_rows(), delta.n_gates());
    let width = raw_width(delta);
    assert_eq!(raw.len() % width, 0);
    let gates_per_head = n_gates / delta.num_state_heads;
    let mut out = Projected::default();
    for raw in raw.chunks(width) {
        let (qkv, gates) = raw.split_at(3 * n_rows);
        out.q.extend_from_slice(&qkv[..n_rows]);
        out.k.extend_from_slice(&qkv[n_rows..2 * n_rows]);
        out.v.extend_from_slice(&qkv[2 * n_rows..]);
        for row in 0..n_rows {
            // One gate a row, or one a state head, repeated over its rows.
            let gate = row / rank * gates_per_head + row % rank % gates_per_head;
            let beta = sigmoid(gates[gate] + beta_bias[gate]);
            let lambda = match delta.uses_lambda() {
                true => sigmoid(gates[n_gates + gate] + lambda_bias[gate]),
                false => 1.0 - beta,
            };
            let (keep, erase) = match delta.state_update_mode {
                StateUpdateMode::Standard => (lambda, beta),
                StateUpdateMode::LambdaOutside => (lambda, lambda * beta),
                StateUpdateMode::NoLambda => (1.0, beta),
            };
            out.keep.push(keep);
            out.erase.push(erase);
            out.write.push(beta);
        }
    }
    if delta.normalize_qk {
        for head in out.q.chunks_mut(rank).chain(out.k.chunks_mut(rank)) {
            head.iter_mut().for_each(|x| *x = x.tanh());
            let norm = dot(head, head).sqrt().max(MIN_NORM);
            head.iter_mut().for_each(|x| *x /= norm);
        }
    }
    out
}

/// Length of a raw row, 3R + G, and G more where λ has its own projection.
pub(super) fn raw_width(delta: &DeltaConfig) -> usize {
    3 * delta.n_rows() + delta.n_gates() * if delta.uses_lambda() { 2 } else { 1 }
}

/// For each token in order: ρ = S·q, then S[i][j] ← keep_i·S[i][j] − erase_i·(S·k)_i·k_j +
/// write_i·v_i·k_j. Returns the reads, `[T, R]`; the state is `[H_s, r, r]`.
///
/// # Panics
/// If the state is not R·r long.
pub fn memory_scan(state: &mut [f32], projected: &Projected, rank: usize) -> Vec<f32> {
    let n_rows = state.len() / rank;
    assert_eq!(state.len(), n_rows * rank);
    let mut reads = Vec::with_capacity(projected.q.len());
    for token in 0..projected.q.len() / n_rows {
        for (row, state) in state.chunks_mut(rank).enumerate() {
            let index = token * n_rows + row;
            let head = token * n_rows + row / rank * rank..;
            let k = &projected.k[head.clone()][..rank];
            reads.push(dot(state, &projected.q[head][..rank]));
            let erased = projected.erase[index] * dot(state, k);
            let written = projected.write[index] * projected.v[index];
            for (s, k) in state.iter_mut().zip(k) {
                *s = projected.keep[index] * *s - erased * k + written * k;
            }
        }
    }
    reads
}

/// ρ = S·q for each token, `[T, R]`, from a state that stays as it is.
///
/// # Panics
/// If the state is not R·r long.
pub fn memory_read(state: &[f32], q: &[f32], rank: usize) -> Vec<f32> {
    let n_rows = state.len() / rank;
    assert_eq!(state.len(), n_rows * rank);
    let mut reads = Vec::with_capacity(q.len());
    for q in q.chunks(n_rows) {
        for (row, state) in state.chunks(rank).enumerate() {
            reads.push(dot(state, &q[row / rank * rank..][..rank]));
        }
    }
    reads
}

/// Adds weight·row of each token to the mean of its group; `raw` `[T, width]`, `means`
/// `[n_groups, width]`, zero before the first chunk of a call.
///
/// The rows are linear in n, so their mean is the row of the mean n̄ (SPEC.md section 3).
///
/// # Panics
/// If a group is outside `means`.
pub fn segment_mean(
    raw: &[f32],
    width: usize,
    group_of_token: &[Option<u32>],
    weight: &[f32],
    means: &mut [f32],
) {
    for ((raw, group), weight) in raw.chunks(width).zip(group_of_token).zip(weight) {
        let Some(group) = group else { continue };
        let mean = &mut means[*group as usize * width..][..width];
        for (mean, raw) in mean.iter_mut().zip(raw) {
            *mean += weight * raw;
        }
    }
}
