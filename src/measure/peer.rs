//! Another engine that is measured in the same rounds as this one. Owns what such an engine is asked
//! and the estimates from its first runs; how it is reached is the program's and the page's.

use super::{SHORT_PROMPT, Task};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::Pin;

/// What a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAbout {
    pub name: String,
    pub version: String,
    /// What it runs on and how, such as `CPU, 2 threads`.
    pub engine: String,
}

/// What a run took in a peer, by its own clock, so that the way to it is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct PeerTime {
    pub seconds: f64,
    /// Of all its threads together, where it knows.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
}

/// A run in a peer.
pub type PeerRun<'a> = Pin<Box<dyn Future<Output = Result<PeerTime>> + 'a>>;

/// Another engine with the same model, or one of the same shapes.
pub trait Peer {
    /// What it is.
    fn about(&self) -> &PeerAbout;

    /// Reads a prompt of `n` tokens, from an empty context to the next token.
    fn prefill(&mut self, n: usize) -> PeerRun<'_>;

    /// Decodes `n` greedy tokens behind a context of `context` tokens, which is no part of the time.
    fn decode(&mut self, context: usize, n: usize) -> PeerRun<'_>;
}

/// Tokens of the prompt that warms a peer up: engines have other kernels for few tokens than for many.
const WARM_UP_PROMPT: usize = 32;

/// A peer in a measurement.
pub(super) struct Rival<'a> {
    peer: &'a mut dyn Peer,
    /// Estimates, from the last runs.
    prefill_seconds_per_token: f64,
    decode_seconds_per_token: f64,
}

impl<'a> Rival<'a> {
    /// Warms it up: what it compiles or packs at first use is no part of a round.
    pub(super) async fn new(peer: &'a mut dyn Peer, window: usize) -> Result<Rival<'a>> {
        let mut rival =
            Rival { peer, prefill_seconds_per_token: 0.0, decode_seconds_per_token: 0.0 };
        // the longer one last: it is the better estimate
        for n in [SHORT_PROMPT, WARM_UP_PROMPT] {
            let n = n.min(window);
            rival.run(Task::Prefill(n), n).await?;
        }
        rival.run(Task::Decode(0), 1).await?;
        rival.run(Task::Decode(0), 1).await?;
        Ok(rival)
    }

    pub(super) fn about(&self) -> &PeerAbout {
        self.peer.about()
    }

    /// One run of `n` tokens.
    pub(super) async fn run(&mut self, task: Task, n: usize) -> Result<PeerTime> {
        let time = match task {
            Task::Prefill(n) => self.peer.prefill(n).await?,
            Task::Decode(context) => self.peer.decode(context, n).await?,
        };
        let PeerTime { seconds, .. } = time;
        if !(seconds.is_finite() && seconds > 0.0) {
            let reason = format!("it says that {} took {seconds} s", task.name());
            return Err(Error::Peer { name: self.about().name.clone(), reason });
        }
        match task {
            Task::Prefill(_) => self.prefill_seconds_per_token = seconds / n as f64,
            Task::Decode(_) => self.decode_seconds_per_token = seconds / n as f64,
        }
        Ok(time)
    }

    pub(super) fn prefill_seconds_per_token(&self) -> f64 {
        self.prefill_seconds_per_token
    }

    pub(super) fn decode_seconds_per_token(&self) -> f64 {
        self.decode_seconds_per_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that everything took as long as the next of a list.
    struct Clock(PeerAbout, Vec<f64>);

    impl Clock {
        fn new(seconds: &[f64]) -> Clock {
            let [name, version, engine] = ["clock", "1", "none"].map(String::from);
            let mut seconds = seconds.to_vec();
            seconds.reverse();
            Clock(PeerAbout { name, version, engine }, seconds)
        }

        fn next(&mut self) -> PeerRun<'_> {
            let seconds = self.1.pop().expect("a time");
            Box::pin(async move { Ok(PeerTime { seconds, cpu_seconds: None }) })
        }
    }

    impl Peer for Clock {
        fn about(&self) -> &PeerAbout {
            &self.0
        }

        fn prefill(&mut self, _: usize) -> PeerRun<'_> {
            self.next()
        }

        fn decode(&mut self, _: usize, _: usize) -> PeerRun<'_> {
            self.next()
        }
    }

    #[test]
    fn estimates_are_of_the_last_run_and_times_must_be_possible() {
        let mut clock = Clock::new(&[9.0, 4.0, 5.0, 0.5, 3.0, 0.0, f64::NAN]);
        pollster::block_on(async {
            let mut rival = Rival::new(&mut clock, 4096).await.expect("a peer");
            assert_eq!(rival.prefill_seconds_per_token(), 4.0 / WARM_UP_PROMPT as f64);
            assert_eq!(rival.decode_seconds_per_token(), 0.5);
            assert_eq!(rival.run(Task::Prefill(6), 6).await.expect("seconds").seconds, 3.0);
            assert_eq!(rival.prefill_seconds_per_token(), 0.5);
            for said in ["took 0 s", "took NaN s"] {
                let error = rival.run(Task::Decode(7), 2).await.expect_err("no time");
                assert_eq!(error.code(), "peer");
                assert!(error.to_string().starts_with("clock: it says that decode at 7"));
                assert!(error.to_string().ends_with(said), "{error}");
            }
        });
    }
}
