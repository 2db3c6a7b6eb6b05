//! `deltamem eval`: what a model remembers. Owns the list of measurements; each has its file.

mod nano;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// What to measure.
#[derive(Args)]
pub struct EvalOptions {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Subcommand)]
enum EvalCommand {
    /// Tell facts, drop the context, ask: how many are recalled
    Nano(nano::NanoOptions),
}

/// Runs the command.
pub fn run(options: &EvalOptions) -> Result<ExitCode> {
    match &options.command {
        EvalCommand::Nano(options) => nano::run(options),
    }
}
