//! How well a model remembers what it was told: with memory on, with memory off, in context, after
//! turns about other things, after a correction, and across profiles. Owns what is asked under which
//! conditions; the scores are `report`'s.

use super::answers::stands_in;
use super::cases::{Case, Group, NanoCase};
use super::talker::{KeptMemory, Talker};
use super::workers::{Failure, share_out};
use crate::error::Result;

/// What came of one of the program's own cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NanoReplies {
    /// To the question, in an empty context.
    pub memory_on: String,
    /// The other conditions; only of [`Group::Recall`].
    pub controls: Option<Controls>,
}

/// Replies to a question under conditions that memory is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controls {
    pub memory_off: String,
    /// In the session in which everything was told, with the memory off.
    pub in_context: String,
    /// With the memory of somebody who was not told what is asked for.
    pub other_profile: String,
}

/// What came of a person's own case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactReplies {
    pub memory_on: String,
    pub memory_off: String,
}

/// Runs a person's own cases; `progress` is called with the turns done since its last call, of
/// [`fact_turns`] in all.
///
/// # Errors
/// A [`Failure`] with the index of the case.
pub fn run_facts(
    talkers: &mut [Talker],
    cases: &[Case],
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<FactReplies>, Failure> {
    let work = |talker: &mut Talker, index: usize| {
        let case = &cases[index];
        pollster::block_on(async {
            let memory = talker.tell(&case.sessions).await?;
            Ok(FactReplies {
                memory_on: talker.ask(&memory, &case.question).await?,
                memory_off: talker.ask_without_memory(&case.question).await?,
            })
        })
    };
    let n_turns = |index: usize| told_turns(&cases[index]) + 2;
    share_out(talkers, &longest_first(cases.len(), n_turns), work, |index| progress(n_turns(index)))
}

/// How many turns [`run_facts`] takes.
pub fn fact_turns(cases: &[Case]) -> usize {
    cases.iter().map(|case| told_turns(case) + 2).sum()
}

/// Runs the program's own cases; `progress` is called with the turns done since its last call, of
/// [`nano_turns`] in all.
///
/// # Errors
/// A [`Failure`] with the index of the case.
pub fn run_nano(
    talkers: &mut [Talker],
    cases: &[NanoCase],
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<NanoReplies>, Failure> {
    let tell_and_ask = |talker: &mut Talker, index: usize| {
        let case = &cases[index].case;
        pollster::block_on(async {
            let memory = talker.tell(&case.sessions).await?;
            let reply = talker.ask(&memory, &case.question).await?;
            Ok((memory, reply))
        })
    };
    let n_turns = |index: usize| told_turns(&cases[index].case) + 1;
    let order = longest_first(cases.len(), n_turns);
    let told = share_out(talkers, &order, tell_and_ask, |index| progress(n_turns(index)))?;

    let controls = |talker: &mut Talker, index: usize| {
        if cases[index].group != Group::Recall {
            return Ok(None);
        }
        let case = &cases[index].case;
        let other: Option<&KeptMemory> = other_person(cases, index).map(|other| &told[other].0);
        pollster::block_on(async {
            Ok(Some(Controls {
                memory_off: talker.ask_without_memory(&case.question).await?,
                in_context: talker.ask_in_context(&case.sessions, &case.question).await?,
                other_profile: talker.ask_other(&told[index].0, other, &case.question).await?,
            }))
        })
    };
    let n_turns = |index: usize| control_turns(&cases[index]);
    let order = longest_first(cases.len(), n_turns);
    let controls = share_out(talkers, &order, controls, |index| progress(n_turns(index)))?;
    let replies = told.into_iter().zip(controls);
    Ok(replies.map(|((_, memory_on), controls)| NanoReplies { memory_on, controls }).collect())
}

/// How many turns [`run_nano`] takes.
pub fn nano_turns(cases: &[NanoCase]) -> usize {
    cases.iter().map(|case| told_turns(&case.case) + 1 + control_turns(case)).sum()
}

/// At most `n` cases of those that are counted together.
pub fn at_most(cases: Vec<NanoCase>, n: usize) -> Vec<NanoCase> {
    let mut counts = std::collections::BTreeMap::new();
    let is_among_first = |case: &NanoCase| {
        let count = counts.entry(case.bucket()).or_insert(0);
        *count += 1;
        *count <= n
    };
    let mut is_among_first = is_among_first;
    cases.into_iter().filter(|case| is_among_first(case)).collect()
}

fn told_turns(case: &Case) -> usize {
    case.sessions.iter().map(Vec::len).sum()
}

fn control_turns(case: &NanoCase) -> usize {
    match case.group {
        Group::Recall => told_turns(&case.case) + 3,
        _ => 0,
    }
}

/// The longest first, so that nobody is left with one at the end.
fn longest_first(n: usize, n_turns: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(n_turns(index)));
    order
}

/// Somebody else's case, the next after `index` that told one fact of another kind, and in which no
/// answer of this one occurs; `None` if there is none.
fn other_person(cases: &[NanoCase], index: usize) -> Option<usize> {
    let case = &cases[index];
    let kind = case.kind.as_ref()?;
    let n = cases.len();
    (1..n).map(|step| (index + step) % n).find(|&other| {
        let other = &cases[other];
        let mut messages = other.case.sessions.iter().flatten();
        other.group == Group::Recall
            && other.n_facts == 1
            && other.kind.as_ref().is_some_and(|other| other != kind)
            && !messages
                .any(|message| case.case.answers.iter().any(|answer| stands_in(answer, message)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(group: Group, n_facts: usize, kind: &str, told: &str, answer: &str) -> NanoCase {
        NanoCase {
            case: Case {
                sessions: vec![vec![told.into()]],
                question: "?".into(),
                answers: vec![answer.into()],
                line: 0,
            },
            group,
            n_facts,
            n_unrelated: 0,
            old: None,
            kind: (!kind.is_empty()).then(|| kind.into()),
        }
    }

    #[test]
    fn the_other_person_was_not_told_what_is_asked_for() {
        let recall = |n, kind, told, answer| case(Group::Recall, n, kind, told, answer);
        let cases = [
            recall(1, "name", "My name is Sofia.", "Sofia"),
            recall(1, "name", "I am Ben.", "Ben"),
            recall(1, "town", "I live in Sofia.", "Sofia"),
            recall(2, "pet", "I have a dog.", "dog"),
            case(Group::Values, 1, "food", "I like soup.", "soup"),
            recall(1, "", "I like soup.", "soup"),
            recall(1, "town", "I live in Oslo.", "Oslo"),
        ];
        assert_eq!(other_person(&cases, 0), Some(6));
        assert_eq!(other_person(&cases, 1), Some(2));
        assert_eq!(other_person(&cases, 3), Some(6));
        // goes on from the beginning
        assert_eq!(other_person(&cases, 6), Some(0));
        assert_eq!(other_person(&cases, 2), Some(1));
        // whose kind nobody knows gets an empty memory
        assert_eq!(other_person(&cases, 5), None);
        assert_eq!(other_person(&cases[..2], 0), None);
    }

    #[test]
    fn a_limit_counts_each_measurement_by_itself() {
        let recall = |n| case(Group::Recall, n, "town", "I live in Oslo.", "Oslo");
        let mut correction = recall(1);
        correction.group = Group::Correction;
        let cases = vec![recall(1), recall(1), recall(2), correction, recall(1), recall(2)];
        let buckets = |n| -> Vec<_> {
            at_most(cases.clone(), n).iter().map(|case| (case.group, case.n_facts)).collect()
        };
        use Group::{Correction, Recall};
        assert_eq!(buckets(1), [(Recall, 1), (Recall, 2), (Correction, 1)]);
        assert_eq!(buckets(2).len(), 5);
        assert_eq!(buckets(9).len(), 6);
    }

    #[test]
    fn the_longest_comes_first_and_equals_keep_their_order() {
        let lengths = [3, 9, 3, 12];
        assert_eq!(longest_first(4, |index| lengths[index]), [3, 1, 0, 2]);
    }
}
