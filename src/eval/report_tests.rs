//! Scores of replies made up by hand.

use super::*;
use crate::eval::recall::Controls;
use serde_json::json;

fn case(group: Group, n_facts: usize, n_unrelated: usize) -> NanoCase {
    NanoCase {
        case: Case {
            sessions: vec![vec!["I live in Porto.".into()]],
            question: "Where do I live?".into(),
            answers: vec!["Porto".into()],
            line: 1,
        },
        group,
        n_facts,
        n_unrelated,
        old: (group == Group::Correction).then(|| "Lisbon".into()),
        kind: Some("town".into()),
    }
}

const HIT: &str = "You live in Porto.";
const NOT: &str = "You have NOT told me where you live.";

fn replies(memory_on: &str) -> NanoReplies {
    NanoReplies { memory_on: memory_on.into(), controls: None }
}

fn controlled(memory_on: &str, off: &str, in_context: &str, other: &str) -> NanoReplies {
    let controls = Controls {
        memory_off: off.into(),
        in_context: in_context.into(),
        other_profile: other.into(),
    };
    NanoReplies { memory_on: memory_on.into(), controls: Some(controls) }
}

#[test]
fn everything_is_counted_where_it_belongs() {
    use Group::{Correction, Recall, Unrelated, Untold, Values};
    let mut untold = case(Untold, 2, 0);
    untold.case.answers = vec![NOT_TOLD.into()];
    let (cases, replies): (Vec<_>, Vec<_>) = [
        (case(Recall, 1, 0), controlled(HIT, NOT, HIT, NOT)),
        (case(Recall, 1, 0), controlled(NOT, HIT, NOT, HIT)),
        (case(Recall, 2, 0), controlled(HIT, NOT, HIT, "You live in Lisbon.")),
        (case(Unrelated, 2, 16), replies(HIT)),
        (case(Unrelated, 2, 16), replies(NOT)),
        (case(Unrelated, 2, 64), replies(NOT)),
        (case(Correction, 1, 0), replies(HIT)),
        (case(Correction, 1, 0), replies("You live in Lisbon, no, in Porto.")),
        (untold.clone(), replies(NOT)),
        (untold, replies(HIT)),
        (case(Values, 1, 0), replies(HIT)),
    ]
    .into_iter()
    .unzip();
    let report = NanoReport::new(&cases, &replies);
    let row = |on, off, context| json!({ "memory_on": on, "memory_off_says_not_told": off, "in_context": context });
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({
            "recall": { "1": row(0.5, 0.5, 0.5), "2": row(1.0, 1.0, 1.0) },
            "after_unrelated": { "0": 1.0, "16": 0.5, "64": 0.0 },
            "correction": 0.5,
            "untold": 0.5,
            "leak": 1,
            "values_never_written": 1.0,
            "n": {
                "recall": { "1": 2, "2": 1 },
                "after_unrelated": { "0": 1, "16": 2, "64": 1 },
                "correction": 2,
                "untold": 2,
                "leak": 3,
                "values_never_written": 1,
            },
        })
    );
    let measures: Vec<&str> =
        report.misses.iter().map(|miss| miss.measure.as_deref().unwrap()).collect();
    assert_eq!(
        measures,
        [
            "recall of 1",
            "recall of 1, memory off",
            "recall of 1, in context",
            "leak",
            "after 16 turns",
            "after 64 turns",
            "correction",
            "untold",
        ]
    );
    assert_eq!(report.misses[0].reply, NOT);
}

#[test]
fn targets_are_missed_by_too_little_and_by_nothing_at_all() {
    let empty = NanoReport::new(&[], &[]);
    assert_eq!(empty.correction, None);
    let missed = empty.missed_targets();
    assert_eq!(missed.len(), 15);
    assert_eq!(missed[0], "recall of 1 fact: not measured, the target is 98.0 %");
    assert_eq!(missed[14], "leak between profiles: 0 of 0, the target is 0");

    let mut all = Vec::new();
    for n_facts in [1, 2, 4, 8] {
        all.push((case(Group::Recall, n_facts, 0), controlled(HIT, NOT, HIT, NOT)));
    }
    all.push((case(Group::Unrelated, 2, 16), replies(HIT)));
    all.push((case(Group::Correction, 1, 0), replies(HIT)));
    let score = |all: &[(NanoCase, NanoReplies)]| {
        let (cases, replies): (Vec<_>, Vec<_>) = all.iter().cloned().unzip();
        NanoReport::new(&cases, &replies).missed_targets()
    };
    assert_eq!(score(&all), Vec::<String>::new());
    // no target for these
    all.push((case(Group::Unrelated, 2, 64), replies(NOT)));
    all.push((case(Group::Values, 1, 0), replies(NOT)));
    assert_eq!(score(&all), Vec::<String>::new());
    all[3].1.controls.as_mut().unwrap().other_profile = HIT.into();
    all[4].1.memory_on = NOT.into();
    assert_eq!(
        score(&all),
        [
            "2 facts after 16 unrelated turns: 0.0 %, the target is 90.0 %",
            "leak between profiles: 1 of 4, the target is 0",
        ]
    );
}

#[test]
fn a_persons_own_cases_are_counted() {
    let case = case(Group::Recall, 1, 0).case;
    let replies = [(HIT, NOT), (NOT, NOT), (HIT, "Porto?"), (HIT, NOT)]
        .map(|(on, off)| FactReplies { memory_on: on.into(), memory_off: off.into() });
    let cases = vec![case; 4];
    let report = FactsReport::new(&cases, &replies);
    let miss = json!({ "question": "Where do I live?", "answers": ["Porto"], "reply": NOT });
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({ "recall": 0.75, "memory_off_says_not_told": 0.75, "n": 4, "misses": [miss] })
    );
}

#[test]
fn variants_have_the_names_of_the_paper() {
    let variant_of =
        |json: &str| variant(&DeltaConfig::from_json(json.as_bytes(), "test").unwrap());
    assert_eq!(variant_of(r#"{"num_state_heads": 1}"#), "tsw");
    assert_eq!(variant_of(r#"{"num_state_heads": 8}"#), "msw");
    assert_eq!(variant_of(r#"{"memory_write_granularity": "message_mean"}"#), "ssw");
    assert_eq!(variant_of(r#"{"memory_write_granularity": "sentence_mean"}"#), "ssw");
}
