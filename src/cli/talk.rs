//! What `chat` and `generate` share: options of a reply, its streaming to standard output, and what
//! is said about how it ended.

use super::output::printable;
use anyhow::{Context, Result};
use clap::Args;
use deltamem::Error;
use deltamem::chat::{CivilDate, ThinkPiece, ToolCall, ToolFormat};
use deltamem::sampler::StopStrings;
use deltamem::session::{
    Ingest, RollbackMemory, Session, SessionOptions, StopReason, Turn, TurnOptions,
};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// How replies are made; what is not given comes from the model's files.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Reply")]
pub struct TalkOptions {
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Let the model think before it answers
    #[arg(long, conflicts_with = "no_think")]
    pub think: bool,
    /// Let the model answer at once
    #[arg(long)]
    pub no_think: bool,
    /// Tell the model of the functions in this JSON file (OpenAI's `tools`, or bare functions); its
    /// calls are shown and not run
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// How it is told of them, and calls them: as its template does, as JSON, as Python
    #[arg(long, value_name = "FORMAT", default_value = "template", requires = "tools")]
    pub tool_format: ToolFormatName,
    /// Read the memory and leave it as it is
    #[arg(long)]
    pub read_only: bool,
    /// 0 takes the most probable token, 1 draws as the model says
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Draw among the K most probable tokens; 0 = all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the most probable tokens that reach this probability together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Leave out tokens less probable than this share of the most probable one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Make tokens that came before less probable; 1 = off
    #[arg(long, value_name = "X")]
    pub repeat_penalty: Option<f32>,
    /// Same seed, same reply [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Longest reply
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// End the reply before this text; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// [`ToolFormat`] on the command line.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub enum ToolFormatName {
    #[default]
    Template,
    Xml,
    Python,
}

impl TalkOptions {
    /// Tells the session's model of the tools that were given.
    pub fn tell_tools(&self, session: &mut Session) -> Result<()> {
        let Some(path) = &self.tools else { return Ok(()) };
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let tools = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no JSON list of functions", path.display()))?;
        session.set_tools(tools)?;
        session.set_tool_format(match self.tool_format {
            ToolFormatName::Template => ToolFormat::Template,
            ToolFormatName::Xml => ToolFormat::Xml,
            ToolFormatName::Python => ToolFormat::Python,
        });
        Ok(())
    }

    /// Replaces what was given on the command line.
    pub fn apply(&self, turn: &mut TurnOptions) -> Result<()> {
        let sampling = &mut turn.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty = self.repeat_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.seed = self.seed.unwrap_or_else(random_seed);
        turn.max_new_tokens = self.max_tokens.unwrap_or(turn.max_new_tokens);
        turn.stop = self.stop.clone();
        turn.write_enabled = !self.read_only;
        check(turn)
    }

    /// What stays the same for a conversation that begins today.
    pub fn session_options(&self) -> SessionOptions {
        SessionOptions {
            system: self.system.clone(),
            enable_thinking: match (self.think, self.no_think) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            date: today(),
        }
    }
}

/// Refuses settings before they meet a prompt.
pub fn check(turn: &TurnOptions) -> Result<()> {
    turn.sampling.check()?;
    StopStrings::new(turn.stop.clone())?;
    if turn.max_new_tokens == 0 {
        let reason = "a reply has at least one token".into();
        return Err(Error::Setting { name: "max_tokens", reason }.into());
    }
    Ok(())
}

/// A seed that nobody can know.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The local day.
pub fn today() -> CivilDate {
    let date = jiff::Zoned::now().date();
    let local = u16::try_from(date.year()).ok().zip(Some((date.month(), date.day())));
    local
        .and_then(|(year, (month, day))| CivilDate::new(year, month as u8, day as u8))
        .unwrap_or_else(|| CivilDate::from_unix_seconds((now_ms() / 1000) as i64))
}

/// True if standard output is a terminal that may be coloured.
pub fn has_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Writes a reply to standard output as it comes. Thoughts are dimmed on a terminal, and left out
/// elsewhere.
pub struct Printer {
    has_colours: bool,
    is_dim: bool,
    /// Something visible was written since the last switch between thoughts and answer.
    has_text: bool,
    written: io::Result<()>,
}

impl Printer {
    pub fn new() -> Printer {
        Printer { has_colours: has_colours(), is_dim: false, has_text: false, written: Ok(()) }
    }

    /// Writes a piece; asks for the end of the reply if nobody reads it.
    pub fn piece(&mut self, piece: &ThinkPiece) -> ControlFlow<()> {
        if self.written.is_ok() {
            self.written = self.write(piece);
        }
        match self.written.is_err() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn write(&mut self, piece: &ThinkPiece) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let text = match piece {
            ThinkPiece::Thought(_) if !self.has_colours => return Ok(()),
            ThinkPiece::Thought(text) => {
                self.switch(&mut stdout, true)?;
                text
            }
            ThinkPiece::Answer(text) => {
                self.switch(&mut stdout, false)?;
                text
            }
        };
        // templates put blank lines between thoughts and answer
        let text = if self.has_text { text } else { text.trim_start() };
        self.has_text |= !text.is_empty();
        stdout.write_all(printable(text).as_bytes())?;
        stdout.flush()
    }

    fn switch(&mut self, stdout: &mut impl Write, is_dim: bool) -> io::Result<()> {
        if self.is_dim != is_dim {
            let gap = if self.has_text { "\n\n" } else { "" };
            write!(stdout, "{}{gap}", if is_dim { DIM } else { RESET })?;
            (self.is_dim, self.has_text) = (is_dim, false);
        }
        Ok(())
    }

    /// Ends the reply's last line.
    pub fn finish(self) -> io::Result<()> {
        self.written?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", if self.is_dim { RESET } else { "" })?;
        stdout.flush()
    }
}

/// What a person should know about how a turn went, one line each.
pub fn remarks(turn: &Turn, window: usize) -> Vec<String> {
    let mut remarks = Vec::new();
    let ended = match turn.stop_reason {
        StopReason::EndOfSequence | StopReason::StopString => None,
        StopReason::MaxTokens => Some(format!("stopped after {} tokens", turn.generated_ids.len())),
        StopReason::Cancelled => Some("stopped".into()),
        StopReason::ContextFull => Some(format!("the context of {window} tokens is full")),
    };
    remarks.extend(ended);
    let call = |call: &ToolCall| {
        let arguments = serde_json::Value::Object(call.arguments.clone());
        printable(&format!("calls {} with {arguments}", call.name))
    };
    remarks.extend(turn.tool_calls.iter().map(call));
    remarks.extend(
        turn.malformed_calls
            .iter()
            .map(|call| printable(&format!("what looks like a call is none: {}", call.reason))),
    );
    if turn.evicted_messages > 0 {
        let n = turn.evicted_messages;
        let kept = match turn.memory_norms.1 > 0.0 {
            true => "; the memory keeps what it took from them",
            false => "",
        };
        remarks.push(format!("the context was full: {n} old messages left it{kept}"));
    }
    let ingests = [Some(&turn.prompt), turn.closing.as_ref()];
    remarks.extend(ingests.into_iter().flatten().filter_map(rollback_remark));
    remarks
}

/// What happened to the memory when the history turned out different, if it did.
pub fn rollback_remark(ingest: &Ingest) -> Option<String> {
    let rollback = ingest.rollback.as_ref()?;
    let memory = match rollback.memory {
        RollbackMemory::Restored => "the memory went back to before them and learnt them anew",
        RollbackMemory::Kept => "the memory stayed as it was",
    };
    let n = rollback.dropped_tokens;
    Some(format!(
        "the template shows the history differently now: {n} tokens were read again; {memory}"
    ))
}

/// Tokens in this time, a second.
pub fn per_second(n_tokens: usize, time: std::time::Duration) -> f64 {
    n_tokens as f64 / time.as_secs_f64().max(1e-9)
}
