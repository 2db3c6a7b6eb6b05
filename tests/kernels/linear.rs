//! embed, matvec and matmul in every weight format, whole and in parts.

use crate::bench::*;
use deltamem::kernels::{self, Beside, LinearTarget};
use deltamem::reference::{self, Output};
use deltamem::shader::Storage;

/// A marker in places that a kernel must leave alone.
const UNTOUCHED: f32 = 777.0;

fn plain(y: &wgpu::Buffer, y_stride: usize, accumulate: bool) -> LinearTarget<'_> {
    LinearTarget { y, y_stride, accumulate, gated: false, beside: Beside::Nothing }
}

struct Product {
    n_tokens: usize,
    k: usize,
    n_rows: usize,
    /// Floats from token to token in y.
    y_stride: usize,
    scale: f32,
    part_rows: Option<usize>,
}

const SIZES: &[Product] = &[
    // SmolLM3: the hidden vector, then the down projection
    Product { n_tokens: 2, k: 2048, n_rows: 70, y_stride: 70, scale: 1.0, part_rows: None },
    Product { n_tokens: 1, k: 11008, n_rows: 21, y_stride: 24, scale: 1.0, part_rows: Some(8) },
    // odd: k fills neither a quad, a block nor a tile
    Product { n_tokens: 3, k: 50, n_rows: 37, y_stride: 41, scale: 1.0, part_rows: Some(5) },
    Product { n_tokens: 33, k: 35, n_rows: 65, y_stride: 65, scale: 1.0, part_rows: Some(33) },
    Product { n_tokens: 1, k: 1, n_rows: 1, y_stride: 1, scale: 1.0, part_rows: None },
    // extreme: products of 1e8, none at all, tiny ones
    Product { n_tokens: 2, k: 100, n_rows: 9, y_stride: 9, scale: 2e4, part_rows: None },
    Product { n_tokens: 2, k: 64, n_rows: 9, y_stride: 9, scale: 0.0, part_rows: None },
    Product { n_tokens: 2, k: 64, n_rows: 9, y_stride: 9, scale: 1e-3, part_rows: None },
];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Form {
    Matvec,
    OneToken,
    Matmul,
}

fn check(form: Form) {
    for mut bench in benches(Storage::F32, 8, 128) {
        for (size, storage) in SIZES.iter().flat_map(|s| STORAGES.map(|storage| (s, storage))) {
            let &Product { n_tokens, k, n_rows, y_stride, scale, part_rows } = size;
            if form == Form::OneToken && n_tokens != 1 {
                continue;
            }
            let x = noise(n_tokens * k, 1, scale);
            let w = noise(n_rows * k, 2, scale);
            let matrix = bench.matrix(&w, k, storage, part_rows);
            assert_eq!(matrix.parts.len(), part_rows.map_or(1, |n| n_rows.div_ceil(n)));
            let w = stored(storage, &w, k);
            for accumulate in [false, true] {
                // one more way through every kernel, and a pipeline to compile
                if accumulate && scale != 1.0 {
                    continue;
                }
                let before = noise(n_tokens * n_rows, 3, scale);
                let mut expected = before.clone();
                let output = if accumulate { Output::Add } else { Output::Store };
                reference::matmul(&x, &w, k, &mut expected, output);
                let expected = strided(&expected, n_rows, y_stride, UNTOUCHED);

                let x = bench.floats(&strided(&x, k, k.next_multiple_of(4), 0.0));
                let y = bench.floats(&strided(&before, n_rows, y_stride, UNTOUCHED));
                let target = plain(&y, y_stride, accumulate);
                let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
                let ops = match form {
                    Form::Matmul => made(kernels::matmul(kernels, gpu, &matrix, &x, target)),
                    _ => {
                        let one_token = form == Form::OneToken;
                        made(kernels::matvec(kernels, gpu, &matrix, &x, target, one_token))
                    }
                };
                bench.run(step(n_tokens, 0, 0), &ops);
                let what = format!(
                    "{form:?} {} {n_tokens}×{k}→{n_rows} ×{scale} add {accumulate} on {}",
                    storage.name(),
                    bench.tier
                );
                let tolerance = Tolerance::sum(k, scale * scale / 4.0);
                assert_close(&what, &bench.read(&y), &expected, tolerance);
            }
        }
    }
}

#[test]
fn matvec_matches_reference() {
    check(Form::Matvec);
    check(Form::OneToken);
}

#[test]
fn matmul_matches_reference() {
    check(Form::Matmul);
}

/// What a product takes along is there as if it had been computed by itself, whether it can be taken
/// along (one part, R of whole quads) or not.
#[test]
fn what_rides_along_matches_reference() {
    for mut bench in benches(Storage::F32, 8, 128) {
        for (storage, k, n_rows, n_reads, part_rows) in [
            (Storage::Q4K, 2048, 70, 8, None),
            (Storage::Q6K, 512, 37, 32, Some(20)),
            (Storage::F16, 50, 37, 5, None),
            (Storage::Q4, 50, 65, 8, Some(33)),
            (Storage::Q8, 35, 3, 4, None),
            (Storage::F32, 1, 1, 4, None),
        ] {
            for (n_tokens, is_few) in [(1, true), (3, true), (3, false), (10, false)] {
                for memory_storage in [Storage::F32, Storage::Bf16] {
                    check_beside(
                        &mut bench,
                        (storage, memory_storage),
                        (n_tokens, k, n_rows, n_reads),
                        part_rows,
                        is_few,
                    );
                }
            }
        }
    }
}

fn check_beside(
    bench: &mut Bench,
    (storage, memory_storage): (Storage, Storage),
    (n_tokens, k, n_rows, n_reads): (usize, usize, usize, usize),
    part_rows: Option<usize>,
    is_few: bool,
) {
    let n_memory = 3 * n_reads + 2;
    let what = format!(
        "{} {n_tokens}×{k}→{n_rows}, {n_reads} reads of {}, few {is_few} on {}",
        storage.name(),
        memory_storage.name(),
        bench.tier
    );
    let x = noise(n_tokens * k, 1, 1.0);
    let w = noise(n_rows * k, 2, 1.0);
    let matrix = bench.matrix(&w, k, storage, part_rows);
    let w = stored(storage, &w, k);
    let memory = noise(n_memory * k, 3, 1.0);
    let memory_matrix = bench.matrix(&memory, k, memory_storage, None);
    let memory = stored(memory_storage, &memory, k);
    let delta = noise(n_rows * n_reads, 4, 1.0);
    let reads = noise(n_tokens * n_reads, 5, 1.0);
    let before = noise(n_tokens * n_rows, 6, 1.0);
    let mut product = vec![0.0; n_tokens * n_rows];
    reference::matmul(&x, &w, k, &mut product, Output::Store);

    let x_buffer = bench.floats(&strided(&x, k, k.next_multiple_of(4), 0.0));
    let tolerance = Tolerance::sum(k + n_reads, 0.25);
    let make = |bench: &mut Bench, target: LinearTarget<'_>| {
        let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
        match is_few {
            true => made(kernels::matvec(kernels, gpu, &matrix, &x_buffer, target, false)),
            false => made(kernels::matmul(kernels, gpu, &matrix, &x_buffer, target)),
        }
    };
    // of the products of many only `matmul_shuffle` takes a correction along
    let tier = bench.gpu.tier;
    let is_fused = is_few || tier.software && tier.min_subgroup_size >= 8;

    // the memory's rows of the same x
    let y = bench.floats(&vec![UNTOUCHED; product.len()]);
    let raw = bench.floats(&vec![UNTOUCHED; n_tokens * n_memory]);
    let beside = Beside::MemoryRows { weight: &memory_matrix, raw: &raw };
    let ops = make(bench, LinearTarget { beside, ..plain(&y, n_rows, false) });
    assert_eq!(ops.len(), matrix.parts.len() + usize::from(!is_few), "{what}");
    bench.run(step(n_tokens, 0, 0), &ops);
    assert_close(&format!("{what}, memory rows"), &bench.read(&y), &product, tolerance);
    let mut expected = vec![0.0; n_tokens * n_memory];
    reference::matmul(&x, &memory, k, &mut expected, Output::Store);
    assert_close(&format!("{what}, raw"), &bench.read(&raw), &expected, tolerance);

    // the correction of what is written
    let y = bench.floats(&before);
    let (d, r) = (bench.floats(&delta), bench.floats(&reads));
    let beside = Beside::Correction { delta: &d, reads: &r, n_reads };
    let ops = make(bench, LinearTarget { beside, ..plain(&y, n_rows, true) });
    let is_fused = is_fused && n_reads % 4 == 0;
    assert_eq!(ops.len(), matrix.parts.len() + usize::from(!is_fused), "{what}");
    bench.run(step(n_tokens, 0, 0), &ops);
    let mut expected: Vec<f32> = before.iter().zip(&product).map(|(b, p)| b + p).collect();
    reference::low_rank_add(&mut expected, &delta, &reads, n_reads);
    assert_close(&format!("{what}, corrected"), &bench.read(&y), &expected, tolerance);
}

#[test]
fn gated_products_match_reference() {
    for mut bench in benches(Storage::F32, 8, 128) {
        for (storage, n_tokens, k, n) in [
            (Storage::Q4K, 2, 512, 70),
            (Storage::Q6K, 9, 512, 33),
            (Storage::Q4, 3, 50, 5),
            (Storage::F16, 1, 50, 37),
            (Storage::F32, 9, 3, 1),
        ] {
            let x = noise(n_tokens * k, 1, 1.0);
            let w = noise(2 * n * k, 2, 1.0);
            let matrix = bench.matrix(&w, k, storage, None);
            let w = stored(storage, &w, k);
            let (gate_weight, up_weight) = w.split_at(n * k);
            let mut expected = vec![0.0; n_tokens * n];
            let mut up = expected.clone();
            reference::matmul(&x, gate_weight, k, &mut expected, Output::Store);
            reference::matmul(&x, up_weight, k, &mut up, Output::Store);
            reference::silu_mul(&mut expected, &up);
            let stride = n + 3;
            let expected = strided(&expected, n, stride, UNTOUCHED);
            let x = bench.floats(&strided(&x, k, k.next_multiple_of(4), 0.0));
            let (few, many) = kernels::can_gate(&bench.kernels, &matrix);
            assert_eq!((few, many), (true, bench.gpu.tier.software));
            for is_few in [true, false] {
                if !is_few && !many {
                    continue;
                }
                let y = bench.floats(&vec![UNTOUCHED; n_tokens * stride]);
                let target = LinearTarget { gated: true, ..plain(&y, stride, false) };
                let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
                let ops = match is_few {
                    true => made(kernels::matvec(kernels, gpu, &matrix, &x, target, false)),
                    false => made(kernels::matmul(kernels, gpu, &matrix, &x, target)),
                };
                bench.run(step(n_tokens, 0, 0), &ops);
                let name = storage.name();
                let what =
                    format!("gated {name} {n_tokens}×{k}→{n}, few {is_few} on {}", bench.tier);
                // silu is at most 1.1 times as steep as the gate, and times up of a few
                let tolerance = Tolerance::sum(k, 2.0);
                assert_close(&what, &bench.read(&y), &expected, tolerance);
            }
        }
    }
}

#[test]
fn embed_matches_reference() {
    for mut bench in benches(Storage::F32, 8, 128) {
        for storage in STORAGES {
            for (vocab, hidden, scale, part_rows) in [
                // more than one piece of an upload
                (600, 2048, 1.0, Some(170)),
                (300, 2048, 1.0, None),
                (11, 50, 1.0, Some(4)),
                (11, 50, 6e4, None),
                (7, 33, 0.0, Some(1)),
            ] {
                // files have K types in whole blocks only, and padding would not decode to zero
                let is_k = matches!(storage, Storage::Q4K | Storage::Q5K | Storage::Q6K);
                if is_k && hidden % 256 != 0 {
                    continue;
                }
                let table = noise(vocab * hidden, 4, scale);
                let last = vocab as u32 - 1;
                let tokens = [0, last, last / 2, 3, 3, 4];
                let stride = hidden.next_multiple_of(4);
                let expected = reference::embed(&tokens, &stored(storage, &table, hidden), hidden);
                // the padding is written with the row's own, which is zero
                let expected = strided(&expected, hidden, stride, 0.0);

                let matrix = bench.matrix(&table, hidden, storage, part_rows);
                let ids = bench.words(&tokens);
                let x = bench.floats(&vec![UNTOUCHED; (tokens.len() + 1) * stride]);
                let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
                let ops = made(kernels::embed(kernels, gpu, &matrix, &ids, &x));
                bench.run(step(tokens.len(), 0, 0), &ops);
                let found = bench.read(&x);
                let (found, beyond) = found.split_at(expected.len());
                let what = format!("embed {} {vocab}×{hidden} on {}", storage.name(), bench.tier);
                // q8 goes through unpack4x8snorm, which divides by 127; the product and difference of
                // the K types may be one operation
                let tolerance = match storage {
                    Storage::F32 | Storage::F16 | Storage::Bf16 | Storage::Q4 => EXACT,
                    _ => Tolerance::new(1e-6 * scale, 1e-6),
                };
                // padding of a quantised block decodes to 0 · scale or (8 − 8) · scale
                assert_close(&what, found, &expected, tolerance);
                assert_eq!(beyond, vec![UNTOUCHED; stride], "{what}: past the last token");
            }
        }
    }
}

#[test]
fn stacked_tensors_are_one_matrix() {
    let Some(mut bench) = bench(Storage::F32, 8, 128) else { return };
    let (k, n_tokens) = (70, 3);
    let rows = [13, 1, 40].map(|n| noise(n * k, n as u32, 1.0));
    let x = noise(n_tokens * k, 9, 1.0);
    for storage in STORAGES {
        let (matrix, progress) =
            bench.stacked([&rows[0], &rows[1], &rows[2]], k, storage, Some(10));
        assert_eq!(matrix.n_rows, 54);
        let starts: Vec<_> = matrix.parts.iter().map(|p| (p.row_start, p.n_rows)).collect();
        assert_eq!(starts, [(0, 10), (10, 10), (20, 10), (30, 10), (40, 10), (50, 4)]);
        assert_eq!(progress, Some((54 * 70, 54 * 70)));
        let mut expected = vec![0.0; n_tokens * 54];
        let all = stored(storage, &rows.concat(), k);
        reference::matmul(&x, &all, k, &mut expected, Output::Store);

        let x = bench.floats(&strided(&x, k, 72, 0.0));
        let y = bench.floats(&vec![0.0; n_tokens * 54]);
        let target = plain(&y, 54, false);
        let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
        let ops = made(kernels::matmul(kernels, gpu, &matrix, &x, target));
        bench.run(step(n_tokens, 0, 0), &ops);
        let what = format!("stacked {}", storage.name());
        assert_close(&what, &bench.read(&y), &expected, Tolerance::sum(k, 0.25));
    }
}
