//! What several commands can be told: which model, how it is kept, on which device. Owns the
//! defaults of these options and the loading that follows from them.

use super::Usage;
use super::output::note;
use super::place::{ModelPlace, adapter_place, is_built_in, recommended_weights};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use deltamem::engine::Engine;
use deltamem::gpu::{Gpu, GpuOptions};
use deltamem::loaded::{Device, LoadedModel, built_in, identity};
use deltamem::memory_file::MemoryIdentity;
use deltamem::model::{DEFAULT_CHUNK, LoadOptions};
use deltamem::model_folder::{Adapter, ModelFolder, is_gguf};
use deltamem::nano;
use deltamem::shader::Storage;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Which model.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub struct ModelOptions {
    /// Folder with a model's files as on Hugging Face, a GGUF file, or what was pulled: a name of the
    /// registry or org/repo[:file][@revision] [default: the built-in model]
    #[arg(long, value_name = "FOLDER|FILE.gguf|NAME")]
    model: Option<PathBuf>,
    /// Folder with delta_mem_config.json and its adapter, or org/repo [default: the one beside the
    /// model, or the one that was pulled with it]
    #[arg(long, value_name = "FOLDER|NAME")]
    adapter: Option<PathBuf>,
    /// Use the bare backbone, without a memory
    #[arg(long, conflicts_with = "adapter")]
    pub no_adapter: bool,
    /// How the weights are kept; a memory belongs to one of them [default: f16, or what the registry
    /// has for its models; of a GGUF file, as it has them]
    #[arg(long, value_enum)]
    weights: Option<Weights>,
}

/// How a model runs.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub struct RunOptions {
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub kv: Kv,
    /// Tokens that fit into the context [default: 4096, or the model's most if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Tokens that are read together; changes speed, not results
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CHUNK as u32,
          value_parser = clap::value_parser!(u32).range(1..=MAX_CHUNK))]
    pub chunk: u32,
    #[command(flatten)]
    pub device: DeviceOptions,
}

/// Where a model runs.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Device")]
pub struct DeviceOptions {
    /// Use the CPU twin of the shaders: slow, but needs no driver
    #[arg(long, conflicts_with_all = ["gpu", "base_tier"])]
    pub cpu: bool,
    /// Use the GPU adapter whose name contains NAME
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// Use plain WebGPU limits and no optional feature, whatever the adapter has
    #[arg(long)]
    pub base_tier: bool,
}

/// Largest `--chunk`; activations grow with it.
const MAX_CHUNK: i64 = 4096;

/// How weights are kept.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    F32,
    F16,
    Q8,
    Q4,
}

impl Weights {
    /// All of them, from exact to small.
    pub const ALL: [Weights; 4] = [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4];

    /// The library's name for it.
    pub fn storage(self) -> Storage {
        match self {
            Weights::F32 => Storage::F32,
            Weights::F16 => Storage::F16,
            Weights::Q8 => Storage::Q8,
            Weights::Q4 => Storage::Q4,
        }
    }
}

/// How keys and values are kept.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kv {
    F32,
    F16,
    Q8,
}

impl Kv {
    /// The library's name for it.
    pub fn storage(self) -> Storage {
        match self {
            Kv::F32 => Storage::F32,
            Kv::F16 => Storage::F16,
            Kv::Q8 => Storage::Q8,
        }
    }
}

impl DeviceOptions {
    /// Opens the device.
    pub fn open(&self) -> Result<Device> {
        if self.cpu {
            return Ok(Device::Cpu);
        }
        let gpu = pollster::block_on(Gpu::open(&self.gpu_options()));
        Ok(Device::Gpu(gpu.map_err(|error| match error {
            deltamem::Error::NoAdapter { reason } if self.gpu.is_none() => {
                let reason = format!("{reason}; --cpu needs none");
                deltamem::Error::NoAdapter { reason }
            }
            error => error,
        })?))
    }

    /// The same as the library wants it.
    pub fn gpu_options(&self) -> GpuOptions {
        GpuOptions { adapter: self.gpu.clone(), base_tier: self.base_tier }
    }
}

/// What to call a device in output.
pub fn device_name(device: &Device) -> String {
    match device {
        Device::Gpu(gpu) => gpu.info.name.clone(),
        Device::Cpu => "cpu".into(),
    }
}

/// What to call the device of a loaded engine in output.
pub fn engine_name(engine: &Engine) -> String {
    match engine {
        Engine::Gpu(model) => model.gpu().info.name.clone(),
        Engine::Cpu(_) => "cpu".into(),
    }
}

impl ModelOptions {
    /// Opens the model's files and its adapter; nothing is loaded yet.
    pub fn open(&self) -> Result<(ModelFolder, Option<Adapter>)> {
        let (folder, own_adapter) = match self.given() {
            None => {
                let (folder, adapter) = built_in()?;
                (folder, Some(adapter))
            }
            Some(given) => {
                let place = ModelPlace::of(given)?;
                let folder = place.open()?;
                let folder = if self.weights.is_some() { folder.widened() } else { folder };
                let own = match self.adapter.is_none() && !self.no_adapter {
                    true => place.own_adapter(&folder)?,
                    false => None,
                };
                (folder, own)
            }
        };
        let adapter = match &self.adapter {
            _ if self.no_adapter => None,
            Some(given) => Some(Adapter::open(adapter_place(given)?, &folder.config)?),
            None => own_adapter,
        };
        Ok((folder, adapter))
    }

    /// What was given, unless that is the built-in model.
    fn given(&self) -> Option<&Path> {
        self.model.as_deref().filter(|given| !is_built_in(given))
    }

    /// The same choice of another model.
    pub fn with_model(&self, path: PathBuf) -> ModelOptions {
        ModelOptions { model: Some(path), ..self.clone() }
    }

    /// The GGUF file that was given or pulled, if the model is one; of shards the first.
    pub fn gguf_file(&self) -> Result<Option<PathBuf>> {
        let Some(given) = self.given() else { return Ok(None) };
        let path = ModelPlace::of(given)?.path;
        Ok(is_gguf(&path).then_some(path))
    }

    /// True for the built-in model.
    pub fn is_built_in(&self) -> bool {
        self.given().is_none()
    }

    /// How those matrices are kept whose file does not say.
    pub fn weights(&self) -> Weights {
        let recommended = || self.given().and_then(recommended_weights);
        self.weights.or_else(recommended).unwrap_or(Weights::F16)
    }

    /// What memories of this model are bound to. Reads little and needs no GPU.
    pub fn identity(&self) -> Result<MemoryIdentity> {
        let (folder, adapter) = self.open()?;
        let Some(adapter) = adapter else {
            let name = &folder.name;
            let reason =
                format!("{name} has no δ-mem adapter, so it has no memories; see --adapter");
            return Err(Usage(reason).into());
        };
        Ok(identity(&folder, &adapter, self.weights().storage())?)
    }

    /// Loads the model onto a device, with a progress bar where somebody can see it.
    pub fn load(&self, run: &RunOptions) -> Result<LoadedModel> {
        // the files first: a wrong path is the more common mistake
        let (folder, adapter) = self.open()?;
        let device = run.device.open()?;
        if self.is_built_in() {
            note!("{}", nano::NOTICE);
        }
        if self.weights.is_none() && self.given().and_then(recommended_weights).is_some() {
            let name = self.weights().storage().name();
            note!("weights as {name}, as the registry has it for this model; --weights chooses");
        }
        let options = run.load_options(self.weights());
        let mut progress = LoadProgress::new(&folder.name);
        let mut set = |done, of| progress.set(done, of);
        let load = LoadedModel::load(&folder, adapter.as_ref(), &device, &options, &mut set);
        pollster::block_on(load).with_context(|| format!("loading {}", folder.name))
    }
}

impl RunOptions {
    /// The same as the library wants it.
    pub fn load_options(&self, weights: Weights) -> LoadOptions {
        LoadOptions {
            weights: weights.storage(),
            kv: self.kv.storage(),
            context_window: self.context.map(|n| n as usize),
            chunk: self.chunk as usize,
            ..LoadOptions::default()
        }
    }
}

/// A bar on standard error while weights are loaded; nothing if that is no terminal.
pub struct LoadProgress(Option<ProgressBar>);

impl LoadProgress {
    /// A bar at 0.
    pub fn new(name: &str) -> LoadProgress {
        LoadProgress::with_verb("loading", name)
    }

    /// The same for a file that is being written.
    pub fn writing(path: &std::path::Path) -> LoadProgress {
        LoadProgress::with_verb("writing", &path.display().to_string())
    }

    fn with_verb(verb: &str, name: &str) -> LoadProgress {
        if !std::io::stderr().is_terminal() {
            return LoadProgress(None);
        }
        let bar = ProgressBar::new(0);
        let style = format!("{verb} {{msg}} {{wide_bar}} {{percent}}% {{eta}}");
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bar.set_style(style);
        }
        bar.set_message(super::output::printable(name));
        LoadProgress(Some(bar))
    }

    /// `done` of `total` weights are loaded.
    pub fn set(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
