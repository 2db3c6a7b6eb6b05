//! Single runs, and what several of them come to: a prefill, a piece of decoding, medians and ratios.

use crate::engine::{BATCH_TIME, Call, Decoding, Engine, Wanted, WantedLogits};
use crate::error::Result;
use crate::gpu::Counters;
use crate::memory::MemoryState;
use crate::sampler::{Sampler, SamplingOptions};
use web_time::Instant;

/// Seconds of reading a prompt of `n` tokens, from an empty context and memory to the next token.
pub async fn prefill(engine: &mut Engine, n: usize) -> Result<f64> {
    empty(engine)?;
    let started = Instant::now();
    feed_prompt(engine, n).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// What decoding took.
pub struct Decoded {
    pub seconds: f64,
    /// What it asked of the device; `None` for the twin.
    pub counters: Option<Counters>,
}

/// Decodes `n` greedy tokens as a reply does, behind a context of `context` tokens.
pub async fn decode(engine: &mut Engine, context: usize, n: usize) -> Result<Decoded> {
    empty(engine)?;
    let mut next = 1;
    if context > 0 && !engine.assume_context(context) {
        next = feed_prompt(engine, context).await?;
    }
    let before = counters(engine);
    let started = Instant::now();
    reply(engine, next, n).await?;
    let seconds = started.elapsed().as_secs_f64();
    let counters = counters(engine).zip(before).map(|(after, before)| after.since(&before));
    Ok(Decoded { seconds, counters })
}

/// Feeds `first` and what follows it, `n` tokens in all.
async fn reply(engine: &mut Engine, first: u32, n: usize) -> Result<()> {
    let sampling = SamplingOptions::default();
    let mut sampler = Sampler::new(sampling.clone())?;
    let decoding = Decoding {
        first,
        ids: Some((1, 1)),
        write_enabled: true,
        sampling: &sampling,
        penalised: &[],
        stop_ids: &[],
        batch_time: BATCH_TIME,
    };
    engine.begin_decoding(&decoding).await?;
    let mut n_left = n;
    while n_left > 0 {
        n_left -= engine.decode(n_left, &mut sampler).await?.tokens.len();
    }
    engine.end_decoding(n)
}

fn counters(engine: &Engine) -> Option<Counters> {
    match engine {
        Engine::Gpu(model) => Some(model.gpu().counters()),
        Engine::Cpu(_) => None,
    }
}

fn empty(engine: &mut Engine) -> Result<()> {
    engine.reset_context();
    engine.write_memory(&MemoryState::zeros(engine.memory_dims().clone()))
}

/// Any tokens do, as long as they differ; all of one message, as in a chat: what a message is decides
/// how often SSW writes.
async fn feed_prompt(engine: &mut Engine, n: usize) -> Result<u32> {
    let vocab_size = engine.config().vocab_size as u64;
    let token = |i: usize| ((i as u64 * 2_654_435_761 + 12_345) % vocab_size) as u32;
    let prompt: Vec<u32> = (0..n).map(token).collect();
    feed(engine, &prompt, &vec![0; n]).await
}

async fn feed(engine: &mut Engine, tokens: &[u32], ids: &[i64]) -> Result<u32> {
    let call =
        Call { tokens, message_ids: Some(ids), sentence_ids: Some(ids), write_enabled: true };
    let wanted = Wanted { logits: WantedLogits::Argmax, ..Wanted::default() };
    Ok(engine.forward(&call, wanted).await?.argmax.unwrap_or(0))
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = Vec::from_iter(values);
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// How often faster `ours` is than `theirs`, both in seconds: the median over rounds in which both ran
/// one after the other, so that what slowed a round down slowed down both.
pub fn speed_ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    match ours.len() == theirs.len() {
        true => median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours)),
        false => median(theirs.iter().copied()) / median(ours.iter().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // the third round was slow for both
        assert_eq!(speed_ratio(&[1.0, 1.0, 8.0], &[2.0, 2.0, 16.0]), 2.0);
        assert_eq!(speed_ratio(&[1.0], &[3.0, 5.0]), 4.0);
    }
}
