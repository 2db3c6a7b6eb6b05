//! rms_norm, silu_mul and low_rank_add.

use crate::bench::*;
use deltamem::kernels::{self, LowRankAddParams, RmsNormParams, SiluMulParams};
use deltamem::reference::{self, Output};
use deltamem::shader::Storage;

const UNTOUCHED: f32 = 777.0;

/// x `[T, rows, dim]` inside wider tokens; y somewhere else again.
fn check_norm(bench: &mut Bench, x: &[f32], dim: usize, rows: usize, accumulate: bool) {
    let n_tokens = x.len() / (rows * dim);
    let (x_stride, x_offset) = (rows * dim + 5, 3);
    let (y_stride, y_offset) = (rows * dim + 2, 1);
    let place = |values: &[f32], stride: usize, offset: usize| -> Vec<f32> {
        let mut all = vec![UNTOUCHED; n_tokens * stride];
        for (token, row) in values.chunks(rows * dim).enumerate() {
            all[token * stride + offset..][..row.len()].copy_from_slice(row);
        }
        all
    };
    let weight: Vec<f32> = noise(dim, 7, 1.0).iter().map(|w| w + 1.0).collect();
    let before = noise(x.len(), 8, 1.0);
    let mut expected = before.clone();
    let output = if accumulate { Output::Add } else { Output::Store };
    reference::rms_norm(x, &weight, 1e-6, &mut expected, output);

    let (x_buffer, w_buffer) = (bench.floats(&place(x, x_stride, x_offset)), bench.floats(&weight));
    let y_buffer = bench.floats(&place(&before, y_stride, y_offset));
    let params = RmsNormParams {
        dim: dim as u32,
        x_stride: x_stride as u32,
        x_offset: x_offset as u32,
        y_stride: y_stride as u32,
        y_offset: y_offset as u32,
        eps: 1e-6,
        accumulate: accumulate.into(),
        last_only: 0,
    };
    let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
    let op = made(kernels::rms_norm(kernels, gpu, params, rows, &x_buffer, &w_buffer, &y_buffer));
    bench.run(step(n_tokens, 0, 0), &[op]);
    let what = format!("rms_norm {n_tokens}×{rows}×{dim} on {}", bench.tier);
    // the sum of squares keeps 1e-6 of itself; sqrt and division add a few units
    let tolerance = Tolerance::new(1e-6, 3e-6);
    assert_close(&what, &bench.read(&y_buffer), &place(&expected, y_stride, y_offset), tolerance);

    // only the last token, into the first row
    let last = bench.floats(&vec![0.0; rows * dim + 1]);
    let params = RmsNormParams { accumulate: 0, last_only: 1, ..params };
    let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
    let op = made(kernels::rms_norm(kernels, gpu, params, rows, &x_buffer, &w_buffer, &last));
    bench.run(step(n_tokens, 0, 0), &[op]);
    let mut expected = vec![0.0; rows * dim];
    let x = &x[x.len() - rows * dim..];
    reference::rms_norm(x, &weight, 1e-6, &mut expected, Output::Store);
    assert_close(&format!("{what}, last"), &bench.read(&last)[1..], &expected, tolerance);
}

#[test]
fn rms_norm_matches_reference() {
    for bench in &mut benches(Storage::F32, 8, 128) {
        check_norm(bench, &noise(3 * 2048, 1, 2.0), 2048, 1, false);
        check_norm(bench, &noise(2 * 16 * 128, 2, 2.0), 128, 16, true);
        check_norm(bench, &noise(3 * 50, 3, 2.0), 50, 1, true);
        check_norm(bench, &noise(2 * 3 * 7, 4, 2.0), 7, 3, false);
        // large, none, and so tiny that only eps counts
        for scale in [2e15, 0.0, 1e-20] {
            check_norm(bench, &noise(2 * 130, 5, scale), 130, 1, false);
        }
        check_norm(bench, &[-3.0], 1, 1, false);
    }
}

fn check_silu(bench: &mut Bench, gate: &[f32], up: &[f32], n: usize, y_stride: usize) {
    let n_tokens = gate.len() / n;
    let gate_up_stride = 2 * n + 3;
    let pairs = gate.chunks(n).zip(up.chunks(n));
    let rows: Vec<f32> = pairs.flat_map(|(g, u)| [g, u, &[UNTOUCHED; 3]].concat()).collect();
    let mut expected = gate.to_vec();
    reference::silu_mul(&mut expected, up);
    let expected = strided(&expected, n, y_stride, UNTOUCHED);
    let gate_up = bench.floats(&rows);
    let y = bench.floats(&vec![UNTOUCHED; n_tokens * y_stride]);
    let params = SiluMulParams {
        n: n as u32,
        gate_up_stride: gate_up_stride as u32,
        y_stride: y_stride as u32,
    };
    let op = made(kernels::silu_mul(&mut bench.kernels, &bench.gpu, params, &gate_up, &y));
    bench.run(step(n_tokens, 0, 0), &[op]);
    // exp of WGSL may be off by 3 + 2·|z| units in the last place: 2e-5 at the end of its range,
    // where nothing is left of the product; 1e-5 around the bend
    assert_close("silu_mul", &bench.read(&y), &expected, Tolerance::new(1e-6, 1e-5));
}

#[test]
fn silu_mul_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let n = 3 * 11008;
    check_silu(bench, &noise(n, 1, 16.0), &noise(n, 2, 4.0), 11008, 11008);
    check_silu(bench, &noise(150, 3, 16.0), &noise(150, 4, 4.0), 50, 52);
    let gate = [0.0, -0.0, 1e-30, 30.0, -30.0, 87.5, -87.5, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30];
    for up in [1.0, -1.0, 0.0, 1e4] {
        check_silu(bench, &gate, &[up; 13], 13, 13);
    }
    check_silu(bench, &[-1e30, -1e9], &[1e20, -1e20], 2, 2);
}

#[test]
fn low_rank_add_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    for (n_tokens, n, n_rows, scale) in [
        (2, 2048, 8, 1.0),
        (2, 2048, 32, 1.0),
        (3, 50, 5, 1.0),
        (1, 1, 1, 1.0),
        (2, 65, 128, 1e4),
        (2, 10, 5, 0.0),
    ] {
        for accumulate in [true, false] {
            let delta = noise(n * n_rows, 1, scale);
            let reads = noise(n_tokens * n_rows, 2, scale);
            let before = noise(n_tokens * n, 3, 1.0);
            let mut expected = if accumulate { before.clone() } else { vec![0.0; before.len()] };
            reference::low_rank_add(&mut expected, &delta, &reads, n_rows);

            // y at an offset inside wider tokens
            let (stride, offset) = (n + 9, 4);
            let place = |values: &[f32]| -> Vec<f32> {
                let token = |row: &[f32]| [&[UNTOUCHED; 4], row, &[UNTOUCHED; 5]].concat();
                values.chunks(n).flat_map(token).collect()
            };
            let (d, r) = (bench.floats(&delta), bench.floats(&reads));
            let y = bench.floats(&place(&before));
            let params = LowRankAddParams {
                n: n as u32,
                n_rows: n_rows as u32,
                y_stride: stride as u32,
                y_offset: offset,
                accumulate: accumulate.into(),
            };
            let op =
                made(kernels::low_rank_add(&mut bench.kernels, &bench.gpu, params, &d, &r, &y));
            bench.run(step(n_tokens, 0, 0), &[op]);
            let what = format!("low_rank_add {n_tokens}×{n_rows}→{n} add {accumulate}");
            let tolerance = Tolerance::sum(n_rows + 1, (scale * scale / 4.0).max(1.0));
            assert_close(&what, &bench.read(&y), &place(&expected), tolerance);
        }
    }
}
