//! What a device was asked to do, for measuring: counters that always run (an addition each), and the
//! time of single dispatches, taken only while somebody wants it. Owns the device and the queue that
//! count by themselves, so that no caller can forget to.

use super::{Gpu, lock};
use crate::error::Result;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Counts since the device was opened, or between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counters {
    pub dispatches: u64,
    pub submits: u64,
    pub bind_groups_created: u64,
    pub buffers_created: u64,
    pub bytes_read_back: u64,
    pub bytes_uploaded: u64,
}

impl Counters {
    /// What happened since `before`.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters {
            dispatches: self.dispatches - before.dispatches,
            submits: self.submits - before.submits,
            bind_groups_created: self.bind_groups_created - before.bind_groups_created,
            buffers_created: self.buffers_created - before.buffers_created,
            bytes_read_back: self.bytes_read_back - before.bytes_read_back,
            bytes_uploaded: self.bytes_uploaded - before.bytes_uploaded,
        }
    }
}

/// All dispatches of one kernel while they were timed.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct KernelTime {
    pub kernel: &'static str,
    pub count: u64,
    pub total_seconds: f64,
    /// Of all kernels' time, 0 to 1.
    pub share: f64,
}

/// Most timestamps of one query set; WebGPU allows no more.
const MAX_TIMESTAMPS: u32 = 4096;

/// Features that [`Gpu::time_kernels`] needs.
pub(super) const TIMING: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

/// What all clones of a device share.
#[derive(Debug, Default)]
pub struct Instruments {
    dispatches: AtomicU64,
    submits: AtomicU64,
    bind_groups_created: AtomicU64,
    buffers_created: AtomicU64,
    bytes_read_back: AtomicU64,
    bytes_uploaded: AtomicU64,
    is_timing: AtomicBool,
    timing: Mutex<Option<Timing>>,
}

/// Timestamps before and after each dispatch since timing began.
#[derive(Debug)]
struct Timing {
    queries: wgpu::QuerySet,
    /// One name for each pair of timestamps.
    kernels: Vec<&'static str>,
}

impl Instruments {
    fn counters(&self) -> Counters {
        Counters {
            dispatches: self.dispatches.load(Relaxed),
            submits: self.submits.load(Relaxed),
            bind_groups_created: self.bind_groups_created.load(Relaxed),
            buffers_created: self.buffers_created.load(Relaxed),
            bytes_read_back: self.bytes_read_back.load(Relaxed),
            bytes_uploaded: self.bytes_uploaded.load(Relaxed),
        }
    }

    pub(super) fn read_back(&self, n_bytes: u64) {
        self.bytes_read_back.fetch_add(n_bytes, Relaxed);
    }

    /// Counts a dispatch that `record` puts into the pass, and times it if that is wanted.
    pub fn dispatch(
        &self,
        kernel: &'static str,
        pass: &mut wgpu::ComputePass<'_>,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) {
        self.dispatches.fetch_add(1, Relaxed);
        if !self.is_timing.load(Relaxed) {
            return record(pass);
        }
        let mut timing = lock(&self.timing);
        match timing.as_mut().filter(|t| 2 * t.kernels.len() + 2 <= MAX_TIMESTAMPS as usize) {
            None => record(pass),
            Some(timing) => {
                let first = 2 * timing.kernels.len() as u32;
                pass.write_timestamp(&timing.queries, first);
                record(pass);
                pass.write_timestamp(&timing.queries, first + 1);
                timing.kernels.push(kernel);
            }
        }
    }
}

impl Gpu {
    /// What the device was asked to do since it was opened, by all its clones.
    pub fn counters(&self) -> Counters {
        self.device.instruments.counters()
    }

    /// Begins to time each dispatch; false if this adapter cannot (it needs timestamps inside of
    /// passes, which WebGPU does not have). Work between this and [`Gpu::kernel_times`] runs slower.
    pub fn time_kernels(&self) -> bool {
        if !self.device.features().contains(TIMING) {
            return false;
        }
        let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("kernel times"),
            ty: wgpu::QueryType::Timestamp,
            count: MAX_TIMESTAMPS,
        });
        let instruments = &self.device.instruments;
        *lock(&instruments.timing) = Some(Timing { queries, kernels: Vec::new() });
        instruments.is_timing.store(true, Relaxed);
        true
    }

    /// Ends timing: the kernels that ran since [`Gpu::time_kernels`], the longest first. Empty if
    /// nothing was timed. At most 2,048 dispatches are in it.
    ///
    /// # Errors
    /// As [`Gpu::read`].
    pub async fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let instruments = &self.device.instruments;
        instruments.is_timing.store(false, Relaxed);
        let timing = lock(&instruments.timing).take();
        let Some(Timing { queries, kernels }) = timing.filter(|t| !t.kernels.is_empty()) else {
            return Ok(Vec::new());
        };
        let n_timestamps = 2 * kernels.len() as u32;
        use wgpu::BufferUsages as Usage;
        let n_bytes = 8 * u64::from(n_timestamps);
        let usage = Usage::QUERY_RESOLVE | Usage::COPY_SRC;
        let resolved = self.buffer("kernel times", n_bytes, usage).await?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&queries, 0..n_timestamps, &resolved, 0);
        let bytes = self.submit_and_read(encoder, &resolved, 0, n_bytes).await?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let tick_seconds = f64::from(self.queue.get_timestamp_period()) * 1e-9;
        Ok(summed(&kernels, &ticks, tick_seconds))
    }
}

/// Times by kernel, the longest first.
fn summed(kernels: &[&'static str], ticks: &[u64], tick_seconds: f64) -> Vec<KernelTime> {
    let mut times: Vec<KernelTime> = Vec::new();
    let mut all = 0.0;
    for (&kernel, pair) in kernels.iter().zip(ticks.chunks_exact(2)) {
        let seconds = pair[1].saturating_sub(pair[0]) as f64 * tick_seconds;
        all += seconds;
        match times.iter_mut().find(|time| time.kernel == kernel) {
            Some(time) => {
                time.count += 1;
                time.total_seconds += seconds;
            }
            None => times.push(KernelTime { kernel, count: 1, total_seconds: seconds, share: 0.0 }),
        }
    }
    for time in &mut times {
        time.share = if all > 0.0 { time.total_seconds / all } else { 0.0 };
    }
    times.sort_by(|a, b| b.total_seconds.total_cmp(&a.total_seconds));
    times
}

/// A device that counts what is made on it.
#[derive(Debug, Clone)]
pub struct Device {
    inner: wgpu::Device,
    instruments: Arc<Instruments>,
}

/// A queue that counts what goes through it.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: wgpu::Queue,
    instruments: Arc<Instruments>,
}

/// A device and its queue, with counters at 0.
pub(super) fn counting(device: wgpu::Device, queue: wgpu::Queue) -> (Device, Queue) {
    let instruments = Arc::<Instruments>::default();
    let device = Device { inner: device, instruments: instruments.clone() };
    (device, Queue { inner: queue, instruments })
}

impl Device {
    /// Who counts on this device.
    pub fn instruments(&self) -> &Arc<Instruments> {
        &self.instruments
    }

    /// As wgpu's.
    pub fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> wgpu::Buffer {
        self.instruments.buffers_created.fetch_add(1, Relaxed);
        self.inner.create_buffer(descriptor)
    }

    /// As wgpu's.
    pub fn create_bind_group(&self, descriptor: &wgpu::BindGroupDescriptor<'_>) -> wgpu::BindGroup {
        self.instruments.bind_groups_created.fetch_add(1, Relaxed);
        self.inner.create_bind_group(descriptor)
    }
}

impl Deref for Device {
    type Target = wgpu::Device;

    fn deref(&self) -> &wgpu::Device {
        &self.inner
    }
}

impl Queue {
    /// As wgpu's.
    pub fn submit(
        &self,
        commands: impl IntoIterator<Item = wgpu::CommandBuffer>,
    ) -> wgpu::SubmissionIndex {
        self.instruments.submits.fetch_add(1, Relaxed);
        self.inner.submit(commands)
    }

    /// As wgpu's.
    pub fn write_buffer(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        self.instruments.bytes_uploaded.fetch_add(bytes.len() as u64, Relaxed);
        self.inner.write_buffer(buffer, offset, bytes);
    }
}

impl Deref for Queue {
    type Target = wgpu::Queue;

    fn deref(&self) -> &wgpu::Queue {
        &self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_by_kernel_and_sorted() {
        let times = summed(&["a", "b", "a"], &[10, 11, 20, 26, 30, 32], 0.5);
        let expected = [("b", 1, 3.0), ("a", 2, 1.5)];
        assert_eq!(times.len(), 2);
        for (time, (kernel, count, seconds)) in times.iter().zip(expected) {
            assert_eq!((time.kernel, time.count, time.total_seconds), (kernel, count, seconds));
        }
        assert!((times[0].share - 2.0 / 3.0).abs() < 1e-12);
        // a clock that went backwards is no time, and nothing is divided by 0
        assert_eq!(summed(&["a"], &[5, 4], 1.0)[0].share, 0.0);
    }

    #[test]
    fn counters_subtract() {
        let before = Counters { dispatches: 3, submits: 1, ..Counters::default() };
        let after = Counters { dispatches: 10, submits: 2, bytes_uploaded: 7, ..before };
        let expected =
            Counters { dispatches: 7, submits: 1, bytes_uploaded: 7, ..Counters::default() };
        assert_eq!(after.since(&before), expected);
    }
}
