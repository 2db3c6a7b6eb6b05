//! The device: which adapter, what it can do, buffers and read-back. Owns the device *tier* (what
//! kernels may use) and turns wgpu's failures into typed errors; knows nothing of models.

mod instruments;

pub use instruments::{Counters, Device, Instruments, KernelTime, Queue};

use crate::error::{Error, Result};
use futures_channel::oneshot;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

/// What the caller may ask of the device.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name, case ignored; `None` takes the system's choice.
    pub adapter: Option<String>,
    /// True asks for plain WebGPU limits and no optional feature, whatever the adapter has.
    pub base_tier: bool,
}

/// What kernels may use on this device. The base tier is plain WebGPU: 8 storage buffers a stage,
/// 128 MiB bindings, 256 invocations and 16 KiB of workgroup memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// Subgroup operations.
    pub subgroups: bool,
    /// Fewest invocations that a subgroup has; 0 without subgroup operations.
    pub min_subgroup_size: u32,
    /// The f16 type in shaders.
    pub f16: bool,
    /// A CPU that emulates a GPU (lavapipe, SwiftShader): few lanes, slow barriers.
    pub software: bool,
    /// Largest storage binding, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Most workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
}

impl Tier {
    /// Invocations of a workgroup that reduces together.
    pub fn reduce_workgroup(&self) -> u32 {
        // barriers are what a software adapter is slowest at
        if self.software { 8 } else { 64 }
    }
}

/// An open device; clones share it.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub device: Device,
    pub queue: Queue,
    pub info: wgpu::AdapterInfo,
    pub tier: Tier,
    health: Arc<Health>,
    #[cfg(target_arch = "wasm32")]
    _owner: std::rc::Rc<Owner>,
    /// Buffers for reading back that nobody reads from.
    staging: Arc<Mutex<Vec<wgpu::Buffer>>>,
}

/// Ends the device with the last clone: browsers would free GPU memory only when their collector
/// comes by.
#[cfg(target_arch = "wasm32")]
#[derive(Debug)]
struct Owner(wgpu::Device);

#[cfg(target_arch = "wasm32")]
impl Drop for Owner {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// Told once why the device was lost.
type OnLost = Box<dyn FnOnce(&str) + Send>;

/// What the device said outside of any call. Callbacks hold it weakly: whoever let go of the device
/// hears nothing more of it.
#[derive(Default)]
struct Health {
    /// The first error that no call has reported yet.
    failure: Mutex<Option<String>>,
    /// Why the device was lost; stays.
    lost: Mutex<Option<String>>,
    on_lost: Mutex<Option<OnLost>>,
    /// Calls under way, which a loss wakes.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Health { failure, lost, .. } = self;
        f.debug_struct("Health").field("failure", failure).field("lost", lost).finish()
    }
}

impl Health {
    /// Remembers a loss, tells whoever asked to know, and wakes the calls that wait.
    fn lose(&self, reason: String) {
        let first = {
            let mut lost = lock(&self.lost);
            let first = lost.is_none();
            lost.get_or_insert(reason.clone());
            first
        };
        let on_lost = if first { lock(&self.on_lost).take() } else { None };
        lock(&self.waiting).clear();
        if let Some(on_lost) = on_lost {
            on_lost(&reason);
        }
    }
}

/// Blocks that small buffers share. What is larger has memory of its own and leaves no gap behind:
/// wgpu's `MemoryUsage` shares blocks of up to 64 MiB, where a model's matrices leave holes.
const MEMORY_BLOCKS: wgpu::MemoryHints =
    wgpu::MemoryHints::Manual { suballocated_device_memory_block_size: 8 << 20..16 << 20 };
/// Room for what a decode step reads back.
const MIN_STAGING_BYTES: u64 = 4096;
/// Room for a memory of 36 layers with four state heads, and more.
const MAX_KEPT_STAGING_BYTES: u64 = 1 << 20;
/// Reads that are under way together, at most: two batches of decoding and one more.
const MAX_KEPT_STAGING: usize = 3;

/// A read that was submitted and not waited for.
#[derive(Debug)]
pub(crate) struct PendingRead {
    staging: wgpu::Buffer,
    n_bytes: u64,
    submission: wgpu::SubmissionIndex,
    done: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

fn lock<T>(slot: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // what is in the slots stays whole even if a holder panicked
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none (of this name), [`Error::Gpu`] if it refuses.
    pub async fn open(options: &GpuOptions) -> Result<Gpu> {
        let adapter = choose_adapter(options).await?;
        let info = adapter.get_info();
        let (features, limits) = wanted(&adapter, options);
        let tier = tier(&info, features, &limits);
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("deltamem"),
                required_features: features,
                required_limits: limits,
                memory_hints: MEMORY_BLOCKS,
                ..Default::default()
            })
            .await
            .map_err(|e| Error::Gpu {
                reason: format!("{}: the device could not be opened: {e}", info.name),
            })?;

        let health = Arc::new(Health::default());
        let weak = Arc::downgrade(&health);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            if let Some(health) = weak.upgrade() {
                lock(&health.failure).get_or_insert(e.to_string());
            }
        }));
        let weak = Arc::downgrade(&health);
        device.set_device_lost_callback(move |reason, text| {
            if let Some(health) = weak.upgrade() {
                health.lose(match text.is_empty() {
                    true => format!("{reason:?}").to_lowercase(),
                    false => text,
                });
            }
        });
        #[cfg(target_arch = "wasm32")]
        let owner = std::rc::Rc::new(Owner(device.clone()));
        let (device, queue) = instruments::counting(device, queue);
        Ok(Gpu {
            #[cfg(target_arch = "wasm32")]
            _owner: owner,
            device,
            queue,
            info,
            tier,
            health,
            staging: Arc::default(),
        })
    }

    /// What kernels may use on the adapter that these options choose, without opening a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none (of this name).
    pub async fn probe(options: &GpuOptions) -> Result<Tier> {
        let adapter = choose_adapter(options).await?;
        let (features, limits) = wanted(&adapter, options);
        Ok(tier(&adapter.get_info(), features, &limits))
    }

    /// Calls `on_lost` with the reason, once, if the device is lost while somebody holds it.
    pub fn on_lost(&self, on_lost: impl FnOnce(&str) + Send + 'static) {
        let lost = lock(&self.health.lost).clone();
        match lost {
            Some(reason) => on_lost(&reason),
            None => *lock(&self.health.on_lost) = Some(Box::new(on_lost)),
        }
    }

    /// Reports an error that arrived outside of any call: a lost device, a refused command.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] ever after a loss, else [`Error::Gpu`] with the first error since the
    /// last check.
    pub fn check(&self) -> Result<()> {
        if let Some(reason) = lock(&self.health.lost).clone() {
            return Err(Error::DeviceLost { reason });
        }
        match lock(&self.health.failure).take() {
            Some(reason) => Err(Error::Gpu { reason }),
            None => Ok(()),
        }
    }

    /// What `done` receives, or `None` if the device is lost before, which some drivers answer by
    /// never answering.
    async fn unless_lost<T>(&self, mut done: oneshot::Receiver<T>) -> Option<T> {
        let (sender, mut lost) = oneshot::channel();
        if lock(&self.health.lost).is_none() {
            let mut waiting = lock(&self.health.waiting);
            waiting.retain(|sender| !sender.is_canceled());
            waiting.push(sender);
        }
        std::future::poll_fn(|context| match Pin::new(&mut done).poll(context) {
            Poll::Ready(result) => Poll::Ready(result.ok()),
            // the other end is dropped by a loss
            Poll::Pending => Pin::new(&mut lost).poll(context).map(|_| None),
        })
        .await
    }

    /// A zeroed buffer of at least 4 bytes.
    ///
    /// # Errors
    /// [`Error::DeviceLimit`] above the device's buffer size, [`Error::OutOfMemory`].
    pub async fn buffer(
        &self,
        label: &str,
        size_bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let size = size_bytes.max(4).next_multiple_of(4);
        let limit = match usage.contains(wgpu::BufferUsages::STORAGE) {
            true => self.tier.max_binding_bytes.min(self.tier.max_buffer_bytes),
            false => self.tier.max_buffer_bytes,
        };
        if size > limit {
            return Err(Error::DeviceLimit {
                what: format!("the buffer {label}"),
                needed: size,
                limit,
                advice: "try a smaller --context, --kv f16 or smaller --weights",
            });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        match scope.pop().await {
            None => Ok(buffer),
            Some(_) => Err(Error::OutOfMemory { what: label.into(), size_bytes: size }),
        }
    }

    /// A storage buffer that can be copied from and to.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub async fn storage(&self, label: &str, size_bytes: u64) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usage;
        self.buffer(label, size_bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST).await
    }

    /// A storage buffer with these f32 values.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub async fn storage_with(&self, label: &str, values: &[f32]) -> Result<wgpu::Buffer> {
        let buffer = self.storage(label, 4 * values.len() as u64).await?;
        if !values.is_empty() {
            self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        }
        Ok(buffer)
    }

    /// Reads bytes of a buffer after everything submitted so far.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Gpu`] for what was refused before, [`Error::OutOfMemory`] for
    /// the staging buffer.
    pub async fn read(&self, buffer: &wgpu::Buffer, offset: u64, n_bytes: u64) -> Result<Vec<u8>> {
        let encoder = self.device.create_command_encoder(&Default::default());
        self.submit_and_read(encoder, buffer, offset, n_bytes).await
    }

    /// Submits what was recorded and reads bytes of a buffer as it is afterwards.
    ///
    /// # Errors
    /// As [`Gpu::read`].
    pub async fn submit_and_read(
        &self,
        encoder: wgpu::CommandEncoder,
        buffer: &wgpu::Buffer,
        offset: u64,
        n_bytes: u64,
    ) -> Result<Vec<u8>> {
        if n_bytes == 0 {
            self.queue.submit([encoder.finish()]);
            return Ok(Vec::new());
        }
        let pending = self.submit_to_read(encoder, buffer, offset, n_bytes).await?;
        self.finish_read(pending).await
    }

    /// Submits what was recorded and, behind it, a copy of `n_bytes` (more than 0) of a buffer, for
    /// [`Gpu::finish_read`]; others can be submitted in between.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for the staging buffer.
    pub(crate) async fn submit_to_read(
        &self,
        mut encoder: wgpu::CommandEncoder,
        buffer: &wgpu::Buffer,
        offset: u64,
        n_bytes: u64,
    ) -> Result<PendingRead> {
        let staging = self.take_staging(n_bytes).await?;
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, n_bytes);
        self.device.instruments().read_back(n_bytes);
        let submission = self.queue.submit([encoder.finish()]);
        let (sender, done) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..n_bytes, move |result| {
            // the receiver is gone if the caller gave up; nothing to tell then
            let _ = sender.send(result);
        });
        Ok(PendingRead { staging, n_bytes, submission, done })
    }

    /// Waits for a copy and hands its bytes back; what was submitted after it may still run.
    ///
    /// # Errors
    /// As [`Gpu::read`].
    pub(crate) async fn finish_read(&self, pending: PendingRead) -> Result<Vec<u8>> {
        let PendingRead { staging, n_bytes, submission, done } = pending;
        let poll = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        if self.device.poll(poll).is_err() {
            // a device that is gone knows no such submission, and says why it is gone here
            self.wait()?;
        }
        let mapped = self.unless_lost(done).await;
        self.check()?;
        let failed = |reason: String| Error::Gpu { reason: format!("reading back: {reason}") };
        if !matches!(mapped, Some(Ok(()))) {
            // A buffer that nobody else holds is refused only by a lost device; that the device says
            // so itself may come later.
            self.health.lose("a result could not be read back".into());
            return self.check().map(|()| Vec::new());
        }
        let view = staging.get_mapped_range(..n_bytes).map_err(|e| failed(e.to_string()))?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
        self.keep_staging(staging);
        Ok(bytes)
    }

    /// A staging buffer of an earlier read if one is large enough, else a new one.
    async fn take_staging(&self, n_bytes: u64) -> Result<wgpu::Buffer> {
        let kept = {
            let mut kept = lock(&self.staging);
            let found = kept.iter().position(|buffer| buffer.size() >= n_bytes);
            found.map(|index| kept.swap_remove(index))
        };
        if let Some(buffer) = kept {
            return Ok(buffer);
        }
        use wgpu::BufferUsages as Usage;
        let size = n_bytes.max(MIN_STAGING_BYTES);
        self.buffer("read-back", size, Usage::MAP_READ | Usage::COPY_DST).await
    }

    /// Large ones are let go: what every token needs is small.
    fn keep_staging(&self, buffer: wgpu::Buffer) {
        let mut kept = lock(&self.staging);
        if buffer.size() <= MAX_KEPT_STAGING_BYTES {
            if kept.len() == MAX_KEPT_STAGING {
                kept.remove(0);
            }
            kept.push(buffer);
        }
    }

    /// Waits until the device has done everything that was submitted and let go of its copies.
    ///
    /// # Errors
    /// As [`Gpu::wait`] and [`Gpu::check`].
    pub async fn finished(&self) -> Result<()> {
        self.queue.submit([]);
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // the receiver is gone if the caller gave up; nothing to tell then
            let _ = sender.send(());
        });
        self.wait()?;
        self.unless_lost(receiver).await;
        self.check()
    }

    /// Waits for everything submitted, and runs what waits for it. No effect in a browser, which
    /// does so by itself whenever this module awaits.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device stopped answering.
    pub fn wait(&self) -> Result<()> {
        match self.device.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(e) => self.check().and(Err(Error::Gpu { reason: format!("waiting failed: {e}") })),
        }
    }
}

const NO_ADAPTER_ADVICE: &str = match cfg!(target_arch = "wasm32") {
    true => "this browser has no WebGPU, or none that it offers to this page on this computer",
    false => "on Debian or Ubuntu `apt-get install mesa-vulkan-drivers` brings a software adapter",
};

/// All adapters of this machine, for `doctor`.
pub async fn adapters() -> Vec<wgpu::Adapter> {
    wgpu::Instance::default().enumerate_adapters(wgpu::Backends::all()).await
}

/// Optional features and limits to ask an adapter for.
fn wanted(adapter: &wgpu::Adapter, options: &GpuOptions) -> (wgpu::Features, wgpu::Limits) {
    let optional = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
    // changes nothing for kernels, so that the base tier can be measured too
    let timing = match adapter.features().contains(instruments::TIMING) {
        true => instruments::TIMING,
        false => wgpu::Features::empty(),
    };
    let mut limits = wgpu::Limits::defaults();
    if options.base_tier {
        return (timing, limits);
    }
    let have = adapter.limits();
    limits.max_storage_buffer_binding_size = have.max_storage_buffer_binding_size;
    limits.max_buffer_size = have.max_buffer_size;
    (adapter.features() & optional | timing, limits)
}

fn tier(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> Tier {
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    Tier {
        subgroups,
        min_subgroup_size: if subgroups { info.subgroup_min_size } else { 0 },
        f16: features.contains(wgpu::Features::SHADER_F16),
        software: info.device_type == wgpu::DeviceType::Cpu,
        // bindings are multiples of 4 bytes, and some drivers report u64::MAX
        max_binding_bytes: limits.max_storage_buffer_binding_size.min(1 << 31) & !255,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
    }
}

async fn choose_adapter(options: &GpuOptions) -> Result<wgpu::Adapter> {
    if let Some(wanted) = &options.adapter {
        let all = adapters().await;
        let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
        let found = all.into_iter().zip(&names);
        let wanted = wanted.to_lowercase();
        return found
            .filter(|(_, name)| name.to_lowercase().contains(&wanted))
            .map(|(adapter, _)| adapter)
            .next()
            .ok_or_else(|| Error::NoAdapter {
                reason: format!("none is called {wanted:?}; there are {names:?}"),
            });
    }
    wgpu::Instance::default()
        .request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        })
        .await
        .map_err(|e| Error::NoAdapter { reason: format!("{e}; {NO_ADAPTER_ADVICE}") })
}
