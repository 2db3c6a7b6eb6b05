//! Measurements of what a model remembers. Owns test cases, conversations held for them, scoring and
//! the reports; the command line and its tables are `cli/eval`'s. `cases` reads test files, `answers`
//! decides whether a reply has an answer, `talker` holds the conversations, `workers` shares them out
//! among threads, `recall` is the measurement behind `deltamem eval nano`, `report` its result. `paper` has
//! the protocols of the δ-mem paper.

pub mod answers;
pub mod cases;
pub mod paper;
pub mod recall;
pub mod report;
pub mod talker;
pub mod workers;
