//! What the kernel tests stand on: devices in every tier, buffers with given contents, one way to
//! run operations and one way to compare.

use crate::common;
use deltamem::error::Result;
use deltamem::gpu::Gpu;
use deltamem::kernels::{Kernels, Op, Step};
use deltamem::matrix::{Matrix, Uploader};
use deltamem::shader::Storage;
use deltamem::weights::quantize::round_trip;
use deltamem::weights::{DType, TensorInfo, TensorSource};
use pollster::block_on;
use std::sync::OnceLock;

pub const STORAGES: [Storage; 8] = Storage::ALL;

/// A device and the kernels for one set of sizes.
pub struct Bench {
    pub gpu: Gpu,
    pub kernels: Kernels,
    /// Which tier, for messages.
    pub tier: &'static str,
}

/// The tiers that differ in a reduction or in the f16 type: with subgroups and f16, plain WebGPU,
/// and both with the wide workgroups of a real GPU. Empty where there is no adapter.
pub fn tiers() -> Vec<(&'static str, Gpu)> {
    static OPEN: OnceLock<Option<(Gpu, Gpu)>> = OnceLock::new();
    let open = OPEN.get_or_init(|| Some((common::gpu(false)?, common::gpu(true)?)));
    let Some((full, base)) = open else {
        eprintln!("IGNORED, nothing was tested: there is no adapter");
        return Vec::new();
    };
    let wide = |gpu: &Gpu| {
        let mut gpu = gpu.clone();
        gpu.tier.software = false;
        gpu
    };
    let all = [("full", full.clone()), ("base", base.clone()), ("wide", wide(full))];
    all.into_iter().chain([("wide base", wide(base))]).collect()
}

/// One bench a tier.
pub fn benches(kv: Storage, rank: usize, head_dim: usize) -> Vec<Bench> {
    let open = |(tier, gpu): (&'static str, Gpu)| {
        let kernels = block_on(Kernels::new(&gpu, kv, rank, head_dim)).expect("kernels");
        Bench { gpu, kernels, tier }
    };
    tiers().into_iter().map(open).collect()
}

/// For kernels whose text is the same in every tier.
pub fn bench(kv: Storage, rank: usize, head_dim: usize) -> Option<Bench> {
    benches(kv, rank, head_dim).into_iter().nth(1)
}

impl Bench {
    pub fn floats(&self, values: &[f32]) -> wgpu::Buffer {
        block_on(self.gpu.storage_with("floats", values)).expect("a buffer")
    }

    pub fn words(&self, values: &[u32]) -> wgpu::Buffer {
        // by bytes: as numbers, some would be NaNs
        let buffer = block_on(self.gpu.storage("words", 4 * values.len() as u64)).expect("buffer");
        self.gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        buffer
    }

    /// Runs one operation after the other with these step numbers.
    pub fn run(&self, step: Step, ops: &[Op]) {
        self.gpu.queue.write_buffer(&self.kernels.step, 0, bytemuck::bytes_of(&step));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for op in ops {
            op.record(&mut pass, &step);
        }
        drop(pass);
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check().expect("no device error");
    }

    pub fn read_words(&self, buffer: &wgpu::Buffer) -> Vec<u32> {
        let bytes = block_on(self.gpu.read(buffer, 0, buffer.size())).expect("a read-back");
        bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }

    pub fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        self.read_words(buffer).into_iter().map(f32::from_bits).collect()
    }

    /// A matrix `[n_rows, k]`, in parts of at most `part_rows` rows if given.
    pub fn matrix(
        &self,
        rows: &[f32],
        k: usize,
        storage: Storage,
        part_rows: Option<usize>,
    ) -> Matrix {
        self.stacked([rows], k, storage, part_rows).0
    }

    /// Several tensors, one below the other, and the last progress that was reported.
    pub fn stacked<const N: usize>(
        &self,
        tensors: [&[f32]; N],
        k: usize,
        storage: Storage,
        part_rows: Option<usize>,
    ) -> (Matrix, Option<(u64, u64)>) {
        let source = Tensors::new(&tensors, k);
        let mut gpu = self.gpu.clone();
        if let Some(part_rows) = part_rows {
            let (row_bytes, _) = deltamem::weights::quantize::row_bytes(storage, k);
            gpu.tier.max_binding_bytes = (part_rows * row_bytes) as u64;
        }
        let mut last = None;
        let mut progress = |done, total| last = Some((done, total));
        let n_elements = tensors.iter().map(|t| t.len() as u64).sum();
        let mut upload = Uploader::new(&gpu, n_elements, &mut progress);
        let named: Vec<(String, usize)> =
            source.0.iter().map(|(name, info, _)| (name.clone(), info.shape[0])).collect();
        let matrix = made(upload.matrix(&source, &named, k, storage));
        (matrix, last)
    }
}

/// Waits for what a host entry makes.
pub fn made<T>(making: impl Future<Output = Result<T>>) -> T {
    block_on(making).expect("operations")
}

/// Step numbers; the temperature is 1.
pub fn step(n_tokens: usize, n_past: usize, n_groups: usize) -> Step {
    Step {
        n_tokens: n_tokens as u32,
        n_past: n_past as u32,
        n_groups: n_groups as u32,
        inverse_temperature: 1.0,
    }
}

/// Tensors `0`, `1`, … `[n, k]` in memory.
struct Tensors<'a>(Vec<(String, TensorInfo, &'a [f32])>);

impl<'a> Tensors<'a> {
    fn new(tensors: &[&'a [f32]], k: usize) -> Tensors<'a> {
        let tensor = |(index, values): (usize, &&'a [f32])| {
            let info = TensorInfo { dtype: DType::F32, shape: vec![values.len() / k, k] };
            (index.to_string(), info, *values)
        };
        Tensors(tensors.iter().enumerate().map(tensor).collect())
    }

    fn find(&self, name: &str) -> Option<&(String, TensorInfo, &'a [f32])> {
        self.0.iter().find(|(found, ..)| found == name)
    }
}

impl TensorSource for Tensors<'_> {
    fn label(&self) -> &str {
        "test"
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, ..)| name.as_str()).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).map(|(_, info, _)| info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let (_, _, values) = self.find(name).expect("a tensor of this test");
        out.copy_from_slice(&values[start..start + out.len()]);
        Ok(())
    }
}

/// What a storage keeps of rows of k elements.
pub fn stored(storage: Storage, rows: &[f32], k: usize) -> Vec<f32> {
    let mut rows = rows.to_vec();
    round_trip(storage, &mut rows, k);
    rows
}

/// Rows of `n` elements with `stride − n` times `filler` after each.
pub fn strided(rows: &[f32], n: usize, stride: usize, filler: f32) -> Vec<f32> {
    let padding = std::iter::repeat_n(filler, stride - n);
    rows.chunks(n).flat_map(|row| row.iter().copied().chain(padding.clone())).collect()
}

/// Numbers in ±`scale` / 2, the same on every run.
pub fn noise(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * scale
    };
    (0..n).map(|_| next()).collect()
}

/// How far a number may be off: absolute + relative · |expected|.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub absolute: f32,
    pub relative: f32,
}

/// Copies, and arithmetic that is the same on both sides.
pub const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

impl Tolerance {
    pub const fn new(absolute: f32, relative: f32) -> Tolerance {
        Tolerance { absolute, relative }
    }

    /// For sums of `n` terms of at most `largest`, added in another order: about √n roundings of
    /// partial sums of about √n terms, so n · largest · 2⁻²⁴; twice that.
    pub fn sum(n: usize, largest: f32) -> Tolerance {
        Tolerance::new(n as f32 * largest * 2f32.powi(-23), 1e-6)
    }
}

/// Fails with index, both numbers and the error of the worst element.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: Tolerance) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let mut worst = (0.0, 0);
    let mut n_wrong = 0;
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = match (found == expected, (found - expected).abs()) {
            (true, _) => 0.0,
            (false, error) if error.is_nan() => f32::INFINITY,
            (false, error) => error,
        };
        let allowed = tolerance.absolute + tolerance.relative * expected.abs();
        let excess = if error == 0.0 { 0.0 } else { error / allowed };
        n_wrong += usize::from(excess > 1.0);
        if excess > worst.0 {
            worst = (excess, index);
        }
    }
    let (excess, index) = worst;
    if excess > 1.0 {
        let (found, expected) = (found[index], expected[index]);
        panic!(
            "{what}: {n_wrong} numbers are off; worst at index {index}: found {found:e}, expected \
             {expected:e}, {excess} times the tolerance {tolerance:?}"
        );
    }
}
