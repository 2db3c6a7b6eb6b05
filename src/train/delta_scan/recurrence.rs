//! The δ rule token by token in plain loops, and its gradient. Owns the arithmetic; that it is an
//! operation of Burn's is `operation.rs`.
//!
//! Per state head, with row i of S and gates by row (SPEC.md section 2):
//!
//! ```text
//! forward    ρ[i] = S[i]·q    p[i] = S[i]·k    c[i] = write[i]·v[i] − erase[i]·p[i]
//!            S[i] ← keep[i]·S[i] + c[i]·k
//! backward   G is the gradient of S after the token, S the state before it, dρ that of the read
//!            dc[i] = G[i]·k    dp[i] = −erase[i]·dc[i]    dkeep[i] = G[i]·S[i]
//!            dk = Σ_i c[i]·G[i] + dp[i]·S[i]              dq = Σ_i dρ[i]·S[i]
//!            dwrite = dc⊙v    dv = dc⊙write    derase = −dc⊙p
//!            G[i] ← keep[i]·G[i] + dp[i]·k + dρ[i]·q
//! ```
//!
//! States are held transposed (`S[j][i]`, j the key column), so that every inner loop runs over the
//! rows i side by side. Forward keeps the state before every [`SPAN`]th token; backward computes the
//! others of a span again.

use rayon::prelude::*;

/// Tokens between two states that are kept for the gradient.
pub(super) const SPAN: usize = 16;
/// Number of inputs: state, q, k, v, log_keep, erase, write.
pub(super) const N_INPUTS: usize = 7;

/// How much there is of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// States: episodes times state heads.
    pub n: usize,
    pub n_tokens: usize,
    pub rank: usize,
    /// Tokens after which no gradient passes back; `None` = it reaches the state given.
    pub segment: Option<usize>,
}

impl Sizes {
    /// Values of a state.
    fn square(&self) -> usize {
        self.rank * self.rank
    }

    /// Values of one vector a token.
    fn row(&self) -> usize {
        self.n_tokens * self.rank
    }

    fn n_spans(&self) -> usize {
        self.n_tokens.div_ceil(SPAN)
    }
}

/// The inputs of all states: the state before `[n, r, r]`, then q, k, v, ln keep, erase and write
/// `[n, T, r]` each.
pub(super) type Inputs<'a> = [&'a [f32]; N_INPUTS];

/// One state's share of the inputs.
fn inputs_of<'a>(inputs: &Inputs<'a>, index: usize, sizes: &Sizes) -> Inputs<'a> {
    let [state, tokens @ ..] = *inputs;
    let [q, k, v, log_keep, erase, write] =
        tokens.map(|x| &x[index * sizes.row()..(index + 1) * sizes.row()]);
    let state = &state[index * sizes.square()..(index + 1) * sizes.square()];
    [state, q, k, v, log_keep, erase, write]
}

/// The vectors of one token. `[r]` each
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    log_keep: &'a [f32],
    erase: &'a [f32],
    write: &'a [f32],
}

fn token<'a>(inputs: &Inputs<'a>, t: usize, rank: usize) -> Token<'a> {
    let [_, tokens @ ..] = *inputs;
    let [q, k, v, log_keep, erase, write] = tokens.map(|x| &x[t * rank..(t + 1) * rank]);
    Token { q, k, v, log_keep, erase, write }
}

/// Reads, then states after the last token, `[n, T + r, r]`, and the states before every [`SPAN`]th
/// token, transposed, `[n, spans, r, r]`.
pub(super) fn forward(sizes: &Sizes, inputs: &Inputs) -> (Vec<f32>, Vec<f32>) {
    let (rank, square) = (sizes.rank, sizes.square());
    let mut found = vec![0.0; sizes.n * (sizes.row() + square)];
    let mut kept = vec![0.0; sizes.n * sizes.n_spans() * square];
    let each = found.par_chunks_mut(sizes.row() + square);
    let each = each.zip(kept.par_chunks_mut(sizes.n_spans() * square));
    each.enumerate().for_each(|(index, (found, kept))| {
        let inputs = inputs_of(inputs, index, sizes);
        let mut state = transposed(inputs[0], rank);
        let mut correction = vec![0.0; rank];
        let (reads, end) = found.split_at_mut(sizes.row());
        for (t, read) in reads.chunks_exact_mut(rank).enumerate() {
            if t % SPAN == 0 {
                kept[t / SPAN * square..][..square].copy_from_slice(&state);
            }
            let token = token(&inputs, t, rank);
            apply(&state, token.q, read);
            write(&mut state, &token, &mut correction);
        }
        end.copy_from_slice(&transposed(&state, rank));
    });
    (found, kept)
}

/// The gradients of the inputs from that of what [`forward`] found (`[n, T + r, r]`) and from the
/// states that it kept.
pub(super) fn backward(
    sizes: &Sizes,
    inputs: &Inputs,
    kept: &[f32],
    gradient: &[f32],
) -> [Vec<f32>; N_INPUTS] {
    let per_state: Vec<[Vec<f32>; N_INPUTS]> = (0..sizes.n)
        .into_par_iter()
        .map(|index| {
            let width = sizes.row() + sizes.square();
            let n_kept = sizes.n_spans() * sizes.square();
            backward_of_one(
                sizes,
                &inputs_of(inputs, index, sizes),
                &kept[index * n_kept..(index + 1) * n_kept],
                &gradient[index * width..(index + 1) * width],
            )
        })
        .collect();
    std::array::from_fn(|input| {
        per_state.iter().flat_map(|gradients| &gradients[input]).copied().collect()
    })
}

fn backward_of_one(
    sizes: &Sizes,
    inputs: &Inputs,
    kept: &[f32],
    gradient: &[f32],
) -> [Vec<f32>; N_INPUTS] {
    let (rank, square) = (sizes.rank, sizes.square());
    let (of_reads, of_end) = gradient.split_at(sizes.row());
    let mut g = transposed(of_end, rank);
    let zeros = || vec![0.0; sizes.row()];
    let [mut dq, mut dk, mut dv, mut dlog_keep, mut derase, mut dwrite] =
        [zeros(), zeros(), zeros(), zeros(), zeros(), zeros()];
    // the states before each token of a span
    let mut states = vec![0.0; SPAN * square];
    let [mut p, mut c, mut dc, mut dp, mut keep] = std::array::from_fn(|_| vec![0.0; rank]);
    for span in (0..sizes.n_spans()).rev() {
        let start = span * SPAN;
        let end = sizes.n_tokens.min(start + SPAN);
        states[..square].copy_from_slice(&kept[span * square..][..square]);
        for t in start + 1..end {
            let (before, after) = states.split_at_mut((t - start) * square);
            let after = &mut after[..square];
            after.copy_from_slice(&before[(t - start - 1) * square..]);
            write(after, &token(inputs, t - 1, rank), &mut c);
        }
        for t in (start..end).rev() {
            let token = token(inputs, t, rank);
            let state = &states[(t - start) * square..][..square];
            let at = t * rank..(t + 1) * rank;
            let dread = &of_reads[at.clone()];
            apply(state, token.k, &mut p);
            apply(&g, token.k, &mut dc);
            dlog_keep[at.clone()].fill(0.0);
            for i in 0..rank {
                c[i] = token.write[i] * token.v[i] - token.erase[i] * p[i];
                dp[i] = -token.erase[i] * dc[i];
                keep[i] = token.log_keep[i].exp();
                dwrite[at.start + i] = dc[i] * token.v[i];
                dv[at.start + i] = dc[i] * token.write[i];
                derase[at.start + i] = -dc[i] * p[i];
            }
            let dkeep = &mut dlog_keep[at.clone()];
            for j in 0..rank {
                let (k, q) = (token.k[j], token.q[j]);
                let column = &state[j * rank..(j + 1) * rank];
                let g = &mut g[j * rank..(j + 1) * rank];
                let (mut of_k, mut of_q) = (0.0, 0.0);
                for i in 0..rank {
                    of_k += c[i] * g[i] + dp[i] * column[i];
                    of_q += dread[i] * column[i];
                    dkeep[i] += g[i] * column[i];
                    g[i] = keep[i] * g[i] + dp[i] * k + dread[i] * q;
                }
                dk[at.start + j] = of_k;
                dq[at.start + j] = of_q;
            }
            dkeep.iter_mut().zip(&keep).for_each(|(d, keep)| *d *= keep);
            if sizes.segment.is_some_and(|segment| t % segment == 0) {
                g.fill(0.0);
            }
        }
    }
    [transposed(&g, rank), dq, dk, dv, dlog_keep, derase, dwrite]
}

/// out[i] = Σ_j S[i][j]·x[j], S transposed.
fn apply(state: &[f32], x: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (column, x) in state.chunks_exact(out.len()).zip(x) {
        out.iter_mut().zip(column).for_each(|(out, s)| *out += s * x);
    }
}

/// The write of one token into a transposed state; `correction` is room for c.
fn write(state: &mut [f32], token: &Token, correction: &mut [f32]) {
    let rank = correction.len();
    apply(state, token.k, correction);
    let mut keep = [0.0; crate::config::MAX_RANK];
    let keep = &mut keep[..rank];
    for i in 0..rank {
        correction[i] = token.write[i] * token.v[i] - token.erase[i] * correction[i];
        keep[i] = token.log_keep[i].exp();
    }
    for (column, k) in state.chunks_exact_mut(rank).zip(token.k) {
        for i in 0..rank {
            column[i] = keep[i] * column[i] + correction[i] * k;
        }
    }
}

fn transposed(square: &[f32], rank: usize) -> Vec<f32> {
    (0..rank).flat_map(|j| (0..rank).map(move |i| square[i * rank + j])).collect()
}
