//! The commands of the program. Owns the command line, exit codes and how errors are printed; each
//! command has its file, and what several of them need is in `options` and `output`.
//!
//! Exit codes: 0 all is well, 1 something failed, 2 the command line or a setting is wrong.

mod bench;
mod chat;
mod convert;
mod days;
mod doctor;
mod eval;
mod generate;
mod hub;
mod interrupt;
mod keeper;
mod memory;
mod options;
mod output;
mod place;
mod prefix_cache;
mod probe;
mod replay;
mod serve;
mod shell;
mod talk;
#[cfg(feature = "train")]
mod train;

use clap::{CommandFactory, Parser, Subcommand};
use output::note;
use std::process::ExitCode;

/// SmolLM3 and Qwen3 with δ-mem, a memory that learns while it reads.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Talk with a model that remembers
    #[command(visible_alias = "run")]
    Chat(chat::ChatOptions),
    /// Answer one prompt
    Generate(generate::GenerateOptions),
    /// Download a model, and the adapter that was trained for it
    Pull(hub::PullOptions),
    /// Show which models were downloaded
    #[command(visible_alias = "ls")]
    List(hub::ListOptions),
    /// Remove a downloaded model
    Rm(hub::RmOptions),
    /// Replay recorded runs of the reference and report how far this program is from them
    Replay(replay::ReplayOptions),
    /// Show adapters, limits, and which models fit
    Doctor(doctor::DoctorOptions),
    /// Measure loading, prefill and decode
    Bench(bench::BenchOptions),
    /// Show what a memory changes about an answer's first token
    Probe(probe::ProbeOptions),
    /// Measure what a model remembers
    Eval(eval::EvalOptions),
    /// Look at, export, import and forget stored memories
    Memory(memory::MemoryOptions),
    /// Write a Hugging Face model as a GGUF file, with fewer bits a weight
    Convert(convert::ConvertCommand),
    /// Write a GGUF file with the shapes of a real model and random weights
    Synth(convert::SynthCommand),
    /// Serve a model with OpenAI's HTTP interface, and a page to talk with it
    Serve(serve::ServeOptions),
    /// Print what a shell needs to complete command lines
    Completions(shell::CompletionsOptions),
    /// Print the manual page
    Man(shell::ManOptions),
    /// Train a δ-mem adapter for a model
    #[cfg(feature = "train")]
    Train(train::TrainOptions),
}

/// A mistake in how the program was called that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Chat(options) => chat::run(&options),
        Command::Generate(options) => generate::run(&options),
        Command::Pull(options) => hub::pull(&options),
        Command::List(options) => hub::list(&options),
        Command::Rm(options) => hub::rm(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Eval(options) => eval::run(&options),
        Command::Memory(options) => memory::run(&options),
        Command::Convert(command) => convert::convert(&command),
        Command::Synth(command) => convert::synth(&command),
        Command::Serve(options) => serve::run(&options),
        Command::Completions(options) => shell::completions(&options, Cli::command()),
        Command::Man(options) => shell::man(&options, Cli::command()),
        #[cfg(feature = "train")]
        Command::Train(options) => train::run(&options),
    };
    match result {
        Ok(code) => code,
        // Whoever reads the output has seen enough, as in `deltamem … | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("{}", error_line(&error));
            exit_code(&error)
        }
    }
}

/// `error: message [code]`, on one line.
fn error_line(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    let mut code = None;
    for cause in error.chain() {
        parts.push(cause.to_string());
        if let Some(known) = cause.downcast_ref::<deltamem::Error>() {
            // its message has that of its source already
            code = Some(known.code());
            break;
        }
    }
    let text = output::printable(parts.join(": ").trim()).replace('\n', " ");
    match code {
        Some(code) => format!("error: {text} [{code}]"),
        None => format!("error: {text}"),
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    use deltamem::{Error, hub::HubError};
    let is_setting = matches!(
        error.downcast_ref(),
        Some(Error::Setting { .. } | Error::Hub(HubError::Name { .. } | HubError::Choose { .. }))
    );
    ExitCode::from(if is_setting || error.is::<Usage>() { 2 } else { 1 })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_and_end_with_their_code() {
        let error = deltamem::Error::format("a\nb\u{1b}[31m", "thing", "bad");
        let line = error_line(&anyhow::Error::from(error));
        assert_eq!(line, "error: a b\u{fffd}[31m: not a valid thing: bad [format]");
        let error = deltamem::Error::io("x")(std::io::ErrorKind::NotFound.into());
        let error = anyhow::Error::from(error).context("loading y");
        assert_eq!(error_line(&error), "error: loading y: x: entity not found [io]");
    }

    #[test]
    fn settings_and_usage_exit_with_2() {
        let setting = deltamem::Error::Setting { name: "top_p", reason: "3".into() };
        assert_eq!(exit_code(&setting.into()), ExitCode::from(2));
        assert_eq!(exit_code(&Usage("no".into()).into()), ExitCode::from(2));
        assert_eq!(exit_code(&anyhow::anyhow!("no")), ExitCode::from(1));
    }
}
