//! `deltamem`: SmolLM3 and Qwen3 with δ-mem on WebGPU.

pub mod config;
pub mod engine;
pub mod error;
pub mod memory;
pub mod memory_file;
#[cfg(not(target_arch = "wasm32"))]
pub mod store;
pub mod weights;

pub use error::{Error, Result};
