//! `deltamem bench`: how fast this machine is. Owns what is measured: loading, prefill and decode
//! with and without δ-mem, the median of several runs after one that warms up.

use super::Usage;
use super::options::{LoadProgress, ModelOptions, RunOptions, device_name};
use super::output::{bytes, note, put, table};
use anyhow::Result;
use clap::Args;
use deltamem::engine::{BATCH_TIME, Call, Decoding, Engine, Wanted, WantedLogits};
use deltamem::footprint::{Footprint, Layout};
use deltamem::loaded::{Device, load_engine, quantisation};
use deltamem::memory::MemoryState;
use deltamem::model_folder::{Adapter, ModelFolder};
use deltamem::nano;
use deltamem::sampler::{Sampler, SamplingOptions};
use deltamem::weights::TensorSource;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// What to measure.
#[derive(Args)]
pub struct BenchOptions {
    /// Tokens of the prompts; those that do not fit into the context are left out
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "16,128",
          value_parser = clap::value_parser!(u32).range(1..))]
    lengths: Vec<u32>,
    /// Tokens decoded after each prompt
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..))]
    decode: u32,
    /// Runs of which the median is taken
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// Runs the command.
pub fn run(options: &BenchOptions) -> Result<ExitCode> {
    let (folder, adapter) = options.model.open()?;
    let device = options.run.device.open()?;
    if options.model.model.is_none() {
        note!("{}", nano::NOTICE);
    }
    let mut results = Vec::new();
    if adapter.is_some() {
        results.push(measure(options, &device, &folder, adapter.as_ref())?);
    }
    results.push(measure(options, &device, &folder, None)?);
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "date": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "adapter": device_name(&device),
        "model": folder.name,
        "weights": quantisation(&folder, options.model.weights().storage()),
        "kv": options.run.kv.storage().name(),
        "chunk": options.run.chunk,
        "base_tier": options.run.device.base_tier,
        "debug_build": cfg!(debug_assertions),
        "runs": options.runs,
        "results": results,
    });
    match options.json {
        true => put!("{report}")?,
        false => print_report(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything about the model with this adapter or bare.
fn measure(
    options: &BenchOptions,
    device: &Device,
    folder: &ModelFolder,
    adapter: Option<&Adapter>,
) -> Result<Value> {
    let load = options.run.load_options(options.model.weights());
    let source = adapter.map(|a| (&a.config, a.tensors.as_ref() as &dyn TensorSource));
    let started = Instant::now();
    let mut engine = {
        let mut progress = LoadProgress::new(&folder.name);
        let (config, weights) = (&folder.config, folder.tensors.as_ref());
        let mut set = |done, total| progress.set(done, total);
        pollster::block_on(load_engine(config, weights, source, device, &load, &mut set))?
    };
    let load_seconds = started.elapsed().as_secs_f64();
    let context = engine.context_window();
    let n_decode = options.decode as usize;
    let mut lengths = Vec::new();
    for &length in &options.lengths {
        let length = length as usize;
        if length + n_decode > context {
            note!("{length} + {n_decode} tokens do not fit into a context of {context}: left out");
            continue;
        }
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for index in 0..=options.runs {
            let (p, d) = pollster::block_on(one_run(&mut engine, length, n_decode))?;
            // the first run warms up: drivers finish compiling there
            if index > 0 {
                prefill.push(length as f64 / p);
                decode.push(n_decode as f64 / d);
            }
        }
        lengths.push(json!({
            "prompt_tokens": length,
            "decoded_tokens": n_decode,
            "prefill_tokens_per_second": median(&mut prefill),
            "decode_tokens_per_second": median(&mut decode),
        }));
    }
    if lengths.is_empty() {
        return Err(Usage(format!("none of --lengths fits into a context of {context}")).into());
    }
    let layout =
        Layout { weights: load.weights, kv: load.kv, context_window: context, chunk: load.chunk };
    let delta = adapter.map(|a| &a.config);
    let print = Footprint::of_source(&folder.config, delta, &layout, folder.tensors.as_ref())?;
    let allocated = match &engine {
        Engine::Gpu(model) => model.gpu().device.generate_allocator_report(),
        Engine::Cpu(_) => None,
    };
    Ok(json!({
        "delta_mem": adapter.is_some(),
        "load_seconds": load_seconds,
        "context": context,
        "bytes": {
            "weights": print.weights,
            "adapter": print.adapter,
            "kv": print.kv,
            "state": print.state,
            "activations": print.activations,
            "device_allocated": allocated.map(|report| report.total_allocated_bytes),
        },
        "lengths": lengths,
    }))
}

/// Seconds of one prefill and of `n_decode` greedy steps after it, with an empty context and memory.
async fn one_run(
    engine: &mut Engine,
    n_prompt: usize,
    n_decode: usize,
) -> deltamem::Result<(f64, f64)> {
    engine.reset_context();
    engine.write_memory(&MemoryState::zeros(engine.memory_dims().clone()))?;
    let vocab_size = engine.config().vocab_size as u64;
    // any tokens do, as long as they differ
    let token = |i: usize| ((i as u64 * 2_654_435_761 + 12_345) % vocab_size) as u32;
    let prompt: Vec<u32> = (0..n_prompt).map(token).collect();
    // All of one message, as in a chat: what a message is decides how often SSW writes.
    let ids = vec![0; n_prompt];
    let started = Instant::now();
    let next = feed(engine, &prompt, &ids).await?;
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    decode(engine, next, n_decode).await?;
    Ok((prefill, started.elapsed().as_secs_f64()))
}

/// Feeds `first` and what follows it, `n_tokens` in all.
async fn decode(engine: &mut Engine, first: u32, n_tokens: usize) -> deltamem::Result<()> {
    let sampling = SamplingOptions::default();
    let mut sampler = Sampler::new(sampling.clone())?;
    let decoding = Decoding {
        first,
        ids: Some((1, 1)),
        write_enabled: true,
        sampling: &sampling,
        penalised: &[],
        stop_ids: &[],
        batch_time: BATCH_TIME,
    };
    engine.begin_decoding(&decoding).await?;
    let mut n_left = n_tokens;
    while n_left > 0 {
        n_left -= engine.decode(n_left, &mut sampler).await?.tokens.len();
    }
    engine.end_decoding(n_tokens)
}

async fn feed(engine: &mut Engine, tokens: &[u32], ids: &[i64]) -> deltamem::Result<u32> {
    let call =
        Call { tokens, message_ids: Some(ids), sentence_ids: Some(ids), write_enabled: true };
    let wanted = Wanted { logits: WantedLogits::Argmax, ..Wanted::default() };
    Ok(engine.forward(&call, wanted).await?.argmax.unwrap_or(0))
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn print_report(report: &Value) -> Result<()> {
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    put!(
        "{} on {}, weights {}, kv {}, median of {} runs",
        super::output::printable(text("model")),
        super::output::printable(text("adapter")),
        text("weights"),
        text("kv"),
        report["runs"],
    )?;
    if report["debug_build"] == true {
        put!("this is a debug build; measure with cargo run --release")?;
    }
    let head = ["δ-mem", "load s", "prompt", "prefill tok/s", "decode tok/s", "memory"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for result in report["results"].as_array().into_iter().flatten() {
        let sizes = &result["bytes"];
        let known: u64 = ["weights", "adapter", "kv", "state", "activations"]
            .iter()
            .filter_map(|key| sizes[key].as_u64())
            .sum();
        for length in result["lengths"].as_array().into_iter().flatten() {
            let number = |value: &Value| format!("{:.2}", value.as_f64().unwrap_or(f64::NAN));
            rows.push(vec![
                if result["delta_mem"] == true { "on" } else { "off" }.into(),
                number(&result["load_seconds"]),
                length["prompt_tokens"].to_string(),
                number(&length["prefill_tokens_per_second"]),
                number(&length["decode_tokens_per_second"]),
                bytes(sizes["device_allocated"].as_u64().unwrap_or(known)),
            ]);
        }
    }
    put!("{}", table(&rows))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }
}
