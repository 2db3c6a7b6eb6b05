//! What a training tells about itself, one JSON object a line, so that a plot needs no memory of its
//! own and a resumed training goes on with the same file.

use super::output::write_whole;
use super::plot::LossCurve;
use super::trainer::{Evaluation, StepReport};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Longest log read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// How well the held-out episodes are answered after so many steps.
    Evaluation { step: u64, evaluation: Evaluation },
    /// A gradient step.
    Step(StepReport),
}

impl LogLine {
    fn step(&self) -> u64 {
        match self {
            LogLine::Evaluation { step, .. } => *step,
            LogLine::Step(report) => report.step,
        }
    }
}

/// A log file that grows.
pub struct TrainingLog {
    path: PathBuf,
    file: File,
    lines: Vec<LogLine>,
}

impl TrainingLog {
    /// Opens a log and forgets what it says about steps after `n_steps`, which a resumed training
    /// takes again; 0 begins anew.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] for a file that is no log.
    pub fn open(path: &Path, n_steps: u64) -> Result<TrainingLog> {
        let mut lines = Vec::new();
        if n_steps > 0 && path.exists() {
            let bytes = crate::weights::bytes::read_bounded(path, MAX_BYTES)?;
            let label = path.display().to_string();
            for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let bad = |e: serde_json::Error| {
                    Error::format(label.as_str(), "training log", e.to_string())
                };
                // The last line of a training that was killed may be cut.
                match serde_json::from_slice::<LogLine>(line) {
                    Ok(line) => lines.push(line),
                    Err(e) if e.is_eof() => break,
                    Err(e) => return Err(bad(e)),
                }
            }
            lines.retain(|line| line.step() <= n_steps);
        }
        let text: Vec<String> = lines.iter().map(to_json).collect();
        write_whole(path, text.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path))?;
        Ok(TrainingLog { path: path.to_path_buf(), file, lines })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, line: LogLine) -> Result<()> {
        self.file.write_all(to_json(&line).as_bytes()).map_err(Error::io(&self.path))?;
        self.lines.push(line);
        Ok(())
    }

    /// The losses of every step and of every evaluation.
    pub fn loss_curve(&self) -> LossCurve {
        let mut curve = LossCurve::default();
        for line in &self.lines {
            match line {
                LogLine::Step(report) => curve.training.push((report.step, report.loss)),
                LogLine::Evaluation { step, evaluation } => {
                    curve.evaluation.push((*step, evaluation.loss));
                }
            }
        }
        curve
    }
}

fn to_json(line: &LogLine) -> String {
    let json = serde_json::to_string(line).expect("numbers and fixed names");
    json + "\n"
}
