//! One gradient step, and an evaluation. Owns batches, accumulation and the order of episodes; what
//! is printed, saved and plotted in between is the program's.

use super::adapter::{AdapterParameters, DeviceAdapter};
use super::backbone::Backbone;
use super::batch::CallBatch;
use super::checkpoint::Checkpoint;
use super::episode::{Episode, EpisodeCall};
use super::forward::{Context, Purpose};
use super::optimizer::{AdamW, AdamWOptions, clip};
use super::schedule::LearningRate;
use crate::config::DeltaConfig;
use crate::error::{Error, Result};
use burn_tensor::activation::log_softmax;
use burn_tensor::{Gradients, Int, Tensor, TensorData};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How a training runs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerOptions {
    pub learning_rate: LearningRate,
    pub optimizer: AdamWOptions,
    /// Largest global norm of the gradients.
    pub max_gradient_norm: f32,
    /// Episodes computed at once.
    pub batch_size: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// Tokens after which no gradient passes back through the memory; `None` = all the way.
    pub truncate_tokens: Option<usize>,
    /// Decides the order of the episodes.
    pub seed: u64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: u64,
    /// Mean over the tokens learnt, before the step.
    pub loss: f32,
    /// Global norm of the gradients, before clipping.
    pub gradient_norm: f32,
    pub learning_rate: f32,
}

/// How well episodes are answered, the right answer's tokens given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over the tokens of all answers.
    pub loss: f32,
    /// Share of the tokens that would have been chosen.
    pub token_accuracy: f32,
    /// Share of the episodes with every token right, as greedy decoding would give them.
    pub exact: f32,
    pub n_episodes: usize,
}

/// A training in progress.
pub struct Trainer {
    backbone: Backbone,
    delta: DeltaConfig,
    options: TrainerOptions,
    pub(super) parameters: AdapterParameters,
    optimizer: AdamW,
}

impl Trainer {
    /// Begins with these parameters.
    ///
    /// # Errors
    /// [`Error::Setting`] for options that cannot be used.
    pub fn new(
        backbone: Backbone,
        delta: DeltaConfig,
        parameters: AdapterParameters,
        options: TrainerOptions,
    ) -> Result<Trainer> {
        let checks = [
            ("batch_size", options.batch_size > 0),
            ("accumulate", options.accumulate > 0),
            ("truncate_tokens", options.truncate_tokens != Some(0)),
            ("steps", options.learning_rate.n_steps > 0),
            ("learning_rate", options.learning_rate.peak.is_finite()),
            ("max_gradient_norm", options.max_gradient_norm > 0.0),
        ];
        if let Some((name, _)) = checks.into_iter().find(|(_, is_good)| !is_good) {
            return Err(Error::Setting { name, reason: "must be positive".into() });
        }
        let optimizer = AdamW::new(options.optimizer.clone(), parameters.len());
        Ok(Trainer { backbone, delta, options, parameters, optimizer })
    }

    /// The parameters as they are now.
    pub fn parameters(&self) -> &AdapterParameters {
        &self.parameters
    }

    /// Steps taken.
    pub fn n_steps(&self) -> u64 {
        self.optimizer.n_steps
    }

    /// Everything that the next step depends on beside options and episodes.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { parameters: self.parameters.clone(), optimizer: self.optimizer.clone() }
    }

    /// Goes on from a checkpoint as if there had been no break.
    ///
    /// # Errors
    /// [`Error::Setting`] if it belongs to another adapter.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let (ours, theirs) = (&self.parameters, &checkpoint.parameters);
        let same = ours.len() == theirs.len()
            && (0..ours.len()).all(|index| ours.describe(index) == theirs.describe(index));
        if !same {
            return Err(Error::Setting {
                name: "resume",
                reason: "the checkpoint's tensors are not those of this adapter".into(),
            });
        }
        self.parameters = checkpoint.parameters;
        self.optimizer = checkpoint.optimizer;
        Ok(())
    }

    /// One step on the episodes whose turn it is.
    ///
    /// # Errors
    /// As [`Trainer::step_on`].
    pub fn step(&mut self, episodes: &[Episode]) -> Result<StepReport> {
        if episodes.is_empty() {
            return Err(Error::Setting { name: "data", reason: "there is no episode".into() });
        }
        let n = self.options.batch_size * self.options.accumulate;
        let first = self.n_steps() * n as u64;
        let mut order = EpisodeOrder::new(episodes.len(), self.options.seed);
        let chosen: Vec<&Episode> =
            (first..first + n as u64).map(|index| &episodes[order.at(index)]).collect();
        self.step_on(&chosen)
    }

    /// One step on these episodes, `batch_size` of them at a time. Cutting them otherwise gives the
    /// same step, up to rounding.
    ///
    /// # Errors
    /// As [`CallBatch::new`]; [`Error::Setting`] if nothing is learnt or the loss is not finite.
    pub fn step_on(&mut self, episodes: &[&Episode]) -> Result<StepReport> {
        let n_targets: usize = episodes.iter().map(|episode| episode.n_targets()).sum();
        if n_targets == 0 {
            return Err(Error::Setting { name: "data", reason: "no token is learnt".into() });
        }
        let mut loss = 0.0;
        let mut gradients: Vec<Option<Vec<f32>>> = vec![None; self.parameters.len()];
        for batch in episodes.chunks(self.options.batch_size) {
            let adapter = self.device_adapter(true)?;
            let sum = self.nll_sum(&adapter, batch)? / n_targets as f32;
            loss += sum.clone().into_scalar::<f32>();
            if !sum.is_tracked() {
                continue; // nothing in this batch depends on the adapter
            }
            let mut found = sum.backward();
            add_gradients(&adapter, &mut found, &mut gradients);
        }
        if !loss.is_finite() {
            return Err(self.diverged("loss", loss));
        }
        let gradient_norm = clip(&mut gradients, self.options.max_gradient_norm);
        if !gradient_norm.is_finite() {
            return Err(self.diverged("gradient", gradient_norm));
        }
        let learning_rate = self.options.learning_rate.at(self.n_steps());
        self.optimizer.step(&mut self.parameters, &gradients, learning_rate);
        Ok(StepReport { step: self.n_steps(), loss, gradient_norm, learning_rate })
    }

    fn diverged(&self, what: &str, value: f32) -> Error {
        let step = self.n_steps() + 1;
        let reason = format!("the {what} is {value} at step {step}; try a lower one");
        Error::Setting { name: "learning_rate", reason }
    }

    /// How well these episodes are answered now.
    ///
    /// # Errors
    /// As [`CallBatch::new`]; [`Error::Setting`] without episodes.
    pub fn evaluate(&self, episodes: &[Episode]) -> Result<Evaluation> {
        let adapter = self.device_adapter(false)?;
        let (mut loss, mut n_targets, mut n_right, mut n_exact) = (0.0, 0, 0, 0);
        let all: Vec<&Episode> = episodes.iter().collect();
        for batch in all.chunks(self.options.batch_size) {
            let mut is_exact = vec![true; batch.len()];
            for part in self.run(&adapter, batch)? {
                loss += f64::from(nll(&part).into_scalar::<f32>());
                let chosen = part.logits.argmax(1).into_data();
                let chosen = chosen.iter::<i64>();
                for (chosen, (row, wanted)) in chosen.zip(part.targets) {
                    let is_right = chosen == i64::from(wanted);
                    n_targets += 1;
                    n_right += usize::from(is_right);
                    is_exact[row / part.n_tokens] &= is_right;
                }
            }
            n_exact += is_exact.into_iter().filter(|&exact| exact).count();
        }
        if n_targets == 0 {
            return Err(Error::Setting {
                name: "eval",
                reason: "there is nothing to answer".into(),
            });
        }
        Ok(Evaluation {
            loss: (loss / n_targets as f64) as f32,
            token_accuracy: n_right as f32 / n_targets as f32,
            exact: n_exact as f32 / episodes.len() as f32,
            n_episodes: episodes.len(),
        })
    }

    /// What is computed for the learnt tokens of an episode, `[targets, vocab]`.
    ///
    /// # Errors
    /// As [`CallBatch::new`].
    pub fn logits(&self, episode: &Episode) -> Result<Vec<f32>> {
        let adapter = self.device_adapter(false)?;
        let parts = self.run(&adapter, &[episode])?;
        Ok(parts
            .into_iter()
            .flat_map(|part| part.logits.into_data().iter().collect::<Vec<f32>>())
            .collect())
    }

    pub(super) fn device_adapter(&self, with_gradients: bool) -> Result<DeviceAdapter> {
        let (model, device) = (&self.backbone.config, &self.backbone.device);
        DeviceAdapter::new(&self.parameters, model, &self.delta, device, with_gradients)
    }

    /// −ln p of all learnt tokens of a batch, summed.
    pub(super) fn nll_sum(
        &self,
        adapter: &DeviceAdapter,
        episodes: &[&Episode],
    ) -> Result<Tensor<1>> {
        let parts = self.run(adapter, episodes)?;
        let sums = parts.iter().map(nll);
        Ok(sums.reduce(|a, b| a + b).unwrap_or_else(|| Tensor::zeros([1], &self.backbone.device)))
    }

    /// The calls of a batch, in order; logits where something is learnt.
    fn run(&self, adapter: &DeviceAdapter, episodes: &[&Episode]) -> Result<Vec<Answered>> {
        let (model, device) = (&self.backbone.config, &self.backbone.device);
        let truncate = self.options.truncate_tokens;
        let mut context = Context::new(model, episodes.len());
        let mut answered = Vec::new();
        let nothing = EpisodeCall::default();
        for stretch in side_by_side(episodes, &nothing)? {
            context.drop_cache();
            let mut n_tokens = 0;
            for (index, calls) in stretch.iter().enumerate() {
                if calls.iter().all(|call| call.tokens.is_empty()) {
                    continue;
                }
                if truncate.is_some_and(|truncate| n_tokens >= truncate) {
                    context.detach_memory();
                    n_tokens = 0;
                }
                let positions = &mut context.positions;
                let batch = CallBatch::new(calls, model, &self.delta, positions, device)?;
                n_tokens += batch.n_tokens;
                let purpose = match batch.targets.is_empty() && index + 1 == stretch.len() {
                    true => Purpose::Memory,
                    false => Purpose::Output,
                };
                let delta = &self.delta;
                let x =
                    self.backbone.forward(adapter, delta, &batch, &mut context, purpose, truncate);
                if batch.targets.is_empty() {
                    continue;
                }
                let rows: Vec<usize> = batch.targets.iter().map(|&(row, _)| row).collect();
                let logits = self.backbone.logits(x, &rows);
                let (n_tokens, targets) = (batch.n_tokens, batch.targets);
                answered.push(Answered { logits, n_tokens, targets });
            }
        }
        Ok(answered)
    }
}

/// The calls of a batch, `[stretch][call][episode]`: a stretch is a call without a cache and those
/// that continue it. Where an episode has fewer calls, `nothing` stands.
fn side_by_side<'a>(
    episodes: &[&'a Episode],
    nothing: &'a EpisodeCall,
) -> Result<Vec<Vec<Vec<&'a EpisodeCall>>>> {
    let cut: Vec<Vec<&[EpisodeCall]>> =
        episodes.iter().map(|episode| episode.stretches().collect()).collect();
    let n_stretches = cut.first().map_or(0, Vec::len);
    if cut.iter().any(|stretches| stretches.len() != n_stretches) {
        return Err(Error::Messages {
            reason: "episodes of one batch drop their caches at different calls".into(),
        });
    }
    let stretch = |index: usize| {
        let n_calls = cut.iter().map(|stretches| stretches[index].len()).max().unwrap_or(0);
        let call = |call: usize| {
            cut.iter().map(|stretches| stretches[index].get(call).unwrap_or(nothing)).collect()
        };
        (0..n_calls).map(call).collect()
    };
    Ok((0..n_stretches).map(stretch).collect())
}

/// What a call answered.
struct Answered {
    /// `[targets, vocab]`
    logits: Tensor<2>,
    /// T of the call.
    n_tokens: usize,
    /// As [`CallBatch::targets`].
    targets: Vec<(usize, u32)>,
}

/// −ln p of the targets, summed. `[1]`
fn nll(answered: &Answered) -> Tensor<1> {
    let n = answered.targets.len();
    let ids: Vec<i32> = answered.targets.iter().map(|&(_, id)| id as i32).collect();
    let device = answered.logits.device().without_autodiff();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, 1]), &device);
    log_softmax(answered.logits.clone(), 1).gather(1, ids).sum().neg()
}

/// Adds the leaves' gradients to those of earlier batches.
pub(super) fn add_gradients(
    adapter: &DeviceAdapter,
    found: &mut Gradients,
    sums: &mut [Option<Vec<f32>>],
) {
    for (leaf, sum) in adapter.leaves.iter().zip(sums) {
        let Some(gradient) = leaf.grad_remove(found) else { continue };
        let gradient = gradient.into_data().iter::<f32>().collect::<Vec<f32>>();
        match sum {
            None => *sum = Some(gradient),
            Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
        }
    }
}

/// Which episode is how manieth: every epoch has each once, in an order of its own. A function of
/// seed and place alone, so that a resumed training goes on with the same ones.
struct EpisodeOrder {
    n: usize,
    seed: u64,
    /// The epoch in `order`.
    epoch: Option<u64>,
    order: Vec<usize>,
}

impl EpisodeOrder {
    fn new(n: usize, seed: u64) -> EpisodeOrder {
        EpisodeOrder { n, seed, epoch: None, order: Vec::new() }
    }

    fn at(&mut self, place: u64) -> usize {
        let (epoch, index) = (place / self.n as u64, place % self.n as u64);
        if self.epoch != Some(epoch) {
            let mut random = ChaCha12Rng::seed_from_u64(self.seed);
            random.set_stream(epoch);
            self.order = (0..self.n).collect();
            for last in (1..self.n).rev() {
                self.order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
            }
            self.epoch = Some(epoch);
        }
        self.order[index as usize]
    }
}
