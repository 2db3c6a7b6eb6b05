//! Lines that a person or a script gives. Owns the prompt, the history file, `"""` and what Ctrl-C
//! and Ctrl-D mean while a line is typed.

use super::super::keeper::{self, Keeper};
use super::super::output::{note, printable};
use anyhow::{Context, Result, bail};
use deltamem::Error;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

const PROMPT: &str = ">>> ";
const CONTINUATION: &str = "... ";
/// Around a message of several lines.
const FENCE: &str = "\"\"\"";
/// Longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A message.
    Text(String),
    /// What follows a `/`.
    Command(String),
    /// Nothing will follow.
    End,
}

/// One line, as it was typed.
enum Raw {
    /// Without the end of the line.
    Text(String),
    /// Ctrl-C was pressed; what was typed is gone.
    Interrupted,
    End,
}

/// Where lines come from.
pub enum Input {
    /// A terminal with line editing.
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf>, n_interrupts: u32 },
    /// Anything else.
    Pipe,
}

impl Input {
    /// Standard input; with the profile's history if something is kept.
    pub fn open(keeper: Option<&Keeper>) -> Result<Input> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Ok(Input::Pipe);
        }
        let mut editor = Box::new(DefaultEditor::new().context("the terminal")?);
        let history = match keeper {
            Some(keeper) => Some(keeper::history_path(keeper.memory().profile())?),
            None => None,
        };
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            note!("{}: the history cannot be read: {error}", path.display());
        }
        Ok(Input::Terminal { editor, history, n_interrupts: 0 })
    }

    /// True if a person sits there.
    pub fn is_interactive(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next message or command.
    pub fn line(&mut self) -> Result<Line> {
        let first = loop {
            match self.raw_line(PROMPT)? {
                Raw::Text(text) => break text,
                Raw::Interrupted => {}
                Raw::End => return Ok(Line::End),
            }
        };
        let fenced = first.trim_start().strip_prefix(FENCE);
        let message = match fenced.map(str::to_string) {
            None => first,
            Some(rest) => self.fenced(rest)?,
        };
        if let Input::Terminal { editor, .. } = self {
            // a line that cannot be recalled later is no reason to stop
            let _ = editor.add_history_entry(message.as_str());
        }
        Ok(match message.trim_start().strip_prefix('/') {
            Some(command) if !message.contains('\n') => Line::Command(command.trim().into()),
            _ => Line::Text(message),
        })
    }

    /// The lines up to the closing fence or the end of the input; nothing after Ctrl-C.
    fn fenced(&mut self, first: String) -> Result<String> {
        let mut message = first;
        loop {
            if let Some(inner) = message.trim_end().strip_suffix(FENCE) {
                return Ok(inner.trim_matches('\n').to_string());
            }
            match self.raw_line(CONTINUATION)? {
                Raw::End => return Ok(message.trim_matches('\n').to_string()),
                Raw::Interrupted => return Ok(String::new()),
                Raw::Text(line) => {
                    message.push('\n');
                    message.push_str(&line);
                }
            }
            if message.len() > MAX_MESSAGE_BYTES {
                bail!("a message of more than {MAX_MESSAGE_BYTES} bytes");
            }
        }
    }

    fn raw_line(&mut self, prompt: &str) -> Result<Raw> {
        let Input::Terminal { editor, n_interrupts, .. } = self else {
            return piped_line();
        };
        match editor.readline(prompt) {
            Ok(line) => {
                *n_interrupts = 0;
                Ok(Raw::Text(line))
            }
            Err(ReadlineError::Interrupted) => {
                *n_interrupts += 1;
                if *n_interrupts > 1 {
                    note!("Ctrl-D or /bye leaves");
                }
                Ok(Raw::Interrupted)
            }
            Err(ReadlineError::Eof) => {
                // the shell's prompt goes on a line of its own
                note!();
                Ok(Raw::End)
            }
            Err(error) => Err(error).context("reading a line"),
        }
    }

    /// Asks y or n; a script is not asked and means yes.
    pub fn confirm(&mut self, question: &str) -> Result<bool> {
        match self {
            Input::Pipe => Ok(true),
            Input::Terminal { editor, .. } => {
                match editor.readline(&format!("{question} [y/N] ")) {
                    Ok(answer) => Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")),
                    Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(false),
                    Err(error) => Err(error).context("reading an answer"),
                }
            }
        }
    }

    /// Forgets the lines typed so far; their file is the caller's business.
    pub fn forget(&mut self) -> Result<()> {
        match self {
            Input::Terminal { editor, .. } => editor.clear_history().context("the history"),
            Input::Pipe => Ok(()),
        }
    }

    /// Saves the history.
    pub fn close(&mut self) -> Result<()> {
        let Input::Terminal { editor, history: Some(path), .. } = self else {
            return Ok(());
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        if let Err(error) = editor.save_history(path) {
            note!(
                "{}: the history was not saved: {}",
                path.display(),
                printable(&error.to_string())
            );
        }
        Ok(())
    }
}

fn piped_line() -> Result<Raw> {
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_MESSAGE_BYTES as u64 + 1);
    let n_read = input.read_until(b'\n', &mut bytes).context("reading a line")?;
    if n_read == 0 {
        return Ok(Raw::End);
    }
    if n_read > MAX_MESSAGE_BYTES {
        bail!("a line of more than {MAX_MESSAGE_BYTES} bytes");
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Raw::Text(text.trim_end_matches(['\n', '\r']).to_string()))
}
