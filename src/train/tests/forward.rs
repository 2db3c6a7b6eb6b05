//! The forward pass against the CPU twin and against recorded runs of the reference.

use super::*;
use crate::engine::{Call, Wanted, WantedLogits};
use crate::reference;
use crate::replay::StepKind;
use crate::train::forward::Purpose;
use burn_tensor::{Tensor, TensorData};

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

/// Runs a recorded case of the reference call by call; the largest relative error of its logits.
fn replay_error(fixture: &Fixture) -> f32 {
    let config = &fixture.config;
    let Adapter { config: delta, tensors, .. } = fixture.adapter.as_ref().unwrap();
    let device = Device::flex();
    let weights = fixture.weights.as_ref();
    let backbone = Backbone::load(config, weights, Storage::F32, &device).unwrap();
    let parameters = AdapterParameters::read(config, delta, tensors.as_ref()).unwrap();
    let adapter = DeviceAdapter::new(&parameters, config, delta, &device, false).unwrap();
    let mut context = Context::new(config, 1);
    let mut worst = 0f32;
    for step in &fixture.case.steps {
        if step.reset_kv {
            context.drop_cache();
        }
        if step.reset_state {
            context.states.fill(None);
        }
        if let Some(from) = &step.load_state {
            for layer in delta.wrapped_layers(config).unwrap() {
                let values = fixture.expected.read_all(&format!("{from}.state.{layer}")).unwrap();
                let shape = [1, delta.num_state_heads, delta.rank, delta.rank];
                let state = Tensor::from_data(TensorData::new(values, shape), &device);
                context.states[layer] = Some(state);
            }
        }
        let is_prefill = step.kind == StepKind::Prefill;
        let call = EpisodeCall {
            sentence_ids: step.sentence_ids.clone().filter(|_| is_prefill),
            write_enabled: step.write_enabled,
            ..call(step.input_ids.clone(), step.message_ids.clone().filter(|_| is_prefill), true)
        };
        let positions = &mut context.positions;
        let batch = CallBatch::new(&[&call], config, delta, positions, &device).unwrap();
        let x = backbone.forward(&adapter, delta, &batch, &mut context, Purpose::Output, None);
        let rows = step.logit_rows.clone().unwrap_or((0..call.tokens.len()).collect());
        let found: Vec<f32> = backbone.logits(x, &rows).into_data().try_to_vec().unwrap();
        let expected = fixture.expected.read_all(&format!("{}.logits", step.name)).unwrap();
        worst = worst.max(relative_error(&found, &expected) as f32);
    }
    worst
}

/// `DELTAMEM_FIXTURES` may name another parent folder, as for the tests of the engines.
#[test]
fn recorded_runs_of_the_reference_are_reproduced() {
    let root = std::env::var_os("DELTAMEM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        PathBuf::from,
    );
    let mut n_replayed = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let fixture = Fixture::open(&folder).unwrap();
        // Those of a real model's size take minutes here.
        if fixture.adapter.is_none() || fixture.config.n_parameters() > 10_000_000 {
            continue;
        }
        let error = replay_error(&fixture);
        println!("{}: {error:e}", fixture.case.name);
        assert!(error < 1e-4, "{}: relative error {error}", fixture.case.name);
        n_replayed += 1;
    }
    assert!(n_replayed >= 9, "{n_replayed} cases");
}
