//! Whole replies of a model whose weights are random, held to schemas and expressions: whatever the
//! seed, a finished reply fits, and one that was cut could have gone on to fit. On the CPU twin and
//! on a GPU.

mod common;

use common::{gpu, noise_model};
use deltamem::chat::CivilDate;
use deltamem::constraint::Constraint;
use deltamem::loaded::{Device, LoadedModel};
use deltamem::model::LoadOptions;
use deltamem::sampler::SamplingOptions;
use deltamem::session::{Session, SessionOptions, StopReason, Turn, TurnOptions};
use pollster::block_on;
use regex::Regex;
use serde_json::{Value, json};
use std::ops::ControlFlow;

fn session(device: &Device, enable_thinking: Option<bool>) -> Session {
    let (folder, adapter) = noise_model();
    let options = LoadOptions { context_window: Some(1024), ..LoadOptions::default() };
    let mut progress = |_, _| {};
    let model = LoadedModel::load(&folder, Some(&adapter), device, &options, &mut progress);
    let model = block_on(model).expect("a model");
    let date = CivilDate::from_unix_seconds(0);
    let options = SessionOptions { system: None, enable_thinking, date };
    block_on(Session::new(model, options)).expect("a session")
}

fn ask(session: &mut Session, options: &TurnOptions) -> Turn {
    let before = session.messages().len();
    let mut shown = String::new();
    let turn = block_on(session.ask("Answer. <think></think>", options, &mut |piece| {
        if let deltamem::chat::ThinkPiece::Answer(text) = piece {
            shown.push_str(text);
        }
        ControlFlow::Continue(())
    }))
    .expect("a turn");
    assert_eq!(shown, turn.answer);
    assert_eq!(session.messages().len(), before + 2);
    assert!(block_on(session.undo_turn()).expect("a turn to undo"));
    turn
}

fn sampling(temperature: f32, top_k: usize, seed: u64) -> SamplingOptions {
    SamplingOptions { temperature, top_k, seed, ..SamplingOptions::default() }
}

/// Greedy; then random over everything, over a few, over more than a GPU hands back at once.
fn samplings() -> Vec<SamplingOptions> {
    let mut all = vec![sampling(0.0, 0, 0)];
    all.extend((1..5).map(|seed| sampling(1.0, 0, seed)));
    all.extend([sampling(1.0, 3, 5), sampling(1.0, 300, 6)]);
    all.push(SamplingOptions { repetition_penalty: 1.3, top_p: 0.9, ..sampling(1.0, 40, 7) });
    all.push(SamplingOptions { repetition_penalty: 1.3, ..sampling(0.0, 0, 8) });
    all
}

type Check = fn(&str) -> bool;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn cases() -> Vec<(Constraint, Check)> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 6 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "colour": { "enum": ["red", "grün", "☃"] },
            "address": {
                "type": "object",
                "properties": { "zip": { "type": "string", "pattern": "^\\d{5}$" } },
                "required": ["zip"],
                "additionalProperties": false
            }
        },
        "required": ["name", "age", "colour", "address"],
        "additionalProperties": false
    });
    let numbers = json!({
        "type": "array",
        "items": { "type": "number", "minimum": -1, "maximum": 1 },
        "minItems": 1,
        "maxItems": 3
    });
    let regex = |pattern: &str| Constraint::Regex(pattern.into());
    vec![
        (Constraint::JsonSchema(person), |text| {
            let value = parse(text);
            let zip = value["address"]["zip"].as_str().unwrap_or_default();
            value.as_object().is_some_and(|map| map.len() == 4)
                && value["name"].as_str().is_some_and(|name| name.chars().count() <= 6)
                && value["age"].as_i64().is_some_and(|age| (0..=150).contains(&age))
                && ["red", "grün", "☃"].iter().any(|colour| value["colour"] == *colour)
                && zip.len() == 5
                && zip.bytes().all(|b| b.is_ascii_digit())
        }),
        (Constraint::JsonSchema(numbers), |text| {
            let value = parse(text);
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let fits = |x: &Value| x.as_f64().is_some_and(|x| (-1.0..=1.0).contains(&x));
            (1..=3).contains(&list.len()) && list.iter().all(fits)
        }),
        (Constraint::JsonObject, |text| parse(text).is_object()),
        (regex("yes|no"), |text| text == "yes" || text == "no"),
        (regex(r"^\d{4}-(0[1-9]|1[0-2])-[0-3]\d$"), |text| {
            Regex::new("^[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]$").expect("valid").is_match(text)
        }),
        (regex("[äöü]{2,4}!"), |text| {
            Regex::new("^[äöü]{2,4}!$").expect("valid").is_match(text)
        }),
    ]
}

/// Every token was allowed where it stands, so a reply that was cut could have gone on.
fn assert_follows(session: &Session, constraint: &Constraint, ids: &[u32]) {
    let vocabulary = session.model().constraint_vocabulary().expect("a vocabulary");
    let mut matcher = constraint.matcher(vocabulary).expect("a matcher");
    for &id in ids {
        let mask = matcher.mask().expect("a mask");
        assert_eq!(mask[id as usize / 32] >> (id % 32) & 1, 1, "token {id} of {ids:?}");
        matcher.accept(id).expect("an allowed token");
    }
}

fn check_replies(device: &Device, samplings: &[SamplingOptions]) {
    let mut session = session(device, None);
    let sequence_end = session.model().eos_token_ids.clone();
    for (constraint, fits) in cases() {
        // any JSON goes on for long when letters come by chance
        let is_bounded = constraint != Constraint::JsonObject;
        let max_new_tokens = if is_bounded { 200 } else { 40 };
        let mut n_finished = 0;
        for sampling in samplings.iter().cloned() {
            let options = TurnOptions {
                sampling,
                max_new_tokens,
                constraint: Some(constraint.clone()),
                ..session.default_turn_options()
            };
            let turn = ask(&mut session, &options);
            assert_eq!(turn.thoughts, "");
            assert_follows(&session, &constraint, &turn.generated_ids);
            assert!(!turn.generated_ids.iter().any(|id| sequence_end.contains(id)));
            match turn.stop_reason {
                StopReason::EndOfSequence => {
                    assert!(fits(&turn.answer), "{:?} for {constraint:?}", turn.answer);
                    n_finished += 1;
                }
                StopReason::MaxTokens => assert_eq!(turn.generated_ids.len(), max_new_tokens),
                other => panic!("{other:?}: {turn:?}"),
            }
        }
        assert!(n_finished > 0 || !is_bounded, "no reply to {constraint:?} was finished");
    }
}

#[test]
fn replies_of_the_cpu_twin_fit() {
    check_replies(&Device::Cpu, &samplings());
}

#[test]
fn replies_of_the_gpu_fit() {
    let Some(gpu) = gpu(false) else { return };
    // every way to pick a token, with fewer seeds
    check_replies(&Device::Gpu(gpu), &[&samplings()[..2], &samplings()[5..]].concat());
}

#[test]
fn a_cut_reply_is_a_beginning() {
    let mut session = session(&Device::Cpu, None);
    let options = |max_new_tokens| TurnOptions {
        sampling: sampling(1.0, 0, 3),
        max_new_tokens,
        constraint: Some(Constraint::Regex("[a-f]{30}".into())),
        ..session.default_turn_options()
    };
    let (short, long) = (options(3), options(60));
    let whole = ask(&mut session, &long);
    assert_eq!(whole.stop_reason, StopReason::EndOfSequence);
    assert_eq!(whole.answer.len(), 30);
    let cut = ask(&mut session, &short);
    assert_eq!((cut.stop_reason, cut.generated_ids.len()), (StopReason::MaxTokens, 3));
    assert!(whole.answer.starts_with(&cut.answer));
    // a stop string and the caller end it as ever
    let stop = TurnOptions { stop: vec![whole.answer[4..7].into()], ..long.clone() };
    let stopped = ask(&mut session, &stop);
    assert_eq!(stopped.stop_reason, StopReason::StopString);
    assert!(whole.answer.starts_with(&stopped.answer));
    // the last token that it may have is also the last that it needs
    let exact = TurnOptions { max_new_tokens: whole.generated_ids.len(), ..long };
    assert_eq!(ask(&mut session, &exact).stop_reason, StopReason::EndOfSequence);
}

#[test]
fn a_constraint_begins_behind_the_thoughts() {
    let mut session = session(&Device::Cpu, Some(true));
    let tokenizer = session.model().tokenizer.clone();
    let id = |token: &str| tokenizer.token_id(token).expect("one token");
    let (open, close) = (id("<think>"), id("</think>"));
    let constraint = Constraint::Regex("yes|no|<think>".into());
    let (mut n_thoughtful, mut n_plain) = (0, 0);
    for seed in 0..16 {
        let options = TurnOptions {
            // tokens of the prompt come more often than others, tags among them
            sampling: SamplingOptions { repetition_penalty: 0.3, ..sampling(4.0, 0, seed) },
            max_new_tokens: 200,
            constraint: Some(constraint.clone()),
            ..session.default_turn_options()
        };
        let turn = ask(&mut session, &options);
        let ids = &turn.generated_ids;
        n_thoughtful += usize::from(ids[0] == open);
        let answer = match ids.iter().position(|id| *id == close) {
            Some(at) if ids[0] == open => &ids[at + 1..],
            _ if ids[0] == open => {
                // random thoughts seldom end, and nothing else ends the reply
                assert_eq!((turn.stop_reason, turn.answer.as_str()), (StopReason::MaxTokens, ""));
                continue;
            }
            _ => {
                n_plain += 1;
                assert_eq!(turn.thoughts, "");
                &ids[..]
            }
        };
        assert_follows(&session, &constraint, answer);
        assert_eq!(turn.stop_reason, StopReason::EndOfSequence);
        assert!(["yes", "no", "<think>"].contains(&turn.answer.as_str()), "{turn:?}");
    }
    assert!(n_thoughtful > 0 && n_plain > 0, "{n_thoughtful} with thoughts, {n_plain} without");
}

#[test]
fn a_refused_constraint_changes_nothing() {
    let mut session = session(&Device::Cpu, None);
    let before = session.processed_tokens().to_vec();
    let options = TurnOptions {
        constraint: Some(Constraint::Regex("(".into())),
        ..session.default_turn_options()
    };
    let refused = block_on(session.ask("Hi.", &options, &mut |_| ControlFlow::Continue(())));
    assert_eq!(refused.expect_err("a refusal").code(), "constraint");
    assert_eq!(session.processed_tokens(), before);
    assert!(session.messages().is_empty());
}
