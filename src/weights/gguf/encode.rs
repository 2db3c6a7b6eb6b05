//! Rows of f32 into the types of `blocks.rs`. Owns the choice of quants, scales and minima for
//! blocks of 32; those of 256 are `encode_k.rs`'s.
//!
//! What is made small is the squared error, weighted by rms + |w|: a large weight that is off costs
//! more. Scales are searched: a few step sizes around the plain one give quants, the quants give the
//! scale that fits them best, and of these the best is kept. Nothing is random, so the same row gives
//! the same bytes on every machine and in every thread.

use super::blocks::{GgmlType, SMALL_BLOCK, SUPER_BLOCK};
use super::encode_k;
use half::{bf16, f16};

/// Stores whole blocks.
///
/// Values that are no finite numbers are stored as 0, those that a type cannot hold as the largest
/// that it can.
///
/// # Panics
/// If `row` is not a whole number of blocks, or `out` has not exactly their bytes.
pub fn encode(ty: GgmlType, row: &[f32], out: &mut [u8]) {
    let (block_len, block_bytes) = (ty.block_len(), ty.block_bytes());
    assert!(
        row.len().is_multiple_of(block_len) && out.len() == row.len() / block_len * block_bytes,
        "{} elements of {} do not take {} bytes",
        row.len(),
        ty.name(),
        out.len()
    );
    let blocks = row.chunks_exact(block_len).zip(out.chunks_exact_mut(block_bytes));
    match ty {
        GgmlType::F32 => blocks.for_each(|(x, b)| b.copy_from_slice(&finite(x[0]).to_le_bytes())),
        GgmlType::F16 => blocks.for_each(|(x, b)| b.copy_from_slice(&to_f16(x[0]).to_le_bytes())),
        GgmlType::BF16 => blocks.for_each(|(x, b)| b.copy_from_slice(&to_bf16(x[0]).to_le_bytes())),
        GgmlType::Q8_0 => blocks.for_each(|(x, b)| q8_0(&block(x), b)),
        GgmlType::Q4_0 => blocks.for_each(|(x, b)| symmetric(&block(x), 8, b)),
        GgmlType::Q5_0 => blocks.for_each(|(x, b)| symmetric(&block(x), 16, b)),
        GgmlType::Q4_1 => blocks.for_each(|(x, b)| with_offset(&block(x), 15, b)),
        GgmlType::Q5_1 => blocks.for_each(|(x, b)| with_offset(&block(x), 31, b)),
        GgmlType::Q4_K => {
            blocks.for_each(|(x, b)| encode_k::with_minimum::<15>(&super_block(x), b))
        }
        GgmlType::Q5_K => {
            blocks.for_each(|(x, b)| encode_k::with_minimum::<31>(&super_block(x), b))
        }
        GgmlType::Q6_K => blocks.for_each(|(x, b)| encode_k::q6_k(&super_block(x), b)),
    }
}

fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

fn block(x: &[f32]) -> [f32; SMALL_BLOCK] {
    std::array::from_fn(|i| finite(x[i]))
}

fn super_block(x: &[f32]) -> [f32; SUPER_BLOCK] {
    std::array::from_fn(|i| finite(x[i]))
}

/// The nearest f16; beyond its range lie only weights that no model has.
pub(super) fn to_f16(x: f32) -> f16 {
    f16::from_f32(finite(x).clamp(-65504.0, 65504.0))
}

fn to_bf16(x: f32) -> bf16 {
    let largest = bf16::MAX.to_f32();
    bf16::from_f32(finite(x).clamp(-largest, largest))
}

/// 1 / x, or 0 where that is no number.
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// How much each element's error counts, relative to the others of its block.
pub(super) fn importance<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let rms = (x.iter().map(|x| x * x).sum::<f32>() / N as f32).sqrt();
    x.map(|x| rms + x.abs())
}

/// The element that is farthest from 0.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &x| if x.abs() > m.abs() { x } else { m })
}

/// `x / step` rounded to a whole number in `-zero ..= top - zero`, counted from 0.
pub(super) fn nearest(x: f32, inverse_step: f32, zero: f32, top: f32) -> f32 {
    /// Next to it f32 has no fractions: adding it rounds, without a call into a library.
    const WHOLE: f32 = 8_388_608.0;
    ((x * inverse_step + zero).clamp(0.0, top) + WHOLE) - WHOLE
}

fn q8_0(x: &[f32; SMALL_BLOCK], out: &mut [u8]) {
    let d = to_f16(extreme(x).abs() / 127.0);
    let inverse = inverse(d.to_f32());
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (byte, &x) in out[2..].iter_mut().zip(x) {
        *byte = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// The scale of `(q − zero)·d` with `zero` steps one way and one less the other, by search.
pub(super) fn fit_scale<const N: usize>(x: &[f32; N], weights: &[f32; N], zero: f32) -> f32 {
    let extreme = extreme(x);
    let top = 2.0 * zero - 1.0;
    let (mut best, mut best_gain) = (0.0, 0.0);
    // The extreme lies on the longer end; steps around that trade it against all the others.
    for shift in -10..=10 {
        let inverse_step = inverse(extreme / (-zero - 0.1 * shift as f32));
        let (mut xq, mut qq) = (0.0, 0.0);
        for (&x, &w) in x.iter().zip(weights) {
            let q = nearest(x, inverse_step, zero, top) - zero;
            xq += w * x * q;
            qq += w * q * q;
        }
        // With d = xq / qq the squared error is Σ w·x² − xq² / qq.
        let gain = xq * xq * inverse(qq);
        if gain > best_gain {
            (best, best_gain) = (xq * inverse(qq), gain);
        }
    }
    best
}

/// Q4_0 (`zero` 8) and Q5_0 (16).
fn symmetric(x: &[f32; SMALL_BLOCK], zero: u8, out: &mut [u8]) {
    let d = to_f16(fit_scale(x, &importance(x), f32::from(zero)));
    let (inverse, zero) = (inverse(d.to_f32()), f32::from(zero));
    out[..2].copy_from_slice(&d.to_le_bytes());
    let quants = x.map(|x| nearest(x, inverse, zero, 2.0 * zero - 1.0) as u8);
    pack(&quants, &mut out[2..]);
}

/// Q4_1 (`top` 15) and Q5_1 (31).
fn with_offset(x: &[f32; SMALL_BLOCK], top: u8, out: &mut [u8]) {
    let top = f32::from(top);
    let (d, m) = fit_line(x, &importance(x), top, f32::MAX);
    let (d, m) = (to_f16(d), to_f16(m));
    let inverse = inverse(d.to_f32());
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    let quants = x.map(|x| nearest(x - m.to_f32(), inverse, 0.0, top) as u8);
    pack(&quants, &mut out[4..]);
}

/// `d ≥ 0` and `m ≤ max_m` such that `q·d + m` with q in 0..=top is close to `x`, by search.
pub(super) fn fit_line<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    top: f32,
    max_m: f32,
) -> (f32, f32) {
    let low = x.iter().fold(f32::INFINITY, |m, &x| m.min(x)).min(max_m);
    let high = x.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for (&x, &w) in x.iter().zip(weights) {
        sum_w += w;
        sum_x += w * x;
    }
    if high <= low || sum_w <= 0.0 {
        return (0.0, low);
    }
    let (mut best, mut best_error) = ((0.0, 0.0), f32::INFINITY);
    for shift in -5..=15 {
        let inverse_step = (top + 0.1 * shift as f32) / (high - low);
        if !inverse_step.is_finite() {
            return (0.0, low);
        }
        let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
        for (&x, &w) in x.iter().zip(weights) {
            let q = nearest(x - low, inverse_step, 0.0, top);
            sum_q += w * q;
            sum_qq += w * q * q;
            sum_xq += w * x * q;
        }
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut d = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut m = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
        if m > max_m {
            (d, m) = (((sum_xq - max_m * sum_q) / sum_qq), max_m);
        }
        // Σ w·(q·d + m − x)², less Σ w·x², which is the same for all.
        let error = d * (d * sum_qq + 2.0 * (m * sum_q - sum_xq)) + m * (m * sum_w - 2.0 * sum_x);
        if d > 0.0 && m.is_finite() && error < best_error {
            (best, best_error) = ((d, m), error);
        }
    }
    match best_error.is_finite() {
        true => best,
        false => ((high - low) / top, low),
    }
}

/// The weighted squared error of `q·d + m` with the best q.
pub(super) fn line_error<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    d: f32,
    m: f32,
    top: f32,
) -> f32 {
    let inverse = inverse(d);
    let squares = x.iter().zip(weights).map(|(&x, &w)| {
        let difference = nearest(x - m, inverse, 0.0, top) * d + m - x;
        w * difference * difference
    });
    squares.sum()
}

/// Nibbles of elements 0..16 and 16..32 in 16 bytes, behind the fifth bits if there is room for them.
fn pack(quants: &[u8; SMALL_BLOCK], out: &mut [u8]) {
    let fifth = (0..).zip(quants).fold(0u32, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
    let (high, nibbles) = out.split_at_mut(out.len() - SMALL_BLOCK / 2);
    if !high.is_empty() {
        high.copy_from_slice(&fifth.to_le_bytes());
    }
    for (j, byte) in nibbles.iter_mut().enumerate() {
        *byte = quants[j] & 15 | quants[j + 16] << 4;
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
