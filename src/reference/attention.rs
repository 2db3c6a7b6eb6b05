//! Rotary positions, the KV cache and causal attention. SPEC.md section 1.

use super::for_each_row;
use super::linear::dot;
use crate::rope::RopeTable;

/// Turns each head of x `[T, n_heads, d]` by the angles of its token's position, rotate-half form;
/// the first token stands at position `n_past`.
///
/// # Panics
/// If a position is outside the table.
pub fn rope(x: &mut [f32], n_heads: usize, table: &RopeTable, n_past: usize) {
    let head_dim = 2 * table.n_pairs;
    for (token, heads) in x.chunks_mut(n_heads * head_dim).enumerate() {
        let (cos, sin) = table.row(n_past + token);
        for head in heads.chunks_mut(head_dim) {
            let (low, high) = head.split_at_mut(table.n_pairs);
            for pair in 0..table.n_pairs {
                let (a, b) = (low[pair], high[pair]);
                low[pair] = a * cos[pair] - b * sin[pair];
                high[pair] = b * cos[pair] + a * sin[pair];
            }
        }
    }
}

/// Keys (after RoPE) and values of one layer.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// `[positions, n_kv_heads, head_dim]` f32
    pub k: Vec<f32>,
    /// `[positions, n_kv_heads, head_dim]` f32
    pub v: Vec<f32>,
}

/// Appends the keys and values of new tokens; with `f16` each number is first rounded to what an
/// f16 cache can hold, at most ±65504.
pub fn kv_write(cache: &mut KvCache, k: &[f32], v: &[f32], f16: bool) {
    let stored = |x: &f32| match f16 {
        true => half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32(),
        false => *x,
    };
    cache.k.extend(k.iter().map(stored));
    cache.v.extend(v.iter().map(stored));
}

/// softmax(q·kᵀ / √d) · v for each query head, `[T, n_heads, d]`.
///
/// The cache already holds the tokens themselves; token t sees positions 0..=n_past + t. Query
/// head j reads KV head j / (n_heads / n_kv_heads).
///
/// # Panics
/// If the cache is shorter than n_past + T positions.
pub fn attention(
    q: &[f32],
    cache: &KvCache,
    n_past: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
) -> Vec<f32> {
    let (group, kv_size) = (n_heads / n_kv_heads, n_kv_heads * head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = vec![0.0; q.len()];
    for_each_row(&mut out, head_dim, |index, out| {
        let (token, head) = (index / n_heads, index % n_heads);
        let q = &q[index * head_dim..][..head_dim];
        let at = |position: usize| position * kv_size + head / group * head_dim;
        let mut weights: Vec<f32> = (0..=n_past + token)
            .map(|position| dot(q, &cache.k[at(position)..][..head_dim]) * scale)
            .collect();
        let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for weight in &mut weights {
            *weight = (*weight - largest).exp();
        }
        let sum: f32 = weights.iter().sum();
        for (position, weight) in weights.iter().enumerate() {
            let v = &cache.v[at(position)..][..head_dim];
            for (out, v) in out.iter_mut().zip(v) {
                *out += weight / sum * v;
            }
        }
    });
    out
}
