//! Rotary position angles. Owns the cos/sin table that the GPU model uploads and the CPU twin
//! indexes (SPEC.md section 1, "RoPE, rotate-half form"), and what YaRN makes of it.

use crate::config::{ModelConfig, Yarn};

/// cos and sin of position · theta^(−2i/d), rounded at the places where torch rounds; under YaRN of
/// slower angles, and both multiplied by its attention factor.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// `[n_positions, head_dim / 2]` f32
    pub cos: Vec<f32>,
    /// `[n_positions, head_dim / 2]` f32
    pub sin: Vec<f32>,
    /// head_dim / 2, the length of a row.
    pub n_pairs: usize,
}

impl RopeTable {
    /// A backbone's table for positions `0..n_positions`.
    pub fn of(config: &ModelConfig, n_positions: usize) -> RopeTable {
        let (theta, scaling) = (config.rope_theta, config.rope_scaling.as_ref());
        RopeTable::new(theta, config.head_dim, scaling, n_positions)
    }

    /// The table for positions `0..n_positions`.
    pub fn new(
        theta: f32,
        head_dim: usize,
        scaling: Option<&Yarn>,
        n_positions: usize,
    ) -> RopeTable {
        let mut inverse_frequencies = inverse_frequencies(theta, head_dim);
        let mut magnitude = 1.0;
        if let Some(yarn) = scaling {
            stretch(&mut inverse_frequencies, f64::from(theta), yarn);
            magnitude = yarn.attention_factor as f32;
        }
        let n_pairs = inverse_frequencies.len();
        let mut cos = Vec::with_capacity(n_positions * n_pairs);
        let mut sin = Vec::with_capacity(n_positions * n_pairs);
        for position in 0..n_positions {
            for inverse in &inverse_frequencies {
                // The angle is an f32 in torch; only its cosine is worth more precision.
                let angle = f64::from(position as f32 * inverse);
                cos.push(angle.cos() as f32 * magnitude);
                sin.push(angle.sin() as f32 * magnitude);
            }
        }
        RopeTable { cos, sin, n_pairs }
    }

    /// cos and sin of one position, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// If the position is outside the table.
    pub fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let row = position * self.n_pairs..(position + 1) * self.n_pairs;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

/// 1 / theta^(2i/d) in f32; the power itself is rounded from f64, because the last bit of it is
/// multiplied by the position.
fn inverse_frequencies(theta: f32, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (f64::from(theta).powf(f64::from(exponent)) as f32)
        })
        .collect()
}

/// Slows the pairs down that turn too seldom within the trained positions to have been learnt whole.
fn stretch(inverse_frequencies: &mut [f32], theta: f64, yarn: &Yarn) {
    let head_dim = 2.0 * inverse_frequencies.len() as f64;
    // the pair that turns so often within the trained positions
    let pair_of = |turns: f64| {
        let wavelength = yarn.original_positions as f64 / (turns * std::f64::consts::TAU);
        head_dim * wavelength.ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor = yarn.factor as f32;
    for (i, inverse) in inverse_frequencies.iter_mut().enumerate() {
        let kept = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        *inverse = *inverse / factor * (1.0 - kept) + *inverse * kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_follow_the_definition() {
        let table = RopeTable::new(5e6, 128, None, 3000);
        assert_eq!(table.row(0), (&[1.0; 64][..], &[0.0; 64][..]));
        for (position, pair) in [(1, 0), (7, 3), (2999, 0), (2999, 1), (2999, 63)] {
            let (cos, sin) = table.row(position);
            let angle = position as f64 * 5e6f64.powf(-2.0 * pair as f64 / 128.0);
            // The angle's f32 rounding: half a unit in the last place of inv and of the product.
            let tolerance = angle * 1.3e-7 + 1e-7;
            assert!((f64::from(cos[pair]) - angle.cos()).abs() < tolerance);
            assert!((f64::from(sin[pair]) - angle.sin()).abs() < tolerance);
        }
    }

    /// Inverse frequencies that transformers 5.23 computes (`_compute_yarn_parameters`), head 128.
    #[test]
    fn yarn_is_that_of_transformers() {
        let yarn = Yarn {
            factor: 2.0,
            original_positions: 65536,
            attention_factor: 1.069_314_718,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        let qwen = Yarn { factor: 4.0, original_positions: 32768, ..yarn };
        let other = Yarn { beta_fast: 16.0, beta_slow: 2.0, truncate: false, ..qwen };
        let pairs = [0, 10, 24, 28, 32, 36, 40, 63];
        let cases: [(f32, Yarn, [f32; 8]); 3] = [
            (
                5e6,
                yarn,
                [
                    1.0,
                    0.089_801_98,
                    0.003_075_291_2,
                    0.001_016_372_1,
                    0.000_327_956_66,
                    0.000_102_324_73,
                    3.251_724_4e-5,
                    1.272_539_8e-7,
                ],
            ),
            (
                1e6,
                qwen,
                [
                    1.0,
                    0.115_478_2,
                    0.005_375_321_5,
                    0.001_848_276_6,
                    0.000_602_941_15,
                    0.000_179_841_15,
                    4.445_698_5e-5,
                    3.102_344_4e-7,
                ],
            ),
            (
                1e6,
                other,
                [
                    1.0,
                    0.115_478_2,
                    0.005_623_413_2,
                    0.002_151_098_3,
                    0.000_595_68,
                    0.000_119_866_88,
                    4.445_698_5e-5,
                    3.102_344_4e-7,
                ],
            ),
        ];
        for (theta, yarn, expected) in cases {
            let mut found = inverse_frequencies(theta, 128);
            stretch(&mut found, f64::from(theta), &yarn);
            for (pair, expected) in pairs.into_iter().zip(expected) {
                let error = (found[pair] - expected).abs() / expected;
                assert!(error < 1e-6, "theta {theta}, pair {pair}: {} {expected}", found[pair]);
            }
            let table = RopeTable::new(theta, 128, Some(&yarn), 2);
            let angle = f64::from(found[28]);
            let expected = angle.cos() * yarn.attention_factor;
            assert!((f64::from(table.row(1).0[28]) - expected).abs() < 1e-6);
            assert!((table.row(0).0[0] - 1.069_314_7).abs() < 1e-6);
        }
    }
}
