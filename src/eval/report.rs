//! Scores. Owns what counts as recalled, the shape of the JSON object, and which targets there are.

use super::answers::{NOT_TOLD, is_answered, is_corrected, stands_in};
use super::cases::{Case, Group, NanoCase};
use super::recall::{FactReplies, NanoReplies};
use crate::config::{DeltaConfig, WriteGranularity};
use serde::Serialize;
use std::collections::BTreeMap;

/// Which of its writing strategies an adapter uses: `tsw` writes each token, `msw` does so with
/// several states, `ssw` writes messages or sentences.
pub fn variant(config: &DeltaConfig) -> &'static str {
    match (config.write_granularity, config.num_state_heads) {
        (WriteGranularity::Token, 0..=1) => "tsw",
        (WriteGranularity::Token, _) => "msw",
        (WriteGranularity::MessageMean | WriteGranularity::SentenceMean, _) => "ssw",
    }
}

/// A share of cases, 0 to 1; `None` without cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Share {
    n_hits: usize,
    n: usize,
}

impl Share {
    fn count(&mut self, is_hit: bool) {
        self.n_hits += usize::from(is_hit);
        self.n += 1;
    }

    fn value(self) -> Option<f64> {
        (self.n > 0).then(|| self.n_hits as f64 / self.n as f64)
    }
}

/// A reply that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// What was measured; of the program's own cases only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    pub question: String,
    pub answers: Vec<String>,
    pub reply: String,
}

/// How often the model recalls a number of facts; shares of the cases, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recall {
    /// An answer stands in the reply, in an empty context.
    pub memory_on: Option<f64>,
    /// The reply says that it was not told.
    pub memory_off_says_not_told: Option<f64>,
    /// An answer stands in the reply in the session in which it was told, with the memory off.
    pub in_context: Option<f64>,
}

/// Cases behind each number of a [`NanoReport`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// By the number of facts.
    pub recall: BTreeMap<usize, usize>,
    /// By the number of turns.
    pub after_unrelated: BTreeMap<usize, usize>,
    pub correction: usize,
    pub untold: usize,
    pub leak: usize,
    pub values_never_written: usize,
}

/// What the program's own cases come to; shares of cases, 0 to 1, `None` without cases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NanoReport {
    /// By the number of facts that were told.
    pub recall: BTreeMap<usize, Recall>,
    /// Recall of two facts by the number of turns about other things in between.
    pub after_unrelated: BTreeMap<usize, Option<f64>>,
    /// The new value stands in the reply and the old one does not.
    pub correction: Option<f64>,
    /// The reply says that it was not told, which is true, though the memory holds other facts.
    pub untold: Option<f64>,
    /// Replies with a value that only another profile was told.
    pub leak: usize,
    /// Recall of values that the adapter's training never wrote.
    pub values_never_written: Option<f64>,
    pub n: Counts,
    #[serde(skip)]
    pub misses: Vec<Miss>,
}

impl NanoReport {
    /// Scores replies, one a case.
    pub fn new(cases: &[NanoCase], replies: &[NanoReplies]) -> NanoReport {
        let mut recall: BTreeMap<usize, [Share; 3]> = BTreeMap::new();
        let mut unrelated: BTreeMap<usize, Share> = BTreeMap::new();
        let (mut correction, mut untold, mut values, mut leak) = Default::default();
        let mut misses = Vec::new();
        for (case, replies) in cases.iter().zip(replies) {
            let answers = &case.case.answers;
            let mut miss = |measure: &str, reply: &str| {
                let measure = Some(measure.to_string());
                misses.push(Miss { measure, ..miss(&case.case, reply) });
            };
            let reply = &replies.memory_on;
            let is_hit = match (case.group, &case.old) {
                (Group::Correction, Some(old)) => is_corrected(answers, old, reply),
                _ => is_answered(answers, reply),
            };
            let (n_facts, n_unrelated) = (case.n_facts, case.n_unrelated);
            let measure = match case.group {
                Group::Recall => {
                    recall.entry(n_facts).or_default()[0].count(is_hit);
                    format!("recall of {n_facts}")
                }
                Group::Unrelated => {
                    unrelated.entry(n_unrelated).or_default().count(is_hit);
                    format!("after {n_unrelated} turns")
                }
                Group::Correction => {
                    Share::count(&mut correction, is_hit);
                    "correction".to_string()
                }
                Group::Untold => {
                    Share::count(&mut untold, is_hit);
                    "untold".to_string()
                }
                Group::Values => {
                    Share::count(&mut values, is_hit);
                    "values never written".to_string()
                }
            };
            if !is_hit {
                miss(&measure, reply);
            }
            let Some(controls) = &replies.controls else { continue };
            let [_, off, in_context] = recall.entry(n_facts).or_default();
            let says_not_told = stands_in(NOT_TOLD, &controls.memory_off);
            off.count(says_not_told);
            if !says_not_told {
                miss(&format!("{measure}, memory off"), &controls.memory_off);
            }
            let is_hit = is_answered(answers, &controls.in_context);
            in_context.count(is_hit);
            if !is_hit {
                miss(&format!("{measure}, in context"), &controls.in_context);
            }
            let is_leak = is_answered(answers, &controls.other_profile);
            Share::count(&mut leak, is_leak);
            if is_leak {
                miss("leak", &controls.other_profile);
            }
        }
        // no turns in between is what recall measures
        if let Some(&[two, ..]) = recall.get(&2) {
            unrelated.entry(0).or_insert(two);
        }
        let shares = |[on, off, in_context]: [Share; 3]| Recall {
            memory_on: on.value(),
            memory_off_says_not_told: off.value(),
            in_context: in_context.value(),
        };
        NanoReport {
            n: Counts {
                recall: recall.iter().map(|(&n_facts, [on, ..])| (n_facts, on.n)).collect(),
                after_unrelated: unrelated.iter().map(|(&turns, share)| (turns, share.n)).collect(),
                correction: correction.n,
                untold: untold.n,
                leak: leak.n,
                values_never_written: values.n,
            },
            recall: recall.into_iter().map(|(n_facts, row)| (n_facts, shares(row))).collect(),
            after_unrelated: unrelated.into_iter().map(|(k, share)| (k, share.value())).collect(),
            correction: correction.value(),
            untold: untold.value(),
            leak: leak.n_hits,
            values_never_written: values.value(),
            misses,
        }
    }

    /// The targets that are missed, one sentence each; what was not measured is missed too.
    pub fn missed_targets(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut check = |what: String, value: Option<f64>, least: f64| {
            if value.is_none_or(|value| value < least) {
                let found = value.map_or("not measured".into(), percent);
                missed.push(format!("{what}: {found}, the target is {}", percent(least)));
            }
        };
        for (n_facts, least) in [(1, 0.98), (2, 0.98), (4, 0.95), (8, 0.8)] {
            let row = self.recall.get(&n_facts);
            let facts = if n_facts == 1 { "1 fact".into() } else { format!("{n_facts} facts") };
            check(format!("recall of {facts}"), row.and_then(|row| row.memory_on), least);
            let off = row.and_then(|row| row.memory_off_says_not_told);
            check(format!("{facts}, memory off says so"), off, 0.99);
            check(format!("{facts} in context"), row.and_then(|row| row.in_context), 0.99);
        }
        let after_16 = self.after_unrelated.get(&16).copied().flatten();
        check("2 facts after 16 unrelated turns".into(), after_16, 0.9);
        check("correction".into(), self.correction, 0.9);
        if self.leak > 0 || self.n.leak == 0 {
            let (leak, n) = (self.leak, self.n.leak);
            missed.push(format!("leak between profiles: {leak} of {n}, the target is 0"));
        }
        missed
    }
}

/// What a person's own cases come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FactsReport {
    /// Share of the cases, 0 to 1, in whose reply an answer stands.
    pub recall: Option<f64>,
    /// Share of the same questions that are answered with not having been told, with the memory
    /// off.
    pub memory_off_says_not_told: Option<f64>,
    /// Cases.
    pub n: usize,
    /// The cases that do not count.
    pub misses: Vec<Miss>,
}

impl FactsReport {
    /// Scores replies, one a case.
    pub fn new(cases: &[Case], replies: &[FactReplies]) -> FactsReport {
        let (mut on, mut off) = (Share::default(), Share::default());
        let mut misses = Vec::new();
        for (case, replies) in cases.iter().zip(replies) {
            let is_hit = is_answered(&case.answers, &replies.memory_on);
            on.count(is_hit);
            off.count(stands_in(NOT_TOLD, &replies.memory_off));
            if !is_hit {
                misses.push(miss(case, &replies.memory_on));
            }
        }
        FactsReport { recall: on.value(), memory_off_says_not_told: off.value(), n: on.n, misses }
    }
}

fn miss(case: &Case, reply: &str) -> Miss {
    Miss {
        measure: None,
        question: case.question.clone(),
        answers: case.answers.clone(),
        reply: reply.into(),
    }
}

/// `98.5 %`
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
