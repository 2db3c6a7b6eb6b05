//! AdamW on the host (Loshchilov and Hutter 2019, decoupled decay), and clipping by the global norm.

use super::adapter::AdapterParameters;

/// AdamW's constants.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWOptions {
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// Share of a matrix that a step at learning rate 1 takes away; vectors do not decay.
    pub weight_decay: f32,
}

impl Default for AdamWOptions {
    fn default() -> AdamWOptions {
        AdamWOptions { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The moments of all parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    pub options: AdamWOptions,
    /// Steps taken.
    pub n_steps: u64,
    /// Running mean of the gradient, per tensor in file order; empty until it had one.
    pub first: Vec<Vec<f32>>,
    /// Running mean of its square.
    pub second: Vec<Vec<f32>>,
}

impl AdamW {
    /// No steps taken yet, for `n_tensors` tensors.
    pub fn new(options: AdamWOptions, n_tensors: usize) -> AdamW {
        AdamW {
            options,
            n_steps: 0,
            first: vec![Vec::new(); n_tensors],
            second: vec![Vec::new(); n_tensors],
        }
    }

    /// Moves the parameters against their gradients. `None` = no part in the loss, stays as it is.
    ///
    /// # Panics
    /// If a gradient has not its tensor's length.
    pub fn step(
        &mut self,
        parameters: &mut AdapterParameters,
        gradients: &[Option<Vec<f32>>],
        learning_rate: f32,
    ) {
        self.n_steps += 1;
        let AdamWOptions { beta1, beta2, epsilon, weight_decay } = self.options;
        let exponent = self.n_steps.min(i32::MAX as u64) as i32;
        let unbias1 = 1.0 - f64::from(beta1).powi(exponent) as f32;
        let unbias2 = 1.0 - f64::from(beta2).powi(exponent) as f32;
        for (index, gradient) in gradients.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let is_matrix = parameters.describe(index).1.len() > 1;
            let decay = if is_matrix { learning_rate * weight_decay } else { 0.0 };
            let (first, second) = (&mut self.first[index], &mut self.second[index]);
            first.resize(gradient.len(), 0.0);
            second.resize(gradient.len(), 0.0);
            let values = parameters.values_mut(index);
            assert_eq!(values.len(), gradient.len());
            for (((w, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                *m += (1.0 - beta1) * (g - *m);
                *v += (1.0 - beta2) * (g * g - *v);
                *w -= decay * *w;
                *w -= learning_rate * (*m / unbias1) / ((*v / unbias2).sqrt() + epsilon);
            }
        }
    }
}

/// Shrinks all gradients together to a norm of at most `max_norm`; returns the norm before.
pub fn clip(gradients: &mut [Option<Vec<f32>>], max_norm: f32) -> f32 {
    let squares = gradients.iter().flatten().flatten().map(|&g| f64::from(g) * f64::from(g));
    let norm = squares.sum::<f64>().sqrt() as f32;
    if norm > max_norm {
        let factor = max_norm / norm;
        gradients.iter_mut().flatten().flatten().for_each(|g| *g *= factor);
    }
    norm
}
