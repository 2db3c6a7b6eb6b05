use super::*;

/// What the engine's top-k gives for these logits.
fn top_k(logits: &[f32], wanted: WantedLogits) -> TopK {
    let WantedLogits::TopK { k, temperature } = wanted else {
        panic!("{wanted:?}");
    };
    let mut candidates: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let largest = candidates[0].1;
    let kept = kept_by_top_k(&candidates, k).min(MAX_TOP_K);
    candidates.truncate(kept);
    let sum_exp = logits.iter().map(|x| ((x - largest) / temperature).exp()).sum();
    TopK { candidates, sum_exp }
}

/// Logits of a spread that makes both short and long nuclei.
fn random_logits(n: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut uniform = || (random.next_u32() as f32 / u32::MAX as f32).max(1e-9);
    // Rounded, so that some are equal.
    (0..n).map(|_| (spread * -uniform().ln() * 8.0).round() / 8.0).collect()
}

fn options() -> SamplingOptions {
    SamplingOptions { temperature: 0.8, seed: 7, ..SamplingOptions::default() }
}

#[test]
fn candidates_and_full_logits_pick_the_same() {
    let variants = [
        options(),
        SamplingOptions { top_k: 1, ..options() },
        SamplingOptions { top_k: 40, ..options() },
        SamplingOptions { top_k: 255, top_p: 0.9, ..options() },
        SamplingOptions { top_p: 0.9, ..options() },
        SamplingOptions { top_p: 0.999, ..options() },
        SamplingOptions { min_p: 0.05, ..options() },
        SamplingOptions { top_k: 50, top_p: 0.95, min_p: 0.02, ..options() },
        SamplingOptions { temperature: 2.5, ..options() },
    ];
    let (mut direct, mut fallbacks) = (0, 0);
    for variant in variants {
        let mut mixed = Sampler::new(variant.clone()).unwrap();
        let mut full = Sampler::new(variant).unwrap();
        for step in 0..200 {
            let n = [3, 200, 5000][step % 3];
            let logits = random_logits(n, [0.3, 1.0, 3.0][step % 7 % 3], step as u64);
            let expected = full.sample_full(&logits).unwrap();
            let token = match mixed.sample(&top_k(&logits, mixed.wanted())).unwrap() {
                Draw::Token(token) => {
                    direct += 1;
                    token
                }
                Draw::NeedsFullLogits => {
                    fallbacks += 1;
                    mixed.sample_full(&logits).unwrap()
                }
            };
            assert_eq!(token, expected, "{:?} step {step}", mixed.options());
        }
    }
    assert!(direct > 1000 && fallbacks > 100, "{direct} {fallbacks}");
}

/// How often each token comes out of `n` draws.
fn frequencies(options: SamplingOptions, logits: &[f32], n: usize) -> Vec<f64> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample_full(logits).unwrap() as usize] += 1.0 / n as f64;
    }
    counts
}

/// Logits whose probabilities at temperature 1 are these.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn assert_frequencies(options: SamplingOptions, probabilities: &[f32], expected: &[f64]) {
    let found = frequencies(options.clone(), &logits_of(probabilities), 40_000);
    for (f, e) in found.iter().zip(expected) {
        // Four standard deviations of 40,000 draws; what is cut never comes.
        assert!((f - e).abs() < 0.011 && (*e > 0.0 || *f == 0.0), "{options:?}: {found:?}");
    }
}

#[test]
fn filters_keep_what_transformers_keeps() {
    let t1 = SamplingOptions { temperature: 1.0, ..options() };
    let p = [0.1, 0.4, 0.2, 0.3];
    assert_frequencies(t1.clone(), &p, &[0.1, 0.4, 0.2, 0.3]);
    assert_frequencies(
        SamplingOptions { top_k: 2, ..t1.clone() },
        &p,
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    // 0.4 + 0.3 < 0.75: the token that crosses the threshold is kept.
    assert_frequencies(
        SamplingOptions { top_p: 0.75, ..t1.clone() },
        &p,
        &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0],
    );
    // Of what top-k left: 0.4/0.7 < 0.6, both stay.
    assert_frequencies(
        SamplingOptions { top_k: 2, top_p: 0.6, ..t1.clone() },
        &p,
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    assert_frequencies(
        SamplingOptions { min_p: 0.6, ..t1.clone() },
        &p,
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    // Ties at the threshold of top-k are kept.
    assert_frequencies(
        SamplingOptions { top_k: 2, ..t1.clone() },
        &[0.25, 0.5, 0.25, 0.0],
        &[0.25, 0.5, 0.25, 0.0],
    );
    // Temperature ½ squares.
    assert_frequencies(
        SamplingOptions { temperature: 0.5, ..t1 },
        &[0.2, 0.8],
        &[0.04 / 0.68, 0.64 / 0.68],
    );
}

#[test]
fn a_seed_gives_the_same_tokens_everywhere() {
    let logits = random_logits(1000, 1.0, 1);
    let tokens = |seed| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingOptions { seed, ..options() }).unwrap();
        (0..8).map(|_| sampler.sample_full(&logits).unwrap()).collect()
    };
    assert_eq!(tokens(7), tokens(7));
    assert_ne!(tokens(7), tokens(8));
    // The generator's first numbers, so that another platform or crate version cannot differ
    // unseen.
    let mut random = ChaCha12Rng::seed_from_u64(7);
    let first: Vec<u64> = (0..2).map(|_| random.next_u64()).collect();
    assert_eq!(first, FIRST_OF_SEED_7);
}

const FIRST_OF_SEED_7: [u64; 2] = [559_256_596_868_823_998, 5_664_742_077_951_270_790];

#[test]
fn greedy_takes_the_lowest_index_of_ties() {
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    assert_eq!(sampler.wanted(), WantedLogits::Argmax);
    assert_eq!(sampler.sample_full(&[0.0, 2.0, 2.0]).unwrap(), 1);
    let top = TopK { candidates: vec![(4, 1.0), (5, 1.0)], sum_exp: 2.0 };
    assert_eq!(sampler.sample(&top).unwrap(), Draw::Token(4));
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    let inf = f32::INFINITY;
    for options in [SamplingOptions::default(), options()] {
        let mut sampler = Sampler::new(options).unwrap();
        for logits in [&[0.0, f32::NAN][..], &[f32::NAN], &[inf, 0.0], &[-inf, -inf], &[]] {
            assert_eq!(sampler.sample_full(logits).unwrap_err().code(), "gpu");
            let candidates = (0..).zip(logits.iter().copied()).collect();
            let top = TopK { candidates, sum_exp: 1.0 };
            assert_eq!(sampler.sample(&top).unwrap_err().code(), "gpu");
        }
        assert_eq!(sampler.sample_full(&[-inf, -1e30, -inf]).unwrap(), 1);
    }
    let candidates: Vec<(u32, f32)> = (0..MAX_TOP_K as u32).map(|id| (id, 0.0)).collect();
    for sum_exp in [f32::NAN, 1.0] {
        let top = TopK { candidates: candidates.clone(), sum_exp };
        let mut sampler = Sampler::new(self::options()).unwrap();
        assert_eq!(sampler.sample(&top).unwrap_err().code(), "gpu");
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let bad = |change: &dyn Fn(&mut SamplingOptions)| {
        let mut options = options();
        change(&mut options);
        match Sampler::new(options).map(|_| ()) {
            Err(Error::Setting { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    };
    for value in [-1.0, f32::NAN, f32::INFINITY, 1e-9] {
        assert_eq!(bad(&|o| o.temperature = value), "temperature");
    }
    for value in [0.0, -0.5, 1.5, f32::NAN] {
        assert_eq!(bad(&|o| o.top_p = value), "top_p");
    }
    for value in [-0.1, 1.0, f32::NAN] {
        assert_eq!(bad(&|o| o.min_p = value), "min_p");
    }
    for value in [0.0, -1.0, f32::NAN] {
        assert_eq!(bad(&|o| o.repetition_penalty = value), "repetition_penalty");
    }
}

#[test]
fn repetition_ids_are_distinct() {
    assert_eq!(repetition_ids(&[5, 1, 5, 2], None), [1, 2, 5]);
    assert_eq!(repetition_ids(&[5, 1, 5, 2], Some(2)), [2, 5]);
    assert_eq!(repetition_ids(&[5, 1], Some(9)), [1, 5]);
    assert_eq!(repetition_ids(&[], None), [0; 0]);
}

fn stop(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let mut matcher = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
    let mut text: String = pieces.iter().map(|p| matcher.push(p)).collect();
    text.push_str(&matcher.finish());
    (text, matcher.is_stopped())
}

#[test]
fn stop_strings_cut_at_the_earliest_match_however_text_is_cut() {
    let text = "aé abab\n\nUser: x";
    let cases: [(&[&str], &str, bool); 6] = [
        (&[], text, false),
        (&["\nUser:"], "aé abab\n", true),
        (&["x", "abb", "ab\n"], "aé ab", true),
        (&["é"], "a", true),
        (&["xy", " x!"], text, false),
        (&["a"], "", true),
    ];
    for (stops, expected, is_stopped) in cases {
        let expected = (expected.to_string(), is_stopped);
        assert_eq!(stop(stops, &[text]), expected);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(stop(stops, &pieces), expected, "{stops:?}");
    }
}

#[test]
fn only_a_possible_stop_string_is_held_back() {
    let mut matcher = StopStrings::new(vec!["END".into()]).unwrap();
    assert_eq!(matcher.push("one E"), "one ");
    assert_eq!(matcher.push("N"), "");
    assert_eq!(matcher.push("ergy"), "ENergy");
    assert!(StopStrings::new(vec![String::new()]).is_err());
    assert!(StopStrings::new(vec!["x".into(); MAX_STOP_STRINGS + 1]).is_err());
}
