//! Asks a benchmark's questions. Owns what the memory and the context hold when a question is asked, and
//! that no question leaves a trace in the next one.
//!
//! In the modes `on` and `state` the context is written into an empty memory first: section after
//! section, each as a user's message of its own in an otherwise empty context, as
//! [`Session::write_text`] does it. Then every question is asked read-only in a fresh conversation, and
//! the memory is put back before each. In `on` the end of the context stands before the question, as
//! many whole pieces as fit into [`RunOptions::visible_tokens`].
//!
//! In `full` and `replay` as many whole pieces as fit into the window stand there. How many that are is
//! decided once for a context, with its longest question, so that all questions share a beginning,
//! which stays in the cache from one to the next. In `replay` the memory is written while the prompt
//! is read and the reply is decoded, so each question begins with an empty memory and cache.

use super::answers::{Answer, RunFolder};
use super::benchmark::Benchmark;
use super::task::{Mode, Question, Section, Task, fewest_left_out};
use crate::chat::{CivilDate, Message, RenderOptions, Role};
use crate::error::{Error, Result};
use crate::memory_file::MemoryFile;
use crate::sampler::SamplingOptions;
use crate::session::{Session, TurnOptions};
use std::ops::ControlFlow;
use std::time::Instant;

/// Room that a prompt leaves in the window beside the reply.
const CLOSING_TOKENS: usize = 16;

/// How questions are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    pub modes: Vec<Mode>,
    /// Tokens of the context's end that mode `on` shows at most.
    pub visible_tokens: usize,
    /// Tokens of a section that are written into the memory as one message at most.
    pub section_tokens: usize,
    /// Tokens of prompt and reply together, if less than the window.
    pub max_context: Option<usize>,
    /// Longest reply, instead of what the protocol says.
    pub max_new_tokens: Option<usize>,
    /// The seed rises by one from question to question of a context.
    pub sampling: SamplingOptions,
    /// As the session has it.
    pub date: CivilDate,
    /// Only the first contexts of the file.
    pub max_contexts: Option<usize>,
    /// Only the first questions of each context, of those that are wanted.
    pub max_questions: Option<usize>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress<'a> {
    /// The question just answered; none while a context is written.
    pub answer: Option<&'a Answer>,
    /// Of those that this run has to answer.
    pub n_done: usize,
    pub n_questions: usize,
}

/// A context in the memory.
struct Written {
    memory: MemoryFile,
    n_tokens: u64,
    seconds: f64,
}

/// Asks every question that `is_wanted` and that the folder has no answer to yet.
///
/// # Errors
/// [`Error::Unsupported`] for a mode with a memory and a model without; [`Error::ContextFull`] for a
/// question that does not fit into the window on its own; those of sessions and of the folder. What
/// was answered until then is in the folder.
pub async fn run(
    session: &mut Session,
    benchmark: Benchmark,
    tasks: &[Task],
    options: &RunOptions,
    is_wanted: &dyn Fn(&Question) -> bool,
    folder: &mut RunFolder,
    on_progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let has_adapter = session.model().engine.delta_config().is_some();
    if let Some(mode) = options.modes.iter().find(|mode| mode.needs_adapter() && !has_adapter) {
        return Err(Error::Unsupported {
            what: format!("mode {}", mode.name()),
            reason: "the model was loaded without a δ-mem adapter; `off` and `full` need none"
                .into(),
        });
    }
    let tasks = &tasks[..options.max_contexts.unwrap_or(usize::MAX).min(tasks.len())];
    let pending = |folder: &RunFolder, task: &Task, mode: Mode| -> Vec<usize> {
        let wanted = (0..task.questions.len()).filter(|&n| is_wanted(&task.questions[n]));
        let wanted = wanted.take(options.max_questions.unwrap_or(usize::MAX));
        wanted.filter(|&n| !folder.has(mode, &task.questions[n].id)).collect()
    };
    let mut n_questions = 0;
    for &mode in &options.modes {
        n_questions += tasks.iter().map(|task| pending(folder, task, mode).len()).sum::<usize>();
    }
    let mut n_done = 0;
    on_progress(Progress { answer: None, n_done, n_questions });
    for task in tasks {
        let mut written = None;
        for &mode in &options.modes {
            let questions = pending(folder, task, mode);
            if questions.is_empty() {
                continue;
            }
            if mode.has_memory() && written.is_none() {
                written = Some(write_context(session, task, options).await?);
            }
            let memory = written.as_ref().filter(|_| mode.has_memory());
            let asking = Asking::new(session, benchmark, task, mode, memory, options)?;
            session.new_context().await?;
            for index in questions {
                let answer = asking.ask(session, index).await?;
                n_done += 1;
                on_progress(Progress { answer: Some(&answer), n_done, n_questions });
                folder.push(answer)?;
            }
        }
    }
    Ok(())
}

/// Writes a context into an empty memory.
async fn write_context(
    session: &mut Session,
    task: &Task,
    options: &RunOptions,
) -> Result<Written> {
    let begin = Instant::now();
    session.new_context().await?;
    session.forget().await?;
    let mut n_tokens = 0;
    for section in &task.context.sections {
        let count = |text: &str| Ok(session.model().tokenizer.encode(text)?.len());
        for message in messages(section, options.section_tokens, &count)? {
            n_tokens += session.write_text(&message).await?;
        }
    }
    // reading it back also waits for the device
    let memory = session.memory(1).await?;
    Ok(Written { memory, n_tokens, seconds: begin.elapsed().as_secs_f64() })
}

/// A section in messages of at most `most` tokens, each with the header; a single piece may be longer.
fn messages(
    section: &Section,
    most: usize,
    count: &dyn Fn(&str) -> Result<usize>,
) -> Result<Vec<String>> {
    let mut messages = Vec::new();
    let (mut message, mut n_tokens) = (String::new(), 0);
    for piece in &section.pieces {
        let n = count(piece)?;
        if n_tokens > 0 && n_tokens + n > most {
            messages.push(std::mem::take(&mut message));
            n_tokens = 0;
        }
        if message.is_empty() {
            if piece.trim().is_empty() {
                continue;
            }
            message.push_str(&section.header);
        }
        message.push_str(piece);
        n_tokens += n;
    }
    messages.push(message);
    for message in &mut messages {
        *message = message.trim().to_string();
    }
    messages.retain(|message| !message.is_empty());
    Ok(messages)
}

/// The questions of one context in one mode.
struct Asking<'a> {
    benchmark: Benchmark,
    task: &'a Task,
    mode: Mode,
    written: Option<&'a Written>,
    options: &'a RunOptions,
    /// What is shown of the context.
    context: String,
    shown_pieces: usize,
    cut_pieces: usize,
}

impl<'a> Asking<'a> {
    fn new(
        session: &Session,
        benchmark: Benchmark,
        task: &'a Task,
        mode: Mode,
        written: Option<&'a Written>,
        options: &'a RunOptions,
    ) -> Result<Asking<'a>> {
        let n_pieces = task.context.n_pieces();
        let n_left_out = match mode {
            Mode::Off | Mode::State => n_pieces,
            Mode::On | Mode::Full | Mode::Replay => {
                n_left_out(session, benchmark, task, mode, options)?
            }
        };
        let shows_all = matches!(mode, Mode::Full | Mode::Replay);
        Ok(Asking {
            benchmark,
            task,
            mode,
            written,
            options,
            context: task.context.text(n_left_out),
            shown_pieces: n_pieces - n_left_out,
            cut_pieces: if shows_all { n_left_out } else { 0 },
        })
    }

    async fn ask(&self, session: &mut Session, index: usize) -> Result<Answer> {
        let question = &self.task.questions[index];
        let begin = Instant::now();
        if self.mode == Mode::Replay {
            session.new_context().await?;
        }
        match self.written {
            Some(written) => session.set_memory(&written.memory).await?,
            None if session.model().identity.is_some() => session.forget().await?,
            None => {}
        }
        let prompt = self.benchmark.prompt(&self.context, question);
        let history = history(session, prompt);
        let options = self.turn_options(session, question, index);
        let turn = session.turn_from(history, &options, &mut |_| ControlFlow::Continue(())).await?;
        let scored = self.benchmark.score(question, &turn.answer);
        let scores = scored.scores.into_iter().map(|(name, score)| (name.to_string(), score));
        Ok(Answer {
            mode: self.mode,
            context: self.task.id.clone(),
            id: question.id.clone(),
            category: question.category.clone(),
            group: question.group.clone(),
            question: question.text.clone(),
            answers: question.answers.clone(),
            prediction: scored.prediction,
            scores: scores.collect(),
            stop_reason: stop_reason(turn.stop_reason),
            prompt_tokens: turn.prompt.full_tokens,
            fed_tokens: turn.prompt.suffix_tokens,
            generated_tokens: turn.generated_ids.len(),
            shown_pieces: self.shown_pieces,
            cut_pieces: self.cut_pieces,
            memory_tokens: match self.written {
                Some(written) => written.n_tokens,
                None => session.counters().tokens_written,
            },
            memory_seconds: self.written.map_or(0.0, |written| written.seconds),
            seconds: begin.elapsed().as_secs_f64(),
            reply: turn.answer,
        })
    }

    fn turn_options(&self, session: &Session, question: &Question, index: usize) -> TurnOptions {
        let mut sampling = self.options.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(index as u64);
        TurnOptions {
            sampling,
            max_new_tokens: self.options.max_new_tokens.unwrap_or(question.max_new_tokens),
            write_enabled: self.mode == Mode::Replay,
            ..session.default_turn_options()
        }
    }
}

/// The pieces at the beginning of a context that do not fit before its longest question.
fn n_left_out(
    session: &Session,
    benchmark: Benchmark,
    task: &Task,
    mode: Mode,
    options: &RunOptions,
) -> Result<usize> {
    let model = session.model();
    let count = |text: &str| Ok::<usize, Error>(model.tokenizer.encode(text)?.len());
    let mut longest: Option<(usize, &Question)> = None;
    for question in &task.questions {
        let reply = options.max_new_tokens.unwrap_or(question.max_new_tokens);
        let n = count(&benchmark.prompt("", question))? + reply;
        if longest.is_none_or(|(most, _)| n > most) {
            longest = Some((n, question));
        }
    }
    let Some((_, question)) = longest else { return Ok(0) };
    let reply = options.max_new_tokens.unwrap_or(question.max_new_tokens);
    let window = model.engine.context_window();
    let window = options.max_context.unwrap_or(window).min(window);
    let room = window.saturating_sub(reply + CLOSING_TOKENS);
    let visible = if mode == Mode::On { options.visible_tokens } else { usize::MAX };
    let mut render = RenderOptions::new(options.date).with_generation_prompt(true);
    render.enable_thinking = session.enable_thinking();
    let pieces = task.context.sections.iter().flat_map(|section| &section.pieces);
    let sizes: Vec<usize> = pieces.map(|piece| count(piece)).collect::<Result<_>>()?;
    fewest_left_out(&sizes, room.min(visible), |n| {
        let context = task.context.text(n);
        if visible < usize::MAX && count(&context)? > visible {
            return Ok(false);
        }
        let history = history(session, benchmark.prompt(&context, question));
        Ok(count(&model.template.render(&history, &render)?)? <= room)
    })
}

/// A conversation of the system message and one question.
fn history(session: &Session, prompt: String) -> Vec<Message> {
    let system = session.messages().iter().take_while(|message| message.role == Role::System);
    system.cloned().chain([Message::new(Role::User, prompt)]).collect()
}

fn stop_reason(reason: crate::session::StopReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{reason:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_written_in_messages_with_their_header() {
        let section = Section {
            header: "DATE\n".into(),
            pieces: ["one two ", "three ", "four five six seven ", "  ", "eight"]
                .map(String::from)
                .to_vec(),
        };
        let count = |text: &str| Ok(text.split_whitespace().count());
        let found = messages(&section, 3, &count).unwrap();
        assert_eq!(found, ["DATE\none two three", "DATE\nfour five six seven", "DATE\neight"]);
        assert_eq!(messages(&section, 100, &count).unwrap().len(), 1);
        assert!(messages(&Section::default(), 3, &count).unwrap().is_empty());
    }
}
