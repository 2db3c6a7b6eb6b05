//! `deltamem eval nano`: how well a model remembers what it was told. Owns options, progress and the
//! table; what is told and asked is the library's `eval::recall`.

use super::super::Usage;
use super::super::options::{LoadProgress, ModelOptions, RunOptions, device_name};
use super::super::output::{note, printable, put, table};
use anyhow::{Context, Result};
use clap::Args;
use deltamem::chat::CivilDate;
use deltamem::eval::cases::{self, Case};
use deltamem::eval::recall::{at_most, fact_turns, nano_turns, run_facts, run_nano};
use deltamem::eval::report::{FactsReport, Miss, NanoReport, percent, variant};
use deltamem::eval::talker::Talker;
use deltamem::eval::workers::Failure;
use deltamem::loaded::{Device, LoadedModel, quantisation};
use deltamem::model_folder::{Adapter, ModelFolder};
use deltamem::nano;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

/// Larger models are not loaded several times; one of them has work for all cores.
const MAX_PARAMETERS_FOR_THREADS: u64 = 50_000_000;

/// What to measure.
#[derive(Args)]
pub struct NanoOptions {
    /// Cases of your own: one JSON object a line with `sessions` (lists of messages), `question` and
    /// `answers`
    ///
    /// For instance: {"sessions": [["I live in Oslo."]], "question": "Where do I live?", "answers":
    /// ["Oslo"]}. Each session begins with an empty context, and so does the question. A case counts
    /// when an answer stands in the reply as whole words, in upper or lower case.
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// At most N cases of each measurement (of the file, with --facts)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a target is missed
    #[arg(long, conflicts_with = "facts")]
    check: bool,
    /// List every reply that does not count, as --facts does
    #[arg(long)]
    misses: bool,
    /// The day that the model is told it is
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "2026-12-01")]
    date: CivilDate,
    /// Cases that run side by side with --cpu, each with a copy of the model [default: one a core; 1
    /// for a model of more than 50 million weights]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// What goes into every report.
struct Setting {
    model: String,
    device: String,
    weights: String,
    variant: &'static str,
}

/// What was measured: the JSON object, the replies that do not count, the targets that are missed.
type Outcome = (Value, Vec<Miss>, Vec<String>);

/// Runs the command.
pub fn run(options: &NanoOptions) -> Result<ExitCode> {
    // the file first: a mistake in it is the more common one
    let own = options.facts.as_deref().map(|path| own_cases(path, options.n)).transpose()?;
    let (mut talkers, setting) = talkers(options)?;
    let started = Instant::now();
    let (mut report, misses, missed) = match &own {
        Some((name, cases)) => measure_own(&mut talkers, name, cases)?,
        None => measure_built_in(&mut talkers, options)?,
    };
    report["variant"] = json!(setting.variant);
    report["weights"] = json!(setting.weights);
    report["model"] = json!(setting.model);
    report["adapter"] = json!(setting.device);
    report["date"] = json!(options.date.to_string());
    report["seconds"] = json!(started.elapsed().as_secs_f64());
    if options.json {
        put!("{report}")?;
    } else {
        put!("{}", text(&report))?;
        if options.misses || own.is_some() {
            print_misses(&misses)?;
        }
    }
    if !options.check {
        return Ok(ExitCode::SUCCESS);
    }
    for target in &missed {
        note!("missed: {target}");
    }
    Ok(ExitCode::from(u8::from(!missed.is_empty())))
}

/// A person's own cases, at most `n`, and what their file is called.
fn own_cases(path: &Path, n: Option<u32>) -> Result<(String, Vec<Case>)> {
    let mut cases = cases::read(path)?;
    cases.truncate(n.map_or(usize::MAX, |n| n as usize));
    Ok((path.display().to_string(), cases))
}

fn measure_own(talkers: &mut [Talker], name: &str, cases: &[Case]) -> Result<Outcome> {
    let bar = progress_bar(fact_turns(cases));
    let replies = run_facts(talkers, cases, |n_turns| bar.inc(n_turns as u64));
    bar.finish_and_clear();
    let replies = replies.map_err(|failure| named(failure, name, |index| &cases[index]))?;
    let report = FactsReport::new(cases, &replies);
    Ok((serde_json::to_value(&report)?, report.misses, Vec::new()))
}

fn measure_built_in(talkers: &mut [Talker], options: &NanoOptions) -> Result<Outcome> {
    let all = cases::built_in()?;
    let cases = at_most(all, options.n.map_or(usize::MAX, |n| n as usize));
    let bar = progress_bar(nano_turns(&cases));
    let replies = run_nano(talkers, &cases, |n_turns| bar.inc(n_turns as u64));
    bar.finish_and_clear();
    let name = cases::BUILT_IN_NAME;
    let replies = replies.map_err(|failure| named(failure, name, |index| &cases[index].case))?;
    let report = NanoReport::new(&cases, &replies);
    let mut value = serde_json::to_value(&report)?;
    if options.misses {
        value["misses"] = serde_json::to_value(&report.misses)?;
    }
    let missed = report.missed_targets();
    Ok((value, report.misses, missed))
}

/// An error that says in which case it happened.
fn named<'a>(failure: Failure, file: &str, case: impl Fn(usize) -> &'a Case) -> anyhow::Error {
    let line = case(failure.index).line;
    anyhow::Error::from(failure.error).context(format!("{file}, line {line}"))
}

/// Loads the model as often as cases run side by side.
fn talkers(options: &NanoOptions) -> Result<(Vec<Talker>, Setting)> {
    let (folder, adapter) = options.model.open()?;
    let Some(adapter) = adapter else {
        let name = &folder.name;
        return Err(Usage(format!("{name} has no δ-mem adapter to measure; see --adapter")).into());
    };
    let device = options.run.device.open()?;
    if options.model.is_built_in() {
        note!("{}", nano::NOTICE);
    }
    let n_threads = match (&device, options.threads) {
        (Device::Gpu(_), _) => 1,
        (Device::Cpu, Some(n)) => n as usize,
        (Device::Cpu, None) if folder.config.n_parameters() > MAX_PARAMETERS_FOR_THREADS => 1,
        (Device::Cpu, None) => available_parallelism().map_or(1, |n| n.get()),
    };
    let load = || talker(options, &folder, &adapter, &device);
    let talkers: Result<Vec<Talker>> = (0..n_threads).map(|_| load()).collect();
    let weights = quantisation(&folder, options.model.weights().storage());
    let setting = Setting {
        device: device_name(&device),
        weights: format!("{} stored, {weights} loaded, f32 computed", stored(&folder)),
        variant: variant(&adapter.config),
        model: folder.name.clone(),
    };
    Ok((talkers?, setting))
}

fn talker(
    options: &NanoOptions,
    folder: &ModelFolder,
    adapter: &Adapter,
    device: &Device,
) -> Result<Talker> {
    let load_options = options.run.load_options(options.model.weights());
    let mut progress = LoadProgress::new(&folder.name);
    let mut set = |done, of| progress.set(done, of);
    let load = LoadedModel::load(folder, Some(adapter), device, &load_options, &mut set);
    let model = pollster::block_on(load).with_context(|| format!("loading {}", folder.name))?;
    Ok(pollster::block_on(Talker::new(model, options.date))?)
}

/// The type in which the folder's file has the weights.
fn stored(folder: &ModelFolder) -> &'static str {
    let info = folder.tensors.info("model.embed_tokens.weight");
    info.map_or("f32", |info| info.dtype.name())
}

/// A bar on standard error that counts turns; nothing if that is no terminal.
fn progress_bar(n_turns: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(n_turns as u64);
    let style = "{wide_bar} {pos} of {len} turns, {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// A report as people read it.
fn text(report: &Value) -> String {
    let word = |key: &str| printable(report[key].as_str().unwrap_or_default());
    let seconds = report["seconds"].as_f64().unwrap_or(f64::NAN);
    let mut text = format!(
        "{} on {}, {}, weights {}, {seconds:.0} s\n\n",
        word("model"),
        word("adapter"),
        word("variant"),
        word("weights"),
    );
    let rows = match report["recall"].as_object() {
        None => vec![
            ["", "share", "cases"].map(String::from).to_vec(),
            vec!["recall".into(), share(&report["recall"]), report["n"].to_string()],
            vec![
                "memory off says that it was not told".into(),
                share(&report["memory_off_says_not_told"]),
                report["n"].to_string(),
            ],
        ],
        Some(recall) => {
            let head = ["facts told", "memory on", "memory off says so", "in context", "cases"];
            let mut rows = vec![head.map(String::from).to_vec()];
            rows.extend(recall.iter().map(|(n_facts, row)| {
                let columns = ["memory_on", "memory_off_says_not_told", "in_context"];
                let mut cells = vec![n_facts.clone()];
                cells.extend(columns.map(|column| share(&row[column])));
                cells.push(report["n"]["recall"][n_facts].to_string());
                cells
            }));
            text.push_str(&table(&rows));
            text.push_str("\n\n");
            other_rows(report)
        }
    };
    text + &table(&rows)
}

/// Everything that the program's own cases measure besides recall by the number of facts.
fn other_rows(report: &Value) -> Vec<Vec<String>> {
    let n = &report["n"];
    let mut rows = vec![["", "share", "cases"].map(String::from).to_vec()];
    for (turns, value) in report["after_unrelated"].as_object().into_iter().flatten() {
        let name = format!("2 facts after {turns} unrelated turns");
        rows.push(vec![name, share(value), n["after_unrelated"][turns].to_string()]);
    }
    for (name, key) in [
        ("new value, and not the old one, after a correction", "correction"),
        ("says it was not told, with other facts in the memory", "untold"),
        ("values that the adapter's training never wrote", "values_never_written"),
    ] {
        rows.push(vec![name.into(), share(&report[key]), n[key].to_string()]);
    }
    let leak = report["leak"].to_string();
    rows.push(vec!["replies with another profile's value".into(), leak, n["leak"].to_string()]);
    rows
}

fn share(value: &Value) -> String {
    value.as_f64().map_or("-".into(), percent)
}

fn print_misses(misses: &[Miss]) -> Result<()> {
    if misses.is_empty() {
        return Ok(());
    }
    put!("")?;
    for miss in misses {
        let measure = miss.measure.as_ref().map_or(String::new(), |text| format!("[{text}] "));
        let (question, reply) = (one_line(&miss.question), one_line(&miss.reply));
        let answers = one_line(&miss.answers.join(" | "));
        put!("{measure}{question}\n    expected: {answers}\n    reply:    {reply}")?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}
