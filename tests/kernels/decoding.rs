//! choose, note_token and next_step: whole numbers, and draws that must be the host's.

use crate::bench::*;
use deltamem::engine::{MAX_TOP_K, TopK};
use deltamem::kernels::{self, ChooseInputs, EMPTY_STEP, NextStepBuffers, Step, UNDECIDED};
use deltamem::reference::{self, ChooseSettings, DecodeStep};
use deltamem::sampler::{Draw, Sampler, SamplingOptions};
use deltamem::shader::{Storage, TOP_K_CAPACITY};

/// `top_k`'s result as the shader has it, candidates in another order.
fn words(top: &TopK, count: usize) -> Vec<u32> {
    let mut words = vec![count as u32, top.sum_exp.to_bits(), 0, 0];
    let largest = top.candidates.first().map_or(0.0, |c| c.1);
    words[2] = largest.to_bits();
    for (id, logit) in top.candidates.iter().rev() {
        words.extend([*id, logit.to_bits()]);
    }
    words.resize(4 + 2 * TOP_K_CAPACITY as usize, 0);
    words
}

#[test]
fn choose_matches_reference_and_the_sampler() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let flat: Vec<f32> = noise(2000, 1, 1.0);
    let steep: Vec<f32> = noise(2000, 2, 12.0);
    let few: Vec<f32> = noise(100, 3, 4.0);
    let mut ties = noise(500, 4, 2.0);
    ties[17..40].fill(2.5);
    let ruled_out: Vec<f32> =
        (0..300).map(|i| if i % 9 == 0 { i as f32 / 100.0 } else { f32::NEG_INFINITY }).collect();
    let infinite = vec![f32::INFINITY, 1.0, 2.0];
    let (mut n_chosen, mut n_undecided) = (0, 0);
    for logits in [&flat, &steep, &few, &ties, &ruled_out, &infinite] {
        for (temperature, top_k, top_p, min_p) in [
            (1.0, 0, 1.0, 0.0),
            (0.7, 20, 1.0, 0.0),
            (1.0, 255, 0.9, 0.0),
            (0.5, 0, 0.95, 0.0),
            (0.8, 40, 0.95, 0.05),
            (0.6, 1, 1.0, 0.0),
            (0.05, 0, 1.0, 0.1),
        ] {
            let sampling = SamplingOptions {
                temperature,
                top_k,
                top_p,
                min_p,
                seed: top_k as u64,
                ..SamplingOptions::default()
            };
            let k = if top_k == 0 { MAX_TOP_K } else { top_k };
            let top = reference::top_k(logits, k, temperature);
            let threshold = top.candidates[k.min(top.candidates.len()) - 1].1;
            let count = logits.iter().filter(|x| **x >= threshold).count();
            let inverse_temperature = 1.0 / temperature;
            let settings = ChooseSettings { top_k, top_p, min_p, inverse_temperature };
            let bits = [k as u32, top_k as u32, top_p.to_bits(), min_p.to_bits()];
            let mut sampler = Sampler::new(sampling.clone()).expect("a sampler");
            for uniform in uniforms(top_k as u64, 12) {
                // of more the shader cannot know which the twin was given
                let fits = count <= MAX_TOP_K;
                let expected = fits.then(|| reference::choose(&top, &settings, uniform as f32));
                let expected = expected.flatten();
                let (top_words, settings_words) =
                    (bench.words(&words(&top, count)), bench.words(&bits));
                let uniforms = bench.floats(&[9.0, uniform as f32, 9.0]);
                let (progress, chosen) = (bench.words(&[4, 3]), bench.words(&[7]));
                let inputs = ChooseInputs {
                    top_k: &top_words,
                    settings: &settings_words,
                    uniforms: &uniforms,
                    progress: &progress,
                };
                let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
                let op = made(kernels::choose(kernels, gpu, inputs, &chosen));
                bench.run(Step { inverse_temperature, ..step(1, 0, 0) }, &[op]);
                let found = bench.read_words(&chosen)[0];
                assert_eq!(found, expected.unwrap_or(UNDECIDED), "{sampling:?} {uniform}");
                match (sampler.sample(&top), found) {
                    (Ok(Draw::Token(token)), found) => {
                        assert!(found == token || found == UNDECIDED, "{sampling:?} {uniform}");
                    }
                    (Ok(Draw::NeedsFullLogits), found) => {
                        assert_eq!(found, UNDECIDED, "{sampling:?} {uniform}");
                        sampler.sample_full(logits).expect("a draw");
                    }
                    (Err(_), found) => assert_eq!(found, UNDECIDED, "{sampling:?}"),
                }
                n_chosen += usize::from(found != UNDECIDED);
                n_undecided += usize::from(found == UNDECIDED);
            }
        }
    }
    println!("{n_chosen} chosen, {n_undecided} left to the host");
    assert!(n_chosen > n_undecided && n_undecided > 0, "{n_chosen} {n_undecided}");
}

/// The numbers that a sampler with this seed draws.
fn uniforms(seed: u64, n: usize) -> Vec<f64> {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    (0..n).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect()
}

#[test]
fn note_token_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let long: Vec<u32> = (0..1000).map(|i| i * 7).collect();
    for ids in [&long[..], &[], &[5]] {
        for token in [0, 5, 6993, 128_255] {
            for n_tokens in [1, 0] {
                let mut expected = ids.to_vec();
                if n_tokens == 1 {
                    reference::note_token(&mut expected, token);
                }
                let mut words = vec![ids.len() as u32, 1.5f32.to_bits()];
                words.extend(ids);
                words.push(99);
                let (ids, tokens) = (bench.words(&words), bench.words(&[token, 3]));
                let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
                let op = made(kernels::note_token(kernels, gpu, &tokens, &ids));
                bench.run(step(n_tokens, 0, 0), &[op]);
                let found = bench.read_words(&ids);
                assert_eq!(found[..2], [expected.len() as u32, 1.5f32.to_bits()]);
                assert_eq!(found[2..2 + expected.len()], expected);
            }
        }
    }
}

#[test]
fn next_step_matches_reference() {
    let Some(bench) = &mut bench(Storage::F32, 8, 128) else { return };
    let stop_ids = [31, 32, 128_255];
    let mut bits = vec![0u32; 128_256 / 32];
    stop_ids.iter().for_each(|id| bits[*id as usize / 32] |= 1 << (id % 32));
    for n_tokens in [1, 0] {
        for chosen in [0, 30, 31, 32, 33, 128_254, 128_255, UNDECIDED] {
            let mut expected = DecodeStep { n_tokens, n_past: 12, n_groups: 2, token: 77 };
            let result = reference::next_step(&mut expected, chosen, &stop_ids);
            assert_eq!(result == EMPTY_STEP, n_tokens == 0);
            let (chosen, stops) = (bench.words(&[chosen]), bench.words(&bits));
            let (tokens, results) = (bench.words(&[77, 5]), bench.words(&[1, 1, 1]));
            let progress = bench.words(&[7, 3]);
            let buffers = NextStepBuffers {
                chosen: &chosen,
                stops: &stops,
                tokens: &tokens,
                results: &results,
                progress: &progress,
            };
            let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
            let op = made(kernels::next_step(kernels, gpu, buffers));
            bench.run(step(n_tokens as usize, 12, 2), &[op]);
            let step = bench.read_words(&bench.kernels.step);
            assert_eq!(step[..3], [expected.n_tokens, expected.n_past, expected.n_groups]);
            assert_eq!(step[3], 1.0f32.to_bits());
            assert_eq!(bench.read_words(&tokens), [expected.token, 5]);
            assert_eq!(bench.read_words(&results), [1, result, 1]);
            assert_eq!(bench.read_words(&progress), [8, 3]);
        }
    }
}
