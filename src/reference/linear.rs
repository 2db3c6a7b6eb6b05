//! Embedding and matrix products. SPEC.md sections 1 and 2.

use super::{Output, for_each_row};

/// Floats that a dot product accumulates side by side, so that it becomes vector instructions.
const LANES: usize = 8;
/// Tokens multiplied with a weight row while it is in registers.
const TOKEN_BLOCK: usize = 4;
/// Weight rows a thread takes at a time.
const ROW_BLOCK: usize = 32;

/// The embedding rows of `tokens`, `[tokens, hidden]`, from `table` `[vocab, hidden]`.
///
/// # Panics
/// If a token is outside the table.
pub fn embed(tokens: &[u32], table: &[f32], hidden: usize) -> Vec<f32> {
    let rows = tokens.iter().map(|&t| &table[t as usize * hidden..][..hidden]);
    rows.flatten().copied().collect()
}

/// y `[T, N]` = or += x `[T, K]` · wᵀ, with w `[N, K]`.
///
/// Each output is summed in the same order whatever T is, so cutting a prefill changes no bit.
///
/// # Panics
/// If the lengths do not agree with K = `n_in`.
pub fn matmul(x: &[f32], w: &[f32], n_in: usize, y: &mut [f32], output: Output) {
    let (n_tokens, n_out) = (x.len() / n_in, w.len() / n_in);
    assert_eq!(x.len(), n_tokens * n_in);
    assert_eq!(w.len(), n_out * n_in);
    assert_eq!(y.len(), n_tokens * n_out);
    if y.is_empty() {
        return;
    }
    // Threads share out weight rows, each read once; hence a transposed result, [N, T].
    let mut transposed = vec![0.0; y.len()];
    for_each_row(&mut transposed, ROW_BLOCK * n_tokens, |block, rows| {
        for (offset, row) in rows.chunks_mut(n_tokens).enumerate() {
            let w_row = &w[(block * ROW_BLOCK + offset) * n_in..][..n_in];
            let mut token = 0;
            while token + TOKEN_BLOCK <= n_tokens {
                let xs: [&[f32]; TOKEN_BLOCK] =
                    std::array::from_fn(|t| &x[(token + t) * n_in..][..n_in]);
                row[token..token + TOKEN_BLOCK].copy_from_slice(&dots(xs, w_row));
                token += TOKEN_BLOCK;
            }
            for token in token..n_tokens {
                [row[token]] = dots([&x[token * n_in..][..n_in]], w_row);
            }
        }
    });
    for (token, row) in y.chunks_mut(n_out).enumerate() {
        for (out, value) in row.iter_mut().enumerate() {
            let sum = transposed[out * n_tokens + token];
            *value = match output {
                Output::Store => sum,
                Output::Add => *value + sum,
            };
        }
    }
}

/// y `[T, N]` += reads `[T, R]` · dᵀ, with d `[N, R]` already scaled by c·m_X.
///
/// # Panics
/// If the lengths do not agree with R = `n_rows`.
pub fn low_rank_add(y: &mut [f32], d: &[f32], reads: &[f32], n_rows: usize) {
    let n_out = d.len() / n_rows;
    assert_eq!(y.len() * n_rows, reads.len() * n_out);
    for (row, read) in y.chunks_mut(n_out).zip(reads.chunks(n_rows)) {
        for (value, d_row) in row.iter_mut().zip(d.chunks(n_rows)) {
            *value += dot(d_row, read);
        }
    }
}

/// Σ aᵢ·bᵢ.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let [sum] = dots([a], b);
    sum
}

/// Dot products of several vectors with one.
fn dots<const M: usize>(xs: [&[f32]; M], w: &[f32]) -> [f32; M] {
    let mut lanes = [[0f32; LANES]; M];
    let whole = w.len() - w.len() % LANES;
    let mut start = 0;
    while start < whole {
        let w = &w[start..start + LANES];
        for m in 0..M {
            let x = &xs[m][start..start + LANES];
            for lane in 0..LANES {
                lanes[m][lane] += x[lane] * w[lane];
            }
        }
        start += LANES;
    }
    std::array::from_fn(|m| {
        let rest = xs[m][whole..].iter().zip(&w[whole..]);
        lanes[m].iter().sum::<f32>() + rest.map(|(x, w)| x * w).sum::<f32>()
    })
}
