//! What the GPU model promises beside its numbers: refused calls change nothing, the KV cache and
//! the memory can be moved about, every way to ask for logits agrees, and load refuses what it
//! cannot run. On the backbones and adapters of small fixtures.

mod common;

use common::{fixtures, gpu};
use deltamem::config::DeltaConfig;
use deltamem::engine::{Call, RepetitionPenalty, Wanted, WantedLogits};
use deltamem::error::{Error, Result};
use deltamem::gpu::Gpu;
use deltamem::memory::MemoryState;
use deltamem::model::{LoadOptions, Model};
use deltamem::reference;
use deltamem::replay::{Fixture, relative_error};
use deltamem::shader::Storage;
use deltamem::weights::{TensorInfo, TensorSource};
use pollster::block_on;

/// Tokens in a chunk, fewer than most calls here.
const CHUNK: usize = 6;

fn fixture(name: &str) -> Fixture {
    Fixture::open(&fixtures(|n| n == name)[0]).expect("a fixture")
}

fn options() -> LoadOptions {
    LoadOptions {
        weights: Storage::F32,
        kv: Storage::F32,
        context_window: Some(64),
        chunk: CHUNK,
        logits_rows: CHUNK,
    }
}

fn adapter(fixture: &Fixture) -> Option<(&DeltaConfig, &dyn TensorSource)> {
    let adapter = fixture.adapter.as_ref();
    adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource))
}

fn load_with(
    gpu: &Gpu,
    fixture: &Fixture,
    adapter: Option<(&DeltaConfig, &dyn TensorSource)>,
    options: &LoadOptions,
) -> Result<Model> {
    let weights = fixture.weights.as_ref();
    let mut last = None;
    let mut progress = |done, total| last = Some((done, total));
    let load = Model::load(gpu.clone(), &fixture.config, weights, adapter, options, &mut progress);
    let model = block_on(load)?;
    let (done, total) = last.expect("progress");
    assert_eq!(done, total, "the last progress of a load is not its end");
    Ok(model)
}

fn load(gpu: &Gpu, fixture: &Fixture) -> Model {
    load_with(gpu, fixture, adapter(fixture), &options()).expect("a model")
}

fn call(tokens: &[u32]) -> Call<'_> {
    Call { tokens, message_ids: None, sentence_ids: None, write_enabled: true }
}

fn wanted(logits: WantedLogits) -> Wanted<'static> {
    Wanted { logits, ..Wanted::default() }
}

fn logits(model: &mut Model, call: Call<'_>, wanted_logits: WantedLogits) -> Vec<f32> {
    block_on(model.forward(&call, wanted(wanted_logits))).expect("a call").logits
}

fn memory(model: &Model) -> MemoryState {
    block_on(model.read_memory()).expect("a memory")
}

/// n tokens of the vocabulary, the same on every run.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 5) % 100).collect()
}

#[test]
fn truncating_and_continuing_equals_going_straight_on() {
    let Some(gpu) = gpu(false) else { return };
    let mut model = load(&gpu, &fixture("k_qwen3_tsw"));
    let tokens = tokens(20);
    let (front, back) = tokens.split_at(13);
    logits(&mut model, call(front), WantedLogits::None);
    let before = memory(&model);
    let straight = logits(&mut model, call(back), WantedLogits::All);
    let after = memory(&model);
    assert_ne!(before, after);
    // somewhere else in the meantime
    model.truncate(13);
    logits(&mut model, call(&[1, 2, 3]), WantedLogits::None);
    assert_eq!(model.n_past(), 16);
    model.truncate(13);
    model.truncate(50);
    assert_eq!(model.n_past(), 13);
    model.write_memory(&before).expect("the same dimensions");
    assert_eq!(logits(&mut model, call(back), WantedLogits::All), straight);
    assert_eq!(memory(&model), after);
}

#[test]
fn a_memory_comes_back_bit_by_bit() {
    let Some(gpu) = gpu(false) else { return };
    let mut model = load(&gpu, &fixture("i10_kitchen_sink"));
    let mut state = MemoryState::zeros(model.memory_dims().clone());
    for (i, value) in state.values.iter_mut().enumerate() {
        *value = [0.1, -0.0, 1e30, -3e-38, f32::MAX][i % 5] * (i as f32 + 1.0).recip();
    }
    model.write_memory(&state).expect("the same dimensions");
    let bits = |m: &MemoryState| m.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&memory(&model)), bits(&state));

    let mut other = state.clone();
    other.dims.rank += 1;
    other.values.push(1.0);
    assert!(matches!(model.write_memory(&other), Err(Error::MemoryMismatch { .. })));
    assert_eq!(bits(&memory(&model)), bits(&state));
}

#[test]
fn a_refused_call_changes_nothing() {
    let Some(gpu) = gpu(false) else { return };
    let mut model = load(&gpu, &fixture("c_msw4"));
    let fixed = block_on(model.last_logits());
    assert!(matches!(fixed, Err(Error::Setting { .. })), "no call has computed any");
    logits(&mut model, call(&tokens(10)), WantedLogits::Last);
    let (n_past, before) = (model.n_past(), memory(&model));
    let last = block_on(model.last_logits()).expect("logits");

    let top_k = |k, temperature| wanted(WantedLogits::TopK { k, temperature });
    let penalty = |ids: &'static [u32], penalty| Wanted {
        logits: WantedLogits::Last,
        repetition: Some(RepetitionPenalty { ids, penalty }),
        ..Wanted::default()
    };
    let (good, too_long) = (&[1u32, 2][..], vec![1; 55]);
    let mut refuse = |tokens: &[u32], wanted| {
        let found = block_on(model.forward(&call(tokens), wanted));
        assert_eq!(model.n_past(), n_past);
        assert_eq!(memory(&model), before);
        found.expect_err("a refusal").code()
    };
    let last_wanted = wanted(WantedLogits::Last);
    assert_eq!(refuse(&[], last_wanted), "messages");
    assert_eq!(refuse(&[1, 144], last_wanted), "token_out_of_range");
    assert_eq!(refuse(&[u32::MAX], last_wanted), "token_out_of_range");
    assert_eq!(refuse(&too_long, last_wanted), "context_full");
    assert_eq!(refuse(good, top_k(0, 1.0)), "setting");
    assert_eq!(refuse(good, top_k(257, 1.0)), "setting");
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(refuse(good, top_k(4, temperature)), "setting");
        assert_eq!(refuse(good, penalty(&[1], temperature)), "setting");
    }
    assert_eq!(refuse(good, penalty(&[144], 2.0)), "token_out_of_range");
    let mask = |words: &'static [u32]| Wanted { mask: Some(words), ..penalty(&[1], 2.0) };
    for words in [&[][..], &[1, 1, 1, 1], &[0; 5], &[0, 0, 0, 0, 1 << 16], &[1; 6]] {
        assert_eq!(refuse(good, mask(words)), "setting", "{words:?}");
    }
    assert_eq!(block_on(model.last_logits()).expect("logits"), last);

    // and the next call is as if nothing had been refused
    let found = logits(&mut model, call(good), WantedLogits::Last);
    let mut other = load(&gpu, &fixture("c_msw4"));
    logits(&mut other, call(&tokens(10)), WantedLogits::Last);
    assert_eq!(found, logits(&mut other, call(good), WantedLogits::Last));
}

#[test]
fn a_full_context_says_so_and_has_room_again_after_truncating() {
    let Some(gpu) = gpu(false) else { return };
    let mut model = load(&gpu, &fixture("k_qwen3_base"));
    assert_eq!(model.context_window(), 64);
    logits(&mut model, call(&tokens(64)), WantedLogits::Last);
    let found = block_on(model.forward(&call(&[1]), Wanted::default()));
    assert!(matches!(found, Err(Error::ContextFull { needed: 65, window: 64 })), "{found:?}");
    model.truncate(63);
    logits(&mut model, call(&[1]), WantedLogits::Last);
    assert_eq!(model.n_past(), 64);
    model.truncate(0);
    logits(&mut model, call(&tokens(64)), WantedLogits::Last);
}

#[test]
fn every_way_to_ask_for_logits_agrees() {
    let Some(gpu) = gpu(false) else { return };
    let fixture = fixture("k_qwen3_tsw");
    let mut model = load(&gpu, &fixture);
    let tokens = tokens(14);
    let vocab = fixture.config.vocab_size;
    let zeros = MemoryState::zeros(model.memory_dims().clone());
    let mut ask = |wanted: Wanted<'_>| {
        model.truncate(0);
        model.write_memory(&zeros).expect("the same dimensions");
        let outputs = block_on(model.forward(&call(&tokens), wanted)).expect("a call");
        (outputs, block_on(model.last_logits()).expect("logits"))
    };
    let (all, last_of_all) = ask(wanted(WantedLogits::All));
    assert_eq!(all.logits.len(), tokens.len() * vocab);
    assert_eq!(all.logits[13 * vocab..], last_of_all);
    let (last, same) = ask(wanted(WantedLogits::Last));
    assert_eq!(last.logits, same);
    // one row goes through another kernel than a whole chunk
    assert!(relative_error(&last.logits, &last_of_all) < 1e-5);
    let (best, logits) = ask(wanted(WantedLogits::Argmax));
    assert_eq!(logits, last.logits);
    assert_eq!(best.argmax, Some(reference::argmax(&last.logits)));
    for (k, temperature) in [(1, 1.0), (40, 0.6), (256, 2.0), (3, 1e-40)] {
        let (found, _) = ask(wanted(WantedLogits::TopK { k, temperature }));
        let found = found.top_k.expect("candidates");
        let expected = reference::top_k(&last.logits, k, temperature);
        assert_eq!(found.candidates, expected.candidates);
        let error = relative_error(&[found.sum_exp], &[expected.sum_exp]);
        assert!(error < 1e-5, "sum of {k} at {temperature}: {found:?}, {expected:?}");
    }
    let (nothing, _) = ask(wanted(WantedLogits::None));
    assert!(nothing.logits.is_empty() && nothing.argmax.is_none() && nothing.top_k.is_none());

    // the penalty comes before everything, and last_logits shows it
    let ids = [best.argmax.expect("a token"), 3, 143];
    let repetition = RepetitionPenalty { ids: &ids, penalty: 7.0 };
    let mut expected = last.logits.clone();
    reference::repetition_penalty(&mut expected, &repetition);
    let with = |logits| Wanted { repetition: Some(repetition), ..wanted(logits) };
    let (found, kept) = ask(with(WantedLogits::Last));
    assert!(relative_error(&found.logits, &expected) < 1e-6);
    assert_ne!(found.logits, last.logits);
    assert_eq!(kept, found.logits);
    let (best, _) = ask(with(WantedLogits::Argmax));
    assert_eq!(best.argmax, Some(reference::argmax(&expected)));
    let (few, _) = ask(with(WantedLogits::TopK { k: 5, temperature: 1.0 }));
    let expected = reference::top_k(&found.logits, 5, 1.0);
    assert_eq!(few.top_k.expect("candidates").candidates, expected.candidates);
    // a mask comes after the penalty, and ties of what it rules out are no candidates' ties
    let mut mask = vec![0; vocab.div_ceil(32)];
    let allowed = [3, 40, 143];
    allowed.iter().for_each(|id| mask[id / 32] |= 1 << (id % 32));
    let mut expected = found.logits.clone();
    reference::mask_logits(&mut expected, &mask);
    let masked = |logits| Wanted { mask: Some(&mask), ..with(logits) };
    let (found, kept) = ask(masked(WantedLogits::Last));
    assert_eq!(found.logits, expected);
    assert_eq!(kept, expected);
    assert!(expected.iter().filter(|logit| logit.is_finite()).count() == allowed.len());
    let (best, _) = ask(masked(WantedLogits::Argmax));
    assert_eq!(best.argmax, Some(reference::argmax(&expected)));
    for k in [2, 3, 20] {
        let (few, _) = ask(masked(WantedLogits::TopK { k, temperature: 0.7 }));
        let (few, expected) = (few.top_k.expect("some"), reference::top_k(&expected, k, 0.7));
        assert_eq!(few.candidates, expected.candidates, "{k} of a masked vocabulary");
        assert!(relative_error(&[few.sum_exp], &[expected.sum_exp]) < 1e-5);
    }
    // and both are gone in the next call
    assert_eq!(ask(wanted(WantedLogits::Last)).1, last.logits);
}

#[test]
fn an_empty_memory_that_is_only_read_leaves_the_bare_backbone() {
    let Some(gpu) = gpu(false) else { return };
    for name in ["c_msw4", "k_qwen3_tsw", "i10_kitchen_sink"] {
        let fixture = fixture(name);
        let mut model = load(&gpu, &fixture);
        let mut bare = load_with(&gpu, &fixture, None, &options()).expect("a model");
        assert!(bare.memory_dims().is_empty());
        let tokens = tokens(11);
        let read_only = Call { write_enabled: false, ..call(&tokens) };
        let found = logits(&mut model, read_only, WantedLogits::All);
        let expected = logits(&mut bare, call(&tokens), WantedLogits::All);
        assert_eq!(found, expected, "{name}");
        assert_eq!(memory(&model).norm(), 0.0);
        // a bare backbone has an empty memory, which can be read and written
        let empty = memory(&bare);
        assert!(empty.values.is_empty());
        bare.write_memory(&empty).expect("the same dimensions");
    }
}

/// An adapter whose gates never open.
struct Closed<'a>(&'a dyn TensorSource);

impl TensorSource for Closed<'_> {
    fn label(&self) -> &str {
        self.0.label()
    }

    fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.info(name)
    }

    /// sigmoid(−300) is next to nothing, and less than a rounding of any state but 0.
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.0.read_f32(name, start, out)?;
        if name.ends_with("beta_proj") {
            out.fill(0.0);
        } else if name.ends_with("beta_bias") {
            out.fill(-300.0);
        }
        Ok(())
    }
}

#[test]
fn a_gate_that_never_opens_leaves_the_memory() {
    let Some(gpu) = gpu(false) else { return };
    for (name, ids) in [("c_msw4", None), ("d2_ssw_edges", Some([0, 0, 1, 1, 2]))] {
        let fixture = fixture(name);
        let (delta, source) = adapter(&fixture).expect("an adapter");
        let closed = Closed(source);
        let mut model =
            load_with(&gpu, &fixture, Some((delta, &closed)), &options()).expect("a model");
        let mut state = MemoryState::zeros(model.memory_dims().clone());
        state.values.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).cos());
        model.write_memory(&state).expect("the same dimensions");
        let ids: Option<Vec<i64>> = ids.map(|ids| ids.to_vec());
        let call = Call { message_ids: ids.as_deref(), ..call(&[1, 2, 3, 4, 5]) };
        logits(&mut model, call, WantedLogits::None);
        assert_eq!(memory(&model), state, "{name}");
    }
}

#[test]
fn many_groups_in_one_call_match_the_twin() {
    let Some(gpu) = gpu(false) else { return };
    for name in ["d2_ssw_edges", "i10_kitchen_sink"] {
        let fixture = fixture(name);
        let mut model = load(&gpu, &fixture);
        let twin_options = reference::Options { context_window: 200, ..Default::default() };
        let weights = fixture.weights.as_ref();
        let mut twin =
            reference::Model::load(&fixture.config, weights, adapter(&fixture), twin_options)
                .expect("the twin");
        // more than there is room for at first, then fewer, then more again
        for n_groups in [3, 40, 2, 41] {
            let tokens = tokens(55);
            // not adjacent, not ascending, some in none, ids with gaps
            let ids: Vec<i64> = (0..55i64)
                .map(|t| if t % 11 == 10 { -1 } else { (t * 17 % n_groups) * 1000 })
                .collect();
            model.truncate(0);
            twin.truncate(0);
            let call = Call { message_ids: Some(&ids), ..call(&tokens) };
            let found = logits(&mut model, call, WantedLogits::All);
            let expected = twin.forward(&call, wanted(WantedLogits::All)).expect("a call");
            let what = format!("{name}, {n_groups} groups");
            assert!(relative_error(&found, &expected.logits) < 1e-4, "{what}: logits");
            let (found, expected) = (memory(&model).values, twin.memory().values);
            assert!(relative_error(&found, &expected) < 1e-4, "{what}: memory");
        }
    }
}

#[test]
fn more_groups_than_the_device_can_count_are_refused() {
    let Some(mut gpu) = gpu(false) else { return };
    gpu.tier.max_workgroups = 16;
    let mut model = load(&gpu, &fixture("d2_ssw_edges"));
    let tokens = tokens(40);
    let ids: Vec<i64> = (0..40).collect();
    let many = Call { message_ids: Some(&ids), ..call(&tokens) };
    let found = block_on(model.forward(&many, Wanted::default()));
    assert!(matches!(found, Err(Error::DeviceLimit { needed: 40, limit: 16, .. })), "{found:?}");
    assert_eq!((model.n_past(), memory(&model).norm()), (0, 0.0));
    let few = Call { message_ids: Some(&ids[..16]), ..call(&tokens[..16]) };
    logits(&mut model, few, WantedLogits::None);
    assert_ne!(memory(&model).norm(), 0.0);
}

#[test]
fn load_refuses_what_it_cannot_run() {
    let Some(gpu) = gpu(false) else { return };
    let fixture = fixture("c_msw4");
    let refuse = |gpu: &Gpu, options: &LoadOptions| {
        let found = load_with(gpu, &fixture, adapter(&fixture), options);
        found.map(|_| ()).expect_err("a refusal").code()
    };
    let good = options();
    assert_eq!(refuse(&gpu, &LoadOptions { chunk: 0, ..good.clone() }), "setting");
    assert_eq!(refuse(&gpu, &LoadOptions { logits_rows: 0, ..good.clone() }), "setting");
    for kv in [Storage::Q4, Storage::Q6K] {
        assert_eq!(refuse(&gpu, &LoadOptions { kv, ..good.clone() }), "setting");
    }
    for n in [0, 65_537, usize::MAX] {
        let options = LoadOptions { context_window: Some(n), ..good.clone() };
        assert_eq!(refuse(&gpu, &options), "setting");
    }
    // whatever the limit is, what does not fit is an error and no panic
    for limit in [0, 64, 256, 1 << 10, 1 << 12] {
        let mut small = gpu.clone();
        small.tier.max_binding_bytes = limit;
        assert_eq!(refuse(&small, &good), "device_limit", "{limit} bytes a binding");
        let mut small = gpu.clone();
        small.tier.max_buffer_bytes = limit;
        assert_eq!(refuse(&small, &good), "device_limit", "{limit} bytes a buffer");
    }
    // the device still works
    load(&gpu, &fixture);
}

#[test]
fn a_chunk_beyond_the_context_is_cut_to_it() {
    let Some(gpu) = gpu(false) else { return };
    let fixture = fixture("c_msw4");
    let huge = LoadOptions { chunk: usize::MAX, logits_rows: usize::MAX, ..options() };
    let mut whole = load_with(&gpu, &fixture, adapter(&fixture), &huge).expect("a model");
    assert_eq!((whole.options().chunk, whole.options().logits_rows), (64, 64));
    let found = logits(&mut whole, call(&tokens(64)), WantedLogits::All);
    let expected = logits(&mut load(&gpu, &fixture), call(&tokens(64)), WantedLogits::All);
    assert!(relative_error(&found, &expected) < 1e-4);
}

#[test]
fn a_huge_context_is_refused_before_it_takes_host_memory() {
    let Some(gpu) = gpu(false) else { return };
    let mut fixture = fixture("c_msw4");
    fixture.config.max_position_embeddings = 1 << 24;
    let options = LoadOptions { context_window: Some(1 << 24), ..options() };
    let found = load_with(&gpu, &fixture, adapter(&fixture), &options).map(|_| ());
    assert!(matches!(found, Err(Error::DeviceLimit { .. })), "{found:?}");
}

#[test]
fn weights_in_parts_give_the_same_result() {
    let Some(gpu) = gpu(false) else { return };
    let fixture = fixture("c_msw4");
    let mut split = gpu.clone();
    // the embedding table alone takes 36 KiB
    split.tier.max_binding_bytes = 20 << 10;
    let found = logits(&mut load(&split, &fixture), call(&tokens(20)), WantedLogits::All);
    let expected = logits(&mut load(&gpu, &fixture), call(&tokens(20)), WantedLogits::All);
    assert_eq!(found, expected);
}

#[test]
fn an_adapter_of_another_backbone_is_refused() {
    let Some(gpu) = gpu(false) else { return };
    let (fixture, other) = (fixture("k_qwen3_base"), fixture("o_untied_smollm3"));
    let found = load_with(&gpu, &fixture, adapter(&other), &options()).map(|_| ());
    assert!(matches!(found, Err(Error::TensorShape { .. })), "{found:?}");
    // a configuration that asks for tensors that are not there
    let (delta, source) = adapter(&other).expect("an adapter");
    let with_norm = DeltaConfig { delta_o_rmsnorm_eps: Some(1e-6), ..delta.clone() };
    let found = load_with(&gpu, &other, Some((&with_norm, source)), &options()).map(|_| ());
    assert!(matches!(found, Err(Error::MissingTensor { .. })), "{found:?}");
}
