//! The learning rate over a training: linear warm-up, then a cosine down to a floor.

/// Learning rate by step.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    /// The highest.
    pub peak: f32,
    /// The last, as a share of the highest.
    pub floor_share: f32,
    /// Steps until the highest is reached.
    pub warmup_steps: u64,
    /// Steps in all.
    pub n_steps: u64,
}

impl LearningRate {
    /// Of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f32 / self.warmup_steps as f32;
        }
        let n_falling = self.n_steps.saturating_sub(self.warmup_steps).max(1);
        let share = ((step - self.warmup_steps) as f64 / n_falling as f64).min(1.0);
        let cosine = 0.5 + 0.5 * (std::f64::consts::PI * share).cos();
        let floor = f64::from(self.floor_share);
        (f64::from(self.peak) * (floor + (1.0 - floor) * cosine)) as f32
    }
}
