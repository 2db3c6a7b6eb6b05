//! Conversations on a model of noise, on the GPU and on the CPU twin: parked ones go on bit by bit,
//! and both say the same about the memory's part in a reply. The built-in model agrees on both, too.

mod common;

use common::{gpu, noise_with};
use deltamem::chat::{CivilDate, Message, Role};
use deltamem::engine::Gauge;
use deltamem::loaded::{Device, LoadedModel, built_in};
use deltamem::memory::MemoryState;
use deltamem::model::LoadOptions;
use deltamem::model_folder::{Adapter, ModelFolder};
use deltamem::prefix_folder::PrefixFolder;
use deltamem::replay::relative_error;
use deltamem::sampler::SamplingOptions;
use deltamem::session::{Overflow, Session, SessionOptions, Turn, TurnOptions};
use deltamem::shader::Storage;
use pollster::block_on;
use std::ops::ControlFlow;

fn session(device: &Device, storage: Storage, delta_heads: &str) -> Session {
    session_with(device, storage, ("\"o\"", delta_heads), 512)
}

/// With a part of the adapter's configuration replaced.
fn session_with(
    device: &Device,
    storage: Storage,
    (from, to): (&str, &str),
    context_window: usize,
) -> Session {
    load(noise_with(from, to), device, storage, context_window)
}

fn load(
    (folder, adapter): (ModelFolder, Adapter),
    device: &Device,
    storage: Storage,
    context_window: usize,
) -> Session {
    let options = LoadOptions {
        weights: Storage::F32,
        kv: storage,
        context_window: Some(context_window),
        ..LoadOptions::default()
    };
    let progress = &mut |_, _| {};
    let load = LoadedModel::load(&folder, Some(&adapter), device, &options, progress);
    let mut model = block_on(load).expect("a model");
    // replies then have the length that is asked for
    model.eos_token_ids.clear();
    let options = SessionOptions {
        system: None,
        enable_thinking: None,
        date: CivilDate::from_unix_seconds(0),
    };
    block_on(Session::new(model, options)).expect("a session")
}

fn say(session: &mut Session, text: &str) -> Turn {
    let options = TurnOptions {
        sampling: SamplingOptions::default(),
        max_new_tokens: 6,
        gauges: true,
        ..session.default_turn_options()
    };
    block_on(session.ask(text, &options, &mut |_| ControlFlow::Continue(()))).expect("a turn")
}

fn state(session: &Session) -> MemoryState {
    block_on(session.model().engine.read_memory()).expect("a memory")
}

#[test]
fn conversations_that_take_turns_are_those_that_run_alone() {
    let Some(gpu) = gpu(false) else { return };
    for (device, storage) in [
        (Device::Cpu, Storage::F32),
        (Device::Gpu(gpu.clone()), Storage::F32),
        (Device::Gpu(gpu), Storage::F16),
    ] {
        // the texts of two conversations, each first alone
        let texts = [["I live in Lisbon.", "Where?"], ["I have a cat.", "What is it called?"]];
        let mut s = session(&device, storage, "\"o\"");
        let empty = block_on(s.park()).expect("a conversation");
        let mut alone = Vec::new();
        for texts in texts {
            let ids = texts.map(|text| say(&mut s, text).generated_ids);
            alone.push((ids, state(&s), block_on(s.model().engine.last_logits())));
            block_on(s.new_context()).expect("a context");
            block_on(s.forget()).expect("an empty memory");
        }
        s.adopt(empty).expect("its own conversation");
        assert_eq!(state(&s).norm(), 0.0);
        let empty = block_on(s.park()).expect("a conversation");
        let first = say(&mut s, texts[0][0]).generated_ids;
        let parked = block_on(s.park()).expect("a conversation");
        s.adopt(empty).expect("its own conversation");
        let second = say(&mut s, texts[1][0]).generated_ids;
        let other = block_on(s.park()).expect("a conversation");
        for (conversation, parked) in [parked, other].into_iter().enumerate() {
            s.adopt(parked).expect("its own conversation");
            let (ids, memory, logits) = &alone[conversation];
            assert_eq!([&first, &second][conversation], &ids[0]);
            assert_eq!(say(&mut s, texts[conversation][1]).generated_ids, ids[1]);
            assert_eq!(&state(&s), memory);
            let found = block_on(s.model().engine.last_logits()).expect("logits");
            assert_eq!(&found, logits.as_ref().expect("logits"));
        }
        let foreign = block_on(session(&device, storage, "\"o\"").park()).expect("a conversation");
        let tokens = s.processed_tokens().len();
        assert_eq!(s.adopt(foreign).unwrap_err().code(), "setting");
        assert_eq!(s.model().engine.n_past(), tokens);
    }
}

#[test]
fn full_windows_and_written_texts_agree_between_gpu_and_twin() {
    let Some(gpu) = gpu(false) else { return };
    for mode in ["\"token\"", "\"message_mean\"", "\"sentence_mean\""] {
        let run = |device: Device| {
            let mut s = session_with(&device, Storage::F32, ("\"token\"", mode), 160);
            let options = TurnOptions {
                sampling: SamplingOptions::default(),
                max_new_tokens: 4,
                overflow: Overflow::Evict,
                ..s.default_turn_options()
            };
            let (mut n_evicted, mut states) = (0, Vec::new());
            for n in 0..4 {
                let messages = [Role::User, Role::Assistant]
                    .map(|role| Message::new(role, format!("{n} is a number. It is whole.")));
                let appended = block_on(s.append(messages.into(), &options)).expect("messages");
                n_evicted += appended.evicted_messages;
                states.push(state(&s));
            }
            let text = "Ada has a cat. It is called Byron! ".repeat(12);
            let n_written = block_on(s.write_text(&text)).expect("a text");
            states.push(state(&s));
            let ask = "What is it called?";
            let turn = block_on(s.ask(ask, &options, &mut |_| ControlFlow::Continue(())));
            let turn = turn.expect("a turn");
            n_evicted += turn.evicted_messages;
            (n_evicted, n_written, s.processed_tokens().to_vec(), *s.counters(), states)
        };
        let (found, expected) = (run(Device::Gpu(gpu.clone())), run(Device::Cpu));
        assert!(expected.0 >= 2, "nothing left the window");
        assert_eq!(
            (found.0, found.1, found.2, found.3),
            (expected.0, expected.1, expected.2, expected.3)
        );
        for (found, expected) in found.4.iter().zip(&expected.4) {
            let error = relative_error(&found.values, &expected.values);
            assert!(error < 1e-4, "{mode}: {error}");
        }
    }
}

#[test]
fn gauges_agree_between_gpu_and_twin() {
    let Some(gpu) = gpu(false) else { return };
    for heads in ["\"o\"", "\"k\""] {
        let gauges = |device: Device| -> Vec<Gauge> {
            let mut s = session(&device, Storage::F32, heads);
            let n = s.model().engine.config().n_layers;
            // the second prompt is read in several chunks
            let texts = ["I live in Lisbon.".into(), "word ".repeat(90), "Where?".into()];
            let gauges = texts.map(|text: String| say(&mut s, &text).gauges.expect("gauges"));
            assert!(gauges.iter().all(|gauges| gauges.len() == n));
            gauges.concat()
        };
        let (found, expected) = (gauges(Device::Gpu(gpu.clone())), gauges(Device::Cpu));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.layer, expected.layer);
            assert!((found.beta - expected.beta).abs() < 1e-4, "{found:?} {expected:?}");
            assert!(found.beta > 0.0 && found.beta < 1.0);
            match (found.output_ratio, expected.output_ratio) {
                (Some(found), Some(expected)) => {
                    assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
                    assert!(expected > 0.0);
                    assert_eq!(heads, "\"o\"");
                }
                (found, expected) => {
                    assert_eq!((found, expected, heads), (None, None, "\"k\""));
                }
            }
        }
    }
    let mut s = session(&Device::Cpu, Storage::F32, "\"o\"");
    let options = s.default_turn_options();
    let turn = block_on(s.ask("Hello.", &options, &mut |_| ControlFlow::Continue(())));
    assert_eq!(turn.expect("a turn").gauges, None);
    assert_eq!(block_on(s.model().engine.last_gauges()).unwrap_err().code(), "setting");
}

/// However a reply ends, a session is where it would be if no token had been fed ahead.
#[test]
fn replies_that_are_cut_leave_no_trace_of_what_was_fed_ahead() {
    let Some(gpu) = gpu(false) else { return };
    for mode in ["\"token\"", "\"message_mean\""] {
        let [mut found, mut expected] = [Device::Gpu(gpu.clone()), Device::Cpu]
            .map(|device| session_with(&device, Storage::F32, ("\"token\"", mode), 512));
        let plain = TurnOptions {
            sampling: SamplingOptions::default(),
            max_new_tokens: 40,
            ..found.default_turn_options()
        };
        let drawn =
            SamplingOptions { temperature: 0.7, top_k: 30, seed: 5, ..plain.sampling.clone() };
        let whole = block_on(expected.ask("Hello.", &plain, &mut |_| ControlFlow::Continue(())));
        let whole = whole.expect("a turn");
        assert!(block_on(expected.undo_turn()).expect("no error"));
        let text = whole.answer;
        let stop: String = text.chars().skip(text.chars().count() / 2).take(3).collect();
        for (options, n_pieces) in [
            (plain.clone(), usize::MAX),
            (TurnOptions { stop: vec![stop], ..plain.clone() }, usize::MAX),
            (TurnOptions { gauges: true, ..plain.clone() }, 7),
            (TurnOptions { max_new_tokens: 1, ..plain.clone() }, usize::MAX),
            (TurnOptions { sampling: drawn.clone(), gauges: true, ..plain.clone() }, usize::MAX),
            (TurnOptions { write_enabled: false, sampling: drawn, ..plain.clone() }, 5),
        ] {
            let turns = [&mut found, &mut expected].map(|s| {
                let mut n = 0;
                let mut on_piece = |_: &_| {
                    n += 1;
                    if n < n_pieces { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                };
                let turn = block_on(s.ask("Hello.", &options, &mut on_piece)).expect("a turn");
                let n_tokens = s.processed_tokens().len();
                assert_eq!(s.model().engine.n_past(), n_tokens);
                assert_eq!(s.memory_at(n_tokens), Some(&state(s)));
                (turn.generated_ids, turn.stop_reason, turn.answer, *s.counters(), n_tokens)
            });
            assert_eq!(turns[0], turns[1], "{mode} {options:?}");
            let error = relative_error(&state(&found).values, &state(&expected).values);
            assert!(error < 1e-4, "{mode} {options:?}: {error}");
            // and on from there
            let said = [&mut found, &mut expected].map(|s| say(s, "Go on."));
            assert_eq!(said[0].generated_ids, said[1].generated_ids);
            for s in [&mut found, &mut expected] {
                for _ in 0..2 {
                    assert!(block_on(s.undo_turn()).expect("no error"));
                }
            }
        }
    }
}

#[test]
fn the_built_in_model_is_the_same_on_gpu_and_twin() {
    let Some(gpu) = gpu(false) else { return };
    let run = |device: Device| {
        let model = built_in().expect("the built-in model");
        let mut s = load(model, &device, Storage::F32, 512);
        block_on(s.write_text("My name is Ada and I live in Lisbon.")).expect("a text");
        let logits = block_on(s.probe("Where do I live?")).expect("logits");
        (state(&s).values, logits)
    };
    let (found, expected) = (run(Device::Gpu(gpu)), run(Device::Cpu));
    assert!(relative_error(&found.0, &expected.0) < 1e-4, "states");
    assert!(relative_error(&found.1, &expected.1) < 1e-4, "logits");
}

/// Begins a conversation with a memory and a long system message, and answers.
fn begin(session: &mut Session, memory: &MemoryState, text: &str) -> Turn {
    let mut file = block_on(session.memory(0)).expect("a memory");
    file.state = memory.clone();
    block_on(session.set_memory(&file)).expect("a memory");
    block_on(session.begin(Vec::new(), CivilDate::from_unix_seconds(0))).expect("a beginning");
    let system = "Be kind, be brief, and never speak of the weather. ".repeat(6);
    let history = vec![Message::new(Role::System, system), Message::new(Role::User, text)];
    let options = TurnOptions { max_new_tokens: 3, ..session.default_turn_options() };
    block_on(session.turn_from(history, &options, &mut |_| ControlFlow::Continue(())))
        .expect("a turn")
}

#[test]
fn a_kept_beginning_gives_the_very_numbers_on_the_gpu() {
    let Some(gpu) = gpu(false) else { return };
    let device = Device::Gpu(gpu);
    for storage in [Storage::F32, Storage::F16] {
        let mut plain = session(&device, storage, "\"o\"");
        let mut keeping = session(&device, storage, "\"o\"");
        keeping.keep_prefixes(1);
        let empty = state(&plain);
        for (text, is_kept) in [("Hello there.", false), ("Who plays the violin?", true)] {
            let (expected, found) =
                (begin(&mut plain, &empty, text), begin(&mut keeping, &empty, text));
            assert_eq!(
                (found.prompt.prefix_tokens > 0, expected.prompt.prefix_tokens),
                (is_kept, 0)
            );
            assert_eq!(found.generated_ids, expected.generated_ids);
            let bits =
                |s: &Session| -> Vec<u32> { state(s).values.iter().map(|x| x.to_bits()).collect() };
            assert_eq!(bits(&keeping), bits(&plain), "{text}");
        }
        let changed = state(&plain);
        assert_eq!(begin(&mut keeping, &changed, "Hello there.").prompt.prefix_tokens, 0);
    }
}

#[test]
fn a_beginning_from_a_file_gives_the_very_numbers_on_the_gpu() {
    let Some(gpu) = gpu(false) else { return };
    let device = Device::Gpu(gpu);
    let folder = tempfile::tempdir().expect("a folder");
    let bits = |s: &Session| -> Vec<u32> { state(s).values.iter().map(|x| x.to_bits()).collect() };
    let cache = |s: &Session| -> Vec<[Vec<u8>; 2]> {
        let engine = &s.model().engine;
        let layers = 0..engine.config().n_layers;
        layers.map(|layer| block_on(engine.read_kv(layer, engine.n_past())).expect("kv")).collect()
    };
    let stored = |device: &Device, storage: Storage| {
        let mut s = session(device, storage, "\"o\"");
        let fail = Box::new(|problem: &str| panic!("{problem}"));
        let store = PrefixFolder::open(folder.path(), 1 << 30, fail).expect("a folder");
        block_on(s.store_prefixes(Box::new(store))).expect("a device");
        s
    };
    for storage in [Storage::F32, Storage::F16, Storage::Q8] {
        let mut plain = session(&device, storage, "\"o\"");
        let empty = state(&plain);
        for (text, is_kept) in [("Hello there.", false), ("Who plays the violin?", true)] {
            // a model loaded anew each time, as in another process
            let mut stored = stored(&device, storage);
            let expected = begin(&mut plain, &empty, text);
            let found = begin(&mut stored, &empty, text);
            assert_eq!(found.prompt.prefix_tokens > 0, is_kept, "{storage:?} {text}");
            assert_eq!(found.generated_ids, expected.generated_ids, "{storage:?} {text}");
            assert_eq!(bits(&stored), bits(&plain), "{storage:?} {text}");
            assert!(cache(&stored) == cache(&plain), "{storage:?} {text}");
        }
        // its numbers are not the twin's, nor the twin's its own
        let mut twin = stored(&Device::Cpu, storage);
        assert_eq!(begin(&mut twin, &empty, "Hello there.").prompt.prefix_tokens, 0);
        let mut again = stored(&Device::Cpu, storage);
        assert!(begin(&mut again, &empty, "Hello there.").prompt.prefix_tokens > 0);
    }
}

#[test]
fn an_endless_conversation_takes_no_more_of_the_device() {
    let Some(gpu) = gpu(false) else { return };
    let mut s = session_with(&Device::Gpu(gpu.clone()), Storage::F16, ("", ""), 160);
    let options =
        TurnOptions { max_new_tokens: 8, overflow: Overflow::Evict, ..s.default_turn_options() };
    let mut turns = |n: usize| {
        let mut evicted = 0;
        for i in 0..n {
            let text = format!("The {i}th day was long, and nothing of it is worth a word.");
            let turn = block_on(s.ask(&text, &options, &mut |_| ControlFlow::Continue(())));
            evicted += turn.expect("a turn").evicted_messages;
        }
        block_on(gpu.finished()).expect("the device");
        let report = gpu.device.generate_allocator_report().expect("an allocator that counts");
        (evicted, report.total_allocated_bytes)
    };
    // what is made when it is first wanted is there after the first of them have left
    let (evicted, before) = turns(12);
    assert!(evicted > 0);
    let (evicted, after) = turns(40);
    assert!(evicted >= 60, "{evicted}");
    // up to three small buffers for reading back are kept, as many as were used at once
    assert!(after.abs_diff(before) <= 3 * 4096, "{before} bytes on the device, then {after}");
}
