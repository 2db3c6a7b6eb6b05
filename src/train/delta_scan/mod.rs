//! The δ rule over a sequence, differentiable: SPEC.md section 2, "read" and "write". Owns the choice
//! between its two forms, which compute the same: on the CPU an operation of our own that goes token
//! by token (`recurrence.rs`, made known to Burn in `operation.rs`), elsewhere tensor operations over
//! chunks of tokens (`chunks.rs`).

mod chunks;
mod operation;
mod recurrence;
#[cfg(test)]
mod tests;

use burn_tensor::{Tensor, s};

/// What the memory needs of each token; all `[B, H_s, T, r]`.
#[derive(Clone)]
pub(super) struct Projected {
    pub q: Tensor<4>,
    pub k: Tensor<4>,
    pub v: Tensor<4>,
    /// ln of the factor of the old state, by value row.
    pub log_keep: Tensor<4>,
    /// Factor of what the state predicts for k.
    pub erase: Tensor<4>,
    /// Factor of v.
    pub write: Tensor<4>,
}

impl Projected {
    /// Tokens whose mask is 0 write nothing and leave the state as it is. `mask` `[B, 1, T, 1]`
    pub fn masked(self, mask: &Tensor<4>) -> Projected {
        Projected {
            log_keep: self.log_keep * mask.clone(),
            erase: self.erase * mask.clone(),
            write: self.write * mask.clone(),
            ..self
        }
    }

    fn tokens(&self, range: std::ops::Range<usize>) -> Projected {
        let cut = |x: &Tensor<4>| x.clone().slice(s![.., .., range.clone(), ..]);
        Projected {
            q: cut(&self.q),
            k: cut(&self.k),
            v: cut(&self.v),
            log_keep: cut(&self.log_keep),
            erase: cut(&self.erase),
            write: cut(&self.write),
        }
    }
}

/// ρ = S·q for each token from one state; `state` `[B, H_s, r, r]`, `q` and result
/// `[B, H_s, T, r]`.
pub(super) fn read(state: Tensor<4>, q: Tensor<4>) -> Tensor<4> {
    q.matmul(state.swap_dims(2, 3))
}

/// Each token reads, then writes: reads `[B, H_s, T, r]` and the state `[B, H_s, r, r]` after the
/// last. With `truncate_tokens` no gradient passes from a token to one that many tokens earlier, nor
/// from the first to the state given.
pub(super) fn scan(
    state: Tensor<4>,
    projected: &Projected,
    truncate_tokens: Option<usize>,
) -> (Tensor<4>, Tensor<4>) {
    let truncate_tokens = truncate_tokens.filter(|&n| n < projected.q.dims()[2]);
    match operation::scan(&state, projected, truncate_tokens) {
        Some(found) => found,
        None => scan_chunks(state, projected, truncate_tokens),
    }
}

/// As [`scan`], on any backend.
fn scan_chunks(
    mut state: Tensor<4>,
    projected: &Projected,
    truncate_tokens: Option<usize>,
) -> (Tensor<4>, Tensor<4>) {
    let Some(segment) = truncate_tokens else {
        return chunks::scan(state, projected.clone());
    };
    let n_tokens = projected.q.dims()[2];
    let mut reads = Vec::new();
    for start in (0..n_tokens).step_by(segment) {
        let part = projected.tokens(start..n_tokens.min(start + segment));
        let (read, next) = chunks::scan(state.detach(), part);
        reads.push(read);
        state = next;
    }
    (Tensor::cat(reads, 2), state)
}
