//! Rotary position angles. Owns the cos/sin table that the GPU model uploads and the CPU twin
//! indexes (SPEC.md section 1, "RoPE, rotate-half form").

/// cos and sin of position · theta^(−2i/d), rounded at the places where torch rounds.
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
    /// The table for positions `0..n_positions`.
    pub fn new(theta: f32, head_dim: usize, n_positions: usize) -> RopeTable {
        let inverse_frequencies = inverse_frequencies(theta, head_dim);
        let n_pairs = inverse_frequencies.len();
        let mut cos = Vec::with_capacity(n_positions * n_pairs);
        let mut sin = Vec::with_capacity(n_positions * n_pairs);
        for position in 0..n_positions {
            for inverse in &inverse_frequencies {
                // The angle is an f32 in torch; only its cosine is worth more precision.
                let angle = f64::from(position as f32 * inverse);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_follow_the_definition() {
        let table = RopeTable::new(5e6, 128, 3000);
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
}
