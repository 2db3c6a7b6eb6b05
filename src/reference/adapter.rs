//! One wrapped layer's adapter, with everything folded in that can be folded at load. SPEC.md
//! section 2.

use super::{Output, Projected, low_rank_add, memory_project, rms_norm};
use crate::config::{DeltaConfig, DeltaHead, adapter_tensor_name};
use crate::error::Result;
use crate::weights::TensorSource;

/// One wrapped layer's adapter.
pub(super) struct Adapter {
    /// The layer's place among the wrapped ones.
    pub index: usize,
    /// R
    pub n_rows: usize,
    /// memory_q | memory_k | memory_v | beta | (lambda), `[3R + G (+ G), h]`
    pub rows: Vec<f32>,
    /// `[G]`
    pub beta_bias: Vec<f32>,
    /// `[G]`, empty where λ has no projection in use.
    pub lambda_bias: Vec<f32>,
    /// delta_{q,k,v,o}_proj times c·m_X, `[out, R]`; `None` = not in `delta_heads`.
    pub corrections: [Option<Vec<f32>>; 4],
    /// Weight `[h]` and eps of the norm of Δo.
    pub o_norm: Option<(Vec<f32>, f32)>,
}

impl Adapter {
    pub fn load(
        delta: &DeltaConfig,
        source: &dyn TensorSource,
        layer: usize,
        index: usize,
    ) -> Result<Adapter> {
        let read = |name: &str| source.read_all(&adapter_tensor_name(layer, name));
        let mut rows = Vec::new();
        for name in ["memory_q_proj", "memory_k_proj", "memory_v_proj", "beta_proj"] {
            rows.extend(read(name)?);
        }
        let mut lambda_bias = Vec::new();
        if delta.uses_lambda() {
            rows.extend(read("lambda_proj")?);
            lambda_bias = read("lambda_bias")?;
        }
        let scale_raw = match delta.delta_scale {
            Some(_) => read("delta_scale_raw")?,
            None => Vec::new(),
        };
        let mut corrections = [const { None }; 4];
        for &head in &delta.delta_heads {
            let mut matrix = read(&format!("delta_{}_proj", head.name()))?;
            let scale = delta.correction_scale(head, &scale_raw);
            matrix.iter_mut().for_each(|x| *x *= scale);
            corrections[head as usize] = Some(matrix);
        }
        Ok(Adapter {
            index,
            n_rows: delta.n_rows(),
            rows,
            beta_bias: read("beta_bias")?,
            lambda_bias,
            corrections,
            o_norm: match delta.delta_o_rmsnorm_eps {
                Some(eps) => Some((read("delta_o_rmsnorm_weight")?, eps)),
                None => None,
            },
        })
    }

    pub fn project(&self, delta: &DeltaConfig, raw: &[f32]) -> Projected {
        memory_project(delta, raw, &self.beta_bias, &self.lambda_bias)
    }

    /// x `[T, h]` += Δo of the reads `[T, R]`.
    pub fn add_delta_o(&self, reads: &[f32], x: &mut [f32]) {
        let Some(d) = &self.corrections[DeltaHead::O as usize] else {
            return;
        };
        let n_rows = self.n_rows;
        match &self.o_norm {
            None => low_rank_add(x, d, reads, n_rows),
            Some((weight, eps)) => {
                let mut delta_o = vec![0.0; x.len()];
                low_rank_add(&mut delta_o, d, reads, n_rows);
                rms_norm(&delta_o, weight, *eps, x, Output::Add);
            }
        }
    }
}
