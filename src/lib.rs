//! `deltamem`: SmolLM3 and Qwen3 with δ-mem on WebGPU.

pub mod chat;
pub mod config;
pub mod constraint;
#[cfg(not(target_arch = "wasm32"))]
pub mod convert;
pub mod engine;
pub mod error;
#[cfg(not(target_arch = "wasm32"))]
pub mod eval;
pub mod footprint;
pub mod gpu;
#[cfg(not(target_arch = "wasm32"))]
pub mod hub;
pub mod kernels;
pub mod kv_cache;
pub mod loaded;
pub mod matrix;
pub mod measure;
pub mod memory;
pub mod memory_file;
pub mod model;
pub mod model_folder;
pub mod nano;
pub mod prefix_file;
#[cfg(not(target_arch = "wasm32"))]
pub mod prefix_folder;
pub mod reference;
pub mod replay;
pub mod rope;
pub mod sampler;
pub mod session;
pub mod shader;
pub mod spans;
#[cfg(not(target_arch = "wasm32"))]
pub mod store;
pub mod tokenizer;
pub mod tool_calls;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod train;
#[cfg(target_arch = "wasm32")]
pub mod web;
pub mod weights;
pub mod write_plan;

pub use error::{Error, Result};
