//! RMS normalisation. SPEC.md section 1.

use super::Output;
use super::linear::dot;

/// y = or += w · x / sqrt(mean(x²) + eps), over rows as long as `weight`.
///
/// Serves the layer norms, the per-head norms of q and k and the norm of Δo.
///
/// # Panics
/// If x and y differ in length or are no whole rows.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], output: Output) {
    let n = weight.len();
    assert_eq!(x.len(), y.len());
    assert_eq!(x.len() % n, 0);
    for (x, y) in x.chunks(n).zip(y.chunks_mut(n)) {
        let scale = 1.0 / (dot(x, x) / n as f32 + eps).sqrt();
        for ((x, y), w) in x.iter().zip(y).zip(weight) {
            let value = w * (x * scale);
            *y = match output {
                Output::Store => value,
                Output::Add => *y + value,
            };
        }
    }
}
