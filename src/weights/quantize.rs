//! How a matrix row is stored on the GPU: f32, f16, bf16, blocks of 32 in 8 or 4 bits, or GGUF's blocks of
//! 256 (`gguf/repack.rs`). Owns the byte layout that `shaders/lib/weight_*.wgsl` read, and its exact
//! inverse for the CPU twin.
//!
//! Rows are padded with zeros to whole quads (f32, f16, bf16) or whole blocks (q8, q4). The scales of a
//! quantised row are f16, padded to an even number so that every row begins on a u32.

use super::gguf::blocks::{GgmlType, SUPER_BLOCK};
use super::gguf::encode::encode;
use super::gguf::repack::{K_SCALE_BYTES, decode_element, repack_row};
use crate::shader::Storage;
use half::{bf16, f16};

/// Elements that share a scale.
pub const BLOCK: usize = 32;

/// Bytes of one stored row of `k` elements: (values, scales).
pub fn row_bytes(storage: Storage, k: usize) -> (usize, usize) {
    let scales = k.div_ceil(BLOCK).next_multiple_of(2) * 2;
    match storage {
        Storage::F32 => (k.next_multiple_of(4) * 4, 0),
        Storage::F16 | Storage::Bf16 => (k.next_multiple_of(4) * 2, 0),
        Storage::Q8 => (k.next_multiple_of(BLOCK), scales),
        Storage::Q4 => (k.next_multiple_of(BLOCK) / 2, scales),
        Storage::Q4K | Storage::Q5K | Storage::Q6K => {
            let blocks = k.div_ceil(SUPER_BLOCK);
            let words = [32, 40, 48][storage as usize - Storage::Q4K as usize];
            (blocks * words * 4, blocks * K_SCALE_BYTES)
        }
    }
}

/// `weight_stride` of the kernels: storage units (vec4, 4 × f16 or bf16, or u32 of quants) a row.
pub fn row_stride(storage: Storage, k: usize) -> u32 {
    let unit = match storage {
        Storage::F32 => 16,
        Storage::F16 | Storage::Bf16 => 8,
        _ => 4,
    };
    (row_bytes(storage, k).0 / unit) as u32
}

/// Stores one row into `values` and `scales`, whose lengths are those of [`row_bytes`].
pub fn encode_row(storage: Storage, row: &[f32], values: &mut [u8], scales: &mut [u8]) {
    match storage {
        Storage::F32 => {
            for (bytes, x) in values.chunks_exact_mut(4).zip(padded(row)) {
                bytes.copy_from_slice(&x.to_le_bytes());
            }
        }
        Storage::F16 => {
            for (bytes, x) in values.chunks_exact_mut(2).zip(padded(row)) {
                bytes.copy_from_slice(&f16::from_f32(x).to_le_bytes());
            }
        }
        Storage::Bf16 => {
            for (bytes, x) in values.chunks_exact_mut(2).zip(padded(row)) {
                bytes.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
            }
        }
        Storage::Q4K | Storage::Q5K | Storage::Q6K => {
            let ty = match storage {
                Storage::Q4K => GgmlType::Q4_K,
                Storage::Q5K => GgmlType::Q5_K,
                _ => GgmlType::Q6_K,
            };
            let whole: Vec<f32> =
                padded(row).take(row.len().next_multiple_of(SUPER_BLOCK)).collect();
            let mut blocks = vec![0; whole.len() / SUPER_BLOCK * ty.block_bytes()];
            encode(ty, &whole, &mut blocks);
            repack_row(ty, &blocks, values, scales);
        }
        Storage::Q8 | Storage::Q4 => {
            scales.fill(0);
            let block_bytes = if storage == Storage::Q8 { BLOCK } else { BLOCK / 2 };
            let blocks = row.chunks(BLOCK).zip(values.chunks_exact_mut(block_bytes));
            for ((part, bytes), scale_bytes) in blocks.zip(scales.chunks_exact_mut(2)) {
                let mut block = [0.0; BLOCK];
                block[..part.len()].copy_from_slice(part);
                let scale = match storage {
                    Storage::Q8 => encode_q8(&block, bytes),
                    _ => encode_q4(&block, bytes),
                };
                scale_bytes.copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}

/// The values that the kernels see for a stored row of `row.len()` elements.
pub fn decode_row(storage: Storage, values: &[u8], scales: &[u8], row: &mut [f32]) {
    let scale = |i: usize| {
        let at = i / BLOCK * 2;
        f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32()
    };
    for (i, x) in row.iter_mut().enumerate() {
        *x = match storage {
            Storage::F32 => {
                let at = 4 * i;
                f32::from_le_bytes([values[at], values[at + 1], values[at + 2], values[at + 3]])
            }
            Storage::F16 => f16::from_le_bytes([values[2 * i], values[2 * i + 1]]).to_f32(),
            Storage::Bf16 => bf16::from_le_bytes([values[2 * i], values[2 * i + 1]]).to_f32(),
            Storage::Q8 => f32::from(values[i] as i8) * scale(i),
            Storage::Q4 => {
                let nibble = (values[i / 2] >> (4 * (i % 2))) & 15;
                (f32::from(nibble) - 8.0) * scale(i)
            }
            Storage::Q4K | Storage::Q5K | Storage::Q6K => {
                decode_element(storage, values, scales, i)
            }
        };
    }
}

/// Replaces `rows` (each of `k` elements) by what remains of them in this storage.
pub fn round_trip(storage: Storage, rows: &mut [f32], k: usize) {
    let (value_bytes, scale_bytes) = row_bytes(storage, k);
    let (mut values, mut scales) = (vec![0; value_bytes], vec![0; scale_bytes]);
    for row in rows.chunks_exact_mut(k) {
        encode_row(storage, row, &mut values, &mut scales);
        decode_row(storage, &values, &scales, row);
    }
}

fn padded(row: &[f32]) -> impl Iterator<Item = f32> + '_ {
    row.iter().copied().chain(std::iter::repeat(0.0))
}

/// A scale that f16 can hold; beyond it lie only matrices that no model has.
fn to_scale(scale: f32) -> f16 {
    f16::from_f32(scale.clamp(-65504.0, 65504.0))
}

/// One block into 32 × i8 with scale = max|w| / 127.
fn encode_q8(block: &[f32; BLOCK], bytes: &mut [u8]) -> f16 {
    let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scale = to_scale(largest / 127.0);
    let inverse = inverse(scale);
    for (byte, x) in bytes.iter_mut().zip(block) {
        *byte = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    scale
}

/// One block into 32 × 4 bits, −8..7 around zero. The largest weight sits at one end of the range;
/// of a few scales around that, the one with the smallest squared error is kept.
fn encode_q4(block: &[f32; BLOCK], bytes: &mut [u8]) -> f16 {
    let extreme = block.iter().fold(0.0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    let quant = |x: f32, inverse: f32| (x * inverse).round().clamp(-8.0, 7.0);
    let error = |scale: f16| -> f32 {
        let (inverse, scale) = (inverse(scale), scale.to_f32());
        let squares = block.iter().map(|&x| (x - quant(x, inverse) * scale).powi(2));
        squares.sum()
    };
    let mut best = to_scale(extreme / -8.0);
    let mut best_error = error(best);
    for steps in [-8.6, -7.7, -7.4, -7.0] {
        let candidate = to_scale(extreme / steps);
        let candidate_error = error(candidate);
        if candidate_error < best_error {
            (best, best_error) = (candidate, candidate_error);
        }
    }
    let inverse = inverse(best);
    for (byte, pair) in bytes.iter_mut().zip(block.chunks_exact(2)) {
        let nibble = |x: f32| (quant(x, inverse) + 8.0) as u8;
        *byte = nibble(pair[0]) | nibble(pair[1]) << 4;
    }
    best
}

/// 1 / scale, or 0 for an all-zero block.
fn inverse(scale: f16) -> f32 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * i) as f32 * 0.37).sin() * 0.2).collect()
    }

    fn worst(storage: Storage, row: &[f32]) -> f32 {
        let mut copy = row.to_vec();
        round_trip(storage, &mut copy, row.len());
        let errors = row.iter().zip(&copy).map(|(a, b)| (a - b).abs());
        errors.fold(0.0, f32::max)
    }

    #[test]
    fn a_round_trip_loses_no_more_than_half_a_step() {
        // odd lengths: the last block and the last quad are padded
        for n in [1, 24, 32, 33, 100, 2048] {
            let row = wave(n);
            assert_eq!(worst(Storage::F32, &row), 0.0);
            assert!(worst(Storage::F16, &row) <= 0.2 * 2f32.powi(-11));
            assert!(worst(Storage::Bf16, &row) <= 0.2 * 2f32.powi(-8));
            // half a step, and the rounding of the scale to f16 over 127 steps
            assert!(worst(Storage::Q8, &row) <= 0.2 / 127.0 * (0.5 + 127.0 * 2f32.powi(-11)));
            // q4: 8 steps one way, 7 the other, so an opposite extreme may lose a whole step
            assert!(worst(Storage::Q4, &row) <= 0.2 / 7.0 * 1.01);
        }
    }

    #[test]
    fn zeros_stay_zero_and_extremes_stay_finite() {
        for storage in [Storage::F16, Storage::Bf16, Storage::Q8, Storage::Q4] {
            assert_eq!(worst(storage, &[0.0; 40]), 0.0);
            let mut row = vec![3e38, -3e38, 1e-30, 0.0];
            round_trip(storage, &mut row, 4);
            assert!(storage == Storage::F16 || row.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn the_scale_search_helps() {
        let row: Vec<f32> = (0..4096u32)
            .map(|i| (i.wrapping_mul(2654435761) >> 8) as f32 / 8388608.0 - 1.0)
            .collect();
        let mut searched = row.clone();
        round_trip(Storage::Q4, &mut searched, 32);
        let mse: f32 =
            row.iter().zip(&searched).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / 4096.0;
        // uniform weights, steps of 1/8: the plain scale gives 1/12 · (1/8)² = 1.30e-3
        assert!(mse < 1.45e-3, "{mse}");
    }

    fn encoded(storage: Storage, row: &[f32]) -> (Vec<u8>, Vec<u8>) {
        let (value_bytes, scale_bytes) = row_bytes(storage, row.len());
        let (mut values, mut scales) = (vec![0xee; value_bytes], vec![0xee; scale_bytes]);
        encode_row(storage, row, &mut values, &mut scales);
        (values, scales)
    }

    #[test]
    fn rows_begin_on_whole_units_and_are_padded_with_zeros() {
        for (storage, k, expected, stride) in [
            (Storage::F32, 5, (32, 0), 2),
            (Storage::F16, 5, (16, 0), 2),
            (Storage::Bf16, 5, (16, 0), 2),
            (Storage::Q8, 33, (64, 4), 16),
            (Storage::Q8, 65, (96, 8), 24),
            (Storage::Q4, 33, (32, 4), 8),
            (Storage::Q4, 1, (16, 4), 4),
            (Storage::Q4, 2048, (1024, 128), 256),
        ] {
            assert_eq!(row_bytes(storage, k), expected, "{storage:?} {k}");
            assert_eq!(row_stride(storage, k), stride, "{storage:?} {k}");
        }
        let (values, _) = encoded(Storage::F32, &[1.0; 5]);
        assert_eq!(values[20..], [0; 12]);
        // the padding of a q4 row is the nibble that means 0, the scale beside the last unused
        let (values, scales) = encoded(Storage::Q4, &[1.0; 33]);
        assert_eq!(values[17..], [0x88; 15]);
        assert_eq!(scales.len(), 4);
        let (_, scales) = encoded(Storage::Q8, &[1.0; 65]);
        assert_eq!(scales[6..], [0, 0]);
    }

    #[test]
    fn blocks_have_the_layout_that_the_shaders_read() {
        // −127..127 in steps of the scale 0.5; −8..7 likewise
        let mut row = [0.0; 32];
        row[..4].copy_from_slice(&[63.5, -63.5, 0.5, -1.0]);
        let (values, scales) = encoded(Storage::Q8, &row);
        assert_eq!(values[..5], [127, 129, 1, 254, 0]);
        assert_eq!(scales[..2], f16::from_f32(0.5).to_le_bytes());
        row[..4].copy_from_slice(&[-4.0, 3.5, 0.5, -0.5]);
        let (values, scales) = encoded(Storage::Q4, &row);
        assert_eq!(values[..3], [0xf0, 0x79, 0x88]);
        assert_eq!(scales[..2], f16::from_f32(0.5).to_le_bytes());
    }

    #[test]
    fn blocks_do_not_share_a_scale() {
        let mut row = vec![1e-3; 64];
        row[32..].fill(100.0);
        for storage in [Storage::Q8, Storage::Q4] {
            let mut copy = row.clone();
            round_trip(storage, &mut copy, 64);
            for (found, expected) in copy.iter().zip(&row) {
                // the f16 of a small scale keeps few digits
                assert!((found / expected - 1.0).abs() < 5e-3, "{storage:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_do_no_harm_to_their_neighbours() {
        for storage in [Storage::Q8, Storage::Q4] {
            let mut row = [0.5; 64];
            row[3] = f32::NAN;
            row[40] = f32::INFINITY;
            round_trip(storage, &mut row, 64);
            assert!(row.iter().all(|x| x.is_finite()), "{storage:?}");
            assert!((row[4] - 0.5).abs() < 0.01, "{storage:?}: {}", row[4]);
        }
    }
}
