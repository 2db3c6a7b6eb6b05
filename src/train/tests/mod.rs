//! Gradients against finite differences, and what a training promises: resuming is exact, accumulating
//! changes nothing, the loss falls. Beside it: the forward pass (`forward.rs`), conversations
//! (`episodes.rs`), what a training begins with and leaves behind (`files.rs`).

mod episodes;
mod files;
mod forward;

use super::adapter::DeviceAdapter;
use super::trainer::add_gradients;
use super::*;
use crate::config::{DeltaConfig, ModelConfig};
use crate::model_folder::Adapter;
use crate::replay::{Fixture, relative_error};
use crate::shader::Storage;
use crate::weights::TensorSource;
use crate::weights::recipe::RecipeSource;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Fixture::open(&folder).unwrap()
}

fn tokens(n: usize, seed: usize, vocab_size: usize) -> Vec<u32> {
    (0..n).map(|t| ((t * 37 + seed * 11 + t * t * seed) % vocab_size) as u32).collect()
}

fn call(tokens: Vec<u32>, message_ids: Option<Vec<i64>>, continues: bool) -> EpisodeCall {
    let targets = vec![None; tokens.len()];
    let sentence_ids = None;
    EpisodeCall { tokens, message_ids, sentence_ids, write_enabled: true, continues, targets }
}

/// A model of three layers, 10 wide, and an adapter that uses `delta`.
struct Tiny {
    config: ModelConfig,
    delta: DeltaConfig,
    parameters: AdapterParameters,
}

impl Tiny {
    fn new(delta: &str) -> Tiny {
        let json = r#"{"model_type": "smollm3", "hidden_size": 10, "intermediate_size": 12,
            "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 17, "rope_theta": 10000.0, "no_rope_layer_interval": 2}"#;
        let config = ModelConfig::from_json(json.as_bytes(), "test").unwrap();
        let delta = DeltaConfig::from_json(delta.as_bytes(), "test").unwrap();
        let source = RecipeSource::adapter(&config, &delta, 5).unwrap();
        let parameters = AdapterParameters::read(&config, &delta, &source).unwrap();
        Tiny { config, delta, parameters }
    }

    fn trainer(&self, batch_size: usize, accumulate: usize, truncate: Option<usize>) -> Trainer {
        let weights = RecipeSource::backbone(&self.config, 3);
        let device = Device::flex();
        let backbone = Backbone::load(&self.config, &weights, Storage::F32, &device).unwrap();
        let options = TrainerOptions {
            learning_rate: LearningRate {
                peak: 0.01,
                floor_share: 0.1,
                warmup_steps: 2,
                n_steps: 30,
            },
            optimizer: AdamWOptions { weight_decay: 0.01, ..AdamWOptions::default() },
            max_gradient_norm: 1.0,
            batch_size,
            accumulate,
            truncate_tokens: truncate,
            seed: 1,
        };
        Trainer::new(backbone, self.delta.clone(), self.parameters.clone(), options).unwrap()
    }
}

/// A context of `n` tokens and a question whose last two tokens are learnt.
fn episode(n: usize, seed: usize, message_ids: bool) -> Episode {
    let ids = |n: usize| message_ids.then(|| (0..n as i64).map(|t| t / 3 - 1).collect());
    let context = call(tokens(n, seed, 17), ids(n), false);
    let mut question = call(tokens(5, seed + 1, 17), ids(5), false);
    let answer = [(seed * 5 % 17) as u32, (seed * 3 % 17) as u32];
    question.targets[3] = Some(answer[0]);
    question.targets[4] = Some(answer[1]);
    Episode { calls: vec![context, question] }
}

/// The summed loss of two episodes and its gradient by parameter tensor.
fn loss_and_gradient(trainer: &Trainer, ids: bool) -> (f64, Vec<Option<Vec<f32>>>) {
    let episodes = [episode(19, 2, ids), episode(11, 4, ids)];
    let episodes: Vec<&Episode> = episodes.iter().collect();
    let adapter = trainer.device_adapter(true).unwrap();
    let loss = trainer.nll_sum(&adapter, &episodes).unwrap();
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let mut gradients = vec![None; adapter.leaves.len()];
    add_gradients(&adapter, &mut loss.backward(), &mut gradients);
    (value, gradients)
}

/// Along random directions of each tensor, (loss(w + εd) − loss(w − εd)) / 2ε = gradient · d.
fn assert_gradients(delta: &str, ids: bool) {
    let tiny = Tiny::new(delta);
    let mut trainer = tiny.trainer(2, 1, None);
    let (_, gradients) = loss_and_gradient(&trainer, ids);
    let mut n_checked = 0;
    for (index, gradient) in gradients.iter().enumerate() {
        let name = tiny.parameters.describe(index).0.to_string();
        let Some(gradient) = gradient else {
            assert!(name.contains("delta_"), "{name} has no gradient");
            continue;
        };
        // A direction of ±1 that goes mostly with the gradient, so that the slope is not small.
        let direction: Vec<f32> = gradient
            .iter()
            .enumerate()
            .map(|(i, g)| if i % 5 == 3 { -g.signum() } else { g.signum() })
            .collect();
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let largest: f64 = gradient.iter().map(|g| f64::from(g.abs())).sum();
        // A loss of 35 in f32 is exact to 4e-6, which this step makes 0.2 % of a slope; from twice
        // this step on, the curvature of some gates shows instead.
        let step = (0.005 / largest.max(0.2)) as f32;
        let mut at = |factor: f32| {
            let values = trainer.parameters.values_mut(index);
            values.copy_from_slice(tiny.parameters.values(index));
            values.iter_mut().zip(&direction).for_each(|(w, d)| *w += factor * step * d);
            let loss = loss_and_gradient(&trainer, ids).0;
            trainer.parameters.values_mut(index).copy_from_slice(tiny.parameters.values(index));
            loss
        };
        // Fourth order: 8·(f(1) − f(−1)) − (f(2) − f(−2)) over 12 steps.
        let measured = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / 12.0 / f64::from(step);
        let error = (measured - slope).abs() / slope.abs().max(0.02);
        assert!(error < 0.01, "{name}: measured {measured}, gradient gives {slope}");
        n_checked += 1;
    }
    assert!(n_checked >= 7 * 3, "{n_checked} tensors have a gradient");
}

#[test]
fn gradients_match_finite_differences_for_token_writes() {
    assert_gradients(r#"{"rank": 4, "delta_heads": "q,o"}"#, false);
}

#[test]
fn gradients_match_finite_differences_for_message_writes() {
    let json = r#"{"rank": 3, "memory_write_granularity": "message_mean"}"#;
    assert_gradients(json, true);
}

#[test]
fn gradients_match_finite_differences_for_every_other_option() {
    let json = r#"{"rank": 3, "num_state_heads": 2, "couple_lambda": false,
        "state_update_mode": "lambda_outside", "rankwise_gates": false,
        "trainable_delta_scale": true, "delta_scale_granularity": "head"}"#;
    assert_gradients(json, false);
}

#[test]
fn episodes_of_a_batch_may_write_in_different_ways() {
    let tiny = Tiny::new(r#"{"rank": 4, "memory_write_granularity": "message_mean"}"#);
    let mut read_only = episode(9, 3, true);
    read_only.calls.iter_mut().for_each(|call| call.write_enabled = false);
    // In more calls than the others, and without an answer in between.
    let mut turns = episode(8, 4, true);
    turns.calls.insert(1, call(tokens(3, 6, 17), None, true));
    turns.calls.insert(2, call(tokens(4, 7, 17), Some(vec![2, 2, 3, -1]), true));
    let episodes = [episode(6, 1, true), episode(7, 2, false), read_only, turns];
    let trainer = tiny.trainer(4, 1, None);
    let alone: Vec<Evaluation> = episodes
        .iter()
        .map(|episode| trainer.evaluate(std::slice::from_ref(episode)).unwrap())
        .collect();
    let together = trainer.evaluate(&episodes).unwrap().loss;
    let mean = alone.iter().map(|evaluation| evaluation.loss).sum::<f32>() / 4.0;
    assert!((together - mean).abs() < 1e-5 * mean, "{together} {mean}");

    let shorter = Episode { calls: episodes[0].calls[1..].to_vec() };
    let mut trainer = tiny.trainer(2, 1, None);
    let error = trainer.step_on(&[&episodes[0], &shorter]).unwrap_err();
    assert_eq!((error.code(), trainer.n_steps()), ("messages", 0));
}

#[test]
fn truncation_cuts_gradients_not_values() {
    let tiny = Tiny::new(r#"{"rank": 4}"#);
    let (whole, gradient) = loss_and_gradient(&tiny.trainer(2, 1, None), false);
    let (cut, cut_gradient) = loss_and_gradient(&tiny.trainer(2, 1, Some(6)), false);
    assert!((whole - cut).abs() < 1e-4 * whole, "{whole} {cut}");
    assert_ne!(gradient, cut_gradient);
    let (long, long_gradient) = loss_and_gradient(&tiny.trainer(2, 1, Some(19)), false);
    assert_eq!((whole, gradient), (long, long_gradient));
}

fn close(a: &AdapterParameters, b: &AdapterParameters) -> bool {
    (0..a.len()).all(|i| relative_error(a.values(i), b.values(i)) < 1e-4)
}

#[test]
fn accumulated_batches_make_the_step_of_one_batch() {
    let tiny = Tiny::new(r#"{"rank": 4}"#);
    let episodes: Vec<Episode> = (0..4).map(|i| episode(8 + 3 * i, i + 1, false)).collect();
    let mut one = tiny.trainer(4, 1, None);
    let mut many = tiny.trainer(1, 4, None);
    let (a, b) = (one.step(&episodes).unwrap(), many.step(&episodes).unwrap());
    assert!((a.loss - b.loss).abs() < 1e-5 && (a.gradient_norm - b.gradient_norm).abs() < 1e-4);
    // Adam divides by √v: compare the moments, not what they make of rounding errors.
    let moments = |trainer: &Trainer| trainer.checkpoint().optimizer.first.concat();
    assert!(relative_error(&moments(&one), &moments(&many)) < 1e-4);
}

#[test]
fn training_lowers_the_loss_and_resumes_exactly() {
    let tiny = Tiny::new(r#"{"rank": 4, "num_state_heads": 2}"#);
    let episodes: Vec<Episode> = (0..6).map(|i| episode(6 + i, i + 1, false)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("checkpoint.safetensors");
    let mut whole = tiny.trainer(2, 2, None);
    let before = whole.evaluate(&episodes).unwrap();
    for step in 0..30 {
        if step == 7 {
            whole.checkpoint().write(&path).unwrap();
        }
        whole.step(&episodes).unwrap();
    }
    let after = whole.evaluate(&episodes).unwrap();
    assert!(after.loss < 0.7 * before.loss, "{} then {}", before.loss, after.loss);

    let mut resumed = tiny.trainer(2, 2, None);
    let options = whole.checkpoint().optimizer.options;
    let checkpoint = Checkpoint::read(&path, &tiny.config, &tiny.delta, options).unwrap();
    resumed.resume(checkpoint).unwrap();
    for _ in 7..30 {
        resumed.step(&episodes).unwrap();
    }
    assert_eq!(resumed.checkpoint(), whole.checkpoint());
    assert!(close(resumed.parameters(), whole.parameters()));
}

/// Six AdamW steps that `tests/training/make.py` recorded in PyTorch, in f64.
fn assert_recorded_training(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/training/{name}.json"));
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let fixture = fixture(case["fixture"].as_str().unwrap());
    let Adapter { config: delta, tensors, .. } = fixture.adapter.as_ref().unwrap();
    let option = |name: &str| case["options"][name].as_f64().unwrap();
    let options = TrainerOptions {
        learning_rate: LearningRate {
            peak: option("peak") as f32,
            floor_share: option("floor_share") as f32,
            warmup_steps: option("warmup_steps") as u64,
            n_steps: option("n_steps") as u64,
        },
        optimizer: AdamWOptions {
            beta1: option("beta1") as f32,
            beta2: option("beta2") as f32,
            epsilon: option("epsilon") as f32,
            weight_decay: option("weight_decay") as f32,
        },
        max_gradient_norm: option("max_gradient_norm") as f32,
        batch_size: 4,
        accumulate: 1,
        truncate_tokens: None,
        seed: 0,
    };
    let weights = fixture.weights.as_ref();
    let backbone = Backbone::load(&fixture.config, weights, Storage::F32, &Device::flex()).unwrap();
    let parameters = AdapterParameters::read(&fixture.config, delta, tensors.as_ref()).unwrap();
    let mut trainer = Trainer::new(backbone, delta.clone(), parameters, options).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let recorded_call = |call: &Value| EpisodeCall {
        tokens: list(&call["tokens"]).iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        message_ids: call["message_ids"]
            .as_array()
            .map(|ids| ids.iter().map(|id| id.as_i64().unwrap()).collect()),
        sentence_ids: None,
        write_enabled: true,
        continues: call["continues"] == true,
        targets: list(&call["targets"]).iter().map(|id| id.as_u64().map(|id| id as u32)).collect(),
    };
    let recorded_episode =
        |calls: &Value| Episode { calls: list(calls).iter().map(recorded_call).collect() };
    let episodes: Vec<Episode> = list(&case["episodes"]).iter().map(recorded_episode).collect();
    // f32 against f64: the first step is exact to rounding; each further one starts from parameters
    // that differ by what Adam makes of rounding errors in gradients near zero.
    let is_close = |found: f32, expected: &Value, what: String| {
        let expected = expected.as_f64().unwrap();
        let error = (f64::from(found) - expected).abs() / expected.abs();
        assert!(error < 2e-4, "{name}, {what}: expected {expected}, found {found}");
    };
    for (index, step) in list(&case["steps"]).iter().enumerate() {
        let chosen = list(&step["episodes"]);
        let chosen = chosen.iter().map(|index| &episodes[index.as_u64().unwrap() as usize]);
        let report = trainer.step_on(&chosen.collect::<Vec<_>>()).unwrap();
        is_close(report.loss, &step["loss"], format!("loss of step {index}"));
        let norm = format!("gradient norm of step {index}");
        is_close(report.gradient_norm, &step["gradient_norm"], norm);
    }
    let last = trainer.evaluate(&episodes).unwrap().loss;
    is_close(last, &case["final_loss"], "final loss".into());
}

#[test]
fn training_matches_recorded_steps_in_pytorch() {
    for name in ["tsw", "msw", "ssw"] {
        assert_recorded_training(name);
    }
}
