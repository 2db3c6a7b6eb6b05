//! What a fresh adapter's tensors start at: as the reference's `reset_parameters`, with the constants
//! that its configuration names.

use crate::config::{DeltaConfig, DeltaHead};
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::Rng;
use serde_json::Value;

/// How the corrections W_Δ start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputInit {
    /// All zero: the adapter starts as the bare backbone.
    Zero,
    /// Small random numbers.
    Random,
    /// The first columns of the projection that is corrected, at unit length times the gain.
    BaseSliceFixed,
}

/// Initial values, with the defaults of the reference's published recipes.
#[derive(Debug, Clone, PartialEq)]
pub struct Initialization {
    /// Before the sigmoid that gives β: −1.5 is a β of 0.18.
    pub beta_bias: f32,
    /// Before the sigmoid that gives a free λ; `None` = −`beta_bias`, the λ of 1 − β.
    pub lambda_bias: Option<f32>,
    pub output: OutputInit,
    /// Columns that [`OutputInit::BaseSliceFixed`] takes, at most.
    pub base_slice_width: usize,
    /// Factor of what [`OutputInit::Random`] and [`OutputInit::BaseSliceFixed`] put there.
    pub online_gain: f32,
    /// What `sigmoid(delta_scale_raw)·max` starts at.
    pub delta_scale: f32,
    pub seed: u64,
}

impl Default for Initialization {
    fn default() -> Initialization {
        Initialization {
            beta_bias: -1.5,
            lambda_bias: None,
            output: OutputInit::BaseSliceFixed,
            base_slice_width: 8,
            online_gain: 0.05,
            delta_scale: 1.0,
            seed: 0,
        }
    }
}

impl Initialization {
    /// Takes over what a `delta_mem_config.json` says about initial values: `beta_bias_init`,
    /// `output_init`, `base_slice_ref_width`, `online_gain` and `delta_scale_init`.
    ///
    /// # Errors
    /// [`Error::Config`], naming the key, for a value of another kind.
    pub fn with_config(mut self, config: &Value, file: &str) -> Result<Initialization> {
        let bad = |key: &str, reason: &str| Error::Config {
            file: file.into(),
            key: key.into(),
            reason: reason.into(),
        };
        let number = |key: &str| -> Result<Option<f32>> {
            let Some(value) = config.get(key) else { return Ok(None) };
            let number = value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
            number.map(Some).ok_or_else(|| bad(key, "must be a number"))
        };
        self.beta_bias = number("beta_bias_init")?.unwrap_or(self.beta_bias);
        self.online_gain = number("online_gain")?.unwrap_or(self.online_gain);
        self.delta_scale = number("delta_scale_init")?.unwrap_or(self.delta_scale);
        if let Some(width) = config.get("base_slice_ref_width") {
            let width = width.as_u64().and_then(|width| usize::try_from(width).ok());
            let width = width.ok_or_else(|| bad("base_slice_ref_width", "must be a count"))?;
            self.base_slice_width = width;
        }
        if let Some(output) = config.get("output_init") {
            self.output = match output.as_str().map(str::trim) {
                Some("zero") => OutputInit::Zero,
                Some("random") => OutputInit::Random,
                Some("base_slice_fixed") => OutputInit::BaseSliceFixed,
                _ => {
                    let known = "must be `zero`, `random` or `base_slice_fixed`";
                    return Err(bad("output_init", known));
                }
            };
        }
        Ok(self)
    }
}

/// One tensor: inputs uniform in ±1/√h, gates' projections zero.
pub(super) fn initial_values(
    delta: &DeltaConfig,
    weights: &dyn TensorSource,
    init: &Initialization,
    name: &str,
    shape: &[usize],
    random: &mut ChaCha12Rng,
) -> Result<Vec<f32>> {
    let n: usize = shape.iter().product();
    let mut uniform = |n_in: usize, gain: f32| -> Vec<f32> {
        let bound = gain / (n_in as f32).sqrt();
        (0..n).map(|_| bound * (random.next_u32() as f32 / 2f32.powi(31) - 1.0)).collect()
    };
    let part = name.rsplit('.').next().unwrap_or(name);
    let head =
        DeltaHead::ALL.into_iter().find(|head| part == format!("delta_{}_proj", head.name()));
    Ok(match (part, head) {
        ("memory_q_proj" | "memory_k_proj" | "memory_v_proj", _) => uniform(shape[1], 1.0),
        ("beta_bias", _) => vec![init.beta_bias; n],
        ("lambda_bias", _) => vec![init.lambda_bias.unwrap_or(-init.beta_bias); n],
        ("delta_o_rmsnorm_weight", _) => vec![1.0; n],
        ("delta_scale_raw", _) => {
            let max = delta.delta_scale.map_or(1.0, |scale| scale.max);
            if !(init.delta_scale > 0.0 && init.delta_scale < max) {
                return Err(Error::Setting {
                    name: "delta_scale_init",
                    reason: format!("{} is not between 0 and {max}", init.delta_scale),
                });
            }
            let share = (init.delta_scale / max).clamp(1e-4, 1.0 - 1e-4);
            vec![(share / (1.0 - share)).ln(); n]
        }
        (_, Some(head)) if delta.delta_heads.contains(&head) => match init.output {
            OutputInit::Zero => vec![0.0; n],
            OutputInit::Random => uniform(shape[1], init.online_gain),
            OutputInit::BaseSliceFixed => {
                let base = name.replace(part, &format!("{}_proj.weight", head.name()));
                base_slice(weights, &base, shape, delta.rank, init)?
            }
        },
        _ => vec![0.0; n],
    })
}

/// `[out, R]`: the first columns of `base` `[out, in]` at unit length times the gain, then zeros.
fn base_slice(
    weights: &dyn TensorSource,
    base: &str,
    shape: &[usize],
    rank: usize,
    init: &Initialization,
) -> Result<Vec<f32>> {
    let (n_out, n_rows) = (shape[0], shape[1]);
    let matrix = weights.read_all(base)?;
    let n_in = matrix.len() / n_out;
    let mut values = vec![0.0; n_out * n_rows];
    for column in 0..init.base_slice_width.min(rank).min(n_in) {
        let entry = |row: usize| matrix[row * n_in + column];
        let norm = (0..n_out).map(|row| entry(row) * entry(row)).sum::<f32>().sqrt().max(1e-6);
        for row in 0..n_out {
            values[row * n_rows + column] = entry(row) / norm * init.online_gain;
        }
    }
    Ok(values)
}
