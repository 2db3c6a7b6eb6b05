//! One model call over several episodes at once: what differs between them becomes masks. Owns the
//! padding, positions, who sees whom, and the write plan of a batch (SPEC.md section 3).

use super::Device;
use super::episode::EpisodeCall;
use crate::config::{DeltaConfig, ModelConfig};
use crate::engine::Call;
use crate::error::{Error, Result};
use crate::rope::RopeTable;
use crate::write_plan::WritePlan;
use burn_tensor::{Int, Tensor, TensorData};

/// Stands for −∞ in attention scores; finite, so that a row that sees nothing stays a number.
const UNSEEN: f32 = -1e30;

/// A call of B episodes, padded at the end to T tokens, on a device.
pub struct CallBatch {
    pub(super) n_batch: usize,
    pub(super) n_tokens: usize,
    /// `[B·T]`, 0 where there is no token.
    pub(super) tokens: Tensor<1, Int>,
    /// cos and sin of each token's position, `[B, 1, T, d/2]`.
    pub(super) rope: (Tensor<4>, Tensor<4>),
    /// Added to scores, `[B, 1, T, P]`: 0 where token t sees cache position p, else very negative.
    /// P counts the cache and this call.
    pub(super) visibility: Tensor<4>,
    pub(super) plan: BatchPlan,
    /// Rows of `[B·T]` whose next token is learnt, and that token.
    pub(super) targets: Vec<(usize, u32)>,
}

/// As [`WritePlan`], for all episodes of a batch; they may differ in it. First tokens write, then
/// groups; an episode does one of both, or neither.
pub(super) struct BatchPlan {
    pub tokens: TokenWrites,
    pub groups: Option<GroupWrites>,
}

/// Which tokens read, then write, one after the other; the others only read.
pub(super) enum TokenWrites {
    None,
    All,
    /// 1 for those that do, `[B, 1, T, 1]`
    Masked(Box<Tensor<4>>),
}

/// Means that are written after the call.
pub(super) struct GroupWrites {
    /// Share of each token in the mean of each group, `[B, G, T]`
    pub weight: Tensor<3>,
    /// 1 where an episode has the group, `[B, 1, G, 1]`
    pub mask: Tensor<4>,
}

/// Positions already in the KV caches of a batch; grows with each call.
#[derive(Debug, Clone, Default)]
pub struct CachePositions {
    /// Per episode and cache position: the token's position, `None` for padding. `[B][P]`
    rows: Vec<Vec<Option<usize>>>,
}

impl CachePositions {
    /// Nothing cached for any of `n_batch` episodes.
    pub fn new(n_batch: usize) -> CachePositions {
        CachePositions { rows: vec![Vec::new(); n_batch] }
    }
}

impl CallBatch {
    /// Puts the calls of several episodes side by side, after what `cache` holds, and enters them
    /// into it. An empty call writes nothing.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; [`Error::Messages`] if all calls are empty.
    pub fn new(
        calls: &[&EpisodeCall],
        model: &ModelConfig,
        delta: &DeltaConfig,
        cache: &mut CachePositions,
        device: &Device,
    ) -> Result<CallBatch> {
        let n_batch = calls.len();
        let n_tokens = calls.iter().map(|call| call.tokens.len()).max().unwrap_or(0);
        if n_tokens == 0 {
            return Err(Error::Messages { reason: "a call of a batch has no tokens".into() });
        }
        assert_eq!(cache.rows.len(), n_batch);
        let mut tokens = Vec::with_capacity(n_batch * n_tokens);
        let mut targets = Vec::new();
        for (row, call) in calls.iter().enumerate() {
            for &id in &call.tokens {
                if id as usize >= model.vocab_size {
                    return Err(Error::TokenOutOfRange { id, vocab_size: model.vocab_size });
                }
            }
            tokens.extend(call.tokens.iter().map(|&id| id as i32));
            tokens.resize((row + 1) * n_tokens, 0);
            let wanted = call.targets.iter().enumerate();
            targets.extend(wanted.filter_map(|(t, id)| id.map(|id| (row * n_tokens + t, id))));
        }
        let (rope, visibility) = positions(calls, n_tokens, model, cache, device);
        Ok(CallBatch {
            n_batch,
            n_tokens,
            tokens: Tensor::from_data(TensorData::new(tokens, [n_batch * n_tokens]), device),
            rope,
            visibility,
            plan: batch_plan(calls, n_tokens, delta, device),
            targets,
        })
    }

    /// Tokens whose successor is learnt.
    pub fn n_targets(&self) -> usize {
        self.targets.len()
    }
}

type Rope = (Tensor<4>, Tensor<4>);

fn positions(
    calls: &[&EpisodeCall],
    n_tokens: usize,
    model: &ModelConfig,
    cache: &mut CachePositions,
    device: &Device,
) -> (Rope, Tensor<4>) {
    let n_batch = calls.len();
    let n_past = cache.rows.first().map_or(0, Vec::len);
    let mut highest = 0;
    for (row, call) in cache.rows.iter_mut().zip(calls) {
        let first = row.iter().flatten().max().map_or(0, |last| last + 1);
        row.extend((0..n_tokens).map(|t| (t < call.tokens.len()).then_some(first + t)));
        highest = highest.max(first + n_tokens);
    }
    let table = RopeTable::of(model, highest);
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    let mut visibility = Vec::with_capacity(n_batch * n_tokens * (n_past + n_tokens));
    for row in &cache.rows {
        for query in &row[n_past..] {
            let angles = table.row(query.unwrap_or(0));
            cos.extend_from_slice(angles.0);
            sin.extend_from_slice(angles.1);
            visibility.extend(row.iter().map(|key| match (key, query) {
                (Some(key), Some(query)) if key <= query => 0.0,
                _ => UNSEEN,
            }));
        }
    }
    let shape = [n_batch, 1, n_tokens, table.n_pairs];
    let rope =
        (Tensor::from_data(data(cos, shape), device), Tensor::from_data(data(sin, shape), device));
    let shape = [n_batch, 1, n_tokens, n_past + n_tokens];
    (rope, Tensor::from_data(data(visibility, shape), device))
}

fn batch_plan(
    calls: &[&EpisodeCall],
    n_tokens: usize,
    delta: &DeltaConfig,
    device: &Device,
) -> BatchPlan {
    let plan_of = |call: &&EpisodeCall| {
        let request = Call {
            tokens: &call.tokens,
            message_ids: call.message_ids.as_deref(),
            sentence_ids: call.sentence_ids.as_deref(),
            write_enabled: call.write_enabled,
        };
        match call.tokens.is_empty() {
            true => WritePlan::ReadOnly,
            false => WritePlan::new(Some(delta), &request),
        }
    };
    let plans: Vec<WritePlan> = calls.iter().map(plan_of).collect();
    let n_batch = calls.len();
    let n_groups = plans.iter().map(|plan| match plan {
        WritePlan::Groups { n_groups, .. } => *n_groups,
        _ => 0,
    });
    let n_groups = n_groups.max().unwrap_or(0);
    let mut writes = vec![0.0; n_batch * n_tokens];
    let mut shares = vec![0.0; n_batch * n_groups * n_tokens];
    let mut has_group = vec![0.0; n_batch * n_groups];
    for (row, (plan, call)) in plans.iter().zip(calls).enumerate() {
        match plan {
            WritePlan::ReadOnly => {}
            WritePlan::PerToken => writes[row * n_tokens..][..call.tokens.len()].fill(1.0),
            WritePlan::Groups { group_of_token, weight, n_groups: own } => {
                has_group[row * n_groups..][..*own].fill(1.0);
                for (t, group) in group_of_token.iter().enumerate() {
                    if let Some(group) = group {
                        shares[(row * n_groups + *group as usize) * n_tokens + t] = weight[t];
                    }
                }
            }
        }
    }
    BatchPlan {
        tokens: if writes.iter().all(|&w| w == 0.0) {
            TokenWrites::None
        } else if writes.iter().all(|&w| w == 1.0) {
            TokenWrites::All
        } else {
            let shape = [n_batch, 1, n_tokens, 1];
            TokenWrites::Masked(Box::new(Tensor::from_data(data(writes, shape), device)))
        },
        groups: (n_groups > 0).then(|| GroupWrites {
            weight: Tensor::from_data(data(shares, [n_batch, n_groups, n_tokens]), device),
            mask: Tensor::from_data(data(has_group, [n_batch, 1, n_groups, 1]), device),
        }),
    }
}

fn data<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> TensorData {
    TensorData::new(values, shape)
}
