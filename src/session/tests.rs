use super::checkpoint::Checkpoints;
use super::ingest::{End, TOKENS_BETWEEN_LOOKS};
use super::*;
use crate::chat::ThinkPiece;
use crate::engine::Wanted;
use crate::loaded::{Device, LoadedModel};
use crate::model::LoadOptions;
use crate::model_folder::{Adapter, ModelFolder};
use crate::sampler::SamplingOptions;
use crate::shader::Storage;
use crate::weights::{TensorInfo, TensorSource};
use pollster::block_on;
use std::ops::ControlFlow;

mod completions;
mod continued;
mod histories;
mod prefixes;
mod stored_prefixes;
mod texts;
mod windows;

fn session_with(context_window: usize, system: Option<&str>) -> Session {
    session_in("\"token\"", context_window, system)
}

/// A model whose weights are random: what it says is long and never ends by itself for long.
const NOISE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/noise");
const NOISE_DELTA_CONFIG: &str = include_str!("../../tests/noise/delta_mem_config.json");
const NOISE_DELTA_ADAPTER: &[u8] =
    include_bytes!("../../tests/noise/delta_mem_adapter.safetensors");

/// The model of noise with another write mode; its matrices have the right shapes for all.
fn session_in(mode: &str, context_window: usize, system: Option<&str>) -> Session {
    let folder = ModelFolder::open(NOISE).unwrap();
    let config = NOISE_DELTA_CONFIG.replace("\"token\"", mode);
    // four state heads of rank 2 have as many rows as one of rank 8
    let config = match mode {
        "\"token\" " => config
            .replace("\"rank\": 8", "\"rank\": 2")
            .replace("\"num_state_heads\": 1", "\"num_state_heads\": 4"),
        _ => config,
    };
    let label = "adapter.safetensors";
    let adapter =
        Adapter::from_bytes(config.as_bytes(), NOISE_DELTA_ADAPTER, label, &folder.config).unwrap();
    let options = LoadOptions {
        weights: Storage::F32,
        kv: Storage::F32,
        context_window: Some(context_window),
        ..LoadOptions::default()
    };
    let progress = &mut |_, _| {};
    let load = LoadedModel::load(&folder, Some(&adapter), &Device::Cpu, &options, progress);
    let model = block_on(load).unwrap();
    let options = SessionOptions {
        system: system.map(str::to_string),
        enable_thinking: None,
        date: CivilDate::from_unix_seconds(0),
    };
    block_on(Session::new(model, options)).unwrap()
}

/// Token, several state heads, messages, sentences.
const MODES: [&str; 4] = ["\"token\"", "\"token\" ", "\"message_mean\"", "\"sentence_mean\""];

fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

fn assistant(text: &str) -> Message {
    Message::new(Role::Assistant, text)
}

fn say_from_with(
    session: &mut Session,
    history: Vec<Message>,
    options: &TurnOptions,
) -> Result<Turn> {
    block_on(session.turn_from(history, options, &mut |_| ControlFlow::Continue(())))
}

fn say_from(session: &mut Session, history: Vec<Message>) -> Turn {
    let options = options(session);
    say_from_with(session, history, &options).unwrap()
}

fn append(session: &mut Session, messages: Vec<Message>) -> Appended {
    let options = options(session);
    block_on(session.append(messages, &options)).unwrap()
}

fn session() -> Session {
    session_with(1024, Some("Be brief."))
}

/// Greedy, a few tokens.
fn options(session: &Session) -> TurnOptions {
    TurnOptions {
        sampling: SamplingOptions::default(),
        max_new_tokens: 4,
        ..session.default_turn_options()
    }
}

fn say_with(session: &mut Session, text: &str, options: &TurnOptions) -> Result<Turn> {
    block_on(session.ask(text, options, &mut |_| ControlFlow::Continue(())))
}

fn say(session: &mut Session, text: &str) -> Turn {
    let options = options(session);
    say_with(session, text, &options).unwrap()
}

fn state(session: &Session) -> MemoryState {
    block_on(session.model.engine.read_memory()).unwrap()
}

fn close(a: &MemoryState, b: &MemoryState) -> bool {
    let scale = b.values.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.values.iter().zip(&b.values).all(|(a, b)| (a - b).abs() < 1e-5 * scale)
}

#[test]
fn a_turn_writes_and_the_next_feeds_only_what_is_new() {
    let mut s = session();
    let first = say(&mut s, "My name is Ada.");
    assert_eq!(first.prompt.prefix_tokens, 0);
    assert!(first.memory_norms.0 == 0.0 && first.memory_norms.1 > 0.0);
    assert_eq!(first.generated_ids.len(), 4);
    assert_eq!(first.stop_reason, StopReason::MaxTokens);
    let n = s.processed_tokens().len();
    let second = say(&mut s, "And yours?");
    assert_eq!(second.prompt.prev_tokens, n);
    assert_eq!(second.prompt.prefix_tokens, n);
    assert_eq!((first.prompt.rollback, second.prompt.rollback), (None, None));
    assert_eq!(s.counters().turns, 2);
    assert_eq!(s.counters().tokens_seen as usize, s.processed_tokens().len());
    assert_eq!(s.counters().writes, s.counters().tokens_seen);
    assert_eq!(s.processed_tokens().len(), s.model.engine.n_past());
}

#[test]
fn a_changed_history_goes_back_to_the_memory_before_it() {
    // a memory from an earlier conversation
    let mut s = session();
    say(&mut s, "I live in Lisbon.");
    let stored = block_on(s.memory(1)).unwrap();
    block_on(s.new_context()).unwrap();
    assert_eq!(state(&s), stored.state);

    say(&mut s, "Hello.");
    let header = s.processed_tokens().to_vec();
    s.set_enable_thinking(Some(true)); // another header: nothing but its first words is shared
    let turn = say(&mut s, "Again.");
    let rollback = turn.prompt.rollback.unwrap();
    assert_eq!(rollback.memory, RollbackMemory::Restored);
    assert!(rollback.common_tokens < header.len());
    assert_eq!(turn.prompt.prefix_tokens, 0);

    // the same history fed to a fresh model that starts from the stored memory
    let mut expected = session();
    block_on(expected.set_memory(&stored)).unwrap();
    let tokens = s.processed_tokens().to_vec();
    let ids = None;
    block_on(expected.ingest(&tokens, ids, true, false, Wanted::default())).unwrap();
    assert!(close(&state(&s), &state(&expected)));
    assert!(!close(&state(&s), &stored.state));
}

#[test]
fn a_read_only_turn_never_touches_the_memory_even_if_it_rolls_back() {
    let mut s = session();
    say(&mut s, "I live in Lisbon.");
    let (before, counters) = (state(&s), *s.counters());
    let read_only = TurnOptions { write_enabled: false, ..options(&s) };
    s.set_enable_thinking(Some(true));
    let turn = say_with(&mut s, "Where do I live?", &read_only).unwrap();
    assert_eq!(turn.prompt.rollback.unwrap().memory, RollbackMemory::Kept);
    assert_eq!(state(&s), before);
    assert_eq!(s.counters().writes, counters.writes);
    assert!(s.counters().tokens_seen > counters.tokens_seen);

    // what was read-only stays unwritten when a later turn has to feed it again
    let n_read_only = s.talk.written.iter().filter(|w| !**w).count();
    s.set_write_paused(true);
    say(&mut s, "Still?");
    assert_eq!(state(&s), before);
    s.set_write_paused(false);
    say(&mut s, "Now write.");
    assert_ne!(state(&s), before);
    assert!(s.talk.written.iter().filter(|w| !**w).count() >= n_read_only);
}

#[test]
fn undo_takes_back_messages_tokens_and_writes() {
    let mut s = session();
    assert!(!block_on(s.undo_turn()).unwrap());
    say(&mut s, "One.");
    let (memory, tokens, messages) =
        (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec());
    let counters = *s.counters();
    let second = say(&mut s, "Two.");
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!(state(&s), memory);
    assert_eq!(s.processed_tokens(), tokens);
    assert_eq!(s.messages(), messages);
    assert_eq!(*s.counters(), counters);
    let again = say(&mut s, "Two.");
    assert_eq!(again.generated_ids, second.generated_ids);
    assert!(block_on(s.undo_turn()).unwrap());
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!(state(&s).norm(), 0.0);
    assert!(!block_on(s.undo_turn()).unwrap());
}

#[test]
fn a_new_context_keeps_the_memory_and_forget_lets_nothing_come_back() {
    let mut s = session();
    say(&mut s, "I live in Lisbon.");
    let memory = state(&s);
    block_on(s.new_context()).unwrap();
    assert_eq!((state(&s), s.processed_tokens().len()), (memory, 0));
    assert_eq!(s.messages().len(), 1);
    assert_eq!(s.counters().turns, 1);

    say(&mut s, "And I have a cat.");
    block_on(s.forget()).unwrap();
    assert_eq!(state(&s).norm(), 0.0);
    assert_eq!(*s.counters(), MemoryCounters::default());
    let read_only = TurnOptions { write_enabled: false, ..options(&s) };
    s.set_enable_thinking(Some(true)); // rolls back beyond the point of forgetting
    say_with(&mut s, "Who am I?", &read_only).unwrap();
    assert_eq!(state(&s).norm(), 0.0);
    assert!(!block_on(s.undo_turn()).unwrap() || state(&s).norm() == 0.0);
}

#[test]
fn a_resumed_conversation_is_read_but_not_written_twice() {
    let mut s = session();
    say(&mut s, "I live in Lisbon.");
    let (memory, messages) = (block_on(s.memory(5)).unwrap(), s.messages().to_vec());
    let mut later = session();
    block_on(later.set_memory(&memory)).unwrap();
    let ingest = block_on(later.resume(messages.clone())).unwrap();
    assert_eq!(ingest.suffix_tokens, s.processed_tokens().len());
    assert_eq!(state(&later), memory.state);
    assert_eq!(later.messages(), messages);
    let turn = say(&mut later, "Where?");
    assert_eq!(turn.prompt.rollback, None);
    assert_eq!(later.counters().turns, 2);
    assert_eq!(block_on(later.memory(9)).unwrap().header.created_ms, 5);
}

#[test]
fn a_refused_turn_changes_nothing() {
    let mut s = session_with(160, None);
    say(&mut s, "Hello.");
    let before = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec());
    let counters = *s.counters();
    let long = "word ".repeat(200);
    for (text, code) in [(" \n", "messages"), (long.as_str(), "context_full")] {
        let options = options(&s);
        let refused = say_with(&mut s, text, &options).unwrap_err();
        assert_eq!(refused.code(), code);
    }
    let bad = TurnOptions { stop: vec![String::new()], ..options(&s) };
    assert_eq!(say_with(&mut s, "Hello.", &bad).unwrap_err().code(), "setting");
    let sampling = SamplingOptions { temperature: f32::NAN, ..SamplingOptions::default() };
    let bad = TurnOptions { sampling, ..options(&s) };
    assert_eq!(say_with(&mut s, "Hello.", &bad).unwrap_err().code(), "setting");
    assert_eq!((state(&s), s.processed_tokens().to_vec(), s.messages().to_vec()), before);
    assert_eq!(*s.counters(), counters);
}

#[test]
fn a_turn_is_cancelled_while_its_prompt_is_read_or_while_it_replies() {
    let mut s = session();
    s.model.eos_token_ids.clear();
    say(&mut s, "Hello.");
    let before = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec());
    let counters = *s.counters();
    // between turns it does nothing
    s.canceller().cancel();
    say(&mut s, "Go on.");
    assert!(block_on(s.undo_turn()).unwrap());

    // a long prompt is read in pieces, and the session looks between them
    let long = "word ".repeat(300);
    s.talk.messages.push(Message::new(Role::User, long));
    let full = s.render_tokens(true).unwrap().1;
    s.talk.messages.pop();
    assert!(full.len() > s.talk.processed.len() + 2 * TOKENS_BETWEEN_LOOKS);
    s.cancel.cancel();
    let refused = block_on(s.ingest(&full, None, true, true, Wanted::default())).unwrap_err();
    assert_eq!(refused.code(), "cancelled");
    assert_eq!((state(&s), s.processed_tokens().to_vec(), s.messages().to_vec()), before);
    assert_eq!(*s.counters(), counters);

    let (cancel, mut n_pieces) = (s.canceller(), 0);
    let long = TurnOptions { max_new_tokens: 24, ..options(&s) };
    let turn = block_on(s.ask("Hello.", &long, &mut |_: &ThinkPiece| {
        n_pieces += 1;
        cancel.cancel();
        ControlFlow::Continue(())
    }))
    .unwrap();
    assert_eq!(turn.stop_reason, StopReason::Cancelled);
    assert_eq!(n_pieces, 1);
    assert!(turn.closing.is_some());
}

#[test]
fn a_full_window_ends_the_reply_and_the_memory_survives() {
    let mut s = session_with(120, None);
    // a token that is no end: replies run until the window is full
    s.model.eos_token_ids.clear();
    let long = TurnOptions { max_new_tokens: 1000, ..options(&s) };
    let turn = say_with(&mut s, "Hello.", &long).unwrap();
    assert_eq!(turn.stop_reason, StopReason::ContextFull);
    assert!(s.processed_tokens().len() <= 120);
    let memory = state(&s);
    assert_eq!(say_with(&mut s, "More.", &long).unwrap_err().code(), "context_full");
    assert_eq!(state(&s), memory);
    block_on(s.new_context()).unwrap();
    say(&mut s, "More.");
}

#[test]
fn replies_end_at_stop_strings_ends_of_sequence_and_on_request() {
    let mut s = session();
    s.model.eos_token_ids.clear();
    let long = TurnOptions { max_new_tokens: 24, ..options(&s) };
    let whole = say_with(&mut s, "Hello.", &long).unwrap();
    let memory_after_whole = state(&s);
    block_on(s.undo_turn()).unwrap();
    let text = whole.answer.clone();
    assert!(text.chars().count() > 6, "{text:?}");
    let stop: String = text.chars().skip(3).take(3).collect();
    let at = text.find(&stop).unwrap();

    let stopped =
        say_with(&mut s, "Hello.", &TurnOptions { stop: vec![stop], ..long.clone() }).unwrap();
    assert_eq!(stopped.stop_reason, StopReason::StopString);
    assert_eq!(stopped.answer, text[..at]);
    assert_eq!(s.messages().last().unwrap().content, text[..at]);
    assert_ne!(state(&s), memory_after_whole);
    block_on(s.undo_turn()).unwrap();

    let mut n_pieces = 0;
    let cancelled = block_on(s.ask("Hello.", &long, &mut |_: &ThinkPiece| {
        n_pieces += 1;
        if n_pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }))
    .unwrap();
    assert_eq!(cancelled.stop_reason, StopReason::Cancelled);
    assert!(text.starts_with(&cancelled.answer) && cancelled.answer.len() < text.len());
    assert!(cancelled.closing.is_some());
    block_on(s.undo_turn()).unwrap();

    s.model.eos_token_ids = vec![whole.generated_ids[2]];
    let ended = say_with(&mut s, "Hello.", &long).unwrap();
    assert_eq!(ended.stop_reason, StopReason::EndOfSequence);
    let first = whole.generated_ids.iter().position(|id| *id == whole.generated_ids[2]).unwrap();
    assert_eq!(ended.generated_ids, whole.generated_ids[..first]);
}

#[test]
fn a_seed_repeats_a_reply_and_a_penalty_changes_it() {
    let sampling = SamplingOptions { temperature: 1.0, seed: 7, ..SamplingOptions::default() };
    let reply = |sampling: &SamplingOptions| {
        let mut s = session();
        s.model.eos_token_ids.clear();
        let options = TurnOptions { sampling: sampling.clone(), max_new_tokens: 16, ..options(&s) };
        say_with(&mut s, "Hello.", &options).unwrap().generated_ids
    };
    let first = reply(&sampling);
    assert_eq!(reply(&sampling), first);
    assert_ne!(reply(&SamplingOptions { seed: 8, ..sampling.clone() }), first);
    let greedy = SamplingOptions::default();
    let damped = SamplingOptions { repetition_penalty: 5.0, ..greedy.clone() };
    let (plain, damped) = (reply(&greedy), reply(&damped));
    let distinct = |ids: &[u32]| ids.iter().collect::<std::collections::HashSet<_>>().len();
    assert!(distinct(&damped) >= distinct(&plain));
    assert_ne!(plain, damped);
}

#[test]
fn a_foreign_memory_is_refused_and_a_bare_model_has_none() {
    let mut s = session();
    say(&mut s, "Hello.");
    let before = state(&s);
    let mut foreign = block_on(s.memory(1)).unwrap();
    foreign.header.identity.adapter_hash = "0".repeat(64);
    assert_eq!(block_on(s.set_memory(&foreign)).unwrap_err().code(), "memory_mismatch");
    assert_eq!(state(&s), before);
    s.model.identity = None;
    assert_eq!(block_on(s.memory(1)).unwrap_err().code(), "unsupported");
    assert_eq!(block_on(s.set_memory(&foreign)).unwrap_err().code(), "memory_mismatch");
}

#[test]
fn checkpoints_stay_bounded_and_keep_the_beginning() {
    let mut checkpoints = Checkpoints::default();
    let memory = state(&session());
    for n_tokens in 0..500 {
        checkpoints.push(Checkpoint {
            n_tokens,
            n_messages: n_tokens,
            is_turn_boundary: true,
            memory: memory.clone(),
            counters: MemoryCounters::default(),
        });
    }
    assert_eq!(checkpoints.last_at_or_before(0).unwrap().n_tokens, 0);
    assert_eq!(checkpoints.last_at_or_before(400).unwrap().n_tokens, 0);
    assert_eq!(checkpoints.last_at_or_before(480).unwrap().n_tokens, 480);
}

#[test]
fn a_probe_reads_the_memory_and_leaves_no_trace() {
    let mut s = session();
    let empty = block_on(s.probe("What is my name?")).unwrap();
    assert_eq!(empty.len(), s.model.engine.config().vocab_size);
    let mut other = session();
    for s in [&mut s, &mut other] {
        say(s, "My name is Ada.");
    }
    let (before, counters) = (state(&s), *s.counters());
    let with = block_on(s.probe("What is my name?")).unwrap();
    assert_ne!(with, empty);
    assert!(state(&s).values == before.values && *s.counters() == counters);
    // the conversation goes on as if nothing had been asked
    let [asked, not_asked] = [&mut s, &mut other].map(|s| say(s, "And yours?"));
    assert_eq!(asked.generated_ids, not_asked.generated_ids);
    assert_eq!(asked.prompt.prefix_tokens, not_asked.prompt.prefix_tokens);
    assert_eq!(state(&s).values, state(&other).values);
    let with = block_on(s.probe("What is my name?")).unwrap();
    block_on(s.new_context()).unwrap();
    assert_eq!(with, block_on(s.probe("What is my name?")).unwrap());
    // a turn that writes reads what it has just written; one that does not begins like the probe
    let read_only = TurnOptions { write_enabled: false, ..options(&s) };
    let turn = say_with(&mut s, "What is my name?", &read_only).unwrap();
    assert_eq!(turn.generated_ids[0], crate::reference::argmax(&with));
    assert_eq!(block_on(s.probe(" ")).unwrap_err().code(), "messages");
}
