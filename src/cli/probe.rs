//! `deltamem probe`: what a memory changes about an answer's first token. Owns the comparison with an
//! empty memory; the odds are the library's `Session::probe`.

use super::Usage;
use super::memory::{memory_json, resolve};
use super::options::{ModelOptions, RunOptions};
use super::output::{printable, put, table};
use super::talk::TalkOptions;
use anyhow::Result;
use clap::Args;
use deltamem::session::Session;
use serde_json::{Value, json};
use std::process::ExitCode;

/// What to ask, and of which memory.
#[derive(Args)]
pub struct ProbeOptions {
    /// The question, as if it were the first of a conversation
    text: String,
    /// A profile, or a file (with a `/` or `.dmem` in its name)
    #[arg(long, value_name = "MEMORY", default_value = "default")]
    memory: String,
    /// Tokens to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object, with the logits of the whole vocabulary
    #[arg(long)]
    json: bool,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// A token that is likely with the memory or without it.
struct Candidate {
    id: usize,
    token: String,
    /// Probabilities.
    with: f64,
    without: f64,
}

/// Runs the command.
pub fn run(options: &ProbeOptions) -> Result<ExitCode> {
    // the memory first: a wrong name is the more common mistake
    let memory = resolve(&options.memory, &options.model)?;
    let model = options.model.load(&options.run)?;
    if model.identity.is_none() {
        return Err(Usage("a probe needs a model with a δ-mem adapter".into()).into());
    }
    let talk = TalkOptions { system: options.system.clone(), ..TalkOptions::default() };
    let (session, with, without) = pollster::block_on(async {
        let mut session = Session::new(model, talk.session_options()).await?;
        let without = session.probe(&options.text).await?;
        session.set_memory(&memory).await?;
        let with = session.probe(&options.text).await?;
        anyhow::Ok((session, with, without))
    })?;
    let candidates = candidates(&session, &with, &without, options.top);
    if options.json {
        let tokens = candidates
            .iter()
            .map(|c| json!({ "id": c.id, "token": c.token, "with": c.with, "without": c.without }));
        let value = json!({
            "model": session.model().name,
            "memory": memory_json(&memory),
            "tokens": tokens.collect::<Vec<Value>>(),
            "logits": with,
            "logits_without": without,
        });
        put!("{value}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["token", "with", "without"].map(String::from).to_vec()];
    rows.extend(candidates.iter().map(|c| {
        let percent = |p: f64| format!("{:.2} %", 100.0 * p);
        vec![printable(&format!("{:?}", c.token)), percent(c.with), percent(c.without)]
    }));
    put!("{}", table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The `n_top` likeliest tokens with the memory and those without it, the former first.
fn candidates(session: &Session, with: &[f32], without: &[f32], n_top: usize) -> Vec<Candidate> {
    let (with, without) = (softmax(with), softmax(without));
    let mut ids = likeliest(&with, n_top);
    for id in likeliest(&without, n_top) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let tokenizer = &session.model().tokenizer;
    let candidate = |id: usize| Candidate {
        id,
        token: tokenizer.decode(&[id as u32], false),
        with: with[id],
        without: without[id],
    };
    ids.into_iter().map(candidate).collect()
}

fn likeliest(odds: &[f64], n: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..odds.len()).collect();
    ids.sort_by(|&a, &b| odds[b].total_cmp(&odds[a]));
    ids.truncate(n);
    ids
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let odds = logits.iter().map(|&logit| f64::from(logit - largest).exp());
    let odds: Vec<f64> = odds.collect();
    let sum: f64 = odds.iter().sum();
    odds.into_iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_add_up_and_are_ordered() {
        let odds = softmax(&[1000.0, 1001.0, 999.0, f32::NEG_INFINITY]);
        assert!((odds.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(odds[3], 0.0);
        assert_eq!(likeliest(&odds, 2), [1, 0]);
        assert_eq!(likeliest(&odds, 9), [1, 0, 2, 3]);
    }
}
