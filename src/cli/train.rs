//! `deltamem train`: an adapter for a frozen model. Owns the presets, the files in the output folder
//! and what is shown; the training itself is the library's `train`.
//!
//! Output folder: the adapter's three files (written with every checkpoint), `checkpoint.safetensors`,
//! `training.json` (what it was started with), `log.jsonl` and `loss.svg`.

use super::Usage;
use super::options::Weights;
use super::output::note;
use super::place::{ModelPlace, adapter_place};
use super::talk::today;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use deltamem::chat::CivilDate;
use deltamem::config::DeltaConfig;
use deltamem::loaded::built_in;
use deltamem::model_folder::{Adapter, ModelFolder};
use deltamem::train::{
    AdamWOptions, AdapterParameters, Backbone, Checkpoint, Device, Episode, EpisodeReader,
    Evaluation, Initialization, LearningRate, LogLine, Trainer, TrainerOptions, TrainingLog,
    loss_curve_svg, write_adapter,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is trained, on what, and how.
#[derive(Args)]
pub struct TrainOptions {
    /// Folder with a model's files as on Hugging Face, or what was pulled [default: the built-in model]
    #[arg(long, value_name = "FOLDER|NAME")]
    model: Option<PathBuf>,
    /// Conversations to learn from: a JSON object {"messages": […]} a line
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Conversations to measure with, in the same format
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Folder for the adapter and everything about its training
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on from the checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Kind of adapter
    #[arg(long, value_enum, default_value_t = Preset::Tsw)]
    preset: Preset,
    /// A delta_mem_config.json instead of a preset
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// Start from this adapter, and with its configuration
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["preset", "config"])]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    changes: ConfigOptions,
    /// Where it is computed
    #[arg(long, value_enum, default_value_t = ComputeDevice::Cpu)]
    device: ComputeDevice,
    /// Rounds the frozen weights as inference with them would
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// Gradient steps
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: u64,
    /// Conversations computed at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Batches to a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// Highest learning rate
    #[arg(long, value_name = "X", default_value_t = 2e-3)]
    learning_rate: f64,
    /// Steps until it is reached
    #[arg(long, value_name = "N", default_value_t = 50)]
    warmup: u64,
    /// The last learning rate, as a share of the highest
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    floor: f64,
    /// AdamW's weight decay
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,
    /// Largest norm of a step's gradients
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// Tokens after which no gradient passes back through the memory [default: all the way]
    #[arg(long, value_name = "N")]
    truncate: Option<usize>,
    /// Longest call in tokens; a longer conversation is an error
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_tokens: usize,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100)]
    save_every: u64,
    /// Steps between evaluations
    #[arg(long, value_name = "N", default_value_t = 100)]
    eval_every: u64,
    /// Seed of the initial values and of the order of conversations
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// The paper's three ways to write, with its rank 8 and heads q and o. Unlike the paper's, they never
/// forget but by overwriting (`--state-update no-lambda`): with a forgetting that is tied to β a fresh
/// adapter loses 18 % of its memory with every token, and has to unlearn that first.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Preset {
    /// Every token writes, into one state a layer
    Tsw,
    /// Every message writes its mean, into one state a layer
    Ssw,
    /// Every token writes, into four states a layer
    Msw,
}

impl Preset {
    fn config(self) -> Map<String, Value> {
        let (granularity, heads) = match self {
            Preset::Tsw => ("token", 1),
            Preset::Ssw => ("message_mean", 1),
            Preset::Msw => ("token", 4),
        };
        let config = json!({
            "rank": 8, "alpha": 16.0, "delta_heads": ["q", "o"], "state_update_mode": "no_lambda",
            "memory_write_granularity": granularity, "num_state_heads": heads,
        });
        config.as_object().cloned().unwrap_or_default()
    }
}

/// What is changed of a preset or a configuration, and what a fresh adapter starts with.
#[derive(Args, Debug, Clone, PartialEq)]
#[command(next_help_heading = "Adapter")]
struct ConfigOptions {
    /// Width of a state
    #[arg(long, value_name = "N", conflicts_with = "adapter")]
    rank: Option<usize>,
    /// States a layer
    #[arg(long, value_name = "N", conflicts_with = "adapter")]
    state_heads: Option<usize>,
    /// How a write changes what was there [default: no-lambda with a preset]
    #[arg(long, value_enum, conflicts_with = "adapter")]
    state_update: Option<StateUpdate>,
    /// Learn how much is kept (λ) by itself, instead of λ = 1 − β
    #[arg(long, conflicts_with = "adapter")]
    free_lambda: bool,
    /// What β starts at, before the sigmoid: lower writes less [default: -1.5, a β of 0.18]
    #[arg(long, value_name = "X", allow_negative_numbers = true, conflicts_with = "adapter")]
    beta_bias: Option<f64>,
    /// What a free λ starts at, before the sigmoid [default: minus the bias of β]
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "free_lambda")]
    lambda_bias: Option<f64>,
}

/// The `state_update_mode` of a configuration.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum StateUpdate {
    /// λ·S − β·(prediction) + β·v: forgets while it writes, as the paper
    Standard,
    /// λ·(S − β·(prediction)) + β·v
    LambdaOutside,
    /// S − β·(prediction) + β·v: what is not overwritten stays
    NoLambda,
}

impl ConfigOptions {
    /// Writes the changes into a configuration.
    fn apply(&self, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(key.into(), value);
            }
        };
        set("rank", self.rank.map(Value::from));
        set("num_state_heads", self.state_heads.map(Value::from));
        set("state_update_mode", self.state_update.map(|mode| mode.name().into()));
        set("couple_lambda", self.free_lambda.then(|| false.into()));
        set("beta_bias_init", self.beta_bias.map(Value::from));
    }
}

impl StateUpdate {
    fn name(self) -> &'static str {
        match self {
            StateUpdate::Standard => "standard",
            StateUpdate::LambdaOutside => "lambda_outside",
            StateUpdate::NoLambda => "no_lambda",
        }
    }
}

/// Where a training is computed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum ComputeDevice {
    /// All cores of the processor
    Cpu,
    /// Vulkan or Metal, in a program built with the feature `train-gpu`
    Gpu,
}

impl ComputeDevice {
    fn open(self) -> Result<Device> {
        match self {
            ComputeDevice::Cpu => Ok(Device::flex()),
            #[cfg(feature = "train-gpu")]
            ComputeDevice::Gpu => Ok(deltamem::train::gpu_device()?),
            #[cfg(not(feature = "train-gpu"))]
            ComputeDevice::Gpu => {
                let text = "this program was built without GPU training: build it with \
                            `cargo build --release --features train-gpu`";
                Err(Usage(text.into()).into())
            }
        }
    }
}

/// What is trained: the adapter's configuration, and the values that it starts with.
enum Start {
    Fresh(Initialization),
    From(Adapter),
}

/// Runs the command.
pub fn run(options: &TrainOptions) -> Result<ExitCode> {
    let folder = match &options.model {
        Some(given) => ModelPlace::of(given)?.open()?,
        None => built_in()?.0,
    };
    let device = options.device.open()?;
    let (delta, start) = options.adapter_config(&folder)?;
    fs::create_dir_all(&options.out).map_err(deltamem::Error::io(&options.out))?;
    let date = options.begin_or_resume()?;
    let mut reader = EpisodeReader::new(&folder, delta.write_granularity, date)?;
    reader.max_tokens = options.max_tokens;
    let episodes = reader.read(&options.data)?;
    let held_out = options.eval.as_deref().map(|path| reader.read(path)).transpose()?;

    let weights = folder.tensors.as_ref();
    let storage = options.weights.storage();
    let backbone = Backbone::load(&folder.config, weights, storage, &device)
        .with_context(|| format!("loading {}", folder.name))?;
    let parameters = match start {
        Start::From(adapter) => {
            AdapterParameters::read(&folder.config, &delta, adapter.tensors.as_ref())?
        }
        Start::Fresh(initial) => {
            AdapterParameters::init(&folder.config, &delta, weights, &initial)?
        }
    };
    note!(
        "{} conversations, {} tokens of which {} are learnt; {} parameters in {} tensors",
        episodes.len(),
        episodes.iter().map(Episode::n_tokens).sum::<usize>(),
        episodes.iter().map(Episode::n_targets).sum::<usize>(),
        parameters.n_values(),
        parameters.len()
    );
    let mut trainer = Trainer::new(backbone, delta.clone(), parameters, options.trainer())?;
    let checkpoint = options.checkpoint();
    if options.resume {
        let adamw = options.trainer().optimizer;
        trainer.resume(Checkpoint::read(&checkpoint, &folder.config, &delta, adamw)?)?;
        note!("going on after step {}", trainer.n_steps());
    }
    let mut log = TrainingLog::open(&options.out.join("log.jsonl"), trainer.n_steps())?;
    let bar = progress_bar(options.steps, trainer.n_steps());
    while trainer.n_steps() < options.steps {
        let report = trainer.step(&episodes)?;
        let step = report.step;
        bar.set_position(step);
        bar.set_message(format!("loss {:.4}", report.loss));
        log.push(LogLine::Step(report))?;
        let is_last = step == options.steps;
        if let Some(held_out) = &held_out
            && (is_last || step.is_multiple_of(options.eval_every.max(1)))
        {
            let evaluation = trainer.evaluate(held_out)?;
            bar.suspend(|| note!("{}", evaluation_line(step, &evaluation)));
            log.push(LogLine::Evaluation { step, evaluation })?;
        }
        if is_last || step.is_multiple_of(options.save_every.max(1)) {
            write_adapter(&options.out, &delta, trainer.parameters())?;
            trainer.checkpoint().write(&checkpoint)?;
            let path = options.out.join("loss.svg");
            let svg = loss_curve_svg(&log.loss_curve());
            fs::write(&path, svg).map_err(deltamem::Error::io(path))?;
        }
    }
    bar.finish_and_clear();
    note!("{}: an adapter of {} steps", options.out.display(), trainer.n_steps());
    Ok(ExitCode::SUCCESS)
}

impl TrainOptions {
    /// The adapter's configuration, and what it starts from.
    fn adapter_config(&self, folder: &ModelFolder) -> Result<(DeltaConfig, Start)> {
        if let Some(path) = &self.adapter {
            let adapter = Adapter::open(adapter_place(path)?, &folder.config)?;
            return Ok((adapter.config.clone(), Start::From(adapter)));
        }
        let (mut config, label) = match &self.config {
            Some(path) => {
                let label = path.display().to_string();
                let bytes = fs::read(path).map_err(deltamem::Error::io(path))?;
                // in its own words where it is no configuration at all
                DeltaConfig::from_json(&bytes, &label)?;
                (serde_json::from_slice(&bytes).with_context(|| label.clone())?, label)
            }
            None => (self.preset.config(), "preset".into()),
        };
        self.changes.apply(&mut config);
        let config = Value::from(config);
        let delta = DeltaConfig::from_json(config.to_string().as_bytes(), &label)?;
        let initial = Initialization {
            lambda_bias: self.changes.lambda_bias.map(|bias| bias as f32),
            seed: self.seed,
            ..Initialization::default()
        };
        Ok((delta, Start::Fresh(initial.with_config(&config, &label)?)))
    }

    fn trainer(&self) -> TrainerOptions {
        TrainerOptions {
            learning_rate: LearningRate {
                peak: self.learning_rate as f32,
                floor_share: self.floor as f32,
                warmup_steps: self.warmup,
                n_steps: self.steps,
            },
            optimizer: AdamWOptions {
                weight_decay: self.weight_decay as f32,
                ..AdamWOptions::default()
            },
            max_gradient_norm: self.clip as f32,
            batch_size: self.batch,
            accumulate: self.accumulate,
            truncate_tokens: self.truncate,
            seed: self.seed,
        }
    }

    fn checkpoint(&self) -> PathBuf {
        self.out.join("checkpoint.safetensors")
    }

    /// Remembers what a training is started with, or holds a resumed one to it. Returns the date
    /// that templates are told: that of the start, as another would change the tokens.
    fn begin_or_resume(&self) -> Result<CivilDate> {
        let ours = json!({
            "model": self.model,
            "data_sha256": sha256(&self.data)?,
            "preset": self.config.is_none().then(|| format!("{:?}", self.preset).to_lowercase()),
            "config": self.config,
            "adapter": self.adapter,
            "rank": self.changes.rank,
            "state_heads": self.changes.state_heads,
            "state_update": self.changes.state_update.map(StateUpdate::name),
            "free_lambda": self.changes.free_lambda,
            "beta_bias": self.changes.beta_bias,
            "lambda_bias": self.changes.lambda_bias,
            "device": format!("{:?}", self.device).to_lowercase(),
            "weights": self.weights.storage().name(),
            "steps": self.steps,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "learning_rate": self.learning_rate,
            "warmup": self.warmup,
            "floor": self.floor,
            "weight_decay": self.weight_decay,
            "clip": self.clip,
            "truncate": self.truncate,
            "seed": self.seed,
        });
        let path = self.out.join("training.json");
        let io = |e| deltamem::Error::io(&path)(e);
        if !self.resume {
            if self.checkpoint().exists() {
                let out = self.out.display();
                let text = format!("{out} holds a training: --resume it, or name another folder");
                return Err(Usage(text).into());
            }
            let date = today();
            let mut record = ours;
            record["date"] = date.to_string().into();
            fs::write(&path, format!("{record:#}\n")).map_err(io)?;
            return Ok(date);
        }
        let theirs: Value = serde_json::from_slice(&fs::read(&path).map_err(io)?)
            .with_context(|| format!("{}", path.display()))?;
        let keys = ours.as_object().into_iter().flatten();
        let differing = keys.filter(|(key, value)| theirs.get(key.as_str()) != Some(*value));
        let differing = differing.map(|(key, _)| key.replace('_', "-"));
        if let Some(keys) = differing.reduce(|a, b| format!("{a}, {b}")) {
            let text = format!("the training to resume was started with another {keys}");
            return Err(Usage(text).into());
        }
        let date = theirs["date"].as_str().and_then(|date| date.parse().ok());
        date.with_context(|| format!("{}: there is no `date`", path.display()))
    }
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(deltamem::Error::io(path))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn evaluation_line(step: u64, evaluation: &Evaluation) -> String {
    let Evaluation { loss, token_accuracy, exact, n_episodes } = evaluation;
    format!(
        "step {step}: loss {loss:.4}, {:.1} % of tokens, {:.1} % of {n_episodes} answers right",
        100.0 * token_accuracy,
        100.0 * exact
    )
}

/// Steps done, time left and the loss; hidden where standard error is no terminal.
fn progress_bar(n_steps: u64, done: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(n_steps);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_bar} {eta} left, {msg}") {
        bar.set_style(style);
    }
    bar.set_position(done);
    bar.reset_eta();
    bar
}
