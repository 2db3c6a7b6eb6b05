//! Evaluations of a model with its memory. Owns the list of them: the protocols of the δ-mem paper on
//! data files that a person has (`locomo`, `hotpotqa`, `memory_agent`), with what they share.

pub mod answers;
pub mod benchmark;
pub mod data;
pub mod hotpotqa;
pub mod locomo;
pub mod memory_agent;
pub mod porter;
pub mod report;
pub mod run;
pub mod scores;
pub mod task;
