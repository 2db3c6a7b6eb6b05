//! `deltamem`: SmolLM3 and Qwen3 with δ-mem on WebGPU.

pub mod chat;
pub mod config;
pub mod engine;
pub mod error;
pub mod memory;
pub mod sampler;
pub mod spans;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
