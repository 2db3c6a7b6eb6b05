//! The memory's kernels: segment_mean, memory_project, memory_scan, memory_read, memory_step, the last
//! also where attention takes it along.

use crate::bench::*;
use deltamem::config::{DeltaConfig, StateUpdateMode};
use deltamem::kernels::{
    self, AttentionBuffers, AttentionParams, MemoryProjectParams, MemoryReadParams,
    MemoryScanParams, MemoryStepBuffers, MemoryStepParams, Op, SegmentMeanParams,
};
use deltamem::reference::{self, Projected};
use deltamem::shader::Storage;

/// `[items, 6, R]`, as the shaders keep it.
fn interleaved(p: &Projected, n_rows: usize) -> Vec<f32> {
    let parts = [&p.q, &p.k, &p.v, &p.keep, &p.erase, &p.write];
    let item = |i: usize| parts.map(|part| part[i * n_rows..][..n_rows].to_vec()).concat();
    (0..p.q.len() / n_rows).flat_map(item).collect()
}

#[test]
fn segment_mean_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let (layer, n_layers) = (1, 3);
    for (width, n_tokens, n_groups, scale) in
        [(32, 48, 3, 2.0), (29, 7, 5, 2.0), (70, 3, 2, 1e30), (5, 4, 1, 0.0)]
    {
        let raw = noise(n_tokens * width, 1, scale);
        let group: Vec<Option<u32>> = (0..n_tokens)
            .map(|t| if t % 4 == 1 { None } else { Some((t * 7 % n_groups) as u32) })
            .collect();
        let weight = noise(n_tokens, 2, 1.0);
        let mut expected = noise(n_layers * n_groups * width, 3, 1.0);
        let before = expected.clone();
        let own = &mut expected[layer * n_groups * width..][..n_groups * width];
        reference::segment_mean(&raw, width, &group, &weight, own);

        // two chunks that add up, the first of two thirds
        let mean = bench.floats(&before);
        let cut = n_tokens * 2 / 3;
        for range in [0..cut, cut..n_tokens] {
            let ids: Vec<u32> =
                group[range.clone()].iter().map(|g| g.unwrap_or(u32::MAX)).collect();
            let raw = bench.floats(&raw[range.start * width..range.end * width]);
            let (ids, weights) = (bench.words(&ids), bench.floats(&weight[range.clone()]));
            let params = SegmentMeanParams {
                n_columns: width as u32,
                raw_stride: width as u32,
                layer: layer as u32,
            };
            let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
            let op = made(kernels::segment_mean(kernels, gpu, params, &raw, &ids, &weights, &mean));
            bench.run(step(range.len(), 0, n_groups), &[op]);
        }
        let tolerance = Tolerance::sum(n_tokens, (scale / 2.0).max(1.0));
        assert_close("segment_mean", &bench.read(&mean), &expected, tolerance);
    }
}

/// memory_project over tokens, and over the groups of the second layer.
fn check_project(bench: &mut Bench, delta: &DeltaConfig, raw: &[f32], bias: f32) {
    let (n_rows, n_gates) = (delta.n_rows(), delta.n_gates());
    let width = 3 * n_rows + n_gates * if delta.uses_lambda() { 2 } else { 1 };
    let n_items = raw.len() / width;
    let beta_bias: Vec<f32> = noise(n_gates, 2, 2.0).iter().map(|b| b + bias).collect();
    let lambda_bias: Vec<f32> = noise(n_gates, 3, 2.0).iter().map(|b| b - bias).collect();
    let expected = reference::memory_project(delta, raw, &beta_bias, &lambda_bias);
    let expected = interleaved(&expected, n_rows);

    let biases = bench.floats(&[beta_bias, lambda_bias].concat());
    for over_groups in [false, true] {
        let layer = if over_groups { 1 } else { 0 };
        let other_layer = noise(layer * raw.len(), 4, 9.0);
        let source = bench.floats(&[&other_layer[..], raw].concat());
        let projected = bench.floats(&vec![0.0; n_items * 6 * n_rows]);
        let params = MemoryProjectParams {
            num_state_heads: delta.num_state_heads as u32,
            raw_stride: width as u32,
            normalize_qk: delta.normalize_qk.into(),
            gates_per_head: if delta.rankwise_gates { delta.rank as u32 } else { 1 },
            lambda_mode: match delta.state_update_mode {
                StateUpdateMode::NoLambda => 0,
                _ if delta.couple_lambda => 1,
                _ => 2,
            },
            erase_lambda: (delta.state_update_mode == StateUpdateMode::LambdaOutside).into(),
            over_groups: over_groups.into(),
            layer: layer as u32,
        };
        let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
        let op = made(kernels::memory_project(kernels, gpu, params, &source, &biases, &projected));
        let (n_tokens, n_groups) = if over_groups { (1, n_items) } else { (n_items, 0) };
        bench.run(step(n_tokens, 0, n_groups), &[op]);
        // unit vectors and gates, all of them within ±1 (v is a copy); WGSL's exp keeps 3 + 2·|z|
        // units in the last place
        let tolerance = Tolerance::new(1e-6, 1e-5);
        let what = format!("memory_project {delta:?} over groups {over_groups}");
        assert_close(&what, &bench.read(&projected), &expected, tolerance);
    }
}

/// The step by itself, and at the end of some attention.
fn step_ops(
    bench: &mut Bench,
    n_tokens: usize,
    params: MemoryStepParams,
    buffers: MemoryStepBuffers<'_>,
) -> [Vec<Op>; 2] {
    let alone = made(kernels::memory_step(&mut bench.kernels, &bench.gpu, params, buffers));
    let (n_heads, dim) = (2, 128);
    let q = bench.floats(&noise(n_tokens * n_heads * dim, 20, 1.0));
    let keys = bench.floats(&noise(n_tokens * dim, 21, 1.0));
    let values = bench.floats(&noise(n_tokens * dim, 22, 1.0));
    let parts = kernels::attention_parts_len(&bench.gpu, n_tokens, n_tokens, n_heads, dim);
    let parts = bench.floats(&vec![f32::NAN; parts]);
    let o = bench.floats(&vec![0.0; n_tokens * n_heads * dim]);
    let attention = AttentionBuffers { q: &q, keys: &keys, values: &values, parts: &parts, o: &o };
    let of_attention =
        AttentionParams { n_heads: 2, n_kv_heads: 1, q_stride: 256, o_stride: 256, scale: 0.1 };
    let (kernels, gpu) = (&mut bench.kernels, &bench.gpu);
    let step = Some((params, buffers));
    let beside = made(kernels::attention_few(kernels, gpu, of_attention, attention, step));
    [vec![alone], beside]
}

/// memory_step in the second of three layers against memory_project and memory_scan or memory_read.
fn check_step(bench: &mut Bench, delta: &DeltaConfig, raw: &[f32], bias: f32, writes: bool) {
    let (rank, n_rows, n_gates) = (delta.rank, delta.n_rows(), delta.n_gates());
    let width = 3 * n_rows + n_gates * if delta.uses_lambda() { 2 } else { 1 };
    let n_tokens = raw.len() / width;
    let beta_bias: Vec<f32> = noise(n_gates, 2, 2.0).iter().map(|b| b + bias).collect();
    let lambda_bias: Vec<f32> = noise(n_gates, 3, 2.0).iter().map(|b| b - bias).collect();
    let layer_len = n_rows * rank;
    let before = noise(3 * layer_len, 9, 1.0);
    let mut after = before.clone();
    let own = &mut after[layer_len..2 * layer_len];
    let p = reference::memory_project(delta, raw, &beta_bias, &lambda_bias);
    let expected_reads = match writes {
        true => reference::memory_scan(own, &p, rank),
        false => reference::memory_read(own, &p.q, rank),
    };

    let source = bench.floats(raw);
    let biases = bench.floats(&[beta_bias, lambda_bias].concat());
    let state = bench.floats(&before);
    let reads = bench.floats(&vec![0.0; n_tokens * n_rows]);
    let projected = bench.floats(&vec![0.0; n_tokens * 6 * n_rows]);
    let params = MemoryStepParams {
        num_state_heads: delta.num_state_heads as u32,
        raw_stride: width as u32,
        normalize_qk: delta.normalize_qk.into(),
        gates_per_head: if delta.rankwise_gates { rank as u32 } else { 1 },
        lambda_mode: match delta.state_update_mode {
            StateUpdateMode::NoLambda => 0,
            _ if delta.couple_lambda => 1,
            _ => 2,
        },
        erase_lambda: (delta.state_update_mode == StateUpdateMode::LambdaOutside).into(),
        writes: writes.into(),
        layer: 1,
    };
    let buffers = MemoryStepBuffers {
        raw: &source,
        bias: &biases,
        state: &state,
        reads: &reads,
        projected: &projected,
    };
    let forms = step_ops(bench, n_tokens, params, buffers);
    for (form, ops) in ["memory_step", "attention with memory_step"].into_iter().zip(&forms) {
        for (buffer, values) in [
            (&state, &before[..]),
            (&reads, &vec![777.0; n_tokens * n_rows]),
            (&projected, &vec![777.0; n_tokens * 6 * n_rows]),
        ] {
            bench.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(values));
        }
        bench.run(step(n_tokens, 0, 0), ops);
        let what = format!("{form} {delta:?} writes {writes} on {}", bench.tier);
        let largest = |x: &[f32]| x.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        // as memory_project and memory_scan together: unit vectors and gates keep 1e-5, the rest are sums
        let tolerance = |x: &[f32]| Tolerance::new(largest(x) * (rank + 10) as f32 * 1e-6, 2e-5);
        assert_close(&format!("{what}, state"), &bench.read(&state), &after, tolerance(&after));
        let (found, expected) = (bench.read(&reads), &expected_reads);
        assert_close(&format!("{what}, reads"), &found, expected, tolerance(expected));
        let written = bench.read(&projected);
        let gates: Vec<f32> =
            written.chunks(n_rows).skip(5).step_by(6).flatten().copied().collect();
        assert_close(&format!("{what}, gates"), &gates, &p.write, Tolerance::new(1e-6, 1e-5));
    }
}

#[test]
fn memory_step_matches_reference() {
    for config in [
        r#"{"rank": 8}"#,
        r#"{"rank": 8, "num_state_heads": 4, "rankwise_gates": false}"#,
        r#"{"rank": 5, "num_state_heads": 3, "couple_lambda": false}"#,
        r#"{"rank": 5, "num_state_heads": 3, "couple_lambda": false, "rankwise_gates": false,
            "state_update_mode": "lambda_outside", "normalize_qk": false}"#,
        r#"{"rank": 3, "state_update_mode": "no_lambda", "couple_lambda": false}"#,
        r#"{"rank": 128, "state_update_mode": "lambda_outside"}"#,
    ] {
        let delta = delta(config);
        let mut benches = benches(Storage::F32, delta.rank, 128);
        let gates = delta.n_gates() * if delta.uses_lambda() { 2 } else { 1 };
        let width = 3 * delta.n_rows() + gates;
        // where a CPU plays the GPU, and the wide workgroups of one
        for bench in benches.iter_mut().step_by(2) {
            for writes in [true, false] {
                check_step(bench, &delta, &noise(7 * width, 1, 4.0), 0.0, writes);
                // gates at both ends; tiny rows, whose direction the normalisation brings out
                check_step(bench, &delta, &noise(width, 1, 4.0), 200.0, writes);
                for scale in [1e-3, 1e-5, 1e-30, 0.0] {
                    check_step(bench, &delta, &noise(2 * width, 1, scale), -200.0, writes);
                }
            }
        }
    }
}

fn delta(json: &str) -> DeltaConfig {
    DeltaConfig::from_json(json.as_bytes(), "test").expect("a configuration")
}

#[test]
fn memory_project_matches_reference() {
    for config in [
        r#"{"rank": 8}"#,
        r#"{"rank": 8, "num_state_heads": 4, "rankwise_gates": false}"#,
        r#"{"rank": 5, "num_state_heads": 3, "couple_lambda": false}"#,
        r#"{"rank": 5, "num_state_heads": 3, "couple_lambda": false, "rankwise_gates": false,
            "state_update_mode": "lambda_outside", "normalize_qk": false}"#,
        r#"{"rank": 3, "state_update_mode": "no_lambda", "couple_lambda": false}"#,
        r#"{"rank": 128, "state_update_mode": "lambda_outside"}"#,
    ] {
        let delta = delta(config);
        let Some(bench) = &mut bench(Storage::F32, delta.rank, 128) else { return };
        let gates = delta.n_gates() * if delta.uses_lambda() { 2 } else { 1 };
        let width = 3 * delta.n_rows() + gates;
        check_project(bench, &delta, &noise(7 * width, 1, 4.0), 0.0);
        // far beyond every saturation, with gates at both ends; then tiny rows, whose direction
        // the normalisation brings out, and rows below the smallest norm; then none
        check_project(bench, &delta, &noise(3 * width, 1, 2e30), 0.0);
        check_project(bench, &delta, &noise(3 * width, 1, 2e4), 200.0);
        for scale in [1e-1, 1e-3, 1e-5, 1e-8, 1e-30, 0.0] {
            check_project(bench, &delta, &noise(3 * width, 1, scale), -200.0);
        }
    }
}

fn projected(n_items: usize, n_rows: usize, scale: f32) -> Projected {
    let rows = |seed| noise(n_items * n_rows, seed, scale);
    // gates between 0 and 1
    let gates = |seed| noise(n_items * n_rows, seed, 1.0).iter().map(|x| x + 0.5).collect();
    Projected {
        q: rows(1),
        k: rows(2),
        v: rows(3),
        keep: gates(4),
        erase: gates(5),
        write: gates(6),
    }
}

/// memory_scan in the second of three layers; whether items are groups or tokens.
fn check_scan(bench: &mut Bench, p: &Projected, heads: usize, rank: usize, over_groups: bool) {
    let (n_rows, layer_len) = (heads * rank, heads * rank * rank);
    let n_items = p.q.len() / n_rows;
    let before = noise(3 * layer_len, 9, 1.0);
    let mut after = before.clone();
    let reads = reference::memory_scan(&mut after[layer_len..2 * layer_len], p, rank);
    // reads of groups belong to nobody
    let expected_reads = if over_groups { vec![777.0; reads.len()] } else { reads };

    let source = bench.floats(&interleaved(p, n_rows));
    let (state, reads) = (bench.floats(&before), bench.floats(&vec![777.0; n_items * n_rows]));
    let params = MemoryScanParams {
        num_state_heads: heads as u32,
        layer: 1,
        over_groups: over_groups.into(),
    };
    let op =
        made(kernels::memory_scan(&mut bench.kernels, &bench.gpu, params, &source, &state, &reads));
    let (n_tokens, n_groups) = if over_groups { (1, n_items) } else { (n_items, 3) };
    bench.run(step(n_tokens, 0, n_groups), &[op]);
    let largest = |x: &[f32]| x.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let what = format!("memory_scan {n_items} items {heads}×{rank} over groups {over_groups}");
    // sums of r products, and a few roundings an item that the decay mostly forgets again
    let tolerance = |x: &[f32]| Tolerance::new(largest(x) * (rank + 10) as f32 * 3e-7, 1e-5);
    assert_close(&format!("{what}, state"), &bench.read(&state), &after, tolerance(&after));
    let found = bench.read(&reads);
    assert_close(&format!("{what}, reads"), &found, &expected_reads, tolerance(&expected_reads));
}

#[test]
fn memory_scan_matches_reference() {
    for (heads, rank, n_items) in [(1, 8, 40), (4, 8, 12), (3, 5, 3), (1, 1, 4), (8, 128, 3)] {
        let Some(bench) = &mut bench(Storage::F32, rank, 128) else { return };
        // keys of about unit length, so that a write does not overshoot
        let scale = (12.0 / rank as f32).sqrt();
        for over_groups in [false, true] {
            check_scan(bench, &projected(n_items, heads * rank, scale), heads, rank, over_groups);
        }
        let mut large = projected(2, heads * rank, scale);
        large.v.iter_mut().for_each(|v| *v *= 1e20);
        check_scan(bench, &large, heads, rank, false);
        check_scan(bench, &projected(2, heads * rank, 0.0), heads, rank, false);
    }
}

#[test]
fn memory_scan_without_gates_leaves_the_state_bit_by_bit() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let mut p = projected(5, 8, 2.0);
    p.keep.fill(1.0);
    p.erase.fill(0.0);
    p.write.fill(0.0);
    let before = noise(64, 9, 1.0);
    let source = bench.floats(&interleaved(&p, 8));
    let (state, reads) = (bench.floats(&before), bench.floats(&[0.0; 40]));
    let params = MemoryScanParams { num_state_heads: 1, layer: 0, over_groups: 0 };
    let op =
        made(kernels::memory_scan(&mut bench.kernels, &bench.gpu, params, &source, &state, &reads));
    bench.run(step(5, 0, 0), &[op]);
    assert_eq!(bench.read(&state), before);
}

#[test]
fn memory_read_matches_reference() {
    for (heads, rank, n_tokens, scale) in [
        (1, 8, 40, 2.0),
        (4, 8, 9, 2.0),
        (3, 5, 3, 2.0),
        (2, 128, 3, 2.0),
        (1, 8, 2, 1e15),
        (1, 8, 2, 0.0),
    ] {
        let Some(bench) = &mut bench(Storage::F32, rank, 128) else { return };
        let (n_rows, layer_len) = (heads * rank, heads * rank * rank);
        let p = projected(n_tokens, n_rows, scale);
        let before = noise(3 * layer_len, 9, scale);
        let expected = reference::memory_read(&before[layer_len..2 * layer_len], &p.q, rank);

        let source = bench.floats(&interleaved(&p, n_rows));
        let state = bench.floats(&before);
        let reads = bench.floats(&vec![0.0; n_tokens * n_rows]);
        let params = MemoryReadParams { num_state_heads: heads as u32, layer: 1 };
        let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
        let op = made(kernels::memory_read(kernels, gpu, params, &source, &state, &reads));
        bench.run(step(n_tokens, 0, 0), &[op]);
        let what = format!("memory_read {n_tokens} tokens {heads}×{rank} ×{scale}");
        let tolerance = Tolerance::sum(rank, scale * scale / 4.0);
        assert_close(&what, &bench.read(&reads), &expected, tolerance);
        assert_eq!(bench.read(&state), before, "{what}: the state changed");
    }
}
