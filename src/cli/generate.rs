//! `deltamem generate`: one prompt, one reply, for scripts.

use super::Usage;
use super::interrupt::{self, Replying};
use super::keeper::Keeper;
use super::memory::memory_json;
use super::options::{ModelOptions, RunOptions};
use super::output::{note, put};
use super::prefix_cache::PrefixCacheOptions;
use super::talk::{Printer, TalkOptions, now_ms, per_second, remarks};
use anyhow::{Context, Result, bail};
use clap::Args;
use deltamem::chat::{Message, Role};
use deltamem::constraint::Constraint;
use deltamem::session::{Session, StopReason, Turn};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

/// Longest prompt read from standard input, in bytes.
const MAX_PROMPT_BYTES: u64 = 16 << 20;

/// What to answer.
#[derive(Args)]
pub struct GenerateOptions {
    /// The prompt [default: standard input]
    prompt: Option<String>,
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
    /// Begin with the memory of this profile [default: an empty memory]
    #[arg(long, value_name = "PROFILE")]
    memory: Option<String>,
    /// Save the memory after the reply
    #[arg(long, requires = "memory", conflicts_with = "read_only")]
    save: bool,
    /// Begin the reply with this text, which is not printed again
    #[arg(long, value_name = "TEXT")]
    reply_prefix: Option<String>,
    #[command(flatten)]
    form: FormOptions,
    #[command(flatten)]
    talk: TalkOptions,
    #[command(flatten)]
    prefix_cache: PrefixCacheOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// What the reply must look like.
#[derive(Args)]
#[group(multiple = false)]
struct FormOptions {
    /// Reply in JSON that this schema accepts
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Reply with any JSON object
    #[arg(long)]
    json_object: bool,
    /// Reply in text that this regular expression (JavaScript's syntax) matches as a whole
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
}

impl FormOptions {
    fn constraint(&self) -> Result<Option<Constraint>> {
        if let Some(path) = &self.json_schema {
            let name = path.display();
            let text = std::fs::read(path).map_err(deltamem::Error::io(path))?;
            let schema =
                serde_json::from_slice(&text).with_context(|| format!("reading {name}"))?;
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        Ok(match &self.regex {
            Some(pattern) => Some(Constraint::Regex(pattern.clone())),
            None => self.json_object.then_some(Constraint::JsonObject),
        })
    }
}

/// Runs the command.
pub fn run(options: &GenerateOptions) -> Result<ExitCode> {
    interrupt::install()?;
    let prompt = match options.prompt.as_deref() {
        Some(prompt) if prompt != "-" => prompt.to_string(),
        _ => prompt_from_stdin()?,
    };
    if prompt.trim().is_empty() {
        return Err(deltamem::Error::Messages { reason: "the message is empty".into() }.into());
    }
    let constraint = options.form.constraint()?;
    let model = options.model.load(&options.run)?;
    pollster::block_on(async {
        let mut session = Session::new(model, options.talk.session_options()).await?;
        options.prefix_cache.apply(&mut session).await?;
        let mut turn_options = session.default_turn_options();
        options.talk.apply(&mut turn_options)?;
        options.talk.tell_tools(&mut session)?;
        turn_options.constraint = constraint;
        let mut messages = vec![Message::new(Role::User, prompt)];
        if let Some(begun) = &options.reply_prefix {
            turn_options.continue_final_message = true;
            messages.push(Message::new(Role::Assistant, begun));
        }
        let mut keeper = open_memory(options, &mut session).await?;

        let replying = Replying::begin(session.canceller());
        let mut printer = Printer::new();
        let is_streamed = !options.json;
        let turn = session
            .turn(messages, &turn_options, &mut |piece| match is_streamed {
                true => printer.piece(piece),
                false => ControlFlow::Continue(()),
            })
            .await?;
        drop(replying);
        if is_streamed {
            printer.finish()?;
        }
        if let Some(keeper) = keeper.as_mut().filter(|_| options.save) {
            let mut file = session.memory(now_ms()).await?;
            if !keeper.save(&mut file, session.messages())? {
                bail!("the memory is in use by another process; nothing was saved");
            }
        }
        if options.json {
            put!("{}", turn_json(&mut session, &turn).await?)?;
        } else {
            for remark in remarks(&turn, session.model().engine.context_window()) {
                note!("[{remark}]");
            }
        }
        let is_cancelled = turn.stop_reason == StopReason::Cancelled;
        Ok(ExitCode::from(u8::from(is_cancelled)))
    })
}

fn prompt_from_stdin() -> Result<String> {
    if std::io::stdin().is_terminal() {
        return Err(Usage("there is no prompt; give one or pipe it in".into()).into());
    }
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_PROMPT_BYTES + 1);
    input.read_to_end(&mut bytes).context("reading the prompt")?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        bail!("the prompt has more than {MAX_PROMPT_BYTES} bytes");
    }
    String::from_utf8(bytes).context("the prompt is not UTF-8")
}

/// Puts a profile's memory into the session.
async fn open_memory(options: &GenerateOptions, session: &mut Session) -> Result<Option<Keeper>> {
    let Some(profile) = &options.memory else {
        return Ok(None);
    };
    let Some(identity) = session.model().identity.clone() else {
        return Err(Usage("--memory needs a model with a δ-mem adapter".into()).into());
    };
    let mut keeper = Keeper::open(profile, &identity)?;
    if options.save && !keeper.is_writer() {
        return Err(deltamem::Error::Locked { path: keeper.memory().folder().into() }.into());
    }
    let found = keeper.find()?;
    if let Some(damage) = found.damage {
        note!("the newest generation of this memory cannot be read: {damage}");
    }
    match &found.file {
        Some(file) => session.set_memory(file).await?,
        None => note!("profile {profile} has no memory for this model yet"),
    }
    Ok(Some(keeper))
}

async fn turn_json(session: &mut Session, turn: &Turn) -> Result<Value> {
    let memory = match session.model().identity {
        Some(_) => memory_json(&session.memory(now_ms()).await?),
        None => Value::Null,
    };
    let (prompt_s, decode_s) = (turn.prompt_time.as_secs_f64(), turn.decode_time.as_secs_f64());
    let n_generated = turn.generated_ids.len();
    Ok(json!({
        "text": turn.answer,
        "thoughts": turn.thoughts,
        "tool_calls": turn.tool_calls,
        "stop_reason": turn.stop_reason,
        "model": session.model().name,
        "tokens": { "prompt": turn.prompt.full_tokens, "generated": n_generated },
        "generated_ids": turn.generated_ids,
        "timings": {
            "prompt_seconds": prompt_s,
            "decode_seconds": decode_s,
            "prompt_tokens_per_second": per_second(turn.prompt.suffix_tokens, turn.prompt_time),
            "decode_tokens_per_second": per_second(n_generated, turn.decode_time),
        },
        "memory_norms": { "before": turn.memory_norms.0, "after": turn.memory_norms.1 },
        "memory": memory,
        "prompt_ingest": turn.prompt,
        "closing_ingest": turn.closing,
    }))
}
