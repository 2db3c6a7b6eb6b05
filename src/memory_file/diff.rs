//! How far two memories are apart, for `deltamem memory diff`. Owns the numbers, not their printing.

use crate::error::{Error, Result};
use crate::memory::{MemoryDims, MemoryState};

/// How far two states of one layer, or of the whole memory, are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateDiff {
    /// Frobenius norm of the first.
    pub norm_a: f64,
    /// Frobenius norm of the second.
    pub norm_b: f64,
    /// ‖a − b‖
    pub distance: f64,
    /// ⟨a, b⟩ / (‖a‖·‖b‖); `None` if either is zero.
    pub cosine: Option<f64>,
}

/// How far two memories are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryDiff {
    /// Layer index and its difference, in the order of the states.
    pub layers: Vec<(usize, StateDiff)>,
    pub total: StateDiff,
}

/// Compares two memories layer by layer. Sums run in f64.
///
/// # Errors
/// [`Error::Unsupported`] if their dimensions differ.
pub fn diff(a: &MemoryState, b: &MemoryState) -> Result<MemoryDiff> {
    if a.dims != b.dims {
        let show = |d: &MemoryDims| {
            let MemoryDims { layers, num_state_heads, rank } = d;
            format!("layers {layers:?}, {num_state_heads} state heads, rank {rank}")
        };
        return Err(Error::Unsupported {
            what: "comparing memories of different dimensions".into(),
            reason: format!("{} against {}", show(&a.dims), show(&b.dims)),
        });
    }
    let layers = a.dims.layers.iter().enumerate();
    Ok(MemoryDiff {
        layers: layers
            .map(|(index, &layer)| (layer, state_diff(a.layer(index), b.layer(index))))
            .collect(),
        total: state_diff(&a.values, &b.values),
    })
}

fn state_diff(a: &[f32], b: &[f32]) -> StateDiff {
    let (mut aa, mut bb, mut ab, mut dd) = (0.0, 0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        aa += x * x;
        bb += y * y;
        ab += x * y;
        dd += (x - y) * (x - y);
    }
    let (norm_a, norm_b): (f64, f64) = (f64::sqrt(aa), f64::sqrt(bb));
    StateDiff {
        norm_a,
        norm_b,
        distance: f64::sqrt(dd),
        cosine: (norm_a > 0.0 && norm_b > 0.0).then(|| ab / (norm_a * norm_b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(layers: &[usize], values: &[f32]) -> MemoryState {
        MemoryState {
            dims: MemoryDims { layers: layers.to_vec(), num_state_heads: 1, rank: 2 },
            values: values.to_vec(),
        }
    }

    #[test]
    fn diff_reports_each_layer_and_the_whole() {
        let a = state(&[3, 7], &[3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let b = state(&[3, 7], &[-3.0, -4.0, 0.0, 0.0, 0.0, 12.0, 0.0, 0.0]);
        let found = diff(&a, &b).unwrap();
        let third = StateDiff { norm_a: 5.0, norm_b: 5.0, distance: 10.0, cosine: Some(-1.0) };
        let seventh = StateDiff { norm_a: 0.0, norm_b: 12.0, distance: 12.0, cosine: None };
        assert_eq!(found.layers, [(3, third), (7, seventh)]);
        assert_eq!(found.total.norm_b, 13.0);
        assert_eq!(found.total.distance, 244f64.sqrt());
        assert_eq!(found.total.cosine, Some(-25.0 / 65.0));
    }

    #[test]
    fn diff_of_large_values_does_not_overflow() {
        let a = state(&[0], &[f32::MAX; 4]);
        let total = diff(&a, &a).unwrap().total;
        assert!(total.norm_a.is_finite());
        assert_eq!(total.distance, 0.0);
    }

    #[test]
    fn diff_refuses_other_dimensions() {
        let error = diff(&state(&[0], &[0.0; 4]), &state(&[1], &[0.0; 4])).unwrap_err();
        assert_eq!(error.code(), "unsupported");
        assert!(error.to_string().contains("layers [0]"), "{error}");
    }
}
