//! The next token from logits, and where a reply ends. Owns temperature, top-k, top-p, min-p, the
//! seeded draw and stop strings (SPEC.md section 7, filters in the order of transformers);
//! repetition penalties are applied by the engine.

use crate::engine::{MAX_TOP_K, TopK, WantedLogits};
use crate::error::{Error, Result};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::VecDeque;

/// How tokens are picked.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// 0 = greedy.
    pub temperature: f32,
    /// Keeps the k largest logits and what ties with the last of them; 0 = off.
    pub top_k: usize,
    /// Keeps the fewest tokens with at least this probability together; 1 = off.
    pub top_p: f32,
    /// Drops tokens less probable than this fraction of the most probable one; 0 = off.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens seen before; 1 = off.
    pub repetition_penalty: f32,
    /// Same seed, same logits, same tokens. The caller turns "random" into a number.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// Greedy.
    fn default() -> Self {
        SamplingOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let check = |name, value: f32, good: bool, range| match good {
            true => Ok(()),
            false => Err(Error::Setting { name, reason: format!("{value} is not {range}") }),
        };
        let (t, p, m) = (self.temperature, self.top_p, self.min_p);
        let r = self.repetition_penalty;
        // Below 1e-3 the exponentials of a GPU's f32 sum are 0 or 1; greedy says that better.
        let t_good = t == 0.0 || (1e-3..=100.0).contains(&t);
        check("temperature", t, t_good, "0 or between 0.001 and 100")?;
        check("top_p", p, p > 0.0 && p <= 1.0, "in (0, 1]")?;
        check("min_p", m, (0.0..1.0).contains(&m), "in [0, 1)")?;
        let r_good = (0.01..=100.0).contains(&r);
        check("repetition_penalty", r, r_good, "between 0.01 and 100")
    }
}

/// What a sampler says to the head of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    Token(u32),
    /// The candidates do not decide it: pass all logits to [`Sampler::sample_full`].
    NeedsFullLogits,
}

/// Picks one token after the other. Each draw consumes one random number, however it is made.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha12Rng,
    /// Drawn for tokens that are not picked yet.
    drawn: VecDeque<f64>,
}

/// Relative error allowed in a GPU's f32 sum over the vocabulary; nearer decisions are left to the
/// full logits.
const SUM_TOLERANCE: f64 = 1e-4;

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// [`Error::Setting`] for an option out of range.
    pub fn new(options: SamplingOptions) -> Result<Sampler> {
        options.check()?;
        Ok(Sampler {
            random: ChaCha12Rng::seed_from_u64(options.seed),
            options,
            drawn: VecDeque::new(),
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// True if no randomness is involved.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0
    }

    /// Which logits the next call should hand back.
    pub fn wanted(&self) -> WantedLogits {
        match self.options.top_k {
            _ if self.is_greedy() => WantedLogits::Argmax,
            // With this many candidates a tie at the threshold could not be seen.
            k if k >= MAX_TOP_K => WantedLogits::Last,
            k => WantedLogits::TopK {
                k: if k == 0 { MAX_TOP_K } else { k },
                temperature: self.options.temperature,
            },
        }
    }

    /// Picks from what [`WantedLogits::TopK`] gave, if that decides it.
    ///
    /// # Errors
    /// [`Error::Gpu`] for no candidates or logits that are not numbers.
    pub fn sample(&mut self, top: &TopK) -> Result<Draw> {
        let sorted = &top.candidates;
        let largest = check_logits(sorted.iter().map(|c| c.1))?;
        if self.is_greedy() {
            return Ok(Draw::Token(sorted[0].0));
        }
        let weights: Vec<f64> = sorted.iter().map(|c| self.weight(c.1, largest)).collect();
        let head: f64 = weights.iter().sum();
        let draw = match self.options.top_k {
            0 => {
                // Fewer than asked for means that these are all.
                let is_all = sorted.len() < MAX_TOP_K;
                let total = if is_all { head } else { f64::from(top.sum_exp) };
                if !total.is_finite() || total < head * (1.0 - 1e-3) {
                    return Err(not_numbers());
                }
                let tolerance = if is_all { 0.0 } else { SUM_TOLERANCE };
                self.pick(&weights, total, tolerance, is_all)
            }
            k => {
                let kept = kept_by_top_k(sorted, k);
                let total = weights[..kept].iter().sum();
                // Ties may go on beyond what one call hands back.
                let is_cut = kept >= MAX_TOP_K;
                match is_cut {
                    true => None,
                    false => self.pick(&weights[..kept], total, 0.0, true),
                }
            }
        };
        Ok(draw.map_or(Draw::NeedsFullLogits, |at| Draw::Token(sorted[at].0)))
    }

    /// Picks from the logits of the whole vocabulary.
    ///
    /// # Errors
    /// [`Error::Gpu`] for no logits or logits that are not numbers.
    pub fn sample_full(&mut self, logits: &[f32]) -> Result<u32> {
        let largest = check_logits(logits.iter().copied())?;
        if self.is_greedy() {
            return Ok(logits.iter().position(|&x| x == largest).unwrap_or(0) as u32);
        }
        let mut sorted: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal));
        if self.options.top_k > 0 {
            sorted.truncate(kept_by_top_k(&sorted, self.options.top_k));
        }
        let weights: Vec<f64> = sorted.iter().map(|c| self.weight(c.1, largest)).collect();
        let total = weights.iter().sum();
        // With all weights at hand a pick always succeeds.
        let at = self.pick(&weights, total, 0.0, true).unwrap_or(0);
        Ok(sorted[at].0)
    }

    fn weight(&self, logit: f32, largest: f32) -> f64 {
        ((f64::from(logit) - f64::from(largest)) / f64::from(self.options.temperature)).exp()
    }

    /// Index into falling `weights` after top-p and min-p; `total` is the weight of everything,
    /// `is_all` says that `weights` are everything. None if this is too little to decide.
    fn pick(&mut self, weights: &[f64], total: f64, tolerance: f64, is_all: bool) -> Option<usize> {
        let uniform = self.uniform(0);
        let picked = self.pick_at(uniform, weights, total, tolerance, is_all);
        if picked.is_some() {
            self.skip(1);
        }
        picked
    }

    /// The random number in [0, 1) that decides the token `ahead` tokens after the next.
    pub(crate) fn uniform(&mut self, ahead: usize) -> f64 {
        while self.drawn.len() <= ahead {
            // 53 bits, the precision of f64
            let number = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            self.drawn.push_back(number);
        }
        self.drawn[ahead]
    }

    /// Goes on by tokens that were picked elsewhere with the next numbers.
    pub(crate) fn skip(&mut self, n_tokens: usize) {
        self.uniform(n_tokens);
        self.drawn.drain(..n_tokens);
    }

    fn pick_at(
        &self,
        uniform: f64,
        weights: &[f64],
        total: f64,
        tolerance: f64,
        is_all: bool,
    ) -> Option<usize> {
        let (top_p, min_p) =
            (f64::from(self.options.top_p), f64::from(self.options.min_p) * weights[0]);
        let mut kept = 0.0;
        let mut n_kept = 0;
        let mut is_complete = is_all;
        for &weight in weights {
            let nucleus = top_p * total;
            if n_kept > 0 && top_p < 1.0 {
                if (kept - nucleus).abs() < tolerance * total {
                    return None;
                }
                if kept >= nucleus {
                    is_complete = true;
                    break;
                }
            }
            if weight < min_p {
                is_complete = true;
                break;
            }
            kept += weight;
            n_kept += 1;
        }
        let (target, slack) = match is_complete {
            true => (uniform * kept, 0.0),
            // The tail counts, and nothing cuts it.
            false if top_p == 1.0 && min_p == 0.0 => (uniform * total, tolerance * total),
            false => return None,
        };
        let mut sum = 0.0;
        for (at, weight) in weights[..n_kept].iter().enumerate() {
            sum += weight;
            if (sum - target).abs() < slack {
                return None;
            }
            if sum > target {
                return Some(at);
            }
        }
        // Rounding can leave the target at the very end.
        is_complete.then(|| weights[..n_kept].iter().rposition(|&w| w > 0.0).unwrap_or(0))
    }
}

/// How many of the falling `sorted` top-k keeps: k, and what ties with the last of them.
fn kept_by_top_k(sorted: &[(u32, f32)], k: usize) -> usize {
    match sorted.get(k - 1) {
        Some(&(_, threshold)) => sorted.partition_point(|c| c.1 >= threshold),
        None => sorted.len(),
    }
}

fn not_numbers() -> Error {
    Error::Gpu {
        reason:
            "the logits are not numbers (NaN or infinite); the weights or the memory may be damaged"
                .into(),
    }
}

/// The largest logit. −∞ is a token that is ruled out; all of them cannot be.
fn check_logits(logits: impl Iterator<Item = f32>) -> Result<f32> {
    let mut largest = f32::NEG_INFINITY;
    for logit in logits {
        if logit.is_nan() {
            return Err(not_numbers());
        }
        largest = largest.max(logit);
    }
    match largest.is_finite() {
        true => Ok(largest),
        false => Err(not_numbers()),
    }
}

/// The distinct ids among the last `window` tokens (`None` = all), ascending, for
/// [`crate::engine::RepetitionPenalty`].
pub fn repetition_ids(tokens: &[u32], window: Option<usize>) -> Vec<u32> {
    let start = window.map_or(0, |n| tokens.len().saturating_sub(n));
    let mut ids = tokens[start..].to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Finds stop strings in text that comes in pieces, and holds back what may become one.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    is_stopped: bool,
}

/// Most stop strings, and most bytes of one.
pub const MAX_STOP_STRINGS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;

impl StopStrings {
    /// A matcher for these strings; none of them is part of the text that comes out.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty or very long string, or too many.
    pub fn new(stops: Vec<String>) -> Result<StopStrings> {
        let bad = |reason: String| Error::Setting { name: "stop", reason };
        if stops.len() > MAX_STOP_STRINGS {
            return Err(bad(format!(
                "{} strings, at most {MAX_STOP_STRINGS} are allowed",
                stops.len()
            )));
        }
        if let Some(stop) = stops.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            return Err(bad(format!(
                "a string of {} bytes, expected 1 to {MAX_STOP_BYTES}",
                stop.len()
            )));
        }
        Ok(StopStrings { stops, held: String::new(), is_stopped: false })
    }

    /// Takes the next piece and gives the text that can be shown now.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|s| self.held.find(s.as_str()));
        if let Some(at) = first.min() {
            self.is_stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        // Nothing earlier than the longest stop can still become one.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let cut = (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|s| s.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(cut);
        std::mem::replace(&mut self.held, rest)
    }

    /// True once a stop string was found; nothing more comes out.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// The text held back, when no more pieces come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests;
