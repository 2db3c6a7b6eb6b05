//! KV positions of an [`Engine`] as bytes, and what its results depend on. Owns the choice between the
//! two implementations; the bytes are each one's own and mean nothing to another.

use super::Engine;
use crate::error::Result;
use crate::shader;
use sha2::{Digest, Sha256};

impl Engine {
    /// Bytes of one position in a layer's keys; its values take as many.
    pub fn kv_position_bytes(&self) -> usize {
        match self {
            Engine::Gpu(model) => model.kv_position_bytes(),
            Engine::Cpu(model) => model.kv_position_bytes(),
        }
    }

    /// Keys and values of a layer's first `n` positions.
    ///
    /// # Errors
    /// Device errors.
    ///
    /// # Panics
    /// Without such a layer, or if fewer positions are filled.
    pub async fn read_kv(&self, layer: usize, n: usize) -> Result<[Vec<u8>; 2]> {
        match self {
            Engine::Gpu(model) => model.read_kv(layer, n).await,
            Engine::Cpu(model) => Ok(model.read_kv(layer, n)),
        }
    }

    /// Puts keys and values, as [`Engine::read_kv`] gave them, into the empty cache. They do not count
    /// before [`Engine::count_positions`].
    ///
    /// # Errors
    /// Device errors.
    ///
    /// # Panics
    /// If positions are filled, without such a layer, or if the window is smaller.
    pub async fn write_kv(&mut self, layer: usize, kv: [&[u8]; 2]) -> Result<()> {
        match self {
            Engine::Gpu(model) => model.write_kv(layer, kv).await,
            Engine::Cpu(model) => {
                model.write_kv(layer, kv);
                Ok(())
            }
        }
    }

    /// The first `n` positions, which [`Engine::write_kv`] has put into every layer, are the context
    /// from here on; 0 forgets what it put there.
    pub fn count_positions(&mut self, n: usize) {
        match self {
            Engine::Gpu(model) => model.count_positions(n),
            Engine::Cpu(model) => model.count_positions(n),
        }
    }

    /// Everything that can change the bits of a result besides weights, tokens and memory: this
    /// version, its shaders, the device with its driver, and how the model is kept and run there. Two
    /// engines with equal words and weights give equal bits.
    pub fn arithmetic(&self) -> String {
        let program = format!(
            "{} {} {}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            std::env::consts::OS
        );
        match self {
            Engine::Gpu(model) => {
                let (gpu, options) = (model.gpu(), model.options());
                format!(
                    "gpu {program} {} {:?} {:?} {options:?} {}",
                    shaders_digest(),
                    gpu.info,
                    gpu.tier,
                    model.context_window()
                )
            }
            Engine::Cpu(model) => format!("cpu {program} {:?}", model.options()),
        }
    }
}

fn shaders_digest() -> String {
    let mut hash = Sha256::new();
    for (name, text) in shader::KERNELS.iter().chain(shader::LIBRARY) {
        for part in [name, text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    crate::memory_file::hex(&hash.finalize())
}
