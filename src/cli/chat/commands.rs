//! The commands of a chat, all of which begin with `/`. Owns their names and what they answer.

use super::super::interrupt::Replying;
use super::super::keeper::forget_history;
use super::super::memory::{describe, norm_chart};
use super::super::output::{bytes, put, table, turns};
use super::super::talk::{check, now_ms, per_second};
use super::{Chat, Input};
use anyhow::{Result, anyhow, bail};
use deltamem::chat::{Message, Role};
use deltamem::memory_file::MemoryFile;
use deltamem::session::TurnOptions;
use deltamem::store::{read_memory, write_memory};
use std::path::Path;

/// Whether the conversation goes on.
pub enum Next {
    Stay,
    Leave,
}

const HELP: &str = "\
/memory             what the memory has seen, and its norms
/forget             delete the memory with its snapshots, and drop the context
/new                drop the context and keep the memory: recall without context
/undo               take the last turn back, and what it wrote
/continue           go on with the last reply, where it was cut
/write TEXT         write a text into the memory; the context stays as it is
/pause, /resume     stop writing into the memory, go on
/readonly on|off    the same
/save [FILE]        save now, or into a file
/load FILE          take the memory from a file
/result TEXT        answer a tool's call with what the tool says (see --tools)
/think on|off       let the model think before it answers
/set [NAME VALUE]   show or change temperature, top_k, top_p, min_p, repeat_penalty, seed,
                    max_tokens, stop
/stats              speed of the last reply, room in the context
/bye                leave, as Ctrl-D does
\"\"\"                 begin and end a message of several lines
Ctrl-C              stop the reply";

impl Chat {
    /// Runs what follows a `/`.
    pub(super) async fn command(&mut self, line: &str, input: &mut Input) -> Result<Next> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("bye" | "exit" | "quit", "") => return Ok(Next::Leave),
            ("help" | "?", _) => put!("{HELP}")?,
            ("memory", "") => {
                let file = self.memory_now().await?;
                put!("{}\n{}", describe(&file.header), norm_chart(&file.state))?;
            }
            ("forget", "") => self.forget(input).await?,
            ("new", "") => {
                self.session.new_context().await?;
                self.remark("the context is empty; the memory stays");
            }
            ("undo", "") => self.undo().await?,
            ("continue", "") => self.go_on().await?,
            ("write", text) if !text.is_empty() => self.write(text).await?,
            ("pause", "") | ("readonly", "on") => self.set_paused(true)?,
            ("resume", "") | ("readonly", "off") => self.set_paused(false)?,
            ("save", "") => self.save_now().await?,
            ("save", path) => self.export(Path::new(path)).await?,
            ("load", path) if !path.is_empty() => self.load(Path::new(path)).await?,
            ("result", text) if !text.is_empty() => {
                self.answer(Message::new(Role::Tool, text)).await?;
            }
            ("think", "on") => self.session.set_enable_thinking(Some(true)),
            ("think", "off") => self.session.set_enable_thinking(Some(false)),
            ("set", "") => put!("{}", settings(&self.turn_options))?,
            ("set", rest) => self.set(rest)?,
            ("stats", "") => self.stats()?,
            _ => bail!("/{line} is not known; /help lists the commands"),
        }
        Ok(Next::Stay)
    }

    async fn memory_now(&mut self) -> Result<MemoryFile> {
        let mut file = self.session.memory(now_ms()).await?;
        // the session does not know what was saved since
        if let Some(keeper) = &self.keeper {
            file.header.counters.generation = keeper.generation();
        }
        Ok(file)
    }

    async fn forget(&mut self, input: &mut Input) -> Result<()> {
        let identity = self.memory_now().await?.header.identity;
        if !input.confirm("Forget everything: snapshots, transcripts and typed lines too?")? {
            self.remark("nothing was forgotten");
            return Ok(());
        }
        if let Some(keeper) = &mut self.keeper {
            let forgotten = keeper.forget()?.ok_or_else(|| anyhow!("{IN_USE}"))?;
            forget_history(keeper.memory().profile())?;
            self.remark(&format!(
                "deleted: {} generations, {} transcripts, {}",
                forgotten.n_generations,
                forgotten.n_transcripts,
                bytes(forgotten.size_bytes)
            ));
        }
        input.forget()?;
        self.session.forget_prefixes().await?;
        self.empty_memory(&identity).await?;
        self.session.new_context().await?;
        let norm = self.memory_now().await?.state.norm();
        self.remark(&format!("the memory is empty (norm {norm}), and so is the context"));
        Ok(())
    }

    async fn undo(&mut self) -> Result<()> {
        if !self.session.undo_turn().await? {
            bail!("there is no turn in this context to take back (see deltamem memory undo)");
        }
        self.save().await?;
        self.remark("the last turn is taken back");
        Ok(())
    }

    async fn write(&mut self, text: &str) -> Result<()> {
        let replying = Replying::begin(self.session.canceller());
        let n_tokens = self.session.write_text(text).await?;
        drop(replying);
        self.save().await?;
        self.remark(&format!("{n_tokens} tokens were written; the context stays"));
        Ok(())
    }

    fn set_paused(&mut self, is_paused: bool) -> Result<()> {
        if !is_paused && self.keeper.as_ref().is_some_and(|keeper| !keeper.is_writer()) {
            bail!("{IN_USE}");
        }
        self.session.set_write_paused(is_paused);
        self.remark(match is_paused {
            true => "the memory is read and not written",
            false => "the memory is read and written",
        });
        Ok(())
    }

    async fn save_now(&mut self) -> Result<()> {
        let mut file = self.memory_now().await?;
        let Some(keeper) = &mut self.keeper else {
            bail!("nothing is kept in this chat; /save FILE writes a file");
        };
        if !keeper.save(&mut file, self.session.messages())? {
            bail!("{IN_USE}");
        }
        let folder = keeper.memory().folder().display().to_string();
        let generation = file.header.counters.generation;
        self.remark(&format!("saved as generation {generation} in {folder}"));
        Ok(())
    }

    async fn export(&mut self, path: &Path) -> Result<()> {
        // Only a memory is replaced: a slip of the finger must not cost another file.
        if path.exists() && read_memory(path).is_err() {
            bail!("{} exists and is not a memory", path.display());
        }
        write_memory(path, &self.memory_now().await?)?;
        self.remark(&format!("written to {}", path.display()));
        Ok(())
    }

    async fn load(&mut self, path: &Path) -> Result<()> {
        let file = read_memory(path)?;
        if self.keeper.as_ref().is_some_and(|keeper| !keeper.is_writer()) {
            bail!("{IN_USE}");
        }
        self.session.set_memory(&file).await?;
        if let Some(keeper) = &mut self.keeper {
            keeper.save(&mut file.clone(), self.session.messages())?;
        }
        self.remark(&format!("memory of {}; the context stays", turns(file.header.counters.turns)));
        Ok(())
    }

    fn set(&mut self, rest: &str) -> Result<()> {
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut changed = self.turn_options.clone();
        set(&mut changed, name, value.trim())?;
        check(&changed)?;
        self.has_fixed_seed |= name == "seed";
        self.turn_options = changed;
        Ok(())
    }

    fn stats(&self) -> Result<()> {
        let engine = &self.session.model().engine;
        let window = engine.context_window();
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
        if let Some(turn) = &self.last_turn {
            let (n_prompt, n_reply) = (turn.prompt.suffix_tokens, turn.generated_ids.len());
            let speed = |n, time| format!("{n} tokens, {:.1} tokens/s", per_second(n, time));
            row("prompt", speed(n_prompt, turn.prompt_time));
            row("reply", speed(n_reply, turn.decode_time));
            let (before, after) = turn.memory_norms;
            row("memory norm", format!("{before:.4} before, {after:.4} after"));
        }
        row("context", format!("{} of {window} tokens", self.session.processed_tokens().len()));
        row("messages", self.session.messages().len().to_string());
        let writing =
            match (self.session.model().identity.is_some(), self.session.is_write_paused()) {
                (false, _) => "there is none",
                (true, true) => "read",
                (true, false) if self.is_ephemeral => "read and written, not saved",
                (true, false) => "read, written and saved after each turn",
            };
        row("memory", writing.into());
        put!("{}", table(&rows))?;
        Ok(())
    }
}

const IN_USE: &str = "the stored memory is in use by another process; nothing was changed";

/// Changes one setting by its name.
fn set(options: &mut TurnOptions, name: &str, value: &str) -> Result<()> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
        value.parse().map_err(|_| anyhow!("{name}: {value:?} is not such a number"))
    }
    let sampling = &mut options.sampling;
    match name {
        "temperature" => sampling.temperature = number(name, value)?,
        "top_k" => sampling.top_k = number(name, value)?,
        "top_p" => sampling.top_p = number(name, value)?,
        "min_p" => sampling.min_p = number(name, value)?,
        "repeat_penalty" => sampling.repetition_penalty = number(name, value)?,
        "seed" => sampling.seed = number(name, value)?,
        "max_tokens" => options.max_new_tokens = number(name, value)?,
        "stop" if value.is_empty() => options.stop.clear(),
        "stop" => options.stop = vec![value.to_string()],
        _ => bail!("there is no setting {name}; /set lists them"),
    }
    Ok(())
}

fn settings(options: &TurnOptions) -> String {
    let s = &options.sampling;
    let rows = [
        ("temperature", s.temperature.to_string()),
        ("top_k", s.top_k.to_string()),
        ("top_p", s.top_p.to_string()),
        ("min_p", s.min_p.to_string()),
        ("repeat_penalty", s.repetition_penalty.to_string()),
        ("seed", s.seed.to_string()),
        ("max_tokens", options.max_new_tokens.to_string()),
        ("stop", format!("{:?}", options.stop)),
    ];
    table(&rows.map(|(name, value)| vec![name.to_string(), value]))
}
