//! SHA-256 of bytes as they come, which browsers offer only for bytes that are all there.

use js_sys::Uint8Array;
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

/// Bytes that are copied into this module's memory at a time.
const PIECE_BYTES: usize = 64 << 10;

/// A hash that grows with its input.
#[wasm_bindgen]
pub struct WebSha256 {
    hash: Sha256,
    piece: Vec<u8>,
}

#[wasm_bindgen]
impl WebSha256 {
    /// The hash of no bytes.
    #[wasm_bindgen(constructor)]
    pub fn new() -> WebSha256 {
        WebSha256 { hash: Sha256::new(), piece: vec![0; PIECE_BYTES] }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &Uint8Array) {
        let length = bytes.length();
        for from in (0..length).step_by(PIECE_BYTES) {
            let to = length.min(from + PIECE_BYTES as u32);
            let piece = &mut self.piece[..(to - from) as usize];
            bytes.subarray(from, to).copy_to(piece);
            self.hash.update(piece);
        }
    }

    /// The hash of all that was added, 64 hexadecimal digits; ends this object.
    pub fn digest(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
