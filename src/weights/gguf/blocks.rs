//! The types in which a GGUF file stores numbers, and how each is widened to f32. Owns ggml's ids,
//! names, sizes and byte layouts; `encode.rs` is the way back.
//!
//! A block holds `block_len` consecutive elements of a row. All numbers are little-endian, `d` and
//! `m` are f16:
//!
//! ```text
//! Q4_0  d, 16 B quants                   (q − 8)·d          low nibbles 0..16, high nibbles 16..32
//! Q4_1  d, m, 16 B quants                q·d + m
//! Q5_0  d, 4 B fifth bits, 16 B quants   (q − 16)·d         fifth bit of element i is bit i
//! Q5_1  d, m, 4 B fifth bits, 16 B       q·d + m
//! Q8_0  d, 32 × i8                       q·d
//! Q4_K  d, m, 12 B scales, 128 B         q·(d·s) − m·t      8 groups of 32, s and t of 6 bits
//! Q5_K  d, m, 12 B scales, 32 B fifth bits, 128 B           the same
//! Q6_K  128 B low bits, 64 B high bits, 16 × i8 scales, d   (q − 32)·(d·s)   16 groups of 16
//! ```

use half::{bf16, f16};

/// A type of tensor elements in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that users of GGUF know")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    BF16,
}

/// Elements of a K-type block.
pub const SUPER_BLOCK: usize = 256;
/// Elements of a block of the older types.
pub const SMALL_BLOCK: usize = 32;

impl GgmlType {
    /// All of them, by id.
    pub const ALL: [GgmlType; 11] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
        GgmlType::BF16,
    ];

    /// The type with this id in a tensor's header, `None` for one that is not read here.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|ty| ty.id() == id)
    }

    /// The type of this name, in any case (`q4_k`), `None` for another word.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// ggml's number for it.
    pub fn id(self) -> u32 {
        match self {
            GgmlType::F32 => 0,
            GgmlType::F16 => 1,
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q5_0 => 6,
            GgmlType::Q5_1 => 7,
            GgmlType::Q8_0 => 8,
            GgmlType::Q4_K => 12,
            GgmlType::Q5_K => 13,
            GgmlType::Q6_K => 14,
            GgmlType::BF16 => 30,
        }
    }

    /// ggml's name for it.
    pub fn name(self) -> &'static str {
        match self {
            GgmlType::F32 => "F32",
            GgmlType::F16 => "F16",
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q4_K => "Q4_K",
            GgmlType::Q5_K => "Q5_K",
            GgmlType::Q6_K => "Q6_K",
            GgmlType::BF16 => "BF16",
        }
    }

    /// Elements of a block; rows are whole blocks.
    pub fn block_len(self) -> usize {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => 1,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {
                SMALL_BLOCK
            }
            GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => SUPER_BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::BF16 => 2,
            GgmlType::Q4_0 => 18,
            GgmlType::Q4_1 => 20,
            GgmlType::Q5_0 => 22,
            GgmlType::Q5_1 => 24,
            GgmlType::Q8_0 => 34,
            GgmlType::Q4_K => 144,
            GgmlType::Q5_K => 176,
            GgmlType::Q6_K => 210,
        }
    }

    /// Bytes of a row of `n` elements, `None` if `n` is no multiple of the block or too large.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let block_len = self.block_len() as u64;
        match n % block_len {
            0 => (n / block_len).checked_mul(self.block_bytes() as u64),
            _ => None,
        }
    }

    /// True for types whose elements share scales.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

/// Widens whole blocks to f32.
///
/// # Panics
/// If `out` is not a whole number of blocks, or `bytes` are not exactly theirs.
pub fn decode(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    let (block_len, block_bytes) = (ty.block_len(), ty.block_bytes());
    assert!(
        out.len().is_multiple_of(block_len) && bytes.len() == out.len() / block_len * block_bytes,
        "{} bytes are not {} elements of {}",
        bytes.len(),
        out.len(),
        ty.name()
    );
    let blocks = bytes.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_len));
    match ty {
        GgmlType::F32 => {
            blocks.for_each(|(b, x)| x[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        }
        GgmlType::F16 => blocks.for_each(|(b, x)| x[0] = f16_at(b, 0)),
        GgmlType::BF16 => {
            blocks.for_each(|(b, x)| x[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32())
        }
        GgmlType::Q4_0 => blocks.for_each(|(b, x)| small(f16_at(b, 0), -8, NOTHING, 0, &b[2..], x)),
        GgmlType::Q4_1 => {
            blocks.for_each(|(b, x)| small(f16_at(b, 0), 0, f16_at(b, 2), 0, &b[4..], x))
        }
        GgmlType::Q5_0 => {
            blocks.for_each(|(b, x)| small(f16_at(b, 0), -16, NOTHING, u32_at(b, 2), &b[6..], x))
        }
        GgmlType::Q5_1 => {
            blocks.for_each(|(b, x)| small(f16_at(b, 0), 0, f16_at(b, 2), u32_at(b, 4), &b[8..], x))
        }
        GgmlType::Q8_0 => blocks.for_each(|(b, x)| {
            let d = f16_at(b, 0);
            for (x, &q) in x.iter_mut().zip(&b[2..]) {
                *x = f32::from(q as i8) * d;
            }
        }),
        GgmlType::Q4_K => blocks.for_each(|(b, x)| with_minimum(b, None, &b[16..], x)),
        GgmlType::Q5_K => blocks.for_each(|(b, x)| with_minimum(b, Some(&b[16..48]), &b[48..], x)),
        GgmlType::Q6_K => blocks.for_each(|(b, x)| q6_k(b, x)),
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Added to anything, it leaves it as it is, −0 included.
const NOTHING: f32 = -0.0;

/// Q4_0 to Q5_1: `(q + zero)·d + m`, the fifth bits in `high`.
fn small(d: f32, zero: i32, m: f32, high: u32, quants: &[u8], out: &mut [f32]) {
    for (j, &pair) in quants.iter().enumerate() {
        let fifth = |i: usize| (high >> i & 1) << 4;
        let low = (u32::from(pair & 15) | fifth(j)) as i32 + zero;
        let top = (u32::from(pair >> 4) | fifth(j + 16)) as i32 + zero;
        out[j] = low as f32 * d + m;
        out[j + 16] = top as f32 * d + m;
    }
}

/// Scale and minimum of group `j` out of the 12 bytes that hold eight of each, 6 bits apiece: those
/// of groups 0..4 are the low 6 bits of bytes 0..4 and 4..8, whose top bits complete the nibbles in
/// bytes 8..12 for the rest.
pub(super) fn scale_and_minimum(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let nibbles = packed[j + 4];
    (nibbles & 15 | packed[j - 4] >> 6 << 4, nibbles >> 4 | packed[j] >> 6 << 4)
}

/// Q4_K and, with its fifth bits, Q5_K.
fn with_minimum(block: &[u8], fifth: Option<&[u8]>, quants: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (step, offset) = (d * f32::from(scale), m * f32::from(minimum));
        // two groups share 32 bytes: low nibbles, then high ones
        let pairs = &quants[group / 2 * 32..][..32];
        for (l, x) in out.iter_mut().enumerate() {
            let nibble = pairs[l] >> (group % 2 * 4) & 15;
            let high = fifth.map_or(0, |bits| (bits[l] >> group & 1) << 4);
            *x = step * f32::from(nibble | high) - offset;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        let scales = &block[192 + half * 8..][..8];
        for (i, x) in out.iter_mut().enumerate() {
            // quarters of 32: low nibbles of 64 bytes, then their high ones; two bits each from `high`
            let (quarter, l) = (i / 32, i % 32);
            let nibble = low[quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
            let top = high[l] >> (quarter * 2) & 3;
            let step = d * f32::from(scales[i / 16] as i8);
            *x = step * (i32::from(nibble | top << 4) - 32) as f32;
        }
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
