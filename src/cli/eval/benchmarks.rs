//! `deltamem eval locomo|hotpotqa|memory-agent`: the δ-mem paper's benchmarks on data files that a person
//! has. Owns their options and what of them a run is bound to; protocols and scores are the library's
//! (`deltamem::eval`).

use super::super::Usage;
use super::super::options::{ModelOptions, RunOptions};
use super::super::output::{note, printable, put};
use anyhow::{Context, Result};
use clap::Args;
use deltamem::chat::CivilDate;
use deltamem::eval::paper::answers::RunFolder;
use deltamem::eval::paper::benchmark::Benchmark;
use deltamem::eval::paper::report::Report;
use deltamem::eval::paper::run::{self, Progress};
use deltamem::eval::paper::task::{Mode, Question, Task};
use deltamem::eval::paper::{hotpotqa, locomo, memory_agent};
use deltamem::loaded::quantisation;
use deltamem::sampler::SamplingOptions;
use deltamem::session::{Session, SessionOptions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Questions about LoCoMo's conversations.
#[derive(Args)]
pub struct LocomoOptions {
    /// LoCoMo's data file
    #[arg(value_name = "FILE")]
    data: PathBuf,
    /// Categories to ask: 1 multi-hop, 2 temporal, 3 open-domain, 4 single-hop, 5 adversarial
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,3,4,5",
          value_parser = clap::value_parser!(u8).range(1..=5))]
    categories: Vec<u8>,
    #[command(flatten)]
    common: CommonOptions,
}

/// HotpotQA's questions.
#[derive(Args)]
pub struct HotpotQaOptions {
    /// HotpotQA's data file in the distractor setting
    #[arg(value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    common: CommonOptions,
}

/// MemoryAgentBench's questions.
#[derive(Args)]
pub struct MemoryAgentOptions {
    /// One of MemoryAgentBench's files
    #[arg(value_name = "FILE")]
    data: PathBuf,
    /// Sub-tasks to ask, by the beginning of their names, such as factconsolidation [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    sources: Vec<String>,
    /// Characters of a context that are kept, of its beginning and its end; 0 = all
    #[arg(long, value_name = "N", default_value_t = memory_agent::MAX_CHARACTERS)]
    max_characters: usize,
    #[command(flatten)]
    common: CommonOptions,
}

/// What all three can be told.
#[derive(Args)]
struct CommonOptions {
    /// Folder for answers and report; a run that was stopped goes on in it
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// What the model has when it is asked: on (memory and the end of the context), off (nothing),
    /// full (the context), state (the memory), replay (the context, and the memory is written while
    /// it is read)
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', default_value = "on,off,full,state",
          value_parser = mode)]
    modes: Vec<Mode>,
    /// Tokens of the context's end that mode on shows
    #[arg(long, value_name = "N", default_value_t = 512)]
    visible: usize,
    /// Tokens that are written into the memory as one message, at most
    #[arg(long, value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..))]
    section_tokens: u32,
    /// Tokens of prompt and reply; longer contexts are cut at the front [default: --context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_context: Option<u32>,
    /// Only the first N contexts of the file
    #[arg(long, value_name = "N")]
    max_contexts: Option<usize>,
    /// Only the first N questions of each context
    #[arg(long, value_name = "N")]
    max_questions: Option<usize>,
    /// Longest reply [default: what the benchmark says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// 0 takes the most probable token, 1 draws as the model says
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f32,
    /// Draw among the K most probable tokens; 0 = all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw among the most probable tokens that reach this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Same seed, same replies
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// The system message [default: what the benchmark says]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers
    #[arg(long)]
    think: bool,
    /// The day that the template is told, so that runs on different days compare
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "2026-01-01")]
    date: CivilDate,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// What a benchmark's own options come to.
struct Job<'a> {
    benchmark: Benchmark,
    tasks: Vec<Task>,
    data: Value,
    is_wanted: &'a dyn Fn(&Question) -> bool,
}

/// Runs `eval locomo`.
pub fn locomo(options: &LocomoOptions) -> Result<ExitCode> {
    let (tasks, digest) = locomo::read(&options.data)?;
    let categories: BTreeSet<&str> =
        options.categories.iter().map(|&n| locomo::CATEGORIES[usize::from(n) - 1]).collect();
    let is_wanted = |question: &Question| categories.contains(question.category.as_str());
    let data = json!({ "file": name(&options.data), "sha256": digest });
    let job = Job { benchmark: Benchmark::Locomo, tasks, data, is_wanted: &is_wanted };
    evaluate(&job, &options.common)
}

/// Runs `eval hotpotqa`.
pub fn hotpotqa(options: &HotpotQaOptions) -> Result<ExitCode> {
    let (tasks, digest) = hotpotqa::read(&options.data)?;
    let data = json!({ "file": name(&options.data), "sha256": digest });
    let job = Job { benchmark: Benchmark::HotpotQa, tasks, data, is_wanted: &|_| true };
    evaluate(&job, &options.common)
}

/// Runs `eval memory-agent`.
pub fn memory_agent(options: &MemoryAgentOptions) -> Result<ExitCode> {
    let (tasks, digest) = memory_agent::read(&options.data, options.max_characters)?;
    let sources = &options.sources;
    let is_wanted = |question: &Question| {
        sources.is_empty() || sources.iter().any(|source| question.category.starts_with(source))
    };
    let data = json!({
        "file": name(&options.data),
        "sha256": digest,
        "max_characters": options.max_characters,
    });
    let job = Job { benchmark: Benchmark::MemoryAgent, tasks, data, is_wanted: &is_wanted };
    evaluate(&job, &options.common)
}

fn evaluate(job: &Job<'_>, options: &CommonOptions) -> Result<ExitCode> {
    let sampling = SamplingOptions {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        seed: options.seed,
        ..SamplingOptions::default()
    };
    sampling.check()?;
    if !job.tasks.iter().flat_map(|task| &task.questions).any(job.is_wanted) {
        return Err(Usage("no question of this file is asked".into()).into());
    }
    let mut modes = Vec::new();
    for &mode in &options.modes {
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    let asked = run::RunOptions {
        modes,
        visible_tokens: options.visible,
        section_tokens: options.section_tokens as usize,
        max_context: options.max_context.map(|n| n as usize),
        max_new_tokens: options.max_tokens.map(|n| n as usize),
        sampling,
        date: options.date,
        max_contexts: options.max_contexts,
        max_questions: options.max_questions,
    };
    let system = options.system.clone().or_else(|| job.benchmark.system().map(String::from));
    let (folder, adapter) = options.model.open()?;
    let model = options.model.load(&options.run)?;
    let settings = json!({
        "format": 1,
        "benchmark": job.benchmark.name(),
        "data": job.data,
        "model": {
            "name": model.name,
            "fingerprint": folder.fingerprint()?,
            "adapter": adapter.map(|adapter| adapter.hash),
            "weights": quantisation(&folder, options.model.weights().storage()),
            "kv": options.run.kv.storage().name(),
            "context": model.engine.context_window(),
        },
        "system": system,
        "think": options.think,
        "date": options.date.to_string(),
        "visible_tokens": asked.visible_tokens,
        "section_tokens": asked.section_tokens,
        "max_context": asked.max_context,
        "max_new_tokens": asked.max_new_tokens,
        "sampling": {
            "temperature": asked.sampling.temperature,
            "top_k": asked.sampling.top_k,
            "top_p": asked.sampling.top_p,
            "seed": asked.sampling.seed,
        },
    });
    let mut folder = RunFolder::open(&options.out, settings)?;
    let n_held = folder.answers().len();
    if n_held > 0 {
        note!("{n_held} answers are there already");
    }
    let session_options =
        SessionOptions { system, enable_thinking: Some(options.think), date: options.date };
    let ran = pollster::block_on(async {
        let mut session = Session::new(model, session_options).await?;
        let (benchmark, tasks) = (job.benchmark, job.tasks.as_slice());
        let is_wanted = job.is_wanted;
        run::run(&mut session, benchmark, tasks, &asked, is_wanted, &mut folder, &mut show).await
    });
    // also what was answered before something went wrong
    let names = job.benchmark.score_names();
    let report = Report::new(job.benchmark.name(), folder.settings(), names, folder.answers());
    folder.write_report(&report)?;
    ran.with_context(|| {
        format!("{} answers are in {}", folder.answers().len(), options.out.display())
    })?;
    match options.json {
        true => put!("{}", report.json())?,
        false => put!("{}", printable(report.markdown().trim_end()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each answer.
fn show(progress: Progress<'_>) {
    let Some(answer) = progress.answer else {
        return note!("{} questions to ask", progress.n_questions);
    };
    let score = answer.scores.iter().map(|(name, score)| format!("{name} {score:.2}"));
    note!(
        "{}/{} {} {}: {} ({:.1} s)",
        progress.n_done,
        progress.n_questions,
        answer.mode.name(),
        printable(&answer.id).replace('\n', " "),
        score.collect::<Vec<_>>().join(", "),
        answer.seconds,
    );
}

/// A file's name without its folder, which may differ where a run goes on.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn mode(name: &str) -> Result<Mode, String> {
    let names = Mode::ALL.map(Mode::name).join(", ");
    Mode::from_name(name).ok_or_else(|| format!("there are {names}"))
}
