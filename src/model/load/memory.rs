//! The operations of δ-mem in a wrapped layer: its rows, its reads and writes, and its correction of o.
//! What rotation and attention take along is put there in `load.rs`.

use super::Loader;
use crate::config::{DeltaConfig, DeltaHead, ModelConfig, StateUpdateMode, adapter_tensor_name};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::{self, Beside, Kernels, LinearTarget, RmsNormParams};
use crate::matrix::Matrix;
use crate::model::Linear;
use crate::model::buffers::{Buffers, MemorySizes};
use crate::shader::Storage;
use crate::weights::TensorSource;
use crate::weights::quantize::row_bytes;

pub(super) fn project_params(
    delta: &DeltaConfig,
    sizes: &MemorySizes,
    layer: usize,
    over_groups: bool,
) -> kernels::MemoryProjectParams {
    kernels::MemoryProjectParams {
        num_state_heads: delta.num_state_heads as u32,
        raw_stride: sizes.raw_stride as u32,
        normalize_qk: delta.normalize_qk.into(),
        gates_per_head: if delta.rankwise_gates { delta.rank as u32 } else { 1 },
        lambda_mode: match delta.state_update_mode {
            StateUpdateMode::NoLambda => 0,
            _ if delta.couple_lambda => 1,
            _ => 2,
        },
        erase_lambda: (delta.state_update_mode == StateUpdateMode::LambdaOutside).into(),
        over_groups: over_groups.into(),
        layer: layer as u32,
    }
}

pub(super) fn scan_params(
    delta: &DeltaConfig,
    layer: usize,
    over_groups: bool,
) -> kernels::MemoryScanParams {
    kernels::MemoryScanParams {
        num_state_heads: delta.num_state_heads as u32,
        layer: layer as u32,
        over_groups: over_groups.into(),
    }
}

fn step_params(of: kernels::MemoryProjectParams, writes: bool) -> kernels::MemoryStepParams {
    kernels::MemoryStepParams {
        num_state_heads: of.num_state_heads,
        raw_stride: of.raw_stride,
        normalize_qk: of.normalize_qk,
        gates_per_head: of.gates_per_head,
        lambda_mode: of.lambda_mode,
        erase_lambda: of.erase_lambda,
        writes: writes.into(),
        layer: of.layer,
    }
}

/// β's biases, then λ's (zeros where it has none), `[2G]`.
pub(super) fn gate_biases(
    layer: usize,
    delta: &DeltaConfig,
    source: &dyn TensorSource,
) -> Result<Vec<f32>> {
    let mut biases = source.read_all(&adapter_tensor_name(layer, "beta_bias"))?;
    match delta.uses_lambda() {
        true => biases.extend(source.read_all(&adapter_tensor_name(layer, "lambda_bias"))?),
        false => biases.resize(2 * delta.n_gates(), 0.0),
    }
    Ok(biases)
}

/// Reads and writes of one wrapped layer in dispatches of their own, and what others need to take a step
/// along.
pub(super) struct MemoryOps<'a> {
    pub step: kernels::MemoryStepParams,
    /// Without the write.
    pub step_read: kernels::MemoryStepParams,
    pub buffers: kernels::MemoryStepBuffers<'a>,
    pub write_few: [kernels::Op; 1],
    pub read_few: [kernels::Op; 1],
    /// For many tokens.
    pub write: Vec<kernels::Op>,
    pub read: [kernels::Op; 2],
}

/// Rows of a layer's states up to which a CPU that plays the GPU walks through many tokens at once rather
/// than project them first: each row makes q and k of its head again, and a dispatch is saved.
const FEW_ROWS: usize = kernels::SERIAL_WORKGROUP as usize;
/// Tokens up to which it does: three loops of eight rounds each leave lavapipe's 65,535 far away.
const MOST_STEPS: usize = 1024;

/// Of the layer at this place among the wrapped ones.
pub(super) async fn memory_ops<'a>(
    kernels: &mut Kernels,
    gpu: &Gpu,
    b: &'a Buffers,
    sizes: &MemorySizes,
    delta: &DeltaConfig,
    index: usize,
    bias: &'a wgpu::Buffer,
) -> Result<MemoryOps<'a>> {
    let project_params = project_params(delta, sizes, index, false);
    let project =
        kernels::memory_project(kernels, gpu, project_params, &b.raw, bias, &b.projected).await?;
    let buffers = kernels::MemoryStepBuffers {
        raw: &b.raw,
        bias,
        state: &b.state,
        reads: &b.reads,
        projected: &b.projected,
    };
    let step = step_params(project_params, true);
    let step_read = step_params(project_params, false);
    let write_few = kernels::memory_step(kernels, gpu, step, buffers).await?;
    let read_few = kernels::memory_step(kernels, gpu, step_read, buffers).await?;
    let chunk = b.raw.size() as usize / 4 / sizes.raw_stride;
    let walks = gpu.tier.software && delta.n_rows() <= FEW_ROWS && chunk <= MOST_STEPS;
    let write = if walks {
        vec![write_few.clone()]
    } else {
        let params = scan_params(delta, index, false);
        let (projected, state, reads) = (&b.projected, &b.state, &b.reads);
        let scan = kernels::memory_scan(kernels, gpu, params, projected, state, reads).await?;
        vec![project.clone(), scan]
    };
    let params = kernels::MemoryReadParams {
        num_state_heads: delta.num_state_heads as u32,
        layer: index as u32,
    };
    let read = kernels::memory_read(kernels, gpu, params, &b.projected, &b.state, &b.reads).await?;
    Ok(MemoryOps {
        step,
        step_read,
        buffers,
        write_few: [write_few],
        read_few: [read_few],
        write,
        read: [project, read],
    })
}

/// (α / r)·m·W_Δ, `[rows of the head, R]`.
pub(super) fn correction(
    layer: usize,
    head: DeltaHead,
    delta: &DeltaConfig,
    source: &dyn TensorSource,
) -> Result<Vec<f32>> {
    let mut matrix =
        source.read_all(&adapter_tensor_name(layer, &format!("delta_{}_proj", head.name())))?;
    let raw_scale = match delta.delta_scale {
        Some(_) => source.read_all(&adapter_tensor_name(layer, "delta_scale_raw"))?,
        None => Vec::new(),
    };
    let factor = delta.correction_scale(head, &raw_scale);
    for value in &mut matrix {
        *value *= factor;
    }
    Ok(matrix)
}

/// M_q, M_k, M_v and the gates' rows, and how many of each.
fn memory_row_tensors(layer: usize, delta: &DeltaConfig) -> Vec<(String, usize)> {
    let (rows, gates) = (delta.n_rows(), delta.n_gates());
    let name = |part: &str| adapter_tensor_name(layer, part);
    let mut stacked = vec![
        (name("memory_q_proj"), rows),
        (name("memory_k_proj"), rows),
        (name("memory_v_proj"), rows),
        (name("beta_proj"), gates),
    ];
    if delta.uses_lambda() {
        stacked.push((name("lambda_proj"), gates));
    }
    stacked
}

/// How a layer's memory rows are kept: in bf16 if that loses nothing, as with adapters that were saved
/// so, else in f32.
fn memory_rows_storage(stacked: &[(String, usize)], source: &dyn TensorSource) -> Result<Storage> {
    let is_bf16 = |x: &f32| x.to_bits() & 0xffff == 0;
    for (name, _) in stacked {
        if !source.read_all(name)?.iter().all(is_bf16) {
            return Ok(Storage::F32);
        }
    }
    Ok(Storage::Bf16)
}

/// Bytes of all memory rows that are not there because they are kept in bf16.
///
/// # Errors
/// Those of the source; [`crate::Error::Config`] if a target layer does not exist.
pub(crate) fn bytes_spared(
    config: &ModelConfig,
    delta: &DeltaConfig,
    source: &dyn TensorSource,
) -> Result<u64> {
    let mut bytes = 0;
    for layer in delta.wrapped_layers(config)? {
        let stacked = memory_row_tensors(layer, delta);
        let kept = row_bytes(memory_rows_storage(&stacked, source)?, config.hidden_size).0;
        let n_rows: usize = stacked.iter().map(|(_, n)| n).sum();
        bytes += (n_rows * (row_bytes(Storage::F32, config.hidden_size).0 - kept)) as u64;
    }
    Ok(bytes)
}

impl Loader<'_> {
    /// M_q, M_k, M_v and the gates' rows as one matrix.
    pub(super) async fn memory_rows(
        &mut self,
        layer: usize,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
    ) -> Result<Matrix> {
        let stacked = memory_row_tensors(layer, delta);
        let storage = memory_rows_storage(&stacked, source)?;
        self.upload.matrix(source, &stacked, self.config.hidden_size, storage).await
    }

    /// x += o·Woᵀ + Δo, and the same in two.
    pub(super) async fn corrected_output(
        &mut self,
        layer: usize,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
        weight: &Matrix,
        residual: LinearTarget<'_>,
    ) -> Result<(Linear, (Linear, Vec<kernels::Op>))> {
        let (h, b) = (self.config.hidden_size as u32, self.buffers);
        let plain = self.linear(weight, &b.attended, residual).await?;
        if !delta.delta_heads.contains(&DeltaHead::O) {
            return Ok((plain.clone(), (plain, Vec::new())));
        }
        let gpu = self.upload.gpu();
        let matrix = correction(layer, DeltaHead::O, delta, source)?;
        let matrix = gpu.storage_with("correction", &matrix).await?;
        let stride = h.next_multiple_of(4);
        let mut params = kernels::LowRankAddParams {
            n: h,
            n_rows: delta.n_rows() as u32,
            y_stride: stride,
            y_offset: 0,
            accumulate: 1,
        };
        let Some(eps) = delta.delta_o_rmsnorm_eps else {
            let (reads, n_reads) = (&b.reads, delta.n_rows());
            let beside = Beside::Correction { delta: &matrix, reads, n_reads };
            let target = LinearTarget { beside, ..residual };
            let output = self.linear(weight, &b.attended, target).await?;
            let kernels = &mut self.kernels;
            let add = kernels::low_rank_add(kernels, gpu, params, &matrix, &b.reads, &b.x).await?;
            return Ok((output, (plain, vec![add])));
        };
        params.accumulate = 0;
        params.y_stride = h;
        let kernels = &mut self.kernels;
        let product =
            kernels::low_rank_add(kernels, gpu, params, &matrix, &b.reads, &b.delta_output).await?;
        let name = adapter_tensor_name(layer, "delta_o_rmsnorm_weight");
        let weight = self.upload.vector(source, &name).await?;
        let params = RmsNormParams {
            dim: h,
            x_stride: h,
            x_offset: 0,
            y_stride: stride,
            y_offset: 0,
            eps,
            accumulate: 1,
            last_only: 0,
        };
        let kernels = &mut self.kernels;
        let norm =
            kernels::rms_norm(kernels, gpu, params, 1, &b.delta_output, &weight, &b.x).await?;
        let mut output = plain.clone();
        for ops in [&mut output.few, &mut output.many] {
            ops.extend([product.clone(), norm.clone()]);
        }
        Ok((output, (plain, vec![product, norm])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::SMOLLM3_3B;
    use crate::weights::recipe::{Exceptions, RecipeSource};

    #[test]
    fn rows_that_were_saved_in_bf16_take_half() {
        let model = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        let json =
            br#"{"rank": 8, "alpha": 16, "delta_heads": ["q", "o"], "target_layers": [0, 3]}"#;
        let delta = DeltaConfig::from_json(json, "delta_mem_config.json").unwrap();
        let wide = RecipeSource::adapter(&model, &delta, 1).unwrap();
        assert_eq!(bytes_spared(&model, &delta, &wide).unwrap(), 0);
        let exceptions = Exceptions { is_bf16: true, ..Exceptions::default() };
        let narrow = wide.with_exceptions(exceptions);
        let n_rows = memory_row_tensors(0, &delta).iter().map(|(_, n)| n).sum::<usize>();
        assert!(n_rows >= 3 * delta.n_rows() + delta.n_gates());
        let half = 2 * delta.wrapped_layers(&model).unwrap().len() * n_rows * 2048;
        assert_eq!(bytes_spared(&model, &delta, &narrow).unwrap(), half as u64);
    }
}
