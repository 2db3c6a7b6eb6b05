//! What a decode step takes from the logits: penalty, mask, argmax, the largest few.

use crate::engine::{MAX_TOP_K, RepetitionPenalty, TopK};

/// Divides positive and multiplies negative logits of tokens seen before.
///
/// # Panics
/// If an id is outside the vocabulary.
pub fn repetition_penalty(logits: &mut [f32], repetition: &RepetitionPenalty) {
    for &id in repetition.ids {
        let logit = &mut logits[id as usize];
        *logit = match *logit > 0.0 {
            true => *logit / repetition.penalty,
            false => *logit * repetition.penalty,
        };
    }
}

/// Rules out (−∞) every token whose bit in the mask `[ceil(vocab / 32)]` is 0; bit i of the mask is
/// bit i mod 32 of word i / 32.
///
/// # Panics
/// If the mask is shorter than that.
pub fn mask_logits(logits: &mut [f32], mask: &[u32]) {
    for (index, logit) in logits.iter_mut().enumerate() {
        if mask[index / 32] >> (index % 32) & 1 == 0 {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// A logit as it is compared: NaN counts as the smallest, and −0 as 0, so that equal logits are
/// told apart by id alone.
fn order(logit: f32) -> f32 {
    match logit.is_nan() {
        true => f32::NEG_INFINITY,
        false => logit + 0.0,
    }
}

/// The index of the largest logit, the lowest on ties; NaN counts as the smallest.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if order(*logit) > order(logits[best]) {
            best = index;
        }
    }
    best as u32
}

/// The `k` largest logits (1 to [`MAX_TOP_K`]) with all that tie with the last of them, as far as
/// [`MAX_TOP_K`] allows, and the sum of exp((logit − largest) / temperature) over all.
pub fn top_k(logits: &[f32], k: usize, temperature: f32) -> TopK {
    let mut candidates: Vec<(u32, f32)> = (0..).zip(logits.iter().copied().map(order)).collect();
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some(&(_, largest)) = candidates.first() else {
        return TopK::default();
    };
    let threshold = candidates[k.clamp(1, MAX_TOP_K.min(candidates.len())) - 1].1;
    let n_kept = candidates.partition_point(|(_, logit)| *logit >= threshold);
    candidates.truncate(n_kept.min(MAX_TOP_K));
    let terms =
        logits.iter().map(|&logit| f64::from(((order(logit) - largest) / temperature).exp()));
    TopK { candidates, sum_exp: terms.sum::<f64>() as f32 }
}
