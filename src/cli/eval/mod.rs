//! `deltamem eval`: what a model with its memory remembers. Owns the list of evaluations; each has its file.

mod benchmarks;
mod nano;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Which evaluation.
#[derive(Args)]
pub struct EvalOptions {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Subcommand)]
enum EvalCommand {
    /// Tell facts, drop the context, ask: how many are recalled
    Nano(nano::NanoOptions),
    /// Ask about long conversations (locomo10.json)
    Locomo(Box<benchmarks::LocomoOptions>),
    /// Ask questions that need two of ten paragraphs (hotpot_dev_distractor_v1.json)
    Hotpotqa(Box<benchmarks::HotpotQaOptions>),
    /// Ask about long texts of many kinds (MemoryAgentBench, exported as JSON or JSON lines)
    MemoryAgent(Box<benchmarks::MemoryAgentOptions>),
}

/// Runs the command.
pub fn run(options: &EvalOptions) -> Result<ExitCode> {
    match &options.command {
        EvalCommand::Nano(options) => nano::run(options),
        EvalCommand::Locomo(options) => benchmarks::locomo(options),
        EvalCommand::Hotpotqa(options) => benchmarks::hotpotqa(options),
        EvalCommand::MemoryAgent(options) => benchmarks::memory_agent(options),
    }
}
