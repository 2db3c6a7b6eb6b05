//! Rotary positions, the KV cache and causal attention. SPEC.md section 1.

use super::for_each_row;
use super::linear::dot;
use crate::rope::RopeTable;
use crate::shader::Storage;

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

/// Appends the keys and values of new tokens as a cache in `storage` holds heads of `head_dim`: f16 at
/// most ±65504, q8 as 127ths of a head's largest.
pub fn kv_write(cache: &mut KvCache, k: &[f32], v: &[f32], storage: Storage, head_dim: usize) {
    for (kept, new) in [(&mut cache.k, k), (&mut cache.v, v)] {
        match storage {
            Storage::F16 => kept.extend(
                new.iter().map(|x| half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32()),
            ),
            Storage::Q8 => new.chunks(head_dim).for_each(|head| {
                let scale = head.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                let quant = |x: &f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0);
                kept.extend(head.iter().map(|x| quant(x) * scale));
            }),
            _ => kept.extend(new),
        }
    }
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
