//! `deltamem chat`: a conversation in the terminal, or over a pipe. Owns the loop and what happens
//! around a turn; the `/commands` are in `commands`, reading lines in `input`.

mod commands;
mod input;

use super::interrupt::{self, Replying};
use super::keeper::Keeper;
use super::options::{ModelOptions, RunOptions, engine_name};
use super::output::{note, printable, time, turns};
use super::prefix_cache::PrefixCacheOptions;
use super::talk::{Printer, TalkOptions, has_colours, now_ms, random_seed, remarks};
use super::{Usage, error_line, is_broken_pipe};
use anyhow::{Context, Result};
use clap::Args;
use deltamem::Error;
use deltamem::chat::{Message, Role};
use deltamem::memory_file::{MemoryFile, MemoryIdentity};
use deltamem::session::{Overflow, Session, Turn, TurnOptions};
use input::{Input, Line};
use std::process::ExitCode;

/// How to talk.
#[derive(Args)]
pub struct ChatOptions {
    /// Whose memory to use: a name of a-z, 0-9, - and _
    #[arg(long, value_name = "NAME", default_value = "default")]
    profile: String,
    /// Begin with an empty memory and save nothing
    #[arg(long)]
    ephemeral: bool,
    /// Go on with the last conversation, not only with its memory
    #[arg(long, conflicts_with_all = ["ephemeral", "system"])]
    resume: bool,
    #[command(flatten)]
    talk: TalkOptions,
    #[command(flatten)]
    prefix_cache: PrefixCacheOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// Runs the command.
pub fn run(options: &ChatOptions) -> Result<ExitCode> {
    interrupt::install()?;
    let model = options.model.load(&options.run)?;
    note!("{} on {}", printable(&model.name), engine_name(&model.engine));
    pollster::block_on(async {
        let mut session = Session::new(model, options.talk.session_options()).await?;
        options.prefix_cache.apply(&mut session).await?;
        let mut chat = Chat::new(session, options).await?;
        chat.talk().await
    })
}

/// A running conversation.
struct Chat {
    session: Session,
    turn_options: TurnOptions,
    /// `None` for `--ephemeral`, and for a model without a memory.
    keeper: Option<Keeper>,
    is_ephemeral: bool,
    /// The seed does not change from turn to turn.
    has_fixed_seed: bool,
    last_turn: Option<Turn>,
    /// Something failed that a script should know of.
    has_failed: bool,
}

impl Chat {
    async fn new(mut session: Session, options: &ChatOptions) -> Result<Chat> {
        let mut turn_options = session.default_turn_options();
        options.talk.apply(&mut turn_options)?;
        options.talk.tell_tools(&mut session)?;
        // `/readonly` and `/resume` go through the session's own switch
        turn_options.write_enabled = true;
        // a conversation has no end: what leaves the context stays in the memory
        turn_options.overflow = Overflow::Evict;
        let mut chat = Chat {
            session,
            turn_options,
            keeper: None,
            is_ephemeral: options.ephemeral,
            has_fixed_seed: options.talk.seed.is_some(),
            last_turn: None,
            has_failed: false,
        };
        chat.session.set_write_paused(options.talk.read_only);
        match chat.session.model().identity.clone() {
            None if options.resume => {
                return Err(Usage("--resume needs a model with a δ-mem adapter".into()).into());
            }
            None => note!("no δ-mem adapter: nothing is remembered beyond the context"),
            Some(identity) => chat.open_memory(&identity, options).await?,
        }
        Ok(chat)
    }

    async fn open_memory(
        &mut self,
        identity: &MemoryIdentity,
        options: &ChatOptions,
    ) -> Result<()> {
        self.empty_memory(identity).await?;
        if options.ephemeral {
            note!("an empty memory, and nothing is saved (--ephemeral)");
            return Ok(());
        }
        let mut keeper = Keeper::open(&options.profile, identity)
            .context("the stored memory cannot be opened (--ephemeral needs none)")?;
        if !keeper.is_writer() {
            note!(
                "the memory of profile {} is in use by another process: it is only read here \
                 (--profile NAME or --ephemeral for another one)",
                keeper.memory().profile()
            );
            self.session.set_write_paused(true);
        }
        let found = keeper.find()?;
        if let Some(damage) = &found.damage {
            note!("the newest generation of this memory cannot be read: {damage}");
        }
        match &found.file {
            None => note!("a new memory (profile {})", keeper.memory().profile()),
            Some(file) => {
                self.session.set_memory(file).await?;
                note!(
                    "memory of {}, last used {} (profile {})",
                    turns(file.header.counters.turns),
                    time(file.header.updated_ms),
                    keeper.memory().profile()
                );
            }
        }
        if options.resume {
            match self.resume(&keeper, found.file.as_ref()).await {
                Ok(0) => note!("there is no conversation to go on with"),
                Ok(n) => note!("going on with a conversation of {n} messages"),
                // the memory is there all the same
                Err(error) => note!("the last conversation is not taken up: {error:#}"),
            }
        }
        self.keeper = Some(keeper);
        Ok(())
    }

    /// Takes up the conversation that was saved with a memory; returns its number of messages.
    async fn resume(&mut self, keeper: &Keeper, file: Option<&MemoryFile>) -> Result<usize> {
        let messages = match file {
            Some(file) => keeper.transcript(file)?.unwrap_or_default(),
            None => Vec::new(),
        };
        let n_messages = messages.len();
        if n_messages > 0 {
            // of the day on which it began: another one is another header
            if let Some(day) = keeper.days().of(&messages) {
                self.session.begin(Vec::new(), day).await?;
            }
            self.session.resume(messages).await?;
        }
        Ok(n_messages)
    }

    /// Puts a memory without any writes into the session, made now.
    async fn empty_memory(&mut self, identity: &MemoryIdentity) -> Result<()> {
        Ok(self.session.set_memory(&MemoryFile::new(identity.clone(), now_ms())).await?)
    }

    async fn talk(&mut self) -> Result<ExitCode> {
        let mut input = Input::open(self.keeper.as_ref())?;
        if input.is_interactive() {
            interrupt::begin_conversation();
            note!("/help lists the commands, Ctrl-D leaves");
        }
        loop {
            let result = match input.line()? {
                Line::End => break,
                Line::Text(text) if text.trim().is_empty() => continue,
                Line::Text(text) => self.say(&text).await,
                Line::Command(command) => match self.command(&command, &mut input).await {
                    Ok(commands::Next::Leave) => break,
                    Ok(commands::Next::Stay) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            // A failed turn leaves the session as it was before, so the conversation can go on.
            match result {
                Ok(()) => {}
                Err(error) if is_broken_pipe(&error) => return Err(error),
                Err(error) => {
                    note!("{}", error_line(&error));
                    if matches!(error.downcast_ref(), Some(Error::ContextFull { .. })) {
                        self.remark("/new starts a new context");
                    }
                    self.has_failed = true;
                }
            }
        }
        input.close()?;
        let is_failure = self.has_failed && !input.is_interactive();
        Ok(ExitCode::from(u8::from(is_failure)))
    }

    /// Answers a user's text.
    async fn say(&mut self, text: &str) -> Result<()> {
        self.answer(Message::new(Role::User, text)).await
    }

    /// Answers a message.
    async fn answer(&mut self, message: Message) -> Result<()> {
        let options = self.turn_options.clone();
        self.reply(vec![message], options).await
    }

    /// Goes on with the last reply, where it was cut.
    async fn go_on(&mut self) -> Result<()> {
        let options = TurnOptions { continue_final_message: true, ..self.turn_options.clone() };
        self.reply(Vec::new(), options).await
    }

    /// One turn, shown as it comes, and saved.
    async fn reply(&mut self, messages: Vec<Message>, mut options: TurnOptions) -> Result<()> {
        if !self.has_fixed_seed {
            options.sampling.seed = random_seed();
        }
        let replying = Replying::begin(self.session.canceller());
        let mut printer = Printer::new();
        let mut on_piece = |piece: &_| printer.piece(piece);
        let turn = self.session.turn(messages, &options, &mut on_piece).await?;
        drop(replying);
        let printed = printer.finish();
        // a turn that wrote nothing needs no snapshot
        if !self.session.is_write_paused() {
            self.save().await?;
        }
        for remark in remarks(&turn, self.session.model().engine.context_window()) {
            self.remark(&remark);
        }
        self.last_turn = Some(turn);
        Ok(printed?)
    }

    /// Saves memory and conversation, unless nothing is kept or another process does.
    async fn save(&mut self) -> Result<()> {
        if let Some(keeper) = &mut self.keeper {
            let mut file = self.session.memory(now_ms()).await?;
            let messages = self.session.messages();
            keeper.save(&mut file, messages).context("the memory was not saved")?;
            let mut days = keeper.days();
            days.note(messages, self.session.date());
            keeper.save_days(&mut days).context("the day of the conversation was not saved")?;
        }
        Ok(())
    }

    /// A line about what happened, set apart from the conversation.
    fn remark(&self, text: &str) {
        match has_colours() {
            true => note!("\x1b[2m[{text}]\x1b[0m"),
            false => note!("[{text}]"),
        }
    }
}
