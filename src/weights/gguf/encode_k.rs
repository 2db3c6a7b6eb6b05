//! Blocks of 256 with two levels of scales: each group has a small whole number, and the block the
//! f16 that it multiplies. Owns how both are found.
//!
//! First every group gets the scale (and minimum) that suits it, then the block's f16 is what lets
//! the largest of them be written, then each group tries the whole numbers around its own, now with
//! the rounding of all the rest known.

use super::blocks::SUPER_BLOCK;
use super::encode::{
    extreme, fit_line, fit_scale, importance, inverse, line_error, nearest, to_f16,
};

/// Elements of a group of Q4_K and Q5_K.
const GROUP: usize = 32;
const N_GROUPS: usize = SUPER_BLOCK / GROUP;
/// Largest scale or minimum of a group: 6 bits.
const MAX_SIX_BITS: f32 = 63.0;
/// Elements of a group of Q6_K.
const SMALL_GROUP: usize = 16;

/// Q4_K (`TOP` 15) and Q5_K (31): `q·(d·s) − m·t` with s and t of 6 bits.
pub(super) fn with_minimum<const TOP: u8>(x: &[f32; SUPER_BLOCK], out: &mut [u8]) {
    let top = f32::from(TOP);
    let groups: [[f32; GROUP]; N_GROUPS] =
        std::array::from_fn(|g| std::array::from_fn(|i| x[g * GROUP + i]));
    let weights = groups.each_ref().map(importance);
    let lines: [(f32, f32); N_GROUPS] =
        std::array::from_fn(|g| fit_line(&groups[g], &weights[g], top, 0.0));
    let largest = |values: [f32; N_GROUPS]| values.into_iter().fold(0.0, f32::max);
    let d = to_f16(largest(lines.map(|(step, _)| step)) / MAX_SIX_BITS);
    let m = to_f16(largest(lines.map(|(_, low)| -low)) / MAX_SIX_BITS);
    let (d_f32, m_f32) = (d.to_f32(), m.to_f32());
    let mut scales = [0u8; N_GROUPS];
    let mut minima = [0u8; N_GROUPS];
    let mut quants = [0u8; SUPER_BLOCK];
    for g in 0..N_GROUPS {
        let (step, low) = lines[g];
        let (s, t) =
            (nearest(step, inverse(d_f32), 0.0, 63.0), nearest(-low, inverse(m_f32), 0.0, 63.0));
        let (mut best, mut best_error) = ((s, t), f32::INFINITY);
        for ds in [0.0, -1.0, 1.0] {
            for dt in [0.0, -1.0, 1.0] {
                let (s, t) = (s + ds, t + dt);
                if !(0.0..=MAX_SIX_BITS).contains(&s) || !(0.0..=MAX_SIX_BITS).contains(&t) {
                    continue;
                }
                let error = line_error(&groups[g], &weights[g], d_f32 * s, -m_f32 * t, top);
                if error < best_error {
                    (best, best_error) = ((s, t), error);
                }
            }
        }
        (scales[g], minima[g]) = (best.0 as u8, best.1 as u8);
        let (inverse, offset) = (inverse(d_f32 * best.0), m_f32 * best.1);
        for (q, &x) in quants[g * GROUP..].iter_mut().zip(&groups[g]) {
            *q = nearest(x + offset, inverse, 0.0, top) as u8;
        }
    }
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    pack_scales(&scales, &minima, &mut out[4..16]);
    let (fifth, nibbles) = out[16..].split_at_mut(if TOP > 15 { GROUP } else { 0 });
    fifth.fill(0);
    for g in 0..N_GROUPS {
        let pairs = &mut nibbles[g / 2 * GROUP..][..GROUP];
        for (l, &q) in quants[g * GROUP..][..GROUP].iter().enumerate() {
            // the first of two groups has the low nibbles and comes first
            pairs[l] = if g % 2 == 0 { q & 15 } else { pairs[l] | q << 4 };
            if let Some(bits) = fifth.get_mut(l) {
                *bits |= (q >> 4) << g;
            }
        }
    }
}

/// Eight scales and eight minima of 6 bits into 12 bytes; see `blocks::scale_and_minimum`.
pub(crate) fn pack_scales(scales: &[u8; 8], minima: &[u8; 8], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        out[j + 4] = minima[j] | (minima[j + 4] >> 4) << 6;
        out[j + 8] = scales[j + 4] & 15 | minima[j + 4] << 4;
    }
}

/// Q6_K: `(q − 32)·(d·s)` with s of 8 bits and a sign.
pub(super) fn q6_k(x: &[f32; SUPER_BLOCK], out: &mut [u8]) {
    const N: usize = SUPER_BLOCK / SMALL_GROUP;
    let groups: [[f32; SMALL_GROUP]; N] =
        std::array::from_fn(|g| std::array::from_fn(|i| x[g * SMALL_GROUP + i]));
    let steps: [f32; N] =
        std::array::from_fn(|g| fit_scale(&groups[g], &importance(&groups[g]), 32.0));
    // The largest goes to −128, where there is one step more.
    let d = to_f16(extreme(&steps) / -128.0);
    let d_f32 = d.to_f32();
    let mut quants = [0u8; SUPER_BLOCK];
    for g in 0..N {
        let s = (steps[g] * inverse(d_f32)).round().clamp(-128.0, 127.0);
        out[192 + g] = s as i8 as u8;
        let inverse = inverse(d_f32 * s);
        for (q, &x) in quants[g * SMALL_GROUP..].iter_mut().zip(&groups[g]) {
            *q = nearest(x, inverse, 32.0, 63.0) as u8;
        }
    }
    out[208..210].copy_from_slice(&d.to_le_bytes());
    for half in 0..2 {
        let quants = &quants[half * 128..][..128];
        for l in 0..64 {
            out[half * 64 + l] = quants[l] & 15 | quants[l + 64] << 4;
        }
        for l in 0..32 {
            let top = |quarter: usize| (quants[quarter * 32 + l] >> 4) << (2 * quarter);
            out[128 + half * 32 + l] = top(0) | top(1) | top(2) | top(3);
        }
    }
}
