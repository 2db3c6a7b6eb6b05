//! `deltamem bench`: how fast this machine is. Owns the options and what they mean for a model of this
//! size; the measuring is the library's (`measure`), the table `table.rs`'s.

mod llama_cpp;
mod made_up;
mod table;

use super::Usage;
use super::doctor::host_memory;
use super::options::{ModelOptions, RunOptions};
use super::output::{note, put};
use anyhow::Result;
use clap::Args;
use deltamem::loaded::{Device, quantisation};
use deltamem::measure::{About, Peer, Settings, Subject, WriteMode, measure};
use deltamem::nano;
use deltamem::weights::TensorSource;
use llama_cpp::{Against, LlamaCpp};
use made_up::MadeUpOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What to measure.
#[derive(Args)]
pub struct BenchOptions {
    /// Tokens of the prompts [default: 128,512,4096]
    #[arg(long, alias = "lengths", value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    prefill: Option<Vec<u32>>,
    /// Tokens in the context before decoding [default: 128,4096,16384; without the last for a large
    /// model on a software adapter]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    contexts: Option<Vec<u32>>,
    /// Tokens decoded at a time
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    decode: u32,
    /// Rounds of which the median is taken
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// About how long prefill and decode may take; what would take longer is left out
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// Write modes to measure: off, tsw, msw, ssw; those that the adapter is not of, with a generated
    /// one [default: all; off,tsw for a large model on a software adapter]
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', value_parser = mode_of)]
    delta: Option<Vec<WriteMode>>,
    /// Only load the model, for the time and the memory that takes
    #[arg(long)]
    only_load: bool,
    /// Measure another engine on the same GGUF file in the same rounds
    #[arg(long, value_enum, value_name = "ENGINE", conflicts_with = "only_load")]
    against: Option<Against>,
    /// The Python that has llama-cpp-python
    #[arg(long, value_name = "PATH", default_value = "python3", requires = "against")]
    python: PathBuf,
    /// Threads of the other engine [default: as many as there are cores]
    #[arg(long, value_name = "N", requires = "against",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    peer_threads: Option<u32>,
    /// How long the other engine may take for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "against",
          value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    made_up: MadeUpOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

fn mode_of(name: &str) -> Result<WriteMode, String> {
    WriteMode::from_name(name).ok_or_else(|| "the modes are off, tsw, msw and ssw".into())
}

/// Weights from which on a software adapter takes minutes for what a GPU does in a second.
const MANY_WEIGHTS: u64 = 1_000_000_000;
/// Of models side by side on a GPU, whose memory wgpu does not tell.
const MAX_GPU_BYTES: u64 = 8 << 30;

/// Runs the command.
pub fn run(options: &BenchOptions) -> Result<ExitCode> {
    let given = &options.model;
    if options.against == Some(Against::OnnxruntimeWeb) {
        let reason = "onnxruntime-web runs in a page: \
                      node tests/browser/engine-bench.mjs --against onnxruntime-web --synth S";
        return Err(Usage(reason.into()).into());
    }
    let model = options.made_up.model(given)?;
    let file = model.gguf_file()?;
    if options.against.is_some() && file.is_none() {
        let reason = "llama.cpp reads GGUF files: --model FILE.gguf or --synth S; deltamem convert \
                      makes one";
        return Err(Usage(reason.into()).into());
    }
    let (folder, adapter) = model.open()?;
    let device = options.run.device.open()?;
    if model.is_built_in() {
        note!("{}", nano::NOTICE);
    }
    let subject = Subject {
        config: &folder.config,
        tensors: folder.tensors.as_ref(),
        adapter: adapter.as_ref().map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource)),
    };
    let settings = options.settings(&device, folder.config.n_parameters(), model.no_adapter);
    let load = options.run.load_options(model.weights());
    let mut tell = |what: &str| note!("{what} …");
    let most = folder.config.max_position_embeddings;
    let mut peer = match (options.against, &file) {
        (Some(_), Some(file)) => Some(options.llama_cpp(file, &settings, most)?),
        _ => None,
    };
    let peer = peer.as_mut().map(|peer| peer as &mut dyn Peer);
    let found = measure(&subject, &device, &load, &settings, peer, &mut tell);
    let report = pollster::block_on(found)?;

    let all = report.with(About {
        model: folder.name.clone(),
        weights: quantisation(&folder, model.weights().storage()),
        given_adapter: adapter.as_ref().map(|adapter| WriteMode::of(&adapter.config)),
        base_tier: options.run.device.base_tier,
    });
    match options.json {
        true => put!("{all}")?,
        false => table::print(&all)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl BenchOptions {
    /// llama.cpp with a file, and room for all that is measured with a model of `most` positions.
    fn llama_cpp(&self, file: &Path, settings: &Settings, most: usize) -> Result<LlamaCpp> {
        note!("starting llama.cpp …");
        let contexts = settings.contexts.iter().map(|n| n + settings.decode_tokens);
        let needed = contexts.chain(settings.prefill.iter().copied()).max().unwrap_or(0);
        let patience = Duration::from_secs(self.patience.into());
        let context = needed.clamp(64, most.max(64));
        Ok(LlamaCpp::start(&self.python, file, context, self.peer_threads, patience)?)
    }

    fn settings(&self, device: &Device, n_weights: u64, no_adapter: bool) -> Settings {
        let is_software = match device {
            Device::Gpu(gpu) => gpu.tier.software,
            Device::Cpu => true,
        };
        let is_slow = is_software && n_weights > MANY_WEIGHTS;
        let modes = match (&self.delta, is_slow) {
            (Some(modes), _) => modes.clone(),
            _ if no_adapter => vec![WriteMode::Off],
            (None, true) => vec![WriteMode::Off, WriteMode::Tsw],
            (None, false) => WriteMode::ALL.to_vec(),
        };
        let contexts: &[u32] = if is_slow { &[128, 4096] } else { &[128, 4096, 16384] };
        let sizes = |given: &Option<Vec<u32>>, default: &[u32]| -> Vec<usize> {
            given.as_deref().unwrap_or(default).iter().map(|&n| n as usize).collect()
        };
        Settings {
            modes,
            prefill: sizes(&self.prefill, &[128, 512, 4096]),
            contexts: sizes(&self.contexts, contexts),
            decode_tokens: self.decode as usize,
            runs: self.runs as usize,
            budget: Duration::from_secs(self.budget.into()),
            // half of what is free: drivers and files want some as well
            max_loaded_bytes: match is_software {
                true => host_memory().map_or(MAX_GPU_BYTES, |free| free / 2),
                false => MAX_GPU_BYTES,
            },
            only_load: self.only_load,
        }
    }
}
