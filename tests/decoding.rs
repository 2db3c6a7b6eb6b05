//! Replies that are decoded on the device are those of a loop that asks for one token at a time: the
//! same tokens, the same memory bit by bit, the same KV cache, wherever the reply ends and however it
//! is cut; and nothing is made, and little is read, for a token.

mod common;

use common::{fixtures, gpu, noise_model};
use deltamem::config::ModelConfig;
use deltamem::engine::{
    BATCH_TIME, Call, Decoding, Engine, RepetitionPenalty, Wanted, WantedLogits,
};
use deltamem::gpu::Gpu;
use deltamem::memory::MemoryState;
use deltamem::model::{LoadOptions, Model};
use deltamem::model_folder::Adapter;
use deltamem::reference;
use deltamem::replay::Fixture;
use deltamem::sampler::{Draw, Sampler, SamplingOptions, repetition_ids};
use deltamem::shader::Storage;
use deltamem::weights::TensorSource;
use pollster::block_on;
use std::time::Duration;

/// Tokens of a reply: more than two of the largest submissions.
const REPLY: usize = 44;
const WINDOW: usize = 128;

/// Batches then grow to the largest, however slow the machine is.
const LONG: Duration = Duration::from_secs(3600);

fn options() -> LoadOptions {
    LoadOptions {
        weights: Storage::F32,
        kv: Storage::F16,
        context_window: Some(WINDOW),
        ..LoadOptions::default()
    }
}

/// A model on a device, or its twin.
fn engine(
    gpu: Option<Gpu>,
    config: &ModelConfig,
    tensors: &dyn TensorSource,
    adapter: Option<&Adapter>,
) -> Engine {
    let adapter = adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource));
    match gpu {
        Some(gpu) => {
            let (options, progress) = (options(), &mut |_, _| {});
            let load = Model::load(gpu, config, tensors, adapter, &options, progress);
            Engine::Gpu(Box::new(block_on(load).expect("a model")))
        }
        None => {
            let options =
                reference::Options { context_window: WINDOW, ..reference::Options::default() };
            let model = reference::Model::load(config, tensors, adapter, options);
            Engine::Cpu(Box::new(model.expect("a model")))
        }
    }
}

/// The model of noise: its replies do not repeat themselves soon.
fn noise_engine(gpu: Option<Gpu>) -> Engine {
    let (folder, adapter) = noise_model();
    engine(gpu, &folder.config, folder.tensors.as_ref(), Some(&adapter))
}

/// A reply as it is wanted.
#[derive(Clone)]
struct Reply {
    ids: Option<(i64, i64)>,
    write_enabled: bool,
    sampling: SamplingOptions,
    n_tokens: usize,
}

impl Reply {
    fn greedy(ids: Option<(i64, i64)>) -> Reply {
        Reply { ids, write_enabled: true, sampling: SamplingOptions::default(), n_tokens: REPLY }
    }
}

fn prompt(engine: &Engine) -> Vec<u32> {
    (0..9u32).map(|i| (i * 37 + 5) % engine.config().vocab_size as u32).collect()
}

fn memory(engine: &Engine) -> MemoryState {
    block_on(engine.read_memory()).expect("a memory")
}

/// Feeds tokens and picks the next.
fn feed(
    engine: &mut Engine,
    reply: &Reply,
    context: &[u32],
    tokens: &[u32],
    sampler: &mut Sampler,
) -> u32 {
    let ids = reply.ids.map(|(m, s)| (vec![m; tokens.len()], vec![s; tokens.len()]));
    let call = Call {
        tokens,
        message_ids: ids.as_ref().map(|ids| &ids.0[..]),
        sentence_ids: ids.as_ref().map(|ids| &ids.1[..]),
        write_enabled: reply.write_enabled,
    };
    let penalised = repetition_ids(context, None);
    let penalty = reply.sampling.repetition_penalty;
    let repetition = (penalty != 1.0).then_some(RepetitionPenalty { ids: &penalised, penalty });
    let wanted = Wanted { logits: sampler.wanted(), repetition, ..Wanted::default() };
    let outputs = block_on(engine.forward(&call, wanted)).expect("a call");
    match (outputs.argmax, &outputs.top_k) {
        (Some(token), _) => token,
        (None, Some(top_k)) => match sampler.sample(top_k).expect("a draw") {
            Draw::Token(token) => token,
            Draw::NeedsFullLogits => {
                let logits = block_on(engine.last_logits()).expect("logits");
                sampler.sample_full(&logits).expect("a draw")
            }
        },
        (None, None) => sampler.sample_full(&outputs.logits).expect("a draw"),
    }
}

/// Begins anew with the prompt; the first token of the reply.
fn begin(engine: &mut Engine, reply: &Reply, sampler: &mut Sampler) -> u32 {
    let zeros = MemoryState::zeros(engine.memory_dims().clone());
    engine.write_memory(&zeros).expect("its own dimensions");
    engine.reset_context();
    let prompt = prompt(engine);
    let of_prompt = Reply { ids: reply.ids.map(|_| (0, 0)), write_enabled: true, ..reply.clone() };
    feed(engine, &of_prompt, &prompt, &prompt, sampler)
}

/// What the loop of one call a token comes to: tokens, and the memory before each was fed.
fn step_by_step(engine: &mut Engine, reply: &Reply) -> (Vec<u32>, Vec<MemoryState>) {
    let mut sampler = Sampler::new(reply.sampling.clone()).expect("a sampler");
    let mut tokens = vec![begin(engine, reply, &mut sampler)];
    let mut memories = vec![memory(engine)];
    let mut context = prompt(engine);
    for n in 0..reply.n_tokens {
        context.push(tokens[n]);
        tokens.push(feed(engine, reply, &context, &[tokens[n]], &mut sampler));
        memories.push(memory(engine));
    }
    (tokens, memories)
}

fn decoding<'a>(
    reply: &'a Reply,
    first: u32,
    penalised: &'a [u32],
    stop_ids: &'a [u32],
) -> Decoding<'a> {
    Decoding {
        first,
        ids: reply.ids,
        write_enabled: reply.write_enabled,
        sampling: &reply.sampling,
        penalised,
        stop_ids,
        batch_time: LONG,
    }
}

/// The same on the device, decisions left to the host included; how many those were.
fn on_device(engine: &mut Engine, reply: &Reply, stop_ids: &[u32]) -> (Vec<u32>, usize) {
    let mut sampler = Sampler::new(reply.sampling.clone()).expect("a sampler");
    let mut tokens = vec![begin(engine, reply, &mut sampler)];
    let mut context = prompt(engine);
    let mut n_undecided = 0;
    while tokens.len() <= reply.n_tokens && !stop_ids.contains(&tokens[tokens.len() - 1]) {
        let penalised = repetition_ids(&context, None);
        let first = tokens[tokens.len() - 1];
        let decoding = decoding(reply, first, &penalised, stop_ids);
        block_on(engine.begin_decoding(&decoding)).expect("a beginning");
        let mut n_fed = 0;
        loop {
            let at_most = reply.n_tokens + 1 - tokens.len();
            let decoded = block_on(engine.decode(at_most, &mut sampler)).expect("tokens");
            for token in decoded.tokens {
                context.push(tokens[tokens.len() - 1]);
                tokens.push(token);
                n_fed += 1;
            }
            let is_over = stop_ids.contains(&tokens[tokens.len() - 1]);
            if decoded.is_undecided || is_over || tokens.len() > reply.n_tokens {
                engine.end_decoding(n_fed).expect("an end");
                if decoded.is_undecided && tokens.len() <= reply.n_tokens {
                    n_undecided += 1;
                    let last = tokens[tokens.len() - 1];
                    context.push(last);
                    tokens.push(feed(engine, reply, &context, &[last], &mut sampler));
                }
                break;
            }
        }
    }
    (tokens, n_undecided)
}

/// Logits after some more tokens: what the KV cache and the memory come to.
fn continued(engine: &mut Engine) -> Vec<f32> {
    let call =
        Call { tokens: &[3, 1, 2], message_ids: None, sentence_ids: None, write_enabled: true };
    let wanted = Wanted { logits: WantedLogits::Last, ..Wanted::default() };
    block_on(engine.forward(&call, wanted)).expect("a call").logits
}

/// A token that comes for the first time among the first twenty but one, and where; `None` if the
/// reply says only one thing.
fn stop_in(tokens: &[u32]) -> Option<(u32, usize)> {
    let is_first = |at: &usize| !tokens[..*at].contains(&tokens[*at]);
    (1..20).rev().find(is_first).map(|at| (tokens[at], at))
}

/// Whether an end was among it.
fn check_reply(engine: &mut Engine, reply: &Reply, what: &str) -> bool {
    let (tokens, memories) = step_by_step(engine, reply);
    let expected = continued(engine);
    let (found, n_undecided) = on_device(engine, reply, &[]);
    assert_eq!(found, tokens, "{what}");
    assert_eq!(memory(engine), memories[reply.n_tokens], "{what}");
    assert_eq!(continued(engine), expected, "{what}");
    assert!(n_undecided < reply.n_tokens / 4, "{what}: {n_undecided} undecided");

    // nothing is written behind the end of a reply
    let Some((stop, at)) = stop_in(&tokens) else { return false };
    let (found, _) = on_device(engine, reply, &[stop, u32::MAX - 7]);
    assert_eq!(found, tokens[..=at], "{what}, until {stop}");
    assert_eq!(memory(engine), memories[at], "{what}, until {stop}");
    let n_past = engine.n_past();
    assert_eq!(n_past, prompt(engine).len() + at);
    let until_stop = continued(engine);
    let short = Reply { n_tokens: at, ..reply.clone() };
    step_by_step(engine, &short);
    assert_eq!(continued(engine), until_stop, "{what}, until {stop}");
    true
}

#[test]
fn greedy_replies_are_those_of_single_calls() {
    let Some(gpu) = gpu(false) else { return };
    // tokens, four heads, messages with everything unusual, sentences, a bare backbone
    let names = [
        "k_qwen3_tsw",
        "c_msw4",
        "i10_kitchen_sink",
        "s3_session_sentence_smollm3",
        "k_qwen3_base",
    ];
    let mut n_ended = 0;
    for folder in fixtures(|name| names.contains(&name)) {
        let fixture = Fixture::open(&folder).expect("a fixture");
        for gpu in [Some(gpu.clone()), None] {
            let what = format!("{} with a device: {}", fixture.case.name, gpu.is_some());
            let (config, tensors) = (&fixture.config, fixture.weights.as_ref());
            let mut engine = engine(gpu, config, tensors, fixture.adapter.as_ref());
            let greedy = Reply::greedy(Some((1, 4)));
            let damped = SamplingOptions { repetition_penalty: 3.0, ..SamplingOptions::default() };
            for reply in [
                Reply { sampling: damped, ids: None, ..greedy.clone() },
                Reply { write_enabled: false, ..greedy.clone() },
                greedy,
            ] {
                n_ended += usize::from(check_reply(&mut engine, &reply, &what));
            }
        }
    }
    assert!(n_ended > 20, "only {n_ended} replies had an end");
}

#[test]
fn tokens_that_were_fed_in_vain_are_taken_back() {
    let Some(gpu) = gpu(false) else { return };
    for mut engine in [noise_engine(Some(gpu)), noise_engine(None)] {
        let reply = Reply::greedy(Some((1, 1)));
        let (tokens, memories) = step_by_step(&mut engine, &reply);
        for n_batches in 1..6 {
            // the one before the last batch, all its tokens
            for n_back in 0.. {
                let mut sampler = Sampler::new(reply.sampling.clone()).expect("a sampler");
                let first = begin(&mut engine, &reply, &mut sampler);
                let decoding = decoding(&reply, first, &[], &[]);
                block_on(engine.begin_decoding(&decoding)).expect("a beginning");
                let (mut found, mut n_last) = (vec![first], 0);
                for _ in 0..n_batches {
                    let at_most = REPLY + 1 - found.len();
                    let decoded = block_on(engine.decode(at_most, &mut sampler)).expect("tokens");
                    n_last = decoded.tokens.len();
                    found.extend(decoded.tokens);
                }
                assert_eq!(found, tokens[..found.len()]);
                let n_fed = found.len() - 1;
                if n_back > n_fed.min(n_last + 1) {
                    break;
                }
                let n_kept = n_fed - n_back;
                engine.end_decoding(n_kept).expect("an end");
                assert_eq!(memory(&engine), memories[n_kept], "{n_back} of {n_fed} back");
                assert_eq!(engine.n_past(), prompt(&engine).len() + n_kept);
                // the cache, too: the same goes on from here
                let next = feed(&mut engine, &reply, &[], &[tokens[n_kept]], &mut sampler);
                assert_eq!(next, tokens[n_kept + 1], "{n_back} of {n_fed} back");
                assert_eq!(memory(&engine), memories[n_kept + 1]);
            }
        }
    }
}

#[test]
fn whatever_else_is_asked_ends_decoding_with_what_was_handed_out() {
    let Some(gpu) = gpu(false) else { return };
    for mut engine in [noise_engine(Some(gpu)), noise_engine(None)] {
        let reply = Reply::greedy(None);
        let (tokens, memories) = step_by_step(&mut engine, &reply);
        let mut sampler = Sampler::new(reply.sampling.clone()).expect("a sampler");
        assert_eq!(block_on(engine.decode(1, &mut sampler)).unwrap_err().code(), "setting");
        let first = begin(&mut engine, &reply, &mut sampler);
        let sampling = SamplingOptions { repetition_penalty: 1.5, ..reply.sampling.clone() };
        let damped = Reply { sampling, ..reply.clone() };
        for bad in [decoding(&reply, u32::MAX, &[], &[]), decoding(&damped, 0, &[u32::MAX], &[])] {
            let refused = block_on(engine.begin_decoding(&bad)).unwrap_err();
            assert_eq!(refused.code(), "token_out_of_range");
        }
        block_on(engine.begin_decoding(&decoding(&reply, first, &[], &[]))).expect("a beginning");
        let mut n_fed = 0;
        while n_fed < 5 {
            n_fed += block_on(engine.decode(REPLY, &mut sampler)).expect("tokens").tokens.len();
        }
        assert_eq!(engine.end_decoding(REPLY + 1).unwrap_err().code(), "setting");
        assert_eq!(engine.n_past(), prompt(&engine).len() + n_fed);
        let next = feed(&mut engine, &reply, &[], &[tokens[n_fed]], &mut sampler);
        assert_eq!((next, memory(&engine)), (tokens[n_fed + 1], memories[n_fed + 1].clone()));
        assert_eq!(block_on(engine.decode(1, &mut sampler)).unwrap_err().code(), "setting");
        // up to the end of the window and no further
        let zeros = MemoryState::zeros(engine.memory_dims().clone());
        engine.write_memory(&zeros).expect("its own dimensions");
        block_on(engine.begin_decoding(&decoding(&reply, first, &[], &[]))).expect("a beginning");
        let before = engine.n_past();
        let refused = loop {
            match block_on(engine.decode(1000, &mut sampler)) {
                Ok(decoded) => assert!(!decoded.tokens.is_empty()),
                Err(e) => break e,
            }
        };
        assert_eq!(refused.code(), "context_full");
        assert_eq!(engine.n_past(), WINDOW);
        engine.end_decoding(WINDOW - before).expect("an end");
        let full = decoding(&reply, first, &[], &[]);
        assert_eq!(block_on(engine.begin_decoding(&full)).unwrap_err().code(), "context_full");
    }
}

#[test]
fn a_seed_gives_the_tokens_that_the_host_would_pick() {
    let Some(gpu) = gpu(false) else { return };
    let sampling = |temperature, top_k, top_p, min_p, repetition_penalty, seed| SamplingOptions {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
    };
    let all = [
        sampling(0.0, 0, 1.0, 0.0, 1.3, 0),
        sampling(0.7, 20, 1.0, 0.0, 1.0, 1),
        sampling(1.0, 0, 0.8, 0.0, 1.0, 2),
        sampling(0.6, 40, 0.95, 0.05, 1.1, 3),
        sampling(0.3, 0, 1.0, 0.1, 1.0, 4),
        sampling(1.2, 255, 0.9, 0.0, 2.0, 5),
        sampling(0.2, 0, 1.0, 0.0, 1.0, 6),
    ];
    let mut engines = [noise_engine(Some(gpu)), noise_engine(None)];
    for engine in &mut engines {
        let mut replies = Vec::new();
        for sampling in &all {
            let reply = Reply { sampling: sampling.clone(), ..Reply::greedy(Some((1, 1))) };
            let (tokens, memories) = step_by_step(engine, &reply);
            let (found, n_undecided) = on_device(engine, &reply, &[]);
            assert_eq!(found, tokens, "{sampling:?}");
            assert_eq!(memory(engine), memories[REPLY], "{sampling:?}");
            println!("{n_undecided} of {REPLY} undecided: {sampling:?}");
            let (stop, at) = stop_in(&tokens).expect("a reply of several tokens");
            assert_eq!(on_device(engine, &reply, &[stop]).0, tokens[..=at], "{sampling:?}");
            assert_eq!(memory(engine), memories[at], "{sampling:?}");
            replies.push(tokens);
        }
        replies.dedup();
        assert_eq!(replies.len(), all.len(), "settings that make no difference test nothing");
    }
}

/// What steady decoding takes.
#[test]
fn a_token_takes_few_submits_and_makes_nothing() {
    let Some(gpu) = gpu(false) else { return };
    let mut engine = noise_engine(Some(gpu.clone()));
    let drawn = SamplingOptions { temperature: 0.5, top_k: 20, ..SamplingOptions::default() };
    let damped = SamplingOptions { repetition_penalty: 1.2, ..drawn.clone() };
    for sampling in [SamplingOptions::default(), drawn, damped] {
        let reply = Reply { sampling, ..Reply::greedy(Some((1, 1))) };
        let mut sampler = Sampler::new(reply.sampling.clone()).expect("a sampler");
        let first = begin(&mut engine, &reply, &mut sampler);
        let decoding = decoding(&reply, first, &[], &[]);
        block_on(engine.begin_decoding(&decoding)).expect("a beginning");
        let mut n_tokens = 0;
        let mut next = |engine: &mut Engine| {
            let decoded = block_on(engine.decode(1000, &mut sampler)).expect("tokens");
            n_tokens += decoded.tokens.len();
            decoded.tokens.len()
        };
        while next(&mut engine) < 16 {}
        let before = gpu.counters();
        let mut n = 0;
        while n < 48 {
            n += next(&mut engine);
        }
        let after = gpu.counters();
        let a_token = |count: u64| count as f64 / n as f64;
        assert!(a_token(after.submits - before.submits) <= 0.25, "{before:?} {after:?}");
        assert!(after.dispatches > before.dispatches);
        assert_eq!(after.bind_groups_created, before.bind_groups_created);
        assert_eq!(after.buffers_created, before.buffers_created);
        assert!(
            a_token(after.bytes_read_back - before.bytes_read_back) <= 64.0,
            "{before:?} {after:?}"
        );
        assert!(a_token(after.bytes_uploaded - before.bytes_uploaded) <= 16.0);
        engine.end_decoding(n_tokens).expect("an end");
    }
    assert!(BATCH_TIME < LONG);
}
