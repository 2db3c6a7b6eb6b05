//! llama.cpp beside this engine (`deltamem bench --against llama-cpp`): llama-cpp-python in a child
//! process, which answers a line of JSON with a line of JSON (`llama_cpp.py`). Owns the process, how
//! long it may think, and what its answers mean.

use clap::ValueEnum;
use deltamem::error::{Error, Result};
use deltamem::measure::peer::{PeerRun, PeerTime};
use deltamem::measure::{Peer, PeerAbout};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// What can be measured beside this engine.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// llama.cpp on the CPU, through llama-cpp-python
    LlamaCpp,
    /// onnxruntime-web's WebGPU provider, which needs a page
    OnnxruntimeWeb,
}

const NAME: &str = "llama.cpp";
const SCRIPT: &str = include_str!("llama_cpp.py");
/// The version that BENCHMARKS.md measured; others whose names of functions are the same do as well.
const PACKAGE: &str = "llama-cpp-python==0.3.36";
/// Longer than any answer.
const MAX_LINE_BYTES: u64 = 1 << 16;
/// How long a process that is to end may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// An answer of the script.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    About(PeerAbout),
    Missing(String),
    Time(PeerTime),
    Error(String),
}

/// llama.cpp with a model, in a process of its own.
pub struct LlamaCpp {
    about: PeerAbout,
    child: Talk,
}

impl LlamaCpp {
    /// Starts Python and loads a GGUF file, with room for `context` tokens and as many
    /// threads as there are cores, if not told otherwise. No answer may take longer
    /// than `patience`.
    ///
    /// # Errors
    /// [`Error::Peer`] without Python or llama-cpp-python, and if it cannot load the file.
    pub fn start(
        python: &Path,
        model: &Path,
        context: usize,
        threads: Option<u32>,
        patience: Duration,
    ) -> Result<LlamaCpp> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.map_or(cores, |n| n as usize);
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).arg(model).args([context.to_string(), threads.to_string()]);
        let mut child = Talk::start(command, patience)?;
        match child.answer()? {
            Answer::About(about) => Ok(LlamaCpp { about, child }),
            Answer::Missing(why) => Err(failed(format!(
                "llama-cpp-python is missing ({why}); `{} -m pip install {PACKAGE}` builds and installs \
                 it in some minutes, with a C++ compiler; --python names another Python",
                python.display()
            ))),
            Answer::Error(why) => Err(failed(why)),
            Answer::Time(_) => Err(failed("it answered before it was asked")),
        }
    }

    fn ask(&mut self, question: &Value) -> Result<PeerTime> {
        self.child.say(question)?;
        match self.child.answer()? {
            Answer::Time(time) => Ok(time),
            Answer::Error(why) => Err(failed(why)),
            Answer::About(_) | Answer::Missing(_) => {
                Err(failed("its answer is not one to the question"))
            }
        }
    }
}

impl Peer for LlamaCpp {
    fn about(&self) -> &PeerAbout {
        &self.about
    }

    fn prefill(&mut self, n: usize) -> PeerRun<'_> {
        let time = self.ask(&json!({ "prefill": n }));
        Box::pin(async { time })
    }

    fn decode(&mut self, context: usize, n: usize) -> PeerRun<'_> {
        let time = self.ask(&json!({ "decode": n, "context": context }));
        Box::pin(async { time })
    }
}

fn failed(reason: impl Into<String>) -> Error {
    Error::Peer { name: NAME.into(), reason: reason.into() }
}

/// A process that is talked to in lines.
struct Talk {
    child: Child,
    /// `None` once it is to end.
    input: Option<ChildStdin>,
    /// Its lines; a reading error is its end.
    lines: Receiver<String>,
    patience: Duration,
}

impl Talk {
    fn start(mut command: Command, patience: Duration) -> Result<Talk> {
        let program = command.get_program().to_string_lossy().into_owned();
        // what it prints to standard error is for the person who waits
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            failed(format!(
                "cannot run `{program}` ({error}); it needs Python 3.9 or newer, --python says which"
            ))
        })?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| failed("no pipe to its output"))?;
        let (send, lines) = sync_channel(1);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                let read = output.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
                let is_end = !matches!(read, Ok(n) if n > 0);
                if is_end || send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Talk { child, input, lines, patience })
    }

    fn say(&mut self, question: &Value) -> Result<()> {
        let said = match &mut self.input {
            Some(input) => writeln!(input, "{question}").and_then(|()| input.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        said.map_err(|_| self.ended())
    }

    fn answer(&mut self) -> Result<Answer> {
        match self.lines.recv_timeout(self.patience) {
            Ok(line) => serde_json::from_str(&line).map_err(|_| {
                let said: String = line.trim_end().chars().take(80).collect();
                failed(format!("said {said:?}, which is no answer"))
            }),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.patience.as_secs_f64();
                Err(failed(format!(
                    "no answer in {seconds} s; --patience says how long one may take"
                )))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    fn ended(&mut self) -> Error {
        match self.wait(FAREWELL) {
            Some(status) => failed(format!("the process ended ({status})")),
            None => failed("the process closed its output"),
        }
    }

    fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if begin.elapsed() > at_most {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // nothing more to ask: a process that listens ends by itself
        self.input = None;
        if self.wait(Duration::from_millis(200)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A peer that is a script of the shell; `patience` in milliseconds.
    fn peer(script: &str, patience: u64) -> Result<LlamaCpp> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("python");
        // Another process writes it: were it open for writing here, a process that another test starts at that
        // moment would have it open too, and Linux runs no such file (ETXTBSY).
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let status = Command::new("sh").arg("-c").arg(write).arg(&path).arg(script).status();
        assert!(status.expect("a shell").success());
        LlamaCpp::start(&path, Path::new("m.gguf"), 64, None, Duration::from_millis(patience))
    }

    fn seconds(peer: &mut LlamaCpp, n: usize) -> Result<f64> {
        pollster::block_on(peer.prefill(n)).map(|time| time.seconds)
    }

    fn reason<T>(result: Result<T>) -> String {
        match result.map(|_| ()).expect_err("no failure") {
            Error::Peer { name, reason } if name == NAME => reason,
            error => panic!("{error}"),
        }
    }

    const ABOUT: &str = r#"echo '{"about": {"name": "fake", "version": "1", "engine": "sh"}}'; "#;

    #[test]
    fn questions_are_answered_in_order() {
        let script = r#"read q; [ "$q" = '{"prefill":8}' ] && echo '{"time": {"seconds": 0.5}}'
            read q; [ "$q" = '{"decode":2,"context":7}' ] && echo '{"time": {"seconds": 3, "cpu_seconds": 4}}'
            read q; echo '{"error": "enough"}'"#;
        let mut peer = peer(&format!("{ABOUT}{script}"), 20_000).expect("a peer");
        assert_eq!(peer.about().name, "fake");
        assert_eq!(seconds(&mut peer, 8).expect("seconds"), 0.5);
        let time = pollster::block_on(peer.decode(7, 2)).expect("a time");
        assert_eq!(time, PeerTime { seconds: 3.0, cpu_seconds: Some(4.0) });
        assert_eq!(reason(seconds(&mut peer, 1)), "enough");
        assert_eq!(reason(seconds(&mut peer, 1)), "the process ended (exit status: 0)");
    }

    #[test]
    fn what_cannot_start_says_what_to_do() {
        let missing = reason(peer(r#"echo '{"missing": "No module named llama_cpp"}'"#, 20_000));
        assert!(missing.contains("-m pip install llama-cpp-python=="), "{missing}");
        let none = Path::new("/nowhere/python3");
        let none = reason(LlamaCpp::start(none, none, 1, None, Duration::from_secs(1)));
        assert!(none.contains("cannot run `/nowhere/python3`"), "{none}");
        assert!(none.contains("--python"), "{none}");
        let error = r#"echo '{"error": "cannot load m.gguf"}'"#;
        assert_eq!(reason(peer(error, 20_000)), "cannot load m.gguf");
        let early = r#"echo '{"time": {"seconds": 1}}'"#;
        assert_eq!(reason(peer(early, 20_000)), "it answered before it was asked");
    }

    #[test]
    fn a_peer_that_talks_nonsense_hangs_or_dies_is_an_error() {
        let said = reason(peer("echo Segmentation fault", 20_000));
        assert_eq!(said, "said \"Segmentation fault\", which is no answer");
        let twice = reason(peer(r#"echo '{"time": {"seconds": 1}, "error": "x"}'"#, 20_000));
        assert!(twice.ends_with("which is no answer"), "{twice}");
        let endless = reason(peer("while :; do printf aaaaaaaaaaaaaaaaaaaaaaaa; done", 20_000));
        assert!(endless.ends_with("which is no answer") && endless.len() < 120, "{endless}");
        assert_eq!(reason(peer("exit 3", 20_000)), "the process ended (exit status: 3)");
        assert_eq!(reason(peer("kill -9 $$", 20_000)), "the process ended (signal: 9 (SIGKILL))");

        let mut dies = peer(&format!("{ABOUT}read q; exit 1"), 20_000).expect("a peer");
        assert_eq!(reason(seconds(&mut dies, 4)), "the process ended (exit status: 1)");
        let mut again = peer(&format!("{ABOUT}read q; {ABOUT}read q"), 20_000).expect("a peer");
        assert_eq!(reason(seconds(&mut again, 4)), "its answer is not one to the question");

        let begin = Instant::now();
        let slow = reason(peer("exec sleep 60", 300));
        assert_eq!(slow, "no answer in 0.3 s; --patience says how long one may take");
        // the process was killed, not waited for
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
