//! repetition_penalty, mask_logits, argmax and top_k over the real vocabulary and over awkward logits.

use crate::bench::*;
use deltamem::engine::{MAX_TOP_K, RepetitionPenalty};
use deltamem::kernels::{self, ArgmaxParams, MaskLogitsParams, Step, TopKParams};
use deltamem::reference;
use deltamem::shader::{Storage, TOP_K_CAPACITY};

const VOCAB: usize = 128_256;

/// Logits that a comparison can get wrong, with a name each.
fn logits() -> Vec<(&'static str, Vec<f32>)> {
    let with = |n: usize, scale: f32, places: &[(usize, f32)]| {
        let mut logits = noise(n, 1, scale);
        places.iter().for_each(|&(at, value)| logits[at] = value);
        logits
    };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    vec![
        ("vocabulary", with(VOCAB, 20.0, &[])),
        ("the last is largest", with(VOCAB, 20.0, &[(VOCAB - 1, 30.0)])),
        ("tie across lanes", with(VOCAB, 20.0, &[(70_001, 30.0), (300, 30.0), (299, 30.0)])),
        ("odd", with(257, 20.0, &[])),
        ("one", vec![-3.0]),
        ("three", vec![-1e30, -2e30, -1e30]),
        ("all equal", vec![-0.75; 5000]),
        ("zeros of both signs", vec![-0.0, 0.0, -1.0, -0.0, 0.0]),
        ("large", with(1000, 2e30, &[(5, 3e38), (6, -3e38)])),
        ("tiny", with(1000, 1e-30, &[])),
        ("NaN in front", vec![nan, 1.0, -nan, 2.0, 0.0]),
        ("NaN in a lane of the largest", with(600, 2.0, &[(5, nan), (261, 3.0), (517, -nan)])),
        ("minus infinity", with(600, 2.0, &[(0, -inf), (1, -inf), (599, 3.0)])),
        ("all NaN", vec![nan; 300]),
    ]
}

#[test]
fn argmax_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    for (name, logits) in logits() {
        let (buffer, result) = (bench.floats(&logits), bench.words(&[u32::MAX]));
        let params = ArgmaxParams { n: logits.len() as u32 };
        let op = made(kernels::argmax(&mut bench.kernels, &bench.gpu, params, &buffer, &result));
        bench.run(step(1, 0, 0), &[op]);
        let found = bench.read_words(&result)[0];
        assert_eq!(found, reference::argmax(&logits), "argmax, {name}");
    }
}

#[test]
fn top_k_matches_reference() {
    for bench in &mut benches(Storage::F32, 8, 128) {
        for (name, logits) in logits() {
            for (k, temperature) in [(1, 1.0), (40, 0.7), (MAX_TOP_K, 2.0)] {
                check_top_k(bench, name, &logits, k, temperature);
            }
        }
        // more ties than there is room for
        let mut many = noise(1000, 1, 2.0);
        many[..400].fill(5.0);
        many[999] = 6.0;
        check_top_k(bench, "400 ties", &many, 10, 1.0);
    }
}

fn check_top_k(bench: &mut Bench, name: &str, logits: &[f32], k: usize, temperature: f32) {
    let expected = reference::top_k(logits, k, temperature);
    let (buffer, settings) = (bench.floats(logits), bench.words(&[k as u32]));
    let result = bench.words(&vec![0; 4 + 2 * TOP_K_CAPACITY as usize]);
    let params = TopKParams { n: logits.len() as u32 };
    let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
    let op = made(kernels::top_k(kernels, gpu, params, &buffer, &settings, &result));
    let step = Step { inverse_temperature: 1.0 / temperature, ..step(1, 0, 0) };
    bench.run(step, &[op]);

    let words = bench.read_words(&result);
    let what = format!("top_k {k} of {name} on {}", bench.tier);
    let count = words[0] as usize;
    let n_pairs = count.min(TOP_K_CAPACITY as usize);
    let pairs = words[4..].chunks(2).take(n_pairs);
    let mut found: Vec<(u32, f32)> = pairs.map(|p| (p[0], f32::from_bits(p[1]))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    // the count says how many there are, ties included, with or without room for them
    let order = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    let threshold = expected.candidates[k.min(expected.candidates.len()) - 1].1;
    let n_kept = logits.iter().filter(|&&x| order(x) >= threshold).count();
    assert_eq!(count, n_kept, "{what}: count");
    if count <= TOP_K_CAPACITY as usize {
        found.truncate(MAX_TOP_K);
        assert_eq!(found, expected.candidates, "{what}");
    } else {
        // of the ties only some fit, but all that are larger do
        let larger = |c: &&(u32, f32)| c.1 > threshold;
        let expected: Vec<_> = expected.candidates.iter().filter(larger).collect();
        assert_eq!(found.iter().filter(larger).collect::<Vec<_>>(), expected, "{what}");
    }
    // a sum of up to 128,256 exponentials of 1e-6 each; with no finite logit it means nothing
    if expected.sum_exp.is_finite() {
        let tolerance = Tolerance::new(0.0, 2e-5);
        let found = f32::from_bits(words[1]);
        assert_close(&format!("{what}, sum"), &[found], &[expected.sum_exp], tolerance);
    }
}

#[test]
fn repetition_penalty_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let mut awkward = noise(50, 2, 20.0);
    awkward[..6].copy_from_slice(&[0.0, -0.0, 1e30, -1e30, 1e-30, f32::NEG_INFINITY]);
    let all: Vec<u32> = (0..50).collect();
    let cases: [(&[f32], &[u32], f32); 6] = [
        (&noise(VOCAB, 1, 20.0), &[0, 127, 128_255, 64_000], 1.3),
        (&awkward, &all, 1.1),
        (&awkward, &all, 0.5),
        (&awkward, &[49], 100.0),
        (&awkward, &[], 2.0),
        (&awkward, &[1, 0], 1.0),
    ];
    for (logits, ids, penalty) in cases {
        let mut expected = logits.to_vec();
        reference::repetition_penalty(&mut expected, &RepetitionPenalty { ids, penalty });
        let mut words = vec![ids.len() as u32, penalty.to_bits()];
        words.extend(ids);
        words.resize(2 + logits.len(), 3); // stale ids of an earlier call
        let (words, buffer) = (bench.words(&words), bench.floats(logits));
        let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
        let op = made(kernels::repetition_penalty(kernels, gpu, logits.len(), &words, &buffer));
        bench.run(step(1, 0, 0), &[op]);
        // a division may be 2.5 units in the last place off
        let tolerance = Tolerance::new(0.0, 4e-7);
        assert_close("repetition_penalty", &bench.read(&buffer), &expected, tolerance);
    }
}

#[test]
fn mask_logits_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    for (name, logits) in logits() {
        let n = logits.len();
        let n_words = n.div_ceil(32);
        let bits: Vec<u32> = noise(n_words, 3, 1.0).iter().map(|x| x.to_bits()).collect();
        let mut last = vec![0; n_words];
        last[(n - 1) / 32] = 1 << ((n - 1) % 32);
        for (kind, mask) in [
            ("all", vec![u32::MAX; n_words]),
            ("none", vec![0; n_words]),
            ("some", bits),
            ("the last", last),
        ] {
            let mut expected = logits.clone();
            reference::mask_logits(&mut expected, &mask);
            let (words, buffer) = (bench.words(&mask), bench.floats(&logits));
            let params = MaskLogitsParams { n: n as u32 };
            let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
            let op = made(kernels::mask_logits(kernels, gpu, params, &words, &buffer));
            bench.run(step(1, 0, 0), &[op]);
            // nothing is computed: the same bits, NaN among them
            let expected: Vec<u32> = expected.iter().map(|x| x.to_bits()).collect();
            assert_eq!(bench.read_words(&buffer), expected, "mask_logits, {name}, {kind}");
        }
    }
}
