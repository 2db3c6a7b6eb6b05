//! The forward pass against the CPU twin, gradients against finite differences, and what a training
//! promises: resuming is exact, accumulating changes nothing, the loss falls.

use super::adapter::DeviceAdapter;
use super::batch::CallBatch;
use super::forward::{Context, Purpose};
use super::trainer::add_gradients;
use super::*;
use crate::chat::{CivilDate, Message, Role};
use crate::config::{DeltaConfig, ModelConfig, WriteGranularity};
use crate::engine::{Call, Wanted, WantedLogits};
use crate::model_folder::{Adapter, ModelFolder};
use crate::reference;
use crate::replay::{Fixture, relative_error};
use crate::shader::Storage;
use crate::weights::TensorSource;
use crate::weights::recipe::RecipeSource;
use crate::weights::torch::TorchFile;
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

/// Logits of every token of every call, from the twin, one episode.
fn twin_logits(model: &mut reference::Model, calls: &[&EpisodeCall]) -> Vec<Vec<f32>> {
    let wanted = Wanted { logits: WantedLogits::All, ..Wanted::default() };
    let mut all = Vec::new();
    for call in calls {
        if !call.continues {
            model.reset_context();
        }
        let request = Call {
            tokens: &call.tokens,
            message_ids: call.message_ids.as_deref(),
            sentence_ids: call.sentence_ids.as_deref(),
            write_enabled: call.write_enabled,
        };
        all.push(match call.tokens.is_empty() {
            true => Vec::new(),
            false => model.forward(&request, wanted).unwrap().logits,
        });
    }
    all
}

fn assert_like_twin(name: &str, episodes: &[Vec<EpisodeCall>]) {
    let fixture = fixture(name);
    let Adapter { config: delta, tensors, .. } = fixture.adapter.as_ref().unwrap();
    let weights = fixture.weights.as_ref();
    let adapter = (delta, tensors.as_ref() as &dyn TensorSource);
    assert_model_like_twin(name, &fixture.config, weights, adapter, Storage::F32, episodes);
}

/// Episodes of different lengths side by side give each the twin's logits and state.
fn assert_model_like_twin(
    name: &str,
    config: &ModelConfig,
    weights: &dyn TensorSource,
    (delta, tensors): (&DeltaConfig, &dyn TensorSource),
    storage: Storage,
    episodes: &[Vec<EpisodeCall>],
) {
    let device = Device::flex();
    let backbone = Backbone::load(config, weights, storage, &device).unwrap();
    let parameters = AdapterParameters::read(config, delta, tensors).unwrap();
    let adapter = DeviceAdapter::new(&parameters, config, delta, &device, false).unwrap();
    let mut context = Context::new(config, episodes.len());
    let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::new(); episodes.len()];
    for index in 0..episodes[0].len() {
        let calls: Vec<&EpisodeCall> = episodes.iter().map(|calls| &calls[index]).collect();
        if !calls[0].continues {
            context.drop_cache();
        }
        let positions = &mut context.positions;
        let batch = CallBatch::new(&calls, config, delta, positions, &device).unwrap();
        let x = backbone.forward(&adapter, delta, &batch, &mut context, Purpose::Output, None);
        for (row, call) in calls.iter().enumerate() {
            let rows: Vec<usize> =
                (0..call.tokens.len()).map(|t| row * batch.n_tokens + t).collect();
            found[row].push(match rows.is_empty() {
                true => Vec::new(),
                false => backbone.logits(x.clone(), &rows).into_data().try_to_vec().unwrap(),
            });
        }
    }
    for (row, calls) in episodes.iter().enumerate() {
        let options = reference::Options {
            context_window: 64,
            weights: storage,
            ..reference::Options::default()
        };
        let source = Some((delta, tensors));
        let mut twin = reference::Model::load(config, weights, source, options).unwrap();
        let calls: Vec<&EpisodeCall> = calls.iter().collect();
        let expected = twin_logits(&mut twin, &calls);
        for (index, (found, expected)) in found[row].iter().zip(&expected).enumerate() {
            if expected.is_empty() {
                continue;
            }
            let error = relative_error(found, expected);
            assert!(error < 1e-4, "{name}, episode {row}, call {index}: relative error {error}");
        }
        let memory = twin.memory();
        for (index, &layer) in memory.dims.layers.iter().enumerate() {
            let state = context.states[layer].clone().unwrap();
            let state = state.narrow(0, row, 1).into_data().try_to_vec::<f32>().unwrap();
            let error = relative_error(&state, memory.layer(index));
            assert!(error < 1e-4, "{name}, episode {row}, state {layer}: relative error {error}");
        }
    }
}

/// Two episodes: 21 tokens then 9 after a dropped cache then 3 more; 6, 12 and 1.
fn token_episodes() -> Vec<Vec<EpisodeCall>> {
    let lens = [[21, 9, 3], [6, 12, 1]];
    let episode = |(seed, lens): (usize, [usize; 3])| {
        let calls = lens.into_iter().enumerate();
        calls.map(|(i, n)| call(tokens(n, seed + 3 * i + 1, 90), None, i == 2)).collect()
    };
    lens.into_iter().enumerate().map(episode).collect()
}

#[test]
fn token_writes_match_the_twin() {
    assert_like_twin("g_carry", &token_episodes());
}

#[test]
fn several_state_heads_match_the_twin() {
    assert_like_twin("c_msw4", &token_episodes());
}

#[test]
fn qwen3_and_an_untied_head_match_the_twin() {
    assert_like_twin("k_qwen3_tsw", &token_episodes());
    assert_like_twin("o_untied_smollm3", &token_episodes());
}

#[test]
fn every_option_of_the_adapter_matches_the_twin() {
    assert_like_twin("i10_kitchen_sink", &token_episodes());
}

#[test]
fn other_gates_read_only_calls_and_quantised_weights_match_the_twin() {
    let mut episodes = token_episodes();
    for calls in &mut episodes {
        calls[1].write_enabled = false;
        calls.iter_mut().flat_map(|call| &mut call.tokens).for_each(|id| *id %= 17);
    }
    for (json, storage) in [
        (r#"{"rank": 3, "state_update_mode": "no_lambda"}"#, Storage::F32),
        (r#"{"rank": 3, "couple_lambda": false, "normalize_qk": false}"#, Storage::F16),
        (
            r#"{"rank": 2, "num_state_heads": 3, "couple_lambda": false, "rankwise_gates": false,
                "state_update_mode": "lambda_outside", "target_layers": [1]}"#,
            Storage::Q8,
        ),
        (r#"{"rank": 4, "rankwise_gates": false, "delta_o_rmsnorm": true}"#, Storage::Q4),
    ] {
        let tiny = Tiny::new(json);
        let weights = RecipeSource::backbone(&tiny.config, 3);
        let adapter = (&tiny.delta, &tiny.parameters as &dyn TensorSource);
        assert_model_like_twin(json, &tiny.config, &weights, adapter, storage, &episodes);
    }
}

#[test]
fn message_writes_match_the_twin() {
    let ids = |lens: &[(i64, usize)]| -> Option<Vec<i64>> {
        Some(lens.iter().flat_map(|&(id, n)| std::iter::repeat_n(id, n)).collect())
    };
    let episodes = vec![
        vec![
            call(tokens(14, 1, 90), ids(&[(-1, 3), (0, 5), (1, 4), (2, 2)]), false),
            call(tokens(7, 2, 90), ids(&[(0, 4), (-1, 3)]), false),
            call(tokens(4, 3, 90), None, true),
        ],
        // Without a context: the first call is empty for this episode.
        vec![
            call(Vec::new(), None, false),
            call(tokens(9, 5, 90), ids(&[(3, 2), (0, 5), (-1, 2)]), false),
            call(tokens(6, 6, 90), None, true),
        ],
    ];
    assert_like_twin("d2_ssw_edges", &episodes);
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
fn a_batch_writes_in_one_way() {
    let tiny = Tiny::new(r#"{"rank": 4, "memory_write_granularity": "message_mean"}"#);
    let (with, without) = (episode(6, 1, true), episode(6, 2, false));
    let mut trainer = tiny.trainer(2, 1, None);
    let error = trainer.step_on(&[&with, &without]).unwrap_err();
    assert_eq!(error.code(), "messages");
    let shorter = Episode { calls: with.calls[1..].to_vec() };
    assert_eq!(trainer.step_on(&[&with, &shorter]).unwrap_err().code(), "messages");
    assert_eq!(trainer.n_steps(), 0);
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

#[test]
fn what_was_trained_is_read_again_as_an_adapter() {
    let json = r#"{"rank": 3, "alpha": 0.1, "num_state_heads": 2, "couple_lambda": false,
        "state_update_mode": "lambda_outside", "target_layers": [2, 0], "delta_heads": "q,o",
        "delta_o_rmsnorm": true, "trainable_delta_scale": true, "delta_scale_max": 0.3,
        "delta_scale_init": 0.1, "memory_write_granularity": "sentence_mean"}"#;
    let tiny = Tiny::new(json);
    let folder = tempfile::tempdir().unwrap();
    write_adapter(folder.path(), &tiny.delta, &tiny.parameters).unwrap();
    let adapter = Adapter::open(folder.path(), &tiny.config).unwrap();
    assert_eq!(adapter.config, tiny.delta);
    let read = AdapterParameters::read(&tiny.config, &adapter.config, adapter.tensors.as_ref());
    assert_eq!(read.unwrap(), tiny.parameters);
    let torch = TorchFile::open(folder.path().join("delta_mem_adapter.pt")).unwrap();
    let read = AdapterParameters::read(&tiny.config, &tiny.delta, &torch);
    assert_eq!(read.unwrap(), tiny.parameters);
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

#[test]
fn fresh_parameters_are_those_of_the_reference() {
    let tiny = Tiny::new(r#"{"rank": 4, "delta_heads": "q,o"}"#);
    let weights = RecipeSource::backbone(&tiny.config, 3);
    let init = Initialization { base_slice_width: 3, ..Initialization::default() };
    let fresh = AdapterParameters::init(&tiny.config, &tiny.delta, &weights, &init).unwrap();
    let read = |name: &str| fresh.read_all(&format!("model.layers.1.self_attn.{name}")).unwrap();
    assert_eq!(read("beta_bias"), [-1.5; 4]);
    assert_eq!(read("beta_proj"), [0.0; 40]);
    assert_eq!(read("delta_k_proj"), [0.0; 16]);
    let bound = 1.0 / 10f32.sqrt();
    let q = read("memory_q_proj");
    assert!(q.iter().all(|x| x.abs() <= bound) && q.iter().any(|x| x.abs() > 0.8 * bound));
    let o = read("delta_o_proj");
    for column in 0..4 {
        let norm: f32 = o.chunks(4).map(|row| row[column] * row[column]).sum::<f32>().sqrt();
        assert!((norm - if column < 3 { 0.05 } else { 0.0 }).abs() < 1e-6);
    }
}

fn chat(parts: &[(Role, &str)]) -> Vec<Message> {
    parts.iter().map(|&(role, text)| Message::new(role, text)).collect()
}

fn reader(name: &str, granularity: WriteGranularity) -> EpisodeReader {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let folder = ModelFolder::open(folder).unwrap();
    let date = CivilDate::new(2025, 1, 1).unwrap();
    EpisodeReader::new(&folder, granularity, date).unwrap()
}

#[test]
fn a_conversation_becomes_a_context_a_question_and_an_answer() {
    let messages = chat(&[
        (Role::System, "be brief"),
        (Role::User, "i live in Lima"),
        (Role::Assistant, "good"),
        (Role::User, "where?"),
        (Role::Assistant, "Lima"),
    ]);
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::MessageMean);
    let episode = reader.episode(&messages).unwrap();
    let text = |call: &EpisodeCall| reader.tokenizer.decode(&call.tokens, false);
    let [context, question, answer] = &episode.calls[..] else { panic!("{episode:?}") };
    assert!(text(context).contains("Lima") && !text(context).contains("where?"));
    assert!(text(question).contains("be brief") && text(question).contains("where?"));
    assert!(!text(question).contains("Lima") && answer.continues && !question.continues);
    // The question's last token and all of the answer's have a successor; the end is never fed.
    let learnt: Vec<u32> =
        episode.calls.iter().flat_map(|c| &c.targets).flatten().copied().collect();
    assert_eq!(reader.tokenizer.decode(&learnt, false), "Lima<|im_end|>");
    assert_eq!(text(answer), "Lima");
    // The system's tokens are not written, the two messages are.
    let ids = context.message_ids.as_deref().unwrap();
    assert_eq!((ids[0], *ids.iter().max().unwrap()), (-1, 1));
    assert_eq!(answer.message_ids, None);

    let alone = reader.episode(&messages[3..]).unwrap();
    assert!(alone.calls.len() == 3 && alone.calls[0].tokens.is_empty());
    let error = reader.episode(&messages[..4]).unwrap_err();
    assert_eq!(error.code(), "messages");
}

#[test]
fn token_writes_need_no_call_of_their_own_for_the_answer() {
    let messages = chat(&[(Role::User, "hi"), (Role::Assistant, "yes")]);
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::Token);
    let episode = reader.episode(&messages).unwrap();
    assert_eq!(episode.calls.len(), 2);
    assert_eq!((episode.n_targets(), episode.calls[1].message_ids.as_ref()), (4, None));
}

#[test]
fn data_files_are_read_line_by_line_and_refused_by_line() {
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::Token);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    std::fs::write(&path, format!("{good}\n\n{good}")).unwrap();
    assert_eq!(reader.read(&path).unwrap().len(), 2);
    for bad in ["[]", r#"{"messages": []}"#, "{"] {
        std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
        let error = reader.read(&path).unwrap_err();
        assert!(error.code() == "format" && error.to_string().contains("line 2"), "{error}");
    }
    std::fs::write(&path, "\n").unwrap();
    assert_eq!(reader.read(&path).unwrap_err().code(), "format");
}

#[test]
fn a_log_forgets_the_steps_that_are_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let step = |step| StepReport { step, loss: 1.5, gradient_norm: 0.1, learning_rate: 1e-3 };
    let evaluation = Evaluation { loss: 2.0, token_accuracy: 0.5, exact: 0.25, n_episodes: 8 };
    let mut log = TrainingLog::open(&path, 0).unwrap();
    for n in 1..=4 {
        log.push(LogLine::Step(step(n))).unwrap();
        log.push(LogLine::Evaluation { step: n, evaluation: evaluation.clone() }).unwrap();
    }
    let mut cut = std::fs::read(&path).unwrap();
    cut.extend(b"{\"step\": 5, \"lo");
    std::fs::write(&path, cut).unwrap();
    let log = TrainingLog::open(&path, 2).unwrap();
    let curve = log.loss_curve();
    assert_eq!(curve.training, [(1, 1.5), (2, 1.5)]);
    assert_eq!(curve.evaluation, [(1, 2.0), (2, 2.0)]);
    assert_eq!(TrainingLog::open(&path, 0).unwrap().loss_curve(), LossCurve::default());
}

#[test]
fn the_learning_rate_rises_then_falls_to_its_floor() {
    let rate = LearningRate { peak: 2.0, floor_share: 0.1, warmup_steps: 4, n_steps: 12 };
    let rates: Vec<f32> = (0..13).map(|step| rate.at(step)).collect();
    assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
    assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
    assert!((rates[8] - 1.1).abs() < 1e-6 && (rates[12] - 0.2).abs() < 1e-6);
}

#[test]
fn a_loss_curve_has_its_points() {
    let training = vec![(0, 2.0), (5, f32::NAN), (10, 1.0)];
    let svg = loss_curve_svg(&LossCurve { training, evaluation: vec![(10, 1.5)] });
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<circle").count(), 1);
    assert!(svg.contains("points=\"48.0,48.0 672.0,180.0\""), "{svg}");
}
