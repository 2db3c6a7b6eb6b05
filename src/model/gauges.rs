//! How much the memory has its say in a token, per wrapped layer. Owns the copies that are made
//! between the operations of a layer for it, and only when a call wants them: without, nothing here
//! exists on the device.

use super::{MemoryLayer, Model, floats, record_all};
use crate::config::DeltaHead;
use crate::engine::Gauge;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::Step;

/// What is copied out of the wrapped layers for the last token of a call.
#[derive(Debug)]
pub(super) struct Gauges {
    /// `[wrapped layers, R + 3·h]` f32: β, then the residual stream before o, with o, and with Δo
    /// too (unless o is not corrected).
    buffer: wgpu::Buffer,
}

impl Gauges {
    pub async fn new(gpu: &Gpu, model: &Model) -> Result<Gauges> {
        let floats = model.dims.layers.len() * model.gauge_row();
        Ok(Gauges { buffer: gpu.storage("gauges", 4 * floats as u64).await? })
    }

    /// Records o and Δo of a wrapped layer with the copies around them.
    pub fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        model: &Model,
        memory: &MemoryLayer,
        index: usize,
        step: &Step,
    ) {
        let (rows, h) = (model.n_read_rows(), model.config.hidden_size);
        let start = model.wrapped_index(index) * model.gauge_row();
        let last = step.n_tokens as usize - 1;
        let bytes = |n_floats: usize| 4 * n_floats as u64;
        let (output, correction) = &memory.output_apart;
        let is_corrected = !correction.is_empty();
        let copy_residual = |encoder: &mut wgpu::CommandEncoder, slot: usize| {
            if is_corrected {
                let (from, to) = (last * model.hidden_stride(), start + rows + slot * h);
                let x = &model.buffers.x;
                encoder.copy_buffer_to_buffer(x, bytes(from), &self.buffer, bytes(to), bytes(h));
            }
        };
        // what the memory is written with is the last of the six parts of a projected row
        let (projected, beta) = (&model.buffers.projected, (6 * last + 5) * rows);
        let to = bytes(start);
        encoder.copy_buffer_to_buffer(projected, bytes(beta), &self.buffer, to, bytes(rows));
        copy_residual(encoder, 0);
        let mut pass = encoder.begin_compute_pass(&Default::default());
        output.record(&mut pass, step);
        drop(pass);
        copy_residual(encoder, 1);
        let mut pass = encoder.begin_compute_pass(&Default::default());
        record_all(correction, &mut pass, step);
        drop(pass);
        copy_residual(encoder, 2);
    }
}

impl Model {
    /// Floats of one wrapped layer.
    fn gauge_row(&self) -> usize {
        self.n_read_rows() + 3 * self.config.hidden_size
    }

    /// The gauges of the last token in the last call that wanted them.
    ///
    /// # Errors
    /// [`Error::Setting`] if no call wanted them; [`Error::Gpu`] from the device.
    pub async fn last_gauges(&self) -> Result<Vec<Gauge>> {
        let gauges = self.gauges.as_ref().ok_or_else(|| Error::Setting {
            name: "gauges",
            reason: "no call has wanted any yet".into(),
        })?;
        let Some(delta) = &self.delta else {
            return Ok(Vec::new());
        };
        let bytes = 4 * (self.dims.layers.len() * self.gauge_row()) as u64;
        let values: Vec<f32> = floats(&self.gpu.read(&gauges.buffer, 0, bytes).await?).collect();
        let is_corrected = delta.delta_heads.contains(&DeltaHead::O);
        let rows = values.chunks_exact(self.gauge_row()).zip(&self.dims.layers);
        let gauge = |(row, layer): (&[f32], &usize)| {
            let (beta, residual) = row.split_at(self.n_read_rows());
            let residual = is_corrected.then(|| {
                let h = self.config.hidden_size;
                [&residual[..h], &residual[h..2 * h], &residual[2 * h..]]
            });
            Gauge::new(*layer, beta, residual)
        };
        Ok(rows.map(gauge).collect())
    }
}
