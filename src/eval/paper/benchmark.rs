//! The three benchmarks as one thing: what a run asks of each.

use super::task::Question;
use super::{hotpotqa, locomo, memory_agent};

/// Which benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    Locomo,
    HotpotQa,
    MemoryAgent,
}

/// What of a reply counted, and how well it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub prediction: String,
    /// 0 to 1 each, by name.
    pub scores: Vec<(&'static str, f64)>,
}

impl Benchmark {
    /// As the command line and the reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Benchmark::Locomo => "locomo",
            Benchmark::HotpotQa => "hotpotqa",
            Benchmark::MemoryAgent => "memory-agent",
        }
    }

    /// The system message of the protocol.
    pub fn system(self) -> Option<&'static str> {
        (self == Benchmark::Locomo).then_some(locomo::SYSTEM)
    }

    /// The scores that replies can have, the one to look at first.
    pub fn score_names(self) -> &'static [&'static str] {
        match self {
            Benchmark::Locomo => &["f1"],
            Benchmark::HotpotQa => &["f1", "em", "precision", "recall"],
            Benchmark::MemoryAgent => &["score", "substring", "em", "f1", "recall"],
        }
    }

    /// A question with the part of its context that is shown, which may be empty.
    pub fn prompt(self, context: &str, question: &Question) -> String {
        match self {
            Benchmark::Locomo => locomo::prompt(context, question),
            Benchmark::HotpotQa => hotpotqa::prompt(context, question),
            Benchmark::MemoryAgent => memory_agent::prompt(context, question),
        }
    }

    /// Scores a reply.
    pub fn score(self, question: &Question, reply: &str) -> Scored {
        match self {
            Benchmark::Locomo => locomo::score(question, reply),
            Benchmark::HotpotQa => hotpotqa::score(question, reply),
            Benchmark::MemoryAgent => memory_agent::score(question, reply),
        }
    }
}
