//! Evaluations of a model with its memory. Owns the list of them: the protocols of the δ-mem paper on
//! data files that a person has (`locomo`, `hotpotqa`, `memory_agent`), with what they share.

pub mod porter;
pub mod scores;
