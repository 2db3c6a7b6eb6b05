//! The model's thread: takes one request after the other and answers it. Owns the order of the steps
//! of a turn, so that the memory on disk, the one in the model and what a client was told stay in
//! step; which conversation a history belongs to is `conversations`' business.

use super::api_error::ApiError;
use super::conversations::{Choice, Conversation, Conversations};
use super::memories::{self, MemoryTask};
use super::queue::{Gone, Queue};
use super::reply::{Report, Sink};
use super::request::{ChatRequest, OnOverflow};
use super::text::TextRequest;
use super::turns::{KnownTurns, digests, n_common, n_questions, n_system};
use crate::cli::days::Days;
use crate::cli::keeper::Keeper;
use crate::cli::output::note;
use crate::cli::talk::{check, now_ms, random_seed, today};
use deltamem::Error;
use deltamem::chat::{Message, Role, answer_part};
use deltamem::memory_file::{MemoryFile, MemoryIdentity};
use deltamem::session::{Overflow, RollbackMemory, Session, StopReason, Turn, TurnOptions};
use futures_channel::oneshot;
use pollster::block_on;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Stands for the profile of conversations without a memory; no profile can be called so.
const NO_PROFILE: &str = "";
/// Most profiles whose turns are kept in mind; the others' are on disk.
const MAX_PROFILES: usize = 64;

/// What is asked of the model's thread.
pub enum Job {
    Chat(Box<ChatJob>),
    Memory {
        profile: String,
        task: MemoryTask,
        answer: oneshot::Sender<Result<Value, ApiError>>,
    },
    /// Has the model read a text for the memory alone.
    Write {
        profile: String,
        text: String,
        answer: oneshot::Sender<Result<Value, ApiError>>,
    },
    Text(Box<TextJob>),
    /// The tokens of a text.
    Tokenize {
        text: String,
        answer: oneshot::Sender<Result<Vec<u32>, ApiError>>,
    },
    /// The text of tokens.
    Detokenize {
        tokens: Vec<u32>,
        answer: oneshot::Sender<Result<String, ApiError>>,
    },
}

/// A text to go on with; a profile's memory is read for it.
pub struct TextJob {
    pub request: TextRequest,
    pub profile: String,
    pub sink: Sink,
}

/// A history to be answered for a profile.
pub struct ChatJob {
    pub request: ChatRequest,
    pub profile: String,
    /// False reads the memory and leaves it as it is.
    pub is_written: bool,
    pub sink: Sink,
}

/// What is known of a profile, beside its conversations.
#[derive(Default)]
struct Profile {
    /// What this server has read, or was told to leave alone; survives forgetting until it ends.
    turns: KnownTurns,
    /// When its conversations began.
    days: Days,
    /// The memory as it was last seen on disk.
    file: Option<MemoryFile>,
    /// Rises with use.
    used: u64,
}

/// The model with its conversations.
pub struct Host {
    session: Session,
    identity: Option<MemoryIdentity>,
    defaults: TurnOptions,
    thinking: Option<bool>,
    conversations: Conversations,
    profiles: BTreeMap<String, Profile>,
    clock: u64,
}

impl Host {
    /// With options that requests change, and room for so many conversations.
    pub fn new(session: Session, defaults: TurnOptions, n_conversations: usize) -> Host {
        Host {
            identity: session.model().identity.clone(),
            defaults,
            thinking: session.enable_thinking(),
            conversations: Conversations::new(n_conversations),
            profiles: BTreeMap::new(),
            clock: 0,
            session,
        }
    }

    /// Answers until the queue is closed.
    pub fn work(mut self, queue: &Queue<Job>) {
        while let Some((gone, job)) = queue.next() {
            match job {
                Job::Chat(job) => self.chat(*job, &gone),
                Job::Memory { profile, task, answer } => {
                    // a change that was asked for is made, also if nobody waits for it any more
                    let _ = answer.send(block_on(self.change_memory(&profile, task)));
                }
                Job::Write { profile, text, answer } => {
                    let _ = answer.send(block_on(self.write_text(&profile, &text)));
                }
                Job::Text(job) => {
                    let TextJob { request, profile, mut sink } = *job;
                    match block_on(self.go_on(&request, &profile, &gone, &mut sink)) {
                        Ok(turn) => {
                            let (profile, date) = (&profile[..], self.session.date());
                            sink.finish(&Report { turn: &turn, profile, generation: None, date });
                        }
                        Err(error) => sink.fail(error),
                    }
                }
                Job::Tokenize { text, answer } => {
                    let tokens = self.session.model().tokenizer.encode(&text);
                    let _ = answer.send(tokens.map_err(ApiError::from));
                }
                Job::Detokenize { tokens, answer } => {
                    let _ = answer.send(self.detokenize(&tokens));
                }
            }
        }
    }

    fn chat(&mut self, job: ChatJob, gone: &Gone) {
        let ChatJob { request, mut profile, mut is_written, mut sink } = job;
        if !request.extension.memory {
            (profile, is_written) = (NO_PROFILE.into(), false);
        }
        match block_on(self.answer(&request, &profile, is_written, gone, &mut sink)) {
            Ok((turn, generation)) => {
                let date = self.session.date();
                sink.finish(&Report { turn: &turn, profile: &profile, generation, date });
            }
            Err(error) => sink.fail(error),
        }
    }

    /// Answers a history and saves what was written. After an error the memory is what it was.
    async fn answer(
        &mut self,
        request: &ChatRequest,
        profile: &str,
        is_written: bool,
        gone: &Gone,
        sink: &mut Sink,
    ) -> Result<(Turn, Option<u64>), ApiError> {
        let options = self.options(request, is_written)?;
        let mut keeper = match request.extension.memory {
            true => self.open(profile, is_written)?,
            false => None,
        };
        let file = self.see(profile, keeper.as_mut())?;
        let history = &request.history;
        let chain = digests(history);
        let n_settled = self.profile(profile).turns.n_settled(history);
        let choice = self.conversations.choose(profile, history, &chain);
        let is_going_on = self.enter(&choice, profile, request, n_settled, file.as_ref()).await?;
        let before = self.conversations.current().map(|c| c.digests.clone()).unwrap_or_default();

        let mut on_piece = |piece: &_| match gone.is_gone() {
            true => ControlFlow::Break(()),
            false => sink.piece(piece),
        };
        let turn = self.session.turn_from(history.clone(), &options, &mut on_piece).await;
        let turn = turn.map_err(|error| match error {
            error @ Error::Constraint { .. } => {
                ApiError::from(error).with_param(request.settings.constraint_parameter())
            }
            error => error.into(),
        })?;
        if turn.stop_reason == StopReason::Cancelled || gone.is_gone() {
            self.take_back(&turn, before, file.as_ref()).await?;
            return Err(ApiError::shutting_down());
        }

        let mut whole = history.clone();
        let mut answer = turn.answer.clone();
        if request.is_continued
            && let Some(begun) = whole.pop()
        {
            answer.insert_str(0, &answer_part(&begun.content));
        }
        let reply = Message::new(Role::Assistant, answer);
        whole.push(Message { tool_calls: turn.tool_calls.clone(), ..reply });
        let read = digests(&whole);
        let is_unlearnt = is_going_on
            && turn.prompt.rollback.as_ref().is_some_and(|r| r.memory == RollbackMemory::Restored);
        let turns = &mut self.profile(profile).turns;
        if is_unlearnt {
            turns.remove(&before[n_common(&before, &chain)..]);
        }
        turns.add(read.iter().copied());
        let day = self.session.date();
        self.profile(profile).days.note(&whole, day);
        let saved = match (&mut keeper, is_written) {
            (Some(keeper), true) => match self.save(profile, keeper).await {
                Ok(saved) => Some(saved),
                Err(error) => {
                    self.profile(profile).turns.remove(&read[n_common(&read, &chain)..]);
                    self.take_back(&turn, before, file.as_ref()).await?;
                    return Err(error);
                }
            },
            _ => file,
        };
        let generation = saved.as_ref().map(|file| file.header.counters.generation);
        if let Some(current) = self.conversations.current() {
            current.digests = read;
            current.n_questions = n_questions(history);
            current.memory = saved;
        }
        Ok((turn, generation.filter(|_| is_written)))
    }

    /// Goes on with a text in a context of its own; conversations stay as they are.
    async fn go_on(
        &mut self,
        request: &TextRequest,
        profile: &str,
        gone: &Gone,
        sink: &mut Sink,
    ) -> Result<Turn, ApiError> {
        let mut options = self.defaults.clone();
        request.settings.apply(&mut options, random_seed());
        check(&options)?;
        let mut keeper = self.open(profile, false)?;
        let file = self.see(profile, keeper.as_mut())?;
        self.conversations.switch(&Choice::New, &mut self.session).await?;
        self.tell_template(None)?;
        self.put(file.as_ref()).await?;
        let mut on_piece = |piece: &_| match gone.is_gone() {
            true => ControlFlow::Break(()),
            false => sink.piece(piece),
        };
        let turn = self.session.complete(&request.prompt, &options, &mut on_piece).await;
        let turn = turn.map_err(|error| match error {
            error @ (Error::Messages { .. } | Error::ContextFull { .. }) => {
                ApiError::from(error).with_param("prompt")
            }
            error => error.into(),
        })?;
        match turn.stop_reason == StopReason::Cancelled || gone.is_gone() {
            true => Err(ApiError::shutting_down()),
            false => Ok(turn),
        }
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, ApiError> {
        let tokenizer = &self.session.model().tokenizer;
        let n = tokenizer.vocab_size();
        match tokens.iter().find(|id| **id as usize >= n) {
            None => Ok(tokenizer.decode(tokens, false)),
            Some(id) => {
                let message = format!("`tokens` has {id}; the model's are 0 to {}", n - 1);
                Err(ApiError::parameter("tokens", message))
            }
        }
    }

    fn options(&self, request: &ChatRequest, is_written: bool) -> Result<TurnOptions, ApiError> {
        let mut options = self.defaults.clone();
        request.settings.apply(&mut options, random_seed());
        options.write_enabled &= is_written;
        options.gauges = request.extension.gauges;
        options.continue_final_message = request.is_continued;
        options.overflow = match request.extension.overflow {
            OnOverflow::Evict => Overflow::Evict,
            OnOverflow::Error => Overflow::Error,
        };
        check(&options)?;
        Ok(options)
    }

    /// The profile's place on disk, locked if it is to be written; `None` for a model without δ-mem.
    fn open(&self, profile: &str, is_written: bool) -> Result<Option<Keeper>, ApiError> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let keeper = Keeper::open(profile, identity)?;
        if is_written && !keeper.is_writer() {
            return Err(Error::Locked { path: keeper.memory().folder().into() }.into());
        }
        Ok(Some(keeper))
    }

    /// The memory as it is on disk, where another program may have changed it.
    fn see(
        &mut self,
        name: &str,
        keeper: Option<&mut Keeper>,
    ) -> Result<Option<MemoryFile>, ApiError> {
        let Some(keeper) = keeper else { return Ok(None) };
        let found = keeper.find()?;
        if let Some(damage) = &found.damage {
            note!("profile {name}: the newest generation cannot be read: {damage}");
        }
        if !self.profiles.contains_key(name) {
            let turns = keeper.memory().turns().unwrap_or_else(|error| {
                note!("profile {name}: turns of before are not known: {error}");
                Vec::new()
            });
            let days = keeper.days();
            let entry = self.profile(name);
            entry.turns.add(turns);
            entry.days = days;
        }
        let profile = self.profile(name);
        let is_forgotten = profile.file.is_some() && found.file.is_none();
        profile.file.clone_from(&found.file);
        if is_forgotten {
            profile.turns.forget();
            profile.days.forget();
            self.conversations.drop_profile(name);
        }
        Ok(found.file)
    }

    /// Brings the conversation and the memory of a request into the model; true if the conversation
    /// goes on from where it was, with the memory that it had.
    async fn enter(
        &mut self,
        choice: &Choice,
        profile: &str,
        request: &ChatRequest,
        n_settled: usize,
        file: Option<&MemoryFile>,
    ) -> Result<bool, ApiError> {
        let history = &request.history;
        let is_new = matches!(choice, Choice::New);
        self.conversations.switch(choice, &mut self.session).await?;
        // before anything is rendered: the request before may have told of other tools
        self.tell_template(Some(request))?;
        let held = self.conversations.current().and_then(|current| current.memory.as_ref());
        // a memory that was never saved is the empty one
        let is_same = !is_new && held == file;
        if !is_same {
            self.put(file).await?;
        }
        if is_new {
            let settled = history[..n_settled].to_vec();
            let digests = digests(&settled);
            let day = self.profile(profile).days.of(history).unwrap_or_else(today);
            self.session.begin(settled, day).await?;
            self.conversations.begin(Conversation {
                profile: profile.into(),
                system: history[..n_system(history)].to_vec(),
                digests,
                n_questions: n_questions(&history[..n_settled]),
                memory: file.cloned(),
            });
        }
        if let Some(current) = self.conversations.current() {
            current.memory = file.cloned();
        }
        Ok(is_same)
    }

    /// What the template is told beside the messages; without a request nothing.
    fn tell_template(&mut self, request: Option<&ChatRequest>) -> Result<(), ApiError> {
        let (thinking, tools, format, variables) = match request {
            Some(request) => (
                request.settings.thinking,
                request.tools.clone(),
                request.extension.tool_format,
                request.variables.clone(),
            ),
            None => Default::default(),
        };
        self.session.set_enable_thinking(thinking.or(self.thinking));
        self.session.set_tools(tools)?;
        self.session.set_tool_format(format);
        self.session.set_template_variables(variables)?;
        Ok(())
    }

    /// Puts a memory, or the empty one, into the model.
    async fn put(&mut self, file: Option<&MemoryFile>) -> Result<(), ApiError> {
        let Some(identity) = &self.identity else { return Ok(()) };
        match file {
            Some(file) => self.session.set_memory(file).await?,
            None => {
                let empty = MemoryFile::new(identity.clone(), now_ms());
                self.session.set_memory(&empty).await?;
            }
        }
        Ok(())
    }

    async fn save(&mut self, profile: &str, keeper: &mut Keeper) -> Result<MemoryFile, ApiError> {
        let mut file = self.session.memory(now_ms()).await?;
        if !keeper.save(&mut file, self.session.messages())? {
            return Err(Error::Locked { path: keeper.memory().folder().into() }.into());
        }
        let entry = self.profile(profile);
        entry.file = Some(file.clone());
        let turns = entry.turns.to_vec();
        if let Err(error) = keeper.save_turns(&turns) {
            // the memory is saved; after a restart a history may be read once more
            note!("profile {profile}: the list of turns was not saved: {error:#}");
        }
        if let Err(error) = keeper.save_days(&mut self.profile(profile).days) {
            note!("profile {profile}: the list of days was not saved: {error:#}");
        }
        Ok(file)
    }

    /// Makes as if a turn had not been: `before` is the conversation, `file` the memory of before.
    async fn take_back(
        &mut self,
        turn: &Turn,
        before: Vec<u64>,
        file: Option<&MemoryFile>,
    ) -> Result<(), ApiError> {
        let is_simple = turn.prompt.rollback.is_none() && turn.evicted_messages == 0;
        if is_simple && self.session.undo_turn().await? {
            let memory = self.session.model().engine.read_memory().await?;
            let is_back = match file {
                Some(file) => file.state == memory,
                None => memory.norm() == 0.0,
            };
            if is_back && let Some(current) = self.conversations.current() {
                current.digests = before;
                return Ok(());
            }
        }
        // what was dropped is read again from the history that comes next
        self.conversations.drop_current();
        self.session.begin(Vec::new(), today()).await?;
        self.put(file).await
    }

    async fn change_memory(&mut self, profile: &str, task: MemoryTask) -> Result<Value, ApiError> {
        let Some(identity) = self.identity.clone() else { return Err(memories::no_memory()) };
        let is_forgotten = matches!(task, MemoryTask::Forget);
        let is_replaced = !matches!(task, MemoryTask::Snapshot | MemoryTask::Branch(_));
        let mut keeper = self.open(profile, true)?.ok_or_else(memories::no_memory)?;
        // turns of before are to be known, whatever becomes of the memory
        self.see(profile, Some(&mut keeper))?;
        drop(keeper);
        let answer = memories::change(profile, &identity, task)?;
        if is_forgotten {
            let entry = self.profile(profile);
            entry.file = None;
            entry.turns.forget();
            entry.days.forget();
            self.session.forget_prefixes().await?;
        }
        if is_replaced {
            // Their contexts were read with the memory that is gone, and hold as read what it has not.
            let was_current = self.conversations.current().is_some_and(|c| c.profile == profile);
            self.conversations.drop_profile(profile);
            if was_current {
                self.session.begin(Vec::new(), today()).await?;
                self.put(None).await?;
            }
        }
        Ok(answer)
    }

    /// The text is read in a context of its own; conversations stay as they are.
    async fn write_text(&mut self, profile: &str, text: &str) -> Result<Value, ApiError> {
        let mut keeper = self.open(profile, true)?.ok_or_else(memories::no_memory)?;
        let file = self.see(profile, Some(&mut keeper))?;
        self.conversations.switch(&Choice::New, &mut self.session).await?;
        self.put(file.as_ref()).await?;
        self.tell_template(None)?;
        self.session.begin(Vec::new(), today()).await?;
        let n_tokens = self.session.write_text(text).await?;
        let saved = self.save(profile, &mut keeper).await?;
        let mut answer = memories::described(profile, &saved);
        answer["tokens_written"] = n_tokens.into();
        Ok(answer)
    }

    fn profile(&mut self, name: &str) -> &mut Profile {
        self.clock += 1;
        if self.profiles.len() >= MAX_PROFILES && !self.profiles.contains_key(name) {
            let oldest = self.profiles.iter().min_by_key(|(_, profile)| profile.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.profiles.remove(&oldest);
            }
        }
        let profile = self.profiles.entry(name.into()).or_default();
        profile.used = self.clock;
        profile
    }
}
