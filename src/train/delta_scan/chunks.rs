//! The δ rule over a whole sequence at once, as tensor operations of any backend. SPEC.md section 2,
//! "read" and "write", rearranged so that nothing runs token by token: a GPU has one dispatch for
//! many tokens, not one for each.
//!
//! Rows of a state do not depend on each other. With s the row i of S before a chunk of C tokens and
//! D_t the product of its keep factors up to token t, every write in the chunk is
//!
//! ```text
//! s_t = D_t·s + Σ_{j≤t} (D_t/D_j)·u_j·k_j        u_t = write_t·v_t − erase_t·(k_t·s_{t−1})
//! ```
//!
//! and inserting the first into the second gives a triangular system (I + L)·u = U0 − U1·s with
//! L[t,j] = erase_t·(D_{t−1}/D_j)·(k_t·k_j) for j < t. L is nilpotent, so its inverse is the finite
//! product (I − L)(I + L²)(I + L⁴)…. So a chunk maps s to A·s + b, reads are R0 + R1·s, and the maps
//! of all chunks are composed pairwise, in log₂ rounds. Decays enter as differences of logarithms, none of
//! them positive: nothing overflows, however far a state forgets.

use super::Projected;
use burn_tensor::{Device, Tensor, TensorData, s};

/// Tokens a chunk; the work a token grows with it, the number of chunk maps shrinks.
const CHUNK: usize = 8;
/// Stands for −∞ in exponents that must give 0.
const NEVER: f32 = -1e9;

/// As [`super::scan`], all the way.
pub(super) fn scan(state: Tensor<4>, projected: Projected) -> (Tensor<4>, Tensor<4>) {
    let [n_batch, n_heads, n_tokens, rank] = projected.q.dims();
    let n = n_batch * n_heads;
    let device = state.device();
    let chunk = CHUNK.min(n_tokens);
    let n_chunks = n_tokens.div_ceil(chunk);
    // All zero: writes nothing, keeps everything (ln 1 = 0).
    let n_padding = n_chunks * chunk - n_tokens;
    let padded = |x: Tensor<4>| match n_padding {
        0 => x,
        _ => {
            let zeros = Tensor::zeros([n_batch, n_heads, n_padding, rank], &device);
            Tensor::cat(vec![x, zeros], 2)
        }
    };
    // Shared by all rows: [n, 1, chunks, C, r]
    let tokens = |x: Tensor<4>| padded(x).reshape([n, 1, n_chunks, chunk, rank]);
    // One value a row i: [n, i, chunks, C]
    let rows = |x: Tensor<4>| {
        let x: Tensor<4> = padded(x).reshape([n, n_chunks, chunk, rank]);
        x.permute([0, 3, 1, 2])
    };
    let (q, k) = (tokens(projected.q), tokens(projected.k));
    let log_keep = rows(projected.log_keep);
    let (erase, write) = (rows(projected.erase), rows(projected.write));
    let written = write * rows(projected.v);

    // ln D_t and ln D_{t−1}: [n, i, chunks, C]
    let log_decay = log_keep.clone().matmul(upper_ones(chunk, &device));
    let log_before = log_decay.clone() - log_keep;
    // D_{t−1}/D_j for j < t, else 0: [n, i, chunks, C(t), C(j)]
    let ratio: Tensor<5> = log_before.clone().unsqueeze_dim::<5>(4)
        - log_decay.clone().unsqueeze_dim::<5>(3)
        + strictly_lower(chunk, &device);
    let ratio = ratio.exp();
    let keys_t = k.clone().swap_dims(3, 4);
    let l = ratio.clone() * k.clone().matmul(keys_t.clone()) * erase.clone().unsqueeze_dim::<5>(4);
    let inverse = unit_lower_inverse(l, chunk, &device);

    // u = U·[s, 1]: [n, i, chunks, C, r + 1]
    let before = log_before.exp();
    let u = Tensor::cat(
        vec![
            (erase * before.clone()).unsqueeze_dim::<5>(4).neg() * k.clone(),
            written.unsqueeze_dim::<5>(4),
        ],
        4,
    );
    let u = inverse.matmul(u);
    // Reads are R·[s, 1], alike.
    let own = Tensor::cat(
        vec![
            before.unsqueeze_dim::<5>(4) * q.clone(),
            Tensor::zeros([n, rank, n_chunks, chunk, 1], &device),
        ],
        4,
    );
    let r = own + (ratio * q.matmul(keys_t)).matmul(u.clone());

    // The state after a chunk, M·[s, 1]: [n, i, chunks, r + 1, r + 1], last row 0 … 0 1
    let last: Tensor<4> = log_decay.clone().slice(s![.., .., .., chunk - 1..]);
    let until_end = (last.clone() - log_decay).exp().unsqueeze_dim::<5>(4);
    let top = (k * until_end).swap_dims(3, 4).matmul(u)
        + last.exp().unsqueeze_dim::<5>(4) * identity_beside_zero(rank, &device);
    let bottom = unit_row(rank, &device).expand([n, rank, n_chunks, 1, rank + 1]);
    let maps = Tensor::cat(vec![top, bottom], 3);

    // [s, 1] before each chunk: [n, i, chunks, r + 1, 1]
    let one = Tensor::ones([n, rank, 1, 1, 1], &device);
    let first = Tensor::cat(vec![state.reshape([n, rank, 1, rank, 1]), one], 3);
    let starts = starts(maps.clone(), first);
    let last = |x: Tensor<5>| x.slice(s![.., .., n_chunks - 1.., .., ..]);
    let end = last(maps).matmul(last(starts.clone())).slice(s![.., .., .., 0..rank, ..]);
    let reads: Tensor<3> = r.matmul(starts).reshape([n, rank, n_chunks * chunk]);
    let reads = reads
        .slice(s![.., .., 0..n_tokens])
        .swap_dims(1, 2)
        .reshape([n_batch, n_heads, n_tokens, rank]);
    (reads, end.reshape([n_batch, n_heads, rank, rank]))
}

/// (I + L)⁻¹ of strictly lower triangular L `[…, C, C]`.
fn unit_lower_inverse(l: Tensor<5>, size: usize, device: &Device) -> Tensor<5> {
    let identity: Tensor<5> = Tensor::<2>::eye(size, device).reshape([1, 1, 1, size, size]);
    let mut inverse = identity - l.clone();
    let mut power = l;
    let mut exponent = 1;
    while 2 * exponent < size {
        exponent *= 2;
        power = power.clone().matmul(power);
        inverse = inverse.clone() + inverse.matmul(power.clone());
    }
    inverse
}

/// Where each map M_c `[n, i, c, d, d]` starts, `[n, i, c, d, 1]`, if the first starts at `first` and
/// each other where the one before ends. Pairs are composed until one is left (a compose is d³, a
/// start d², so few of the former); on the way back each pair's start gives that of its second map.
fn starts(maps: Tensor<5>, first: Tensor<5>) -> Tensor<5> {
    let [n, rows, n_maps, d, _] = maps.dims();
    if n_maps == 1 {
        return first;
    }
    let n_pairs = n_maps.div_ceil(2);
    let even = match n_maps % 2 {
        0 => maps,
        _ => {
            let identity: Tensor<5> = Tensor::<2>::eye(d, &maps.device()).reshape([1, 1, 1, d, d]);
            Tensor::cat(vec![maps, identity.expand([n, rows, 1, d, d])], 2)
        }
    };
    let pairs: Tensor<6> = even.reshape([n, rows, n_pairs, 2, d, d]);
    let of_pairs = |range| -> Tensor<5> {
        pairs.clone().slice_dim(3, range).reshape([n, rows, n_pairs, d, d])
    };
    let left = of_pairs(0..1);
    let pair_starts = match n_pairs {
        1 => first,
        _ => starts(of_pairs(1..2).matmul(left.clone()), first),
    };
    let right_starts = left.matmul(pair_starts.clone());
    let both: Tensor<6> = Tensor::stack(vec![pair_starts, right_starts], 3);
    both.reshape([n, rows, 2 * n_pairs, d, 1]).slice(s![.., .., 0..n_maps, .., ..])
}

/// 1 where row ≤ column, so that x·U is the running sum of x. `[1, 1, C, C]`
fn upper_ones(size: usize, device: &Device) -> Tensor<4> {
    constant(size, |row, column| if row <= column { 1.0 } else { 0.0 }, device)
        .reshape([1, 1, size, size])
}

/// 0 where row > column, else [`NEVER`]. `[1, 1, 1, C, C]`
fn strictly_lower(size: usize, device: &Device) -> Tensor<5> {
    constant(size, |row, column| if row > column { 0.0 } else { NEVER }, device)
        .reshape([1, 1, 1, size, size])
}

fn constant(size: usize, value: impl Fn(usize, usize) -> f32, device: &Device) -> Tensor<2> {
    let value = &value;
    let values = (0..size).flat_map(|row| (0..size).map(move |column| value(row, column)));
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [size, size]), device)
}

/// The identity with a column of zeros after it, `[1, 1, 1, r, r + 1]`.
fn identity_beside_zero(rank: usize, device: &Device) -> Tensor<5> {
    let identity = Tensor::<2>::eye(rank, device);
    let beside = Tensor::cat(vec![identity, Tensor::zeros([rank, 1], device)], 1);
    beside.reshape([1, 1, 1, rank, rank + 1])
}

/// 0 … 0 1, `[1, 1, 1, 1, r + 1]`
fn unit_row(rank: usize, device: &Device) -> Tensor<5> {
    let mut row = vec![0.0f32; rank + 1];
    row[rank] = 1.0;
    Tensor::<1>::from_data(TensorData::new(row, [rank + 1]), device).reshape([1, 1, 1, 1, rank + 1])
}
