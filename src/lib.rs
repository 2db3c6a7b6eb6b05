//! `deltamem`: SmolLM3 and Qwen3 with δ-mem on WebGPU.

pub mod config;
pub mod engine;
pub mod error;
pub mod memory;
pub mod model_folder;
pub mod reference;
pub mod replay;
pub mod rope;
pub mod weights;
pub mod write_plan;

pub use error::{Error, Result};
