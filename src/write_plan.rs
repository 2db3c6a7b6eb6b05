//! Which tokens of a call are written into the memory, and in which groups. Owns the rules of
//! SPEC.md section 3 with every fallback; the GPU model and the CPU twin both follow it.

use crate::config::{DeltaConfig, WriteGranularity};
use crate::engine::Call;

/// What one call does to the memory of every wrapped layer.
#[derive(Debug, Clone, PartialEq)]
pub enum WritePlan {
    /// Every token reads the state; nothing is written.
    ReadOnly,
    /// Each token reads, then writes; a token sees the writes of those before it.
    PerToken,
    /// Every token reads the state from before the call; then each group writes its mean once, in
    /// the order of its index.
    Groups {
        /// Group of each token, `None` = not written. `[tokens]`
        group_of_token: Vec<Option<u32>>,
        /// Share of each token in its group's mean, 1 / size of the group; 0 without a group.
        /// `[tokens]`
        weight: Vec<f32>,
        n_groups: usize,
    },
}

impl WritePlan {
    /// The plan for one call; `None` for a model without δ-mem counts as nothing to write.
    pub fn new(delta: Option<&DeltaConfig>, call: &Call) -> WritePlan {
        let Some(delta) = delta.filter(|_| call.write_enabled) else {
            return WritePlan::ReadOnly;
        };
        let ids = match delta.write_granularity {
            WriteGranularity::Token => None,
            WriteGranularity::MessageMean => message_groups(call),
            WriteGranularity::SentenceMean => sentence_groups(call),
        };
        // No usable ids, or none of them active: the reference then writes all tokens one by one,
        // also those marked −1.
        match ids {
            // a group of one token alone in its call reads and writes as in token mode
            Some(ids) if ids.len() > 1 && ids.iter().any(|&id| id >= 0) => group_by_id(&ids),
            _ => WritePlan::PerToken,
        }
    }

    /// The part of a plan that concerns `tokens`, for a prefill that is cut into chunks. Groups
    /// keep their index and their weights, so that means can be summed over the chunks.
    ///
    /// # Panics
    /// If the range reaches past the call.
    pub fn slice(&self, tokens: std::ops::Range<usize>) -> WritePlan {
        match self {
            WritePlan::ReadOnly => WritePlan::ReadOnly,
            WritePlan::PerToken => WritePlan::PerToken,
            WritePlan::Groups { group_of_token, weight, n_groups } => WritePlan::Groups {
                group_of_token: group_of_token[tokens.clone()].to_vec(),
                weight: weight[tokens].to_vec(),
                n_groups: *n_groups,
            },
        }
    }
}

/// Message ids if there is one a token.
fn message_groups(call: &Call) -> Option<Vec<i64>> {
    let ids = call.message_ids?;
    (ids.len() == call.tokens.len()).then(|| ids.to_vec())
}

/// Sentence ids if there is one of both kinds a token; a message id below 0 masks the token.
fn sentence_groups(call: &Call) -> Option<Vec<i64>> {
    let messages = message_groups(call)?;
    let sentences = call.sentence_ids?;
    if sentences.len() != messages.len() {
        return None;
    }
    let pairs = messages.iter().zip(sentences);
    Some(pairs.map(|(&m, &s)| if m >= 0 { s } else { -1 }).collect())
}

/// Numbers the distinct ids ≥ 0 in ascending order.
fn group_by_id(ids: &[i64]) -> WritePlan {
    let mut distinct: Vec<i64> = ids.iter().copied().filter(|&id| id >= 0).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let group_of_token: Vec<Option<u32>> =
        ids.iter().map(|id| distinct.binary_search(id).ok().map(|group| group as u32)).collect();
    let mut count = vec![0u32; distinct.len()];
    for &group in group_of_token.iter().flatten() {
        count[group as usize] += 1;
    }
    WritePlan::Groups {
        weight: group_of_token
            .iter()
            .map(|group| group.map_or(0.0, |g| 1.0 / count[g as usize] as f32))
            .collect(),
        group_of_token,
        n_groups: distinct.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        mode: &str,
        messages: Option<&[i64]>,
        sentences: Option<&[i64]>,
        write_enabled: bool,
    ) -> WritePlan {
        let json = format!(r#"{{"memory_write_granularity": "{mode}"}}"#);
        let delta = DeltaConfig::from_json(json.as_bytes(), "test").unwrap();
        let call = Call {
            tokens: &[1, 2, 3, 4],
            message_ids: messages,
            sentence_ids: sentences,
            write_enabled,
        };
        WritePlan::new(Some(&delta), &call)
    }

    fn groups(plan: WritePlan) -> Vec<i64> {
        match plan {
            WritePlan::Groups { group_of_token, .. } => {
                group_of_token.iter().map(|g| g.map_or(-1, i64::from)).collect()
            }
            other => panic!("expected groups, found {other:?}"),
        }
    }

    #[test]
    fn message_groups_ascend_by_id_and_need_not_be_adjacent() {
        let found = plan("message_mean", Some(&[7, -1, 2, 7]), None, true);
        assert_eq!(
            found,
            WritePlan::Groups {
                group_of_token: vec![Some(1), None, Some(0), Some(1)],
                weight: vec![0.5, 0.0, 1.0, 0.5],
                n_groups: 2,
            }
        );
        let huge = plan("message_mean", Some(&[i64::MAX, 0, 0, i64::MIN]), None, true);
        assert_eq!(groups(huge), [1, 0, 0, -1]);
    }

    #[test]
    fn missing_or_inactive_ids_fall_back_to_per_token_writes() {
        let ids: &[i64] = &[0, 0, 1, 1];
        let none: &[i64] = &[-1; 4];
        for (mode, messages, sentences) in [
            ("token", Some(ids), Some(ids)),
            ("message_mean", None, Some(ids)),
            ("message_mean", Some(&ids[..3]), None),
            ("message_mean", Some(&[] as &[i64]), None),
            ("message_mean", Some(none), Some(ids)),
            ("sentence_mean", Some(ids), None),
            ("sentence_mean", None, Some(ids)),
            ("sentence_mean", Some(ids), Some(&ids[..3])),
            ("sentence_mean", Some(&ids[..3]), Some(ids)),
            ("sentence_mean", Some(none), Some(ids)),
            ("sentence_mean", Some(ids), Some(none)),
        ] {
            let found = plan(mode, messages, sentences, true);
            assert_eq!(found, WritePlan::PerToken, "{mode} {messages:?} {sentences:?}");
        }
    }

    #[test]
    fn sentences_merge_across_messages_and_messages_only_mask() {
        let found = plan("sentence_mean", Some(&[0, 1, -1, 1]), Some(&[3, 3, 3, 9]), true);
        assert_eq!(groups(found), [0, 0, -1, 1]);
    }

    #[test]
    fn writing_off_reads_only_whatever_the_ids_say() {
        for mode in ["token", "message_mean", "sentence_mean"] {
            let ids: &[i64] = &[0, 0, 1, 1];
            assert_eq!(plan(mode, Some(ids), Some(ids), false), WritePlan::ReadOnly);
        }
        let call =
            Call { tokens: &[1], message_ids: None, sentence_ids: None, write_enabled: true };
        assert_eq!(WritePlan::new(None, &call), WritePlan::ReadOnly);
    }

    #[test]
    fn a_slice_keeps_group_numbers_and_weights() {
        let whole = plan("message_mean", Some(&[4, 4, 5, 5]), None, true);
        assert_eq!(
            whole.slice(1..3),
            WritePlan::Groups {
                group_of_token: vec![Some(0), Some(1)],
                weight: vec![0.5, 0.5],
                n_groups: 2,
            }
        );
    }
}
