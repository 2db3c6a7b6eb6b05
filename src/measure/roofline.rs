//! What an adapter can do at best: how fast its shaders read memory, and how fast they multiply and
//! add. Owns the two kernels (`shaders/measure/`) and how they are timed.
//!
//! A limit is the best of several shapes and repetitions: something else running can only make it look
//! lower. Each time is that of several dispatches in one submit, and what the kernels computed is
//! compared with what it must be: an adapter that left work out has no limit.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use web_time::Instant;

/// The limits of an adapter, as found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Limits {
    /// Bytes a second that a kernel reads.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions a second, each counted.
    pub f32_operations_per_second: f64,
    /// The same in f16; `None` where shaders have no f16.
    pub f16_operations_per_second: Option<f64>,
    /// Bytes that were read, over and over: larger than the caches of most GPUs.
    pub read_from_bytes: u64,
    /// The shapes that were fastest.
    pub shapes: Vec<String>,
}

impl Limits {
    /// The higher of the two rates.
    pub fn operations_per_second(&self) -> f64 {
        self.f32_operations_per_second.max(self.f16_operations_per_second.unwrap_or(0.0))
    }
}

/// Every text that is measured with, by a name: for the tests of shaders.
pub fn sources() -> Vec<(String, String)> {
    let reads = READ_SHAPES.iter().map(|shape| (shape.name(), shape.source()));
    let rates = ["f32", "f16"].into_iter().flat_map(|number| {
        RATE_WORKGROUPS.map(|size| (rate_name(number, size), rate_source(number, size)))
    });
    reads.chain(rates).collect()
}

/// How the invocations of a workgroup share a run of memory.
#[derive(Debug, Clone, Copy)]
struct ReadShape {
    workgroup_size: u32,
    is_interleaved: bool,
}

const fn shape(workgroup_size: u32, is_interleaved: bool) -> ReadShape {
    ReadShape { workgroup_size, is_interleaved }
}

const READ_SHAPES: [ReadShape; 6] = [
    shape(8, true),
    shape(8, false),
    shape(64, true),
    shape(64, false),
    shape(256, true),
    shape(256, false),
];
/// Quads of 16 bytes that an invocation reads.
const QUADS: u32 = 64;
const RATE_WORKGROUPS: [u32; 3] = [8, 64, 256];
/// Steps of an invocation, and what a step computes: four quads, multiplied and added.
const ROUNDS: u32 = 1024;
const OPERATIONS_A_ROUND: u64 = 4 * 4 * 2;
/// Times are taken of about this many seconds of work, so many times.
const SECONDS: f64 = 0.1;
const REPETITIONS: usize = 3;

impl ReadShape {
    fn name(&self) -> String {
        let how = if self.is_interleaved { "interleaved" } else { "runs" };
        format!("read {how}, workgroups of {}", self.workgroup_size)
    }

    fn source(&self) -> String {
        let (lane_stride, step) =
            if self.is_interleaved { (1, self.workgroup_size) } else { (QUADS, 1) };
        format!(
            "const WORKGROUP_SIZE: u32 = {}u;\nconst QUADS: u32 = {QUADS}u;\n\
             const LANE_STRIDE: u32 = {lane_stride}u;\nconst STEP: u32 = {step}u;\n{}",
            self.workgroup_size,
            include_str!("../../shaders/measure/read_bandwidth.wgsl")
        )
    }
}

fn rate_name(number: &str, workgroup_size: u32) -> String {
    format!("multiply-add {number}, workgroups of {workgroup_size}")
}

fn rate_source(number: &str, workgroup_size: u32) -> String {
    let enable = if number == "f16" { "enable f16;\n" } else { "" };
    format!(
        "{enable}const WORKGROUP_SIZE: u32 = {workgroup_size}u;\nconst ROUNDS: u32 = {ROUNDS}u;\n\
         alias Number = {number};\n{}",
        include_str!("../../shaders/measure/multiply_add.wgsl").replace("NUMBER", "Number")
    )
}

/// One kernel with its buffers.
struct Work {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
}

impl Work {
    async fn new(
        gpu: &Gpu,
        source: &str,
        input: &wgpu::Buffer,
        output: &wgpu::Buffer,
        workgroups: u32,
    ) -> Result<Work> {
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("roofline"),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("roofline"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        if let Some(e) = scope.pop().await {
            return Err(Error::Gpu { reason: format!("the roofline does not compile here: {e}") });
        }
        let entries = [(2, input), (10, output)].map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        });
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("roofline"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Ok(Work { pipeline, bind_group, workgroups })
    }

    /// Seconds of `n` dispatches in one submit.
    async fn run(&self, gpu: &Gpu, n: u32) -> Result<f64> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        for _ in 0..n {
            pass.dispatch_workgroups(self.workgroups, 1, 1);
        }
        drop(pass);
        let started = Instant::now();
        gpu.queue.submit([encoder.finish()]);
        gpu.finished().await?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds of a dispatch at best.
    async fn best_seconds(&self, gpu: &Gpu) -> Result<f64> {
        self.run(gpu, 1).await?; // drivers finish compiling here
        let mut n = 1;
        let mut best = self.run(gpu, n).await?;
        // until the time of a submit no longer matters
        while best * f64::from(n) < SECONDS / 4.0 && n < 1 << 14 {
            n *= 4;
            best = self.run(gpu, n).await? / f64::from(n);
        }
        let n = ((SECONDS / best.max(1e-9)).ceil() as u32).clamp(2, 1 << 16);
        for _ in 0..REPETITIONS {
            best = best.min(self.run(gpu, n).await? / f64::from(n));
        }
        Ok(best)
    }
}

/// Measures an adapter; takes a few seconds and, until it is done, some memory.
///
/// # Errors
/// Device errors.
pub async fn limits(gpu: &Gpu) -> Result<Limits> {
    let (read_bytes_per_second, read_from_bytes, read_shape) = read_limit(gpu).await?;
    let (f32_rate, f32_shape) = rate_limit(gpu, "f32").await?;
    let mut shapes = vec![read_shape, f32_shape];
    let mut f16_rate = None;
    if gpu.tier.f16 {
        let (rate, shape) = rate_limit(gpu, "f16").await?;
        f16_rate = Some(rate);
        shapes.push(shape);
    }
    Ok(Limits {
        read_bytes_per_second,
        f32_operations_per_second: f32_rate,
        f16_operations_per_second: f16_rate,
        read_from_bytes,
        shapes,
    })
}

async fn read_limit(gpu: &Gpu) -> Result<(f64, u64, String)> {
    // a software adapter's memory is the machine's, and its caches are smaller than a GPU's
    let wish: u64 = if gpu.tier.software { 64 << 20 } else { 512 << 20 };
    let mut size = wish.min(gpu.tier.max_binding_bytes).min(gpu.tier.max_buffer_bytes);
    let source = loop {
        let unit = u64::from(16 * QUADS * 256);
        size = (size / unit).max(1) * unit;
        match gpu.storage("roofline", size).await {
            Err(Error::OutOfMemory { .. }) if size > 16 << 20 => size /= 2,
            made => break made?,
        }
    };
    let expected = fill(gpu, &source).await?;
    let n_invocations = size / u64::from(16 * QUADS);
    let sums = gpu.storage("roofline sums", 4 * n_invocations).await?;
    let mut best = (0.0, String::new());
    for shape in READ_SHAPES {
        let workgroups = n_invocations as u32 / shape.workgroup_size;
        if workgroups > gpu.tier.max_workgroups {
            continue;
        }
        let work = Work::new(gpu, &shape.source(), &source, &sums, workgroups).await?;
        let rate = size as f64 / work.best_seconds(gpu).await?;
        let found = gpu.read(&sums, 0, sums.size()).await?;
        let found: Vec<u32> = found.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let found = found.iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
        check(found == expected, &shape.name())?;
        if rate > best.0 {
            best = (rate, shape.name());
        }
    }
    Ok((best.0, size, best.1))
}

/// Writes numbers that are neither zeros, which some GPUs keep in less memory, nor all the same; gives
/// their sum, which wraps around.
async fn fill(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<u32> {
    let piece: Vec<u32> = (0..1u32 << 20).map(noise).collect();
    let n_words = (buffer.size() / 4) as usize;
    let mut sum = 0u32;
    for start in (0..n_words).step_by(piece.len()) {
        let words = &piece[..piece.len().min(n_words - start)];
        gpu.queue.write_buffer(buffer, 4 * start as u64, bytemuck::cast_slice(words));
        gpu.finished().await?;
        sum = words.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
    }
    Ok(sum)
}

fn check(is_right: bool, what: &str) -> Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(Error::Gpu { reason: format!("measuring the adapter: {what} is wrong") }),
    }
}

fn noise(i: u32) -> u32 {
    let x = i.wrapping_mul(0x9E37_79B9) ^ (i >> 7);
    (x ^ (x >> 15)).wrapping_mul(0x85EB_CA6B)
}

/// Factor and term of the arithmetic kernel, each the same in f16.
const SEEDS: [f32; 8] = [0.5, 0.25, 0.75, 0.125, 1.0, 0.5, 0.25, 2.0];

async fn rate_limit(gpu: &Gpu, number: &str) -> Result<(f64, String)> {
    // enough for every core of a large GPU
    let n_invocations: u32 = if gpu.tier.software { 1 << 10 } else { 1 << 18 };
    let seeds = gpu.storage_with("roofline seeds", &SEEDS).await?;
    let results = gpu.storage("roofline results", 4 * u64::from(n_invocations)).await?;
    // after so many rounds every x is where x·factor + term leaves it
    let expected: f32 = (0..4).map(|i| 4.0 * SEEDS[4 + i] / (1.0 - SEEDS[i])).sum();
    let operations = (u64::from(n_invocations) * u64::from(ROUNDS) * OPERATIONS_A_ROUND) as f64;
    let mut best = (0.0, String::new());
    for size in RATE_WORKGROUPS {
        let workgroups = n_invocations / size;
        let text = rate_source(number, size);
        let work = Work::new(gpu, &text, &seeds, &results, workgroups).await?;
        let rate = operations / work.best_seconds(gpu).await?;
        let found = gpu.read(&results, 0, results.size()).await?;
        let mut found = found.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>);
        // f16 has eleven bits, and four sums of four numbers are rounded
        let is_right = |x: f32| (x - expected).abs() < 0.01 * expected;
        check(found.all(is_right), &rate_name(number, size))?;
        if rate > best.0 {
            best = (rate, rate_name(number, size));
        }
    }
    Ok(best)
}
