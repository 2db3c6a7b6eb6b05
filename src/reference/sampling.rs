//! What a decode step takes from the logits: penalty, mask, argmax, the largest few, the next token.

use crate::engine::{MAX_TOP_K, RepetitionPenalty, TopK};
use crate::kernels::{EMPTY_STEP, UNDECIDED};

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

/// Adds the token that is fed to the penalised ones.
pub fn note_token(ids: &mut Vec<u32>, token: u32) {
    if !ids.contains(&token) {
        ids.push(token);
    }
}

/// What [`choose`] goes by.
#[derive(Debug, Clone, Copy)]
pub struct ChooseSettings {
    /// 0 = off.
    pub top_k: usize,
    /// 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub min_p: f32,
    /// 1 / temperature
    pub inverse_temperature: f32,
}

/// Error of a sum over the candidates, relative to it: 256 terms are at most 256·2⁻²⁴ = 1.5e-5 off,
/// their exponentials far less; twice, for two sums.
const SLACK: f32 = 4e-5;
/// Error of a sum over the vocabulary.
const SUM_SLACK: f32 = 1e-4;

/// A token from the largest logits, which are everything that top-k keeps, or without one at least
/// [`MAX_TOP_K`] if there are so many. `None` if f32 cannot tell which token
/// [`crate::sampler::Sampler`] would pick for this number in [0, 1).
pub fn choose(top: &TopK, settings: &ChooseSettings, uniform: f32) -> Option<u32> {
    let n = top.candidates.len();
    let &(_, largest) = top.candidates.first()?;
    let is_cut = settings.top_k > 0;
    if largest.abs() >= 3.39e38 || n + usize::from(is_cut) > MAX_TOP_K {
        return None;
    }
    let exponent = |logit: f32| (logit.max(-3.4e38) - largest) * settings.inverse_temperature;
    let weights: Vec<f32> = top.candidates.iter().map(|c| exponent(c.1).max(-80.0).exp()).collect();
    let is_all = is_cut || n < MAX_TOP_K;
    let head: f32 = weights.iter().sum();
    let (total, slack) = if is_all { (head, SLACK) } else { (top.sum_exp, SUM_SLACK) };
    // NaN is in no range
    if !is_all && !(head * 0.999..3.4e38).contains(&total) {
        return None;
    }
    let nucleus = settings.top_p * total;
    let (mut kept, mut n_kept, mut is_complete) = (0.0, 0, is_all);
    for (index, &weight) in weights.iter().enumerate() {
        if index > 0 && settings.top_p < 1.0 {
            if (kept - nucleus).abs() < slack * total {
                return None;
            }
            if kept >= nucleus {
                is_complete = true;
                break;
            }
        }
        if index > 0 && settings.min_p > 0.0 {
            if (weight - settings.min_p).abs() < SLACK * settings.min_p {
                return None;
            }
            if weight < settings.min_p {
                is_complete = true;
                break;
            }
        }
        kept += weight;
        n_kept += 1;
    }
    let whole = match is_complete {
        true => kept,
        false if settings.top_p < 1.0 || settings.min_p > 0.0 => return None,
        false => total,
    };
    let target = uniform * whole;
    let mut sum = 0.0;
    for (weight, (id, _)) in weights[..n_kept].iter().zip(&top.candidates) {
        sum += weight;
        if (sum - target).abs() < slack * whole {
            return None;
        }
        if sum > target {
            return Some(*id);
        }
    }
    None
}

/// Where decoding on the device stands between two steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeStep {
    /// 1, or 0 once the reply is over.
    pub n_tokens: u32,
    pub n_past: u32,
    pub n_groups: u32,
    /// The next one to be fed.
    pub token: u32,
}

/// Ends a step for which `chosen` was found; what it notes for the host.
pub fn next_step(step: &mut DecodeStep, chosen: u32, stop_ids: &[u32]) -> u32 {
    if step.n_tokens == 0 {
        return EMPTY_STEP;
    }
    step.n_past += 1;
    if chosen != UNDECIDED {
        step.token = chosen;
    }
    if chosen == UNDECIDED || stop_ids.contains(&chosen) {
        step.n_tokens = 0;
        step.n_groups = 0;
    }
    chosen
}
