//! GGUF files: the container of llama.cpp, with weights in blocks of a few bits.

pub mod blocks;
pub mod repack;
