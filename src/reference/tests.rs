//! Properties that the mathematics promises, on a tiny random model; the numbers themselves are
//! proved against the reference in `tests/parity_cpu.rs`.

use super::*;
use crate::config::{DeltaConfig, ModelConfig};
use crate::engine::{Call, Outputs, RepetitionPenalty, TopK, Wanted, WantedLogits};
use crate::error::{Error, Result};
use crate::memory::MemoryState;
use crate::shader::Storage;
use crate::weights::{DType, TensorInfo, TensorSource};
use std::collections::BTreeMap;

/// Tensors in memory.
#[derive(Default)]
struct Tensors(BTreeMap<String, (TensorInfo, Vec<f32>)>);

impl Tensors {
    /// Numbers in ±0.5, the same on every run.
    fn random(shapes: Vec<(String, Vec<usize>)>) -> Tensors {
        let mut seed = 1u32;
        let mut tensors = Tensors::default();
        for (name, shape) in shapes {
            let values = noise(shape.iter().product(), &mut seed);
            let dtype = DType::F32;
            tensors.0.insert(name, (TensorInfo { dtype, shape }, values));
        }
        tensors
    }
}

impl TensorSource for Tensors {
    fn label(&self) -> &str {
        "random"
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name).map(|(info, _)| info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.check_shape(name, &self.info(name).map_or(vec![], |i| i.shape.clone()))?;
        out.copy_from_slice(&self.0[name].1[start..start + out.len()]);
        Ok(())
    }
}

fn noise(n: usize, seed: &mut u32) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

const VOCAB_SIZE: usize = 50;

fn model_config() -> ModelConfig {
    let json = r#"{"model_type": "smollm3", "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6,
        "vocab_size": 50, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
    ModelConfig::from_json(json.as_bytes(), "test").unwrap()
}

/// A model with rank 4 unless `delta` says otherwise; `None` = a bare backbone.
fn model(delta: Option<&str>, chunk: Option<usize>) -> Model {
    let config = model_config();
    let options = Options { context_window: 40, chunk, ..Options::default() };
    let weights = Tensors::random(config.tensor_shapes());
    let Some(json) = delta else {
        return Model::load(&config, &weights, None, options).unwrap();
    };
    let delta = DeltaConfig::from_json(json.as_bytes(), "test").unwrap();
    let adapter = Tensors::random(delta.tensor_shapes(&config).unwrap());
    Model::load(&config, &weights, Some((&delta, &adapter)), options).unwrap()
}

const TOKEN: &str = r#"{"rank": 4}"#;
const MESSAGE: &str = r#"{"rank": 4, "memory_write_granularity": "message_mean"}"#;
const ALL: Wanted = Wanted {
    logits: WantedLogits::All,
    repetition: None,
    mask: None,
    intermediates: true,
    gauges: false,
};

fn call<'a>(tokens: &'a [u32], message_ids: Option<&'a [i64]>) -> Call<'a> {
    Call { tokens, message_ids, sentence_ids: None, write_enabled: true }
}

fn read_only(tokens: &[u32]) -> Call<'_> {
    Call { write_enabled: false, ..call(tokens, None) }
}

fn assert_close(found: &[f32], expected: &[f32]) {
    let error = crate::replay::relative_error(found, expected);
    assert!(error < 1e-5, "relative error {error}");
}

/// A state and projections of `n_tokens` tokens, 2 state heads of rank 3.
fn scan_input(n_tokens: usize) -> (Vec<f32>, Projected) {
    let mut seed = 5;
    let mut rows = || noise(n_tokens * 6, &mut seed);
    let projected =
        Projected { q: rows(), k: rows(), v: rows(), keep: rows(), erase: rows(), write: rows() };
    (noise(18, &mut seed), projected)
}

#[test]
fn scan_follows_the_equations() {
    let (before, p) = scan_input(2);
    let mut state = before.clone();
    let reads = memory_scan(&mut state, &p, 3);
    let mut s = before;
    for t in 0..2 {
        let old = s.clone();
        for (h, i) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            let row = t * 6 + h * 3 + i;
            let at = |j: usize| h * 9 + i * 3 + j;
            let with = |x: &[f32]| (0..3).map(|j| old[at(j)] * x[t * 6 + h * 3 + j]).sum::<f32>();
            assert!((reads[row] - with(&p.q)).abs() < 1e-6);
            for j in 0..3 {
                let k = p.k[t * 6 + h * 3 + j];
                s[at(j)] = p.keep[row] * old[at(j)] - p.erase[row] * with(&p.k) * k
                    + p.write[row] * p.v[row] * k;
            }
        }
    }
    assert_close(&state, &s);
}

#[test]
fn beta_zero_leaves_the_state() {
    let (before, _) = scan_input(0);
    // A gate of −∞ is β = 0; coupled, that is keep = λ = 1.
    for mode in ["standard", "lambda_outside", "no_lambda"] {
        let json = format!(r#"{{"rank": 3, "num_state_heads": 2, "state_update_mode": "{mode}"}}"#);
        let delta = DeltaConfig::from_json(json.as_bytes(), "test").unwrap();
        let raw = noise(4 * 24, &mut 3);
        let projected = memory_project(&delta, &raw, &[f32::NEG_INFINITY; 6], &[]);
        let mut state = before.clone();
        memory_scan(&mut state, &projected, 3);
        assert_eq!(state, before, "{mode}");
        let open = memory_project(&delta, &raw, &[0.0; 6], &[]);
        memory_scan(&mut state, &open, 3);
        assert_ne!(state, before, "{mode}");
    }
}

#[test]
fn a_read_precedes_its_own_write_and_follows_those_before() {
    let (before, p) = scan_input(3);
    let mut state = before.clone();
    let scanned = memory_scan(&mut state, &p, 3);
    let read = memory_read(&before, &p.q, 3);
    assert_eq!(scanned[..6], read[..6]);
    assert_ne!(scanned[6..12], read[6..12]);
}

#[test]
fn scalar_gates_repeat_over_the_rows_of_their_head() {
    let json = r#"{"rank": 3, "num_state_heads": 2, "rankwise_gates": false,
        "couple_lambda": false, "state_update_mode": "lambda_outside"}"#;
    let delta = DeltaConfig::from_json(json.as_bytes(), "test").unwrap();
    let mut raw = noise(18, &mut 3);
    raw.extend([0.5, -1.0, 2.0, 3.0]);
    let p = memory_project(&delta, &raw, &[0.25, 0.0], &[0.0, -1.0]);
    let (beta, lambda) = ([sigmoid(0.75), sigmoid(-1.0)], [sigmoid(2.0), sigmoid(2.0)]);
    for row in 0..6 {
        let head = row / 3;
        assert_eq!(p.write[row], beta[head]);
        assert_eq!(p.keep[row], lambda[head]);
        assert_eq!(p.erase[row], lambda[head] * beta[head]);
    }
    for head in p.q.chunks(3).chain(p.k.chunks(3)) {
        assert_close(&[linear::dot(head, head)], &[1.0]);
    }
    assert_eq!(p.v, raw[12..18]);
}

#[test]
fn a_zero_state_is_the_bare_backbone() {
    let tokens = [3, 1, 4, 1, 5];
    let bare = model(None, None).forward(&call(&tokens, None), ALL).unwrap();
    for delta in [TOKEN, r#"{"rank": 4, "delta_o_rmsnorm": true, "num_state_heads": 3}"#] {
        let mut with = model(Some(delta), None);
        let found = with.forward(&read_only(&tokens), ALL).unwrap();
        assert_eq!(found.logits, bare.logits);
        assert!(found.reads.iter().flatten().all(|&x| x == 0.0));
        assert_eq!(with.memory().norm(), 0.0);
        // With writing, memory must make a difference, or the test above says nothing.
        with.reset_context();
        let written = with.forward(&call(&tokens, None), ALL).unwrap();
        assert_ne!(written.logits, bare.logits);
        assert!(with.memory().norm() > 0.0);
    }
}

#[test]
fn read_only_calls_leave_the_memory() {
    let mut m = model(Some(TOKEN), None);
    m.forward(&call(&[1, 2, 3], None), ALL).unwrap();
    let before = m.memory();
    let found = m.forward(&read_only(&[4, 5]), ALL).unwrap();
    assert_eq!(m.memory(), before);
    assert!(found.reads.iter().flatten().any(|&x| x != 0.0));
}

#[test]
fn a_group_of_one_equals_a_token_write_but_a_group_of_two_does_not() {
    let run = |delta, tokens: &[u32], ids: &[i64]| {
        let mut m = model(Some(delta), None);
        m.forward(&call(&[9, 8], None), ALL).unwrap();
        m.forward(&call(tokens, Some(ids)), ALL).unwrap();
        m.memory()
    };
    let (one, token) = (run(MESSAGE, &[7], &[3]), run(TOKEN, &[7], &[3]));
    assert_close(&one.values, &token.values);
    let (two, tokens) = (run(MESSAGE, &[7, 6], &[3, 3]), run(TOKEN, &[7, 6], &[3, 3]));
    assert!(crate::replay::relative_error(&two.values, &tokens.values) > 1e-3);
    // All −1 writes everything; one active token masks the others.
    let inactive = run(MESSAGE, &[7, 6], &[-1, -1]);
    assert_eq!(inactive.values, tokens.values);
    let second = run(MESSAGE, &[7, 6], &[-1, 2]);
    assert!(crate::replay::relative_error(&second.values, &two.values) > 1e-3);
}

#[test]
fn groups_read_the_state_from_before_the_call() {
    let mut m = model(Some(MESSAGE), None);
    let ids = [0, 0, 1, 1];
    let found = m.forward(&call(&[1, 2, 3, 4], Some(&ids)), ALL).unwrap();
    assert!(found.reads.iter().flatten().all(|&x| x == 0.0));
    assert!(m.memory().norm() > 0.0);
}

#[test]
fn chunks_change_nothing() {
    let tokens: Vec<u32> = (0..23).map(|i| i * 7 % VOCAB_SIZE as u32).collect();
    let ids: Vec<i64> = (0..23).map(|i| i * 5 % 4 - 1).collect();
    for delta in [TOKEN, MESSAGE] {
        let run = |chunk| {
            let mut m = model(Some(delta), chunk);
            m.forward(&call(&[9, 8], None), ALL).unwrap();
            let outputs = m.forward(&call(&tokens, Some(&ids)), ALL).unwrap();
            (outputs, m.memory())
        };
        let whole = run(None);
        for chunk in [1, 7, 22, 64] {
            let cut = run(Some(chunk));
            assert_eq!(cut.0, whole.0, "chunk {chunk}");
            assert_close(&cut.1.values, &whole.1.values);
        }
    }
}

#[test]
fn a_refused_call_changes_nothing() {
    let mut m = model(Some(TOKEN), None);
    m.forward(&call(&[1, 2], None), ALL).unwrap();
    let (memory, logits) = (m.memory(), m.last_logits().unwrap());
    let refused = m.forward(&call(&[1, VOCAB_SIZE as u32], None), ALL);
    assert!(matches!(refused, Err(Error::TokenOutOfRange { id: 50, .. })));
    let refused = m.forward(&call(&[1; 39], None), ALL);
    assert!(matches!(refused, Err(Error::ContextFull { needed: 41, window: 40 })));
    let penalised =
        Wanted { repetition: Some(RepetitionPenalty { ids: &[u32::MAX], penalty: 1.1 }), ..ALL };
    assert!(m.forward(&call(&[1], None), penalised).is_err());
    assert_eq!((m.memory(), m.last_logits().unwrap(), m.n_past()), (memory, logits, 2));
    assert!(matches!(m.forward(&call(&[], None), ALL), Err(Error::Messages { .. })));
}

#[test]
fn truncated_context_continues_as_if_the_rest_had_not_been() {
    let mut m = model(None, None);
    let straight = m.forward(&call(&[1, 2, 3, 4], None), ALL).unwrap();
    m.truncate(9);
    assert_eq!(m.n_past(), 4);
    m.truncate(2);
    let again = m.forward(&call(&[3, 4], None), ALL).unwrap();
    assert_eq!(again.logits, straight.logits[2 * VOCAB_SIZE..]);
    assert_eq!(m.last_logits().unwrap(), straight.logits[3 * VOCAB_SIZE..]);
}

#[test]
fn a_memory_moves_between_models_of_equal_dimensions_only() {
    let mut m = model(Some(TOKEN), None);
    m.forward(&call(&[1, 2], None), ALL).unwrap();
    let memory = m.memory();
    let mut other = model(Some(TOKEN), None);
    other.set_memory(&memory).unwrap();
    assert_eq!(other.memory(), memory);

    let mut short = memory.clone();
    short.values.pop();
    for (wrong, expected_field) in [
        (model(Some(r#"{"rank": 5}"#), None).memory(), "rank"),
        (model(Some(r#"{"rank": 4, "num_state_heads": 2}"#), None).memory(), "num_state_heads"),
        (model(Some(r#"{"rank": 4, "target_layers": [1, 2]}"#), None).memory(), "layers"),
        (model(None, None).memory(), "layers"),
        (short, "length"),
    ] {
        match other.set_memory(&wrong) {
            Err(Error::MemoryMismatch { field, .. }) => assert_eq!(field, expected_field),
            found => panic!("{expected_field}: {found:?}"),
        }
        assert_eq!(other.memory(), memory);
    }
    assert!(model(None, None).memory_dims().is_empty());
    let zeros = MemoryState::zeros(memory.dims);
    other.set_memory(&zeros).unwrap();
    assert_eq!(other.memory().norm(), 0.0);
}

#[test]
fn wrong_tensors_are_named() {
    let config = model_config();
    let load =
        |tensors: &Tensors| Model::load(&config, tensors, None, Options::default()).map(|_| ());
    let mut tensors = Tensors::random(config.tensor_shapes());
    let gate = tensors.0.remove("model.layers.2.mlp.gate_proj.weight");
    assert!(matches!(load(&tensors), Err(Error::MissingTensor { name, .. })
        if name == "model.layers.2.mlp.gate_proj.weight"));
    let (mut info, values) = gate.unwrap();
    info.shape.reverse();
    tensors.0.insert("model.layers.2.mlp.gate_proj.weight".into(), (info, values));
    assert!(matches!(load(&tensors), Err(Error::TensorShape { .. })));
}

#[test]
fn what_is_wanted_of_the_last_token_agrees() {
    let mut m = model(Some(TOKEN), None);
    let mut run = |logits, repetition| {
        let zeros = MemoryState::zeros(m.memory_dims().clone());
        m.set_memory(&zeros).unwrap();
        m.reset_context();
        let wanted = Wanted { logits, repetition, ..Wanted::default() };
        m.forward(&call(&[1, 2, 3], None), wanted).unwrap()
    };
    let all = run(WantedLogits::All, None).logits;
    let mut last = all[2 * VOCAB_SIZE..].to_vec();
    assert_eq!(run(WantedLogits::Last, None).logits, last);
    let best = argmax(&last);
    assert_eq!(run(WantedLogits::Argmax, None).argmax, Some(best));
    let ids = [best];
    let repetition = RepetitionPenalty { ids: &ids, penalty: 50.0 };
    last[best as usize] /= 50.0;
    let penalised = run(WantedLogits::Last, Some(repetition)).logits;
    assert_eq!(penalised, last);
    assert_ne!(run(WantedLogits::Argmax, Some(repetition)).argmax, Some(best));
    assert_eq!(run(WantedLogits::None, None), Outputs::default());
}

#[test]
fn top_k_keeps_ties_and_sums_the_whole_vocabulary() {
    let logits = [1.0, 3.0, f32::NAN, 2.0, 3.0, 2.0, -0.0, 0.0];
    let found = top_k(&logits, 3, 2.0);
    assert_eq!(found.candidates, [(1, 3.0), (4, 3.0), (3, 2.0), (5, 2.0)]);
    let expected: f32 =
        [1.0f32, 3.0, 2.0, 3.0, 2.0, 0.0, 0.0].map(|l| ((l - 3.0) / 2.0).exp()).iter().sum();
    assert_close(&[found.sum_exp], &[expected]);
    let zeros = top_k(&[-0.0, 0.0, -1.0], 2, 1.0);
    assert_eq!(zeros.candidates[0].0, 0);
    assert_eq!(top_k(&[5.0; 1000], 1, 1.0).candidates.len(), 256);
    assert_eq!(top_k(&logits, 0, 1.0).candidates.len(), 2);
    assert_eq!(top_k(&[], 4, 1.0), TopK::default());
    assert_eq!(argmax(&[1.0, 2.0, 2.0]), 1);
}

#[test]
fn repetition_penalty_moves_both_signs_down() {
    let mut logits = [2.0, -2.0, 1.0];
    let repetition = RepetitionPenalty { ids: &[0, 1], penalty: 2.0 };
    repetition_penalty(&mut logits, &repetition);
    assert_eq!(logits, [1.0, -4.0, 1.0]);
}

#[test]
fn matmul_matches_the_definition_at_odd_sizes() {
    let mut seed = 2;
    for (n_tokens, n_in, n_out) in [(1, 1, 1), (5, 19, 67), (4, 8, 32), (9, 130, 33)] {
        let (x, w) = (noise(n_tokens * n_in, &mut seed), noise(n_out * n_in, &mut seed));
        let mut y = vec![1.0; n_tokens * n_out];
        matmul(&x, &w, n_in, &mut y, Output::Add);
        let mut stored = y.clone();
        matmul(&x, &w, n_in, &mut stored, Output::Store);
        for (index, (y, stored)) in y.iter().zip(stored).enumerate() {
            let (t, o) = (index / n_out, index % n_out);
            let product = |i: usize| f64::from(x[t * n_in + i]) * f64::from(w[o * n_in + i]);
            let expected = (0..n_in).map(product).sum::<f64>();
            // f32 sums of at most 130 products below 0.25.
            assert!((f64::from(stored) - expected).abs() < 1e-5, "{index}");
            assert!((f64::from(*y) - expected - 1.0).abs() < 1e-5, "{index}");
        }
    }
}

#[test]
fn f16_keys_and_values_are_rounded() {
    let mut cache = KvCache::default();
    kv_write(&mut cache, &[0.1, 1e6], &[1.0, -0.3], Storage::F16, 2);
    assert_eq!(cache.k, [0.099_975_586, 65504.0]);
    kv_write(&mut cache, &[0.1, 0.2], &[0.3, 0.4], Storage::F32, 2);
    assert_eq!(cache.k[2..], [0.1, 0.2]);
}

#[test]
fn q8_keys_and_values_are_127ths_of_a_heads_largest() {
    let mut cache = KvCache::default();
    kv_write(&mut cache, &[127.0, -0.4, 63.5, -0.1], &[0.0, 0.0, 254.0, 3.1], Storage::Q8, 2);
    assert_eq!(cache.k, [127.0, 0.0, 63.5, 0.0]);
    assert_eq!(cache.v, [0.0, 0.0, 254.0, 4.0]);
}

#[test]
fn mask_logits_rules_out_what_has_no_bit() {
    let mut logits = [5.0; 70];
    (logits[33], logits[65]) = (7.0, f32::NAN);
    mask_logits(&mut logits, &[1 << 31, 1 << 1, 1 << 1]);
    let kept: Vec<usize> = (0..70).filter(|&i| logits[i] != f32::NEG_INFINITY).collect();
    assert_eq!(kept, [31, 33, 65]);
    assert_eq!(argmax(&logits), 33);
    assert_eq!(top_k(&logits, 2, 1.0).candidates, [(33, 7.0), (31, 5.0)]);
}
