//! GGUF, the single-file format of llama.cpp: header, tensors and what the metadata mean. Owns the
//! names of the format's parts; source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! The header is read first, tensors by range when somebody asks. Everything that leaves here is in
//! the terms of Hugging Face: names, shapes, order of rows, and configuration files as JSON.

pub mod blocks;
mod config;
mod cursor;
pub mod encode;
pub(crate) mod encode_k;
pub mod header;
pub mod metadata;
pub mod names;
pub mod repack;
pub mod source;
mod tokenizer;
#[cfg(not(target_arch = "wasm32"))]
pub mod write;

pub use config::{config_json, generation_config_json, tokenizer_config_json};
pub use source::GgufSource;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use source::shard_of;
pub use tokenizer::tokenizer_json;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use tokenizer::{pre_tokenizer, pre_tokenizer_name};

/// What errors call a file of this format.
const FORMAT: &str = "GGUF file";

/// Architectures whose metadata and tensors are understood.
const ARCHITECTURES: [&str; 2] = ["smollm3", "qwen3"];
