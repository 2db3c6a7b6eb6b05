//! How fast a model is on an adapter, and how close to what the adapter can do. Owns what is measured
//! and in which order, for the program and for a page; printing is theirs.
//!
//! All write modes are loaded side by side where there is room, and run in turns: off, tsw, …, off, tsw,
//! …. What one round was slowed down by, all of it was.

mod host;
pub mod peer;
pub mod report;
pub mod roofline;
pub mod runs;
mod work;
mod write_mode;

pub use host::{HostMemory, cpu_seconds};
pub use peer::{Peer, PeerAbout};
pub use report::{About, Report};
pub use write_mode::WriteMode;

use crate::config::{DeltaConfig, ModelConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::footprint::{Footprint, Layout};
use crate::gpu::Counters;
use crate::loaded::{Device, load_engine};
use crate::model::{LoadOptions, bytes_spared, context_window};
use crate::weights::TensorSource;
use peer::{PeerTime, Rival};
use report::{FirstToken, KernelRow, LeftOut, Memory, PeerReport, Rate};
use roofline::Limits;
use web_time::{Duration, Instant};
use work::Work;

/// What is measured.
pub struct Subject<'a> {
    pub config: &'a ModelConfig,
    pub tensors: &'a dyn TensorSource,
    /// Measured in its own mode; the others get adapters that nobody trained.
    pub adapter: Option<(&'a DeltaConfig, &'a dyn TensorSource)>,
}

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    pub modes: Vec<WriteMode>,
    /// Lengths of prompts.
    pub prefill: Vec<usize>,
    /// Tokens in the context before decoding.
    pub contexts: Vec<usize>,
    /// Tokens of a piece of decoding.
    pub decode_tokens: usize,
    /// Rounds of which the median is taken.
    pub runs: usize,
    /// For prefill and decode together; what would take longer is left out. One round of the shortest
    /// is always done.
    pub budget: Duration,
    /// Of models that are loaded side by side.
    pub max_loaded_bytes: u64,
    /// Only loads the first mode, for its time and memory; nothing is computed.
    pub only_load: bool,
}

/// Tokens of the prompt behind which the first token is timed.
const FIRST_PROMPT: usize = 16;
/// Tokens of the shortest prompt that goes through the kernels for many tokens.
const SHORT_PROMPT: usize = 8;
/// Tokens of the prompt whose kernels are timed: a chunk, so that all dispatches have timestamps.
const TIMED_PROMPT: usize = 64;
/// It is shorter where it would take longer than this.
const TIMED_SECONDS: f64 = 10.0;

/// A loaded model in one mode.
struct Candidate {
    mode: WriteMode,
    engine: Engine,
    work: Work,
    print: Footprint,
    load_seconds: f64,
    /// Estimates, from the first runs.
    prefill_seconds_per_token: f64,
    decode_seconds_per_token: f64,
}

impl Candidate {
    async fn warm_up_decode(&mut self) -> Result<()> {
        runs::decode(&mut self.engine, 0, 1).await?;
        self.decode_seconds_per_token = runs::decode(&mut self.engine, 0, 1).await?.seconds;
        Ok(())
    }
}

/// What a round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Of so many tokens.
    Prefill(usize),
    /// Behind so many tokens.
    Decode(usize),
}

/// The rounds of a task in one mode.
struct Measured {
    task: Task,
    mode: WriteMode,
    /// Tokens of a run.
    n_tokens: usize,
    /// One a round, for the whole run.
    seconds: Vec<f64>,
    /// Of one run of decoding.
    counters: Option<Counters>,
    /// At best, for the whole run.
    limit_seconds: Option<f64>,
    /// Of all rounds together, where the system says; the device's as well if it is a CPU.
    cpu_seconds: Option<f64>,
    /// A peer's of the same rounds, one a round, for as many tokens.
    peer: Vec<PeerTime>,
}

/// Measures a model, and in the same rounds a peer. `tell` hears what is being done.
///
/// # Errors
/// [`Error::Setting`] without modes or runs; those of loading, of the device and of the peer.
pub async fn measure(
    subject: &Subject<'_>,
    device: &Device,
    load: &LoadOptions,
    settings: &Settings,
    peer: Option<&mut dyn Peer>,
    tell: &mut dyn FnMut(&str),
) -> Result<Report> {
    if settings.modes.is_empty() || settings.runs == 0 || settings.decode_tokens == 0 {
        let reason = "a mode, a run and a token to decode are the least".into();
        return Err(Error::Setting { name: "measurement", reason });
    }
    let load =
        LoadOptions { context_window: Some(window(subject, load, settings)?), ..load.clone() };
    let before = HostMemory::now();
    let mut report = Report::new(device, &load, settings);

    tell("loading");
    let mut first = candidate(subject, device, &load, settings.modes[0]).await?;
    report.load_seconds = first.load_seconds;
    if settings.only_load {
        report.memory_bytes = memory(&first, before);
        report.memory_checks = report.memory_bytes.checks();
        return Ok(report);
    }
    let prompt_tokens = FIRST_PROMPT.min(window_of(&first));
    let cold = runs::prefill(&mut first.engine, prompt_tokens).await?;
    let warm = runs::prefill(&mut first.engine, prompt_tokens).await?;
    first.prefill_seconds_per_token = warm / prompt_tokens as f64;
    first.warm_up_decode().await?;
    report.first_token = Some(FirstToken {
        prompt_tokens,
        delta: first.mode,
        cold_seconds: first.load_seconds + cold,
        warm_seconds: warm,
    });
    report.memory_bytes = memory(&first, before);
    report.memory_checks = report.memory_bytes.checks();

    if let Device::Gpu(gpu) = device {
        tell("measuring the adapter");
        report.limits = Some(roofline::limits(gpu).await?);
    }

    let rival = match peer {
        Some(peer) => {
            tell(&format!("warming up {}", peer.about().name));
            Some(Rival::new(peer, window_of(&first)).await?)
        }
        None => None,
    };
    let room = settings.max_loaded_bytes / first.print.total().max(1);
    report.is_interleaved = room >= settings.modes.len() as u64;
    let rest = settings.modes[1..].iter().copied();
    let mut found = Found { report, measured: Vec::new(), rival };
    if found.report.is_interleaved {
        let mut candidates = vec![first];
        for mode in rest {
            tell(&format!("loading {}", mode.name()));
            candidates.push(candidate(subject, device, &load, mode).await?);
        }
        measure_group(&mut candidates, settings, settings.budget, &mut found, tell).await?;
        let with_memory = candidates.iter().position(|c| c.mode != WriteMode::Off).unwrap_or(0);
        found.report.kernels = kernel_times(&mut candidates[with_memory], settings).await?;
    } else {
        let budget = settings.budget / settings.modes.len() as u32;
        let mut group = vec![first];
        measure_group(&mut group, settings, budget, &mut found, tell).await?;
        for mode in rest {
            group.clear();
            tell(&format!("loading {}", mode.name()));
            group.push(candidate(subject, device, &load, mode).await?);
            measure_group(&mut group, settings, budget, &mut found, tell).await?;
        }
        found.report.kernels = kernel_times(&mut group[0], settings).await?;
    }
    Ok(found.into_report())
}

/// What is found on the way to a report.
struct Found<'a> {
    report: Report,
    measured: Vec<Measured>,
    rival: Option<Rival<'a>>,
}

impl Found<'_> {
    fn into_report(self) -> Report {
        let Found { mut report, measured, rival } = self;
        report.per_token = measured
            .iter()
            .filter(|m| m.counters.is_some())
            .min_by_key(|m| m.mode == WriteMode::Off)
            .and_then(report::PerToken::of);
        for m in &measured {
            let off = measured.iter().find(|o| o.task == m.task && o.mode == WriteMode::Off);
            let rate = Rate::of(m, off);
            match m.task {
                Task::Prefill(_) => report.prefill.push(rate),
                Task::Decode(_) => report.decode.push(rate),
            }
        }
        let is_cpu = report.memory_bytes.device_is_host;
        let peers = rival.iter();
        report.peers =
            peers.map(|rival| PeerReport::of(rival.about(), &measured, is_cpu)).collect();
        report
    }
}

/// Positions that everything wanted needs, as far as the model has them.
fn window(subject: &Subject<'_>, load: &LoadOptions, settings: &Settings) -> Result<usize> {
    let contexts = settings.contexts.iter().map(|n| n + settings.decode_tokens);
    let needed = settings.prefill.iter().copied().chain(contexts).max().unwrap_or(0);
    let most = subject.config.max_position_embeddings;
    context_window(subject.config, load.context_window.or(Some(needed.max(FIRST_PROMPT).min(most))))
}

fn window_of(candidate: &Candidate) -> usize {
    candidate.engine.context_window()
}

async fn candidate(
    subject: &Subject<'_>,
    device: &Device,
    load: &LoadOptions,
    mode: WriteMode,
) -> Result<Candidate> {
    let given = subject.adapter.filter(|(delta, _)| WriteMode::of(delta) == mode);
    let generated = match given {
        Some(_) => None,
        None => mode.generated(subject.config)?,
    };
    let adapter = given.or(generated.as_ref().map(|(delta, tensors)| (delta, tensors as _)));
    let (config, tensors) = (subject.config, subject.tensors);
    let started = Instant::now();
    let engine = load_engine(config, tensors, adapter, device, load, &mut |_, _| {}).await?;
    let load_seconds = started.elapsed().as_secs_f64();
    let layout = Layout {
        weights: load.weights,
        kv: load.kv,
        context_window: engine.context_window(),
        chunk: load.chunk,
        software: matches!(&engine, Engine::Gpu(model) if model.gpu().tier.software),
    };
    let delta = adapter.map(|(delta, _)| delta);
    let print = Footprint::of_source(config, delta, &layout, tensors)?;
    let embedding = tensors.own_storage("model.embed_tokens.weight").unwrap_or(load.weights);
    let spared = match (&engine, adapter) {
        (Engine::Gpu(_), Some((delta, tensors))) => bytes_spared(config, delta, tensors)?,
        _ => 0,
    };
    Ok(Candidate {
        mode,
        engine,
        work: Work::new(config, &print, spared, embedding, load.kv),
        print,
        load_seconds,
        prefill_seconds_per_token: 0.0,
        decode_seconds_per_token: 0.0,
    })
}

fn memory(candidate: &Candidate, before: HostMemory) -> Memory {
    let now = HostMemory::now();
    let (allocated, device_is_host) = match &candidate.engine {
        Engine::Gpu(model) => {
            (model.gpu().device.generate_allocator_report(), model.gpu().tier.software)
        }
        Engine::Cpu(_) => (None, true),
    };
    let print = &candidate.print;
    Memory {
        host_before_load: before.resident,
        host_resident: now.resident,
        host_peak: now.peak,
        weights: print.weights,
        adapter: print.adapter,
        kv: print.kv,
        state: print.state,
        activations: print.activations,
        device_allocated: allocated.as_ref().map(|report| report.total_allocated_bytes),
        device_reserved: allocated.as_ref().map(|report| report.total_reserved_bytes),
        device_is_host,
    }
}

/// Everything that is wanted of models that are loaded side by side.
async fn measure_group(
    group: &mut [Candidate],
    settings: &Settings,
    budget: Duration,
    found: &mut Found<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<()> {
    let Found { report, measured, rival } = found;
    tell("warming up");
    // the first run of each form finishes compiling
    for candidate in group.iter_mut().filter(|c| c.decode_seconds_per_token == 0.0) {
        let n = SHORT_PROMPT.min(window_of(candidate));
        runs::prefill(&mut candidate.engine, n).await?;
        let seconds = runs::prefill(&mut candidate.engine, n).await?;
        candidate.prefill_seconds_per_token = seconds / n as f64;
        candidate.warm_up_decode().await?;
    }
    let started = Instant::now();
    for task in tasks(settings) {
        let left = budget.saturating_sub(started.elapsed()).as_secs_f64();
        let is_first = !measured.iter().any(|m| {
            group.iter().any(|c| c.mode == m.mode) && m.task.is_prefill() == task.is_prefill()
        });
        match planned(task, group, rival.as_ref(), settings, left, is_first) {
            Ok((task, n_tokens)) => {
                tell(&format!("measuring {}", task.name()));
                let runs = Runs { task, n_tokens, started, budget, n: settings.runs };
                let limits = report.limits.as_ref();
                measured.extend(rounds(group, rival.as_mut(), &runs, limits).await?);
                if task.is_prefill() && !settings.prefill.contains(&task.size()) {
                    let asked = settings.prefill.iter().min().copied().unwrap_or(0);
                    report.left_out.push(LeftOut::new(
                        Task::Prefill(asked),
                        group,
                        format!("too long for the time that was given; {} instead", task.name()),
                    ));
                }
            }
            Err(reason) => report.left_out.push(LeftOut::new(task, group, reason)),
        }
    }
    Ok(())
}

/// From the shortest on, in turns, so that a budget leaves out the long ones of both.
fn tasks(settings: &Settings) -> Vec<Task> {
    let sorted = |sizes: &[usize]| {
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    };
    let (prefill, contexts) = (sorted(&settings.prefill), sorted(&settings.contexts));
    let n = prefill.len().max(contexts.len());
    let at = |i: usize| {
        let prefill = prefill.get(i).map(|&n| Task::Prefill(n));
        prefill.into_iter().chain(contexts.get(i).map(|&n| Task::Decode(n)))
    };
    (0..n).flat_map(at).collect()
}

impl Task {
    fn is_prefill(self) -> bool {
        matches!(self, Task::Prefill(_))
    }

    fn size(self) -> usize {
        match self {
            Task::Prefill(n) | Task::Decode(n) => n,
        }
    }

    fn name(self) -> String {
        match self {
            Task::Prefill(n) => format!("prefill of {n}"),
            Task::Decode(n) => format!("decode at {n}"),
        }
    }
}

/// A task and the tokens of its runs, cut to what fits into `left` seconds if nothing of its kind was
/// done yet; else why it is left out.
fn planned(
    task: Task,
    group: &[Candidate],
    rival: Option<&Rival<'_>>,
    settings: &Settings,
    left: f64,
    is_first: bool,
) -> std::result::Result<(Task, usize), String> {
    let window = group.iter().map(window_of).min().unwrap_or(0);
    let prefill = group.iter().map(|c| c.prefill_seconds_per_token);
    let prefill: f64 = prefill.chain(rival.map(Rival::prefill_seconds_per_token)).sum();
    let decode = group.iter().map(|c| c.decode_seconds_per_token);
    let decode: f64 = decode.chain(rival.map(Rival::decode_seconds_per_token)).sum();
    let too_long = |seconds: f64| Err(format!("a round would take about {seconds:.0} s"));
    match task {
        Task::Prefill(n) if n > window => Err(format!("the context has {window} tokens")),
        Task::Prefill(n) => {
            let seconds = prefill * n as f64;
            if seconds <= left / 2.0 {
                return Ok((task, n));
            }
            if !is_first {
                return too_long(seconds);
            }
            let fits = (left / 3.0 / prefill) as usize;
            let n = fits.clamp(SHORT_PROMPT, n.max(SHORT_PROMPT)).min(n);
            let n = if n.is_power_of_two() { n } else { n.next_power_of_two() / 2 };
            Ok((Task::Prefill(n), n))
        }
        Task::Decode(context) if context >= window => {
            Err(format!("the context has {window} tokens"))
        }
        Task::Decode(context) => {
            // the twin has to read its context
            let is_twin = matches!(group[0].engine, Engine::Cpu(_));
            let reading = if is_twin { prefill * context as f64 } else { 0.0 };
            let seconds = reading + decode;
            if seconds > left / 2.0 && !is_first {
                return too_long(seconds);
            }
            let share = left / 3.0 / settings.runs as f64;
            let n = ((share - reading) / decode) as usize;
            Ok((task, n.clamp(1, settings.decode_tokens.min(window - context))))
        }
    }
}

/// What a task's rounds have in common.
struct Runs {
    task: Task,
    n_tokens: usize,
    started: Instant,
    budget: Duration,
    n: usize,
}

/// Runs every candidate and the peer in turns, as often as the budget allows and at least once.
async fn rounds(
    group: &mut [Candidate],
    mut rival: Option<&mut Rival<'_>>,
    runs: &Runs,
    limits: Option<&Limits>,
) -> Result<Vec<Measured>> {
    let limit_of = |candidate: &Candidate, limits: &Limits| match runs.task {
        Task::Prefill(n) => candidate.work.prefill_seconds(n, limits),
        Task::Decode(context) => {
            let middle = context + runs.n_tokens / 2;
            candidate.work.decode_seconds(middle, limits) * runs.n_tokens as f64
        }
    };
    let mut measured: Vec<Measured> = group
        .iter()
        .map(|candidate| Measured {
            task: runs.task,
            mode: candidate.mode,
            n_tokens: runs.n_tokens,
            seconds: Vec::new(),
            counters: None,
            limit_seconds: limits.map(|limits| limit_of(candidate, limits)),
            cpu_seconds: Some(0.0),
            peer: Vec::new(),
        })
        .collect();
    let begin = Instant::now();
    for round in 0..runs.n {
        // a further round takes as long as those before
        let per_round = begin.elapsed() / round.max(1) as u32;
        if round > 0 && runs.started.elapsed() + per_round > runs.budget {
            break;
        }
        for (candidate, measured) in group.iter_mut().zip(&mut measured) {
            let cpu_before = cpu_seconds();
            let seconds = match runs.task {
                Task::Prefill(n) => {
                    let seconds = runs::prefill(&mut candidate.engine, n).await?;
                    candidate.prefill_seconds_per_token = seconds / n as f64;
                    seconds
                }
                Task::Decode(context) => {
                    let n = runs.n_tokens;
                    let decoded = runs::decode(&mut candidate.engine, context, n).await?;
                    measured.counters = decoded.counters;
                    let seconds = decoded.seconds;
                    candidate.decode_seconds_per_token = seconds / n as f64;
                    seconds
                }
            };
            measured.seconds.push(seconds);
            let spent = cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
            measured.cpu_seconds = measured.cpu_seconds.zip(spent).map(|(sum, spent)| sum + spent);
        }
        if let Some(rival) = &mut rival {
            let time = rival.run(runs.task, runs.n_tokens).await?;
            measured.iter_mut().for_each(|measured| measured.peer.push(time));
        }
    }
    Ok(measured)
}

/// Where the time of a token and of a chunk of a prompt goes; empty where adapters cannot say.
async fn kernel_times(candidate: &mut Candidate, settings: &Settings) -> Result<Vec<KernelRow>> {
    let Engine::Gpu(model) = &candidate.engine else { return Ok(Vec::new()) };
    let gpu = model.gpu().clone();
    let context = settings.contexts.iter().min().copied().unwrap_or(0);
    let context = context.min(window_of(candidate) - 1);
    let affordable = (TIMED_SECONDS / candidate.prefill_seconds_per_token) as usize;
    let prompt = affordable.clamp(SHORT_PROMPT, TIMED_PROMPT).min(window_of(candidate));
    let mut rows = Vec::new();
    for (phase, is_prefill) in [("decode", false), ("prefill", true)] {
        if !gpu.time_kernels() {
            return Ok(Vec::new());
        }
        match is_prefill {
            true => {
                runs::prefill(&mut candidate.engine, prompt).await?;
            }
            false => {
                runs::decode(&mut candidate.engine, context, 1).await?;
            }
        }
        let times = gpu.kernel_times().await?;
        rows.extend(times.into_iter().map(|time| KernelRow { phase, delta: candidate.mode, time }));
    }
    Ok(rows)
}
