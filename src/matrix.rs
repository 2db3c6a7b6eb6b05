//! A weight matrix on the GPU. Owns its storage formats, its split into bindings and the streaming
//! from a tensor source: rows pass through host memory a few megabytes at a time.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::shader::{MATVEC_ROWS, Storage};
use crate::weights::TensorSource;
use crate::weights::quantize::{encode_row, row_bytes, row_stride};

/// Bytes of f32 rows that are converted at a time.
const PIECE_BYTES: usize = 4 << 20;
/// Bytes handed to the queue before it is made to let go of its copies.
const FLUSH_BYTES: u64 = 16 << 20;

/// `[n_rows, k]`, in as many parts as its tensors' storages and the device's binding size ask for.
#[derive(Debug)]
pub struct Matrix {
    pub k: usize,
    pub n_rows: usize,
    pub parts: Vec<MatrixPart>,
}

/// Consecutive rows of a matrix in one storage that fit into one binding.
#[derive(Debug)]
pub struct MatrixPart {
    pub row_start: usize,
    pub n_rows: usize,
    pub storage: Storage,
    /// Storage units a row, as the kernels count them.
    pub row_stride: u32,
    values: wgpu::Buffer,
    scales: Option<wgpu::Buffer>,
}

impl MatrixPart {
    /// The other bindings of a kernel together with this part's (8 values, 9 scales).
    pub fn bindings<'a>(
        &'a self,
        others: &[(u32, &'a wgpu::Buffer)],
    ) -> Vec<(u32, &'a wgpu::Buffer)> {
        let mut all = others.to_vec();
        all.push((8, &self.values));
        all.extend(self.scales.iter().map(|scales| (9, scales)));
        all
    }
}

/// Host-side bookkeeping of an upload: bytes since the last flush, and who wants to know.
pub struct Uploader<'a> {
    gpu: &'a Gpu,
    pending_bytes: u64,
    done_elements: u64,
    total_elements: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Uploader<'a> {
    /// `progress` is called with (elements done, elements in all).
    pub fn new(gpu: &'a Gpu, total_elements: u64, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Uploader { gpu, pending_bytes: 0, done_elements: 0, total_elements, progress }
    }

    /// The device that is uploaded to.
    pub fn gpu(&self) -> &'a Gpu {
        self.gpu
    }

    /// A small f32 tensor (a norm, a bias) as it is.
    ///
    /// # Errors
    /// Those of the source and of [`Gpu::buffer`].
    pub async fn vector(&mut self, source: &dyn TensorSource, name: &str) -> Result<wgpu::Buffer> {
        let values = source.read_all(name)?;
        let buffer = self.gpu.storage_with(name, &values).await?;
        self.done(values.len() as u64);
        Ok(buffer)
    }

    /// Several tensors `[n_i, k]`, one below the other, as one matrix: each in the storage that the
    /// source has for it, or in `storage`.
    ///
    /// # Errors
    /// Those of the source and of [`Gpu::buffer`].
    pub async fn matrix(
        &mut self,
        source: &dyn TensorSource,
        tensors: &[(String, usize)],
        k: usize,
        storage: Storage,
    ) -> Result<Matrix> {
        let storage_of = |name: &str| source.own_storage(name).unwrap_or(storage);
        let mut matrix = Matrix { k, n_rows: 0, parts: Vec::new() };
        // neighbours in one storage share parts
        for run in tensors.chunk_by(|a, b| storage_of(&a.0) == storage_of(&b.0)) {
            let n_rows = run.iter().map(|(_, n)| n).sum();
            let name = run[0].0.as_str();
            matrix.add_rows(self.gpu, name, n_rows, storage_of(name)).await?;
        }
        let piece_rows = (PIECE_BYTES / (4 * k)).max(1);
        let mut row = 0;
        for (name, n) in tensors {
            let own = source.own_storage(name);
            let (value_bytes, scale_bytes) = row_bytes(storage_of(name), k);
            for start in (0..*n).step_by(piece_rows) {
                let n_piece = piece_rows.min(n - start);
                let (values, scales) = match own {
                    Some(_) => {
                        let mut values = vec![0; n_piece * value_bytes];
                        let mut scales = vec![0; n_piece * scale_bytes];
                        source.read_rows(name, start, &mut values, &mut scales)?;
                        (values, scales)
                    }
                    None => {
                        let mut rows = vec![0.0; n_piece * k];
                        source.read_f32(name, start * k, &mut rows)?;
                        encode_rows(storage, &rows, k)
                    }
                };
                self.write_rows(&matrix, row, n_piece, &values, &scales).await?;
                row += n_piece;
            }
        }
        Ok(matrix)
    }

    /// Writes `n_rows` stored rows of one storage at `row_start`, across parts.
    async fn write_rows(
        &mut self,
        matrix: &Matrix,
        row_start: usize,
        n_rows: usize,
        values: &[u8],
        scales: &[u8],
    ) -> Result<()> {
        let (value_bytes, scale_bytes) = (values.len() / n_rows, scales.len() / n_rows);
        let row_end = row_start + n_rows;
        for part in &matrix.parts {
            let from = row_start.max(part.row_start);
            let to = row_end.min(part.row_start + part.n_rows);
            if from >= to {
                continue;
            }
            let write = |buffer: &wgpu::Buffer, bytes: &[u8], row_bytes: usize| {
                let offset = ((from - part.row_start) * row_bytes) as u64;
                let bytes = &bytes[(from - row_start) * row_bytes..(to - row_start) * row_bytes];
                self.gpu.queue.write_buffer(buffer, offset, bytes);
            };
            write(&part.values, values, value_bytes);
            if let Some(buffer) = &part.scales {
                write(buffer, scales, scale_bytes);
            }
        }
        self.pending_bytes += (values.len() + scales.len()) as u64;
        if self.pending_bytes >= FLUSH_BYTES {
            self.flush().await?;
        }
        self.done((n_rows * matrix.k) as u64);
        Ok(())
    }

    /// Waits until the queue has copied what was written and released its staging memory; without
    /// this a browser would pile up the whole model.
    ///
    /// # Errors
    /// As [`Gpu::finished`].
    pub async fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        self.gpu.finished().await
    }

    /// Flushes and reports the whole as done, with the small tensors that were uploaded elsewhere.
    ///
    /// # Errors
    /// As [`Uploader::flush`].
    pub async fn finish(&mut self) -> Result<()> {
        self.flush().await?;
        self.done_elements = self.total_elements;
        self.done(0);
        Ok(())
    }

    fn done(&mut self, elements: u64) {
        // a small tensor that two kernels need is uploaded, and counted, twice
        self.done_elements = (self.done_elements + elements).min(self.total_elements);
        (self.progress)(self.done_elements, self.total_elements);
    }
}

impl Matrix {
    /// Makes room for more rows below those that are there.
    async fn add_rows(
        &mut self,
        gpu: &Gpu,
        label: &str,
        n_rows: usize,
        storage: Storage,
    ) -> Result<()> {
        let (value_bytes, scale_bytes) = row_bytes(storage, self.k);
        let limit = gpu.tier.max_binding_bytes.min(gpu.tier.max_buffer_bytes) as usize;
        // a row that does not fit alone fails below, in `storage`, with the device's limit
        let most_rows = (limit / value_bytes)
            .min(gpu.tier.max_workgroups as usize * MATVEC_ROWS as usize)
            .max(1);
        for start in (0..n_rows).step_by(most_rows) {
            let n_part = most_rows.min(n_rows - start);
            self.parts.push(MatrixPart {
                row_start: self.n_rows + start,
                n_rows: n_part,
                storage,
                row_stride: row_stride(storage, self.k),
                values: gpu.storage(label, (n_part * value_bytes) as u64).await?,
                scales: match scale_bytes {
                    0 => None,
                    bytes => Some(gpu.storage(label, (n_part * bytes) as u64).await?),
                },
            });
        }
        self.n_rows += n_rows;
        Ok(())
    }
}

/// Values and scales of rows of `k` elements, one row after the other.
fn encode_rows(storage: Storage, rows: &[f32], k: usize) -> (Vec<u8>, Vec<u8>) {
    let n = rows.len() / k;
    let (value_bytes, scale_bytes) = row_bytes(storage, k);
    let mut values = vec![0; n * value_bytes];
    let mut scales = vec![0; n * scale_bytes];
    #[cfg(not(target_arch = "wasm32"))]
    if scale_bytes > 0 {
        use rayon::prelude::*;
        let targets = values.par_chunks_exact_mut(value_bytes);
        targets
            .zip(scales.par_chunks_exact_mut(scale_bytes))
            .zip(rows.par_chunks_exact(k))
            .for_each(|((values, scales), row)| encode_row(storage, row, values, scales));
        return (values, scales);
    }
    for (i, row) in rows.chunks_exact(k).enumerate() {
        let values = &mut values[i * value_bytes..][..value_bytes];
        let scales = &mut scales[i * scale_bytes..][..scale_bytes];
        encode_row(storage, row, values, scales);
    }
    (values, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_encoded_one_after_the_other_in_every_storage() {
        let (n, k) = (7, 45);
        let rows: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.7).sin()).collect();
        for storage in Storage::ALL {
            let (values, scales) = encode_rows(storage, &rows, k);
            let (value_bytes, scale_bytes) = row_bytes(storage, k);
            assert_eq!((values.len(), scales.len()), (n * value_bytes, n * scale_bytes));
            for (i, row) in rows.chunks(k).enumerate() {
                let (mut value, mut scale) = (vec![0; value_bytes], vec![0; scale_bytes]);
                encode_row(storage, row, &mut value, &mut scale);
                assert_eq!(values[i * value_bytes..][..value_bytes], value, "{storage:?} row {i}");
                assert_eq!(scales[i * scale_bytes..][..scale_bytes], scale, "{storage:?} row {i}");
            }
        }
    }
}
