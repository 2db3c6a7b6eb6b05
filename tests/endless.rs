//! Conversations without end on the host: once the window is full and what left it is known by digests,
//! the bytes that a session holds stop growing. Counted by the allocator itself, so nothing that grows is
//! overlooked; hence one test in a program of its own. The device's bytes are `conversations.rs`'s.

mod common;

use deltamem::chat::{CivilDate, Message, Role};
use deltamem::loaded::{Device, LoadedModel};
use deltamem::model::LoadOptions;
use deltamem::sampler::SamplingOptions;
use deltamem::session::{Overflow, Session, SessionOptions, TurnOptions};
use deltamem::shader::Storage;
use peak_alloc::PeakAlloc;
use pollster::block_on;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Turns until all that is bounded has reached its bound: digests of 64 messages are kept.
const N_BEFORE: usize = 40;
/// Turns that are measured at the beginning and at the end, because messages differ in length.
const N_MEASURED: usize = 10;
/// Turns that must not make a difference.
const N_TURNS: usize = 40;

fn session(device: &Device) -> Session {
    let (folder, adapter) = common::noise_model();
    let options = LoadOptions {
        weights: Storage::F32,
        kv: Storage::F32,
        context_window: Some(160),
        ..LoadOptions::default()
    };
    let progress = &mut |_, _| {};
    let load = LoadedModel::load(&folder, Some(&adapter), device, &options, progress);
    let mut model = block_on(load).expect("a model");
    // replies then have the length that is asked for
    model.eos_token_ids.clear();
    let options = SessionOptions {
        system: Some("Brief. /system_override".into()),
        enable_thinking: None,
        date: CivilDate::from_unix_seconds(0),
    };
    block_on(Session::new(model, options)).expect("a session")
}

/// What a stateless caller has of the conversation. On disk, for it grows.
struct History(std::fs::File);

impl History {
    fn push(&mut self, message: &Message) {
        let line = serde_json::to_string(message).expect("JSON");
        writeln!(self.0, "{line}").expect("a disk");
    }

    fn read(&mut self) -> Vec<Message> {
        use std::io::{Seek, SeekFrom};
        self.0.seek(SeekFrom::Start(0)).expect("a file");
        let lines = BufReader::new(&self.0).lines().map(|line| line.expect("a line"));
        lines.map(|line| serde_json::from_str(&line).expect("a message")).collect()
    }
}

#[test]
fn an_endless_conversation_takes_no_more_of_the_host() {
    let Some(gpu) = common::gpu(false) else { return };
    let mut s = session(&Device::Gpu(gpu));
    let options = TurnOptions {
        sampling: SamplingOptions::default(),
        max_new_tokens: 8,
        overflow: Overflow::Evict,
        ..s.default_turn_options()
    };
    let mut history = History(tempfile::tempfile().expect("a file"));
    s.messages().iter().for_each(|message| history.push(message));
    let mut n_evicted = 0;
    let (mut early, mut late) = (0, 0);
    for n in 0..N_BEFORE + N_TURNS {
        let text = format!("The {}th day was long, and nothing of it is worth a word.", 1000 + n);
        history.push(&Message::new(Role::User, text));
        let n_written = s.counters().tokens_written;
        let on_piece = &mut |_: &_| ControlFlow::Continue(());
        let turn = block_on(s.turn_from(history.read(), &options, on_piece)).expect("a turn");
        history.push(&Message::new(Role::Assistant, turn.answer.trim()));
        n_evicted += turn.evicted_messages;
        // all of it is recognised, and nothing written twice
        assert_eq!(turn.prompt.rollback, None, "turn {n}");
        let n_new = s.counters().tokens_written - n_written;
        assert!(n_new < 80, "{n_new} tokens were written in turn {n}");
        drop(turn);
        let held = HEAP.current_usage();
        if (N_BEFORE..N_BEFORE + N_MEASURED).contains(&n) {
            early = early.max(held);
        } else if n >= N_BEFORE + N_TURNS - N_MEASURED {
            late = late.max(held);
        }
    }
    assert!(n_evicted > N_BEFORE + N_TURNS, "{n_evicted} messages left");
    println!("{early} bytes on the host, then {late}");
    // Replies are random, so those in the window may be some letters longer late: 812 bytes were seen. What
    // was kept of a turn once, its messages and how the reply was reported, took about 600 bytes: 24,000 in
    // these turns, six times this.
    let slack = 4096;
    assert!(late <= early + slack, "{early} bytes on the host, then {late}");
}
