//! GGUF files: two that llama.cpp's own tools made (`make.py`), and ones made here to be wrong.

mod broken;
mod builder;
mod models;

use std::path::{Path, PathBuf};

/// A file of this folder.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("a file of tests/gguf")
}
