//! From the blocks of a GGUF file to rows as the shaders read them: the same numbers in another
//! order, so that four neighbours lie together and no scale is spread over several bytes. Owns that
//! order for the K types (`shaders/lib/weight_q*_k.wgsl`) and the way back for the CPU twin.

use super::blocks::{GgmlType, SUPER_BLOCK, scale_and_minimum};
use crate::shader::Storage;

/// Bytes of scales a K block has on the GPU: two f16 and 16 bytes.
pub const K_SCALE_BYTES: usize = 20;

/// The storage that holds a type's numbers exactly, `None` if there is none: such tensors are widened
/// and stored anew.
pub fn storage(ty: GgmlType) -> Option<Storage> {
    match ty {
        GgmlType::F32 => Some(Storage::F32),
        GgmlType::F16 => Some(Storage::F16),
        GgmlType::Q4_0 => Some(Storage::Q4),
        GgmlType::Q8_0 => Some(Storage::Q8),
        GgmlType::Q4_K => Some(Storage::Q4K),
        GgmlType::Q5_K => Some(Storage::Q5K),
        GgmlType::Q6_K => Some(Storage::Q6K),
        GgmlType::BF16 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 => None,
    }
}

/// Stores a row of whole blocks into `values` and `scales`, whose lengths are those of
/// [`row_bytes`](crate::weights::quantize::row_bytes) for [`storage`]; false, and nothing stored, for
/// a type that has none in blocks.
pub fn repack_row(ty: GgmlType, blocks: &[u8], values: &mut [u8], scales: &mut [u8]) -> bool {
    let (value_bytes, scale_bytes) = match ty {
        GgmlType::Q4_0 => (16, 2),
        GgmlType::Q8_0 => (32, 2),
        GgmlType::Q4_K => (128, K_SCALE_BYTES),
        GgmlType::Q5_K => (160, K_SCALE_BYTES),
        GgmlType::Q6_K => (192, K_SCALE_BYTES),
        _ => return false,
    };
    values.fill(0);
    scales.fill(0);
    let targets = values.chunks_exact_mut(value_bytes).zip(scales.chunks_exact_mut(scale_bytes));
    for (block, (values, scales)) in blocks.chunks_exact(ty.block_bytes()).zip(targets) {
        match ty {
            GgmlType::Q4_0 => {
                scales.copy_from_slice(&block[..2]);
                for i in 0..32 {
                    set_nibble(values, i, block[2 + i % 16] >> (i / 16 * 4));
                }
            }
            GgmlType::Q8_0 => {
                scales.copy_from_slice(&block[..2]);
                values.copy_from_slice(&block[2..34]);
            }
            GgmlType::Q6_K => {
                scales[..2].copy_from_slice(&block[208..210]);
                scales[4..].copy_from_slice(&block[192..208]);
                for i in 0..SUPER_BLOCK {
                    let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
                    set_nibble(
                        values,
                        i,
                        block[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4),
                    );
                    let upper = block[128 + half * 32 + l] >> (quarter * 2) & 3;
                    values[128 + i / 4] |= upper << (i % 4 * 2);
                }
            }
            _ => {
                scales[..4].copy_from_slice(&block[..4]);
                for group in 0..8 {
                    let (scale, minimum) = scale_and_minimum(&block[4..16], group);
                    (scales[4 + group], scales[12 + group]) = (scale, minimum);
                }
                let has_fifth = ty == GgmlType::Q5_K;
                let quants = &block[if has_fifth { 48 } else { 16 }..];
                for i in 0..SUPER_BLOCK {
                    let (group, l) = (i / 32, i % 32);
                    set_nibble(values, i, quants[group / 2 * 32 + l] >> (group % 2 * 4));
                    if has_fifth {
                        values[128 + i / 8] |= (block[16 + l] >> group & 1) << (i % 8);
                    }
                }
            }
        }
    }
    true
}

/// Element `i` of a row in a K storage, as the kernels see it.
pub fn decode_element(storage: Storage, values: &[u8], scales: &[u8], i: usize) -> f32 {
    let (block, i) = (i / SUPER_BLOCK, i % SUPER_BLOCK);
    let block_bytes = match storage {
        Storage::Q4K => 128,
        Storage::Q5K => 160,
        _ => 192,
    };
    let values = &values[block * block_bytes..][..block_bytes];
    let scales = &scales[block * K_SCALE_BYTES..][..K_SCALE_BYTES];
    let half = |at: usize| half::f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
    let low = values[i / 2] >> (i % 2 * 4) & 15;
    if storage == Storage::Q6K {
        let upper = values[128 + i / 4] >> (i % 4 * 2) & 3;
        let step = half(0) * f32::from(scales[4 + i / 16] as i8);
        return step * (f32::from(low | upper << 4) - 32.0);
    }
    let fifth = match storage {
        Storage::Q5K => values[128 + i / 8] >> (i % 8) & 1,
        _ => 0,
    };
    let (scale, minimum) = (scales[4 + i / 32], scales[12 + i / 32]);
    half(0) * f32::from(scale) * f32::from(low | fifth << 4) - half(2) * f32::from(minimum)
}

/// Nibble `i` of zeroed bytes.
fn set_nibble(bytes: &mut [u8], i: usize, nibble: u8) {
    bytes[i / 2] |= (nibble & 15) << (i % 2 * 4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::gguf::blocks::decode;
    use crate::weights::quantize::{decode_row, row_bytes};

    /// Bytes that repeat after a long while, with f16 scales that are no NaN.
    fn some_blocks(ty: GgmlType, n: usize) -> Vec<u8> {
        let mut seed = 7u32;
        let mut bytes = vec![0; n * ty.block_bytes()];
        for byte in &mut bytes {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        let halves: &[usize] = match ty {
            GgmlType::Q4_K | GgmlType::Q5_K => &[1, 3],
            GgmlType::Q6_K => &[209],
            _ => &[1],
        };
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            for &at in halves {
                block[at] = 0x1c | block[at] & 0x83; // small, of either sign
            }
        }
        bytes
    }

    #[test]
    fn repacked_rows_hold_the_numbers_of_the_file() {
        for ty in GgmlType::ALL {
            let Some(storage) = storage(ty).filter(|_| ty.is_quantized()) else { continue };
            let n = 3 * ty.block_len();
            let mut blocks = some_blocks(ty, 3);
            if ty == GgmlType::Q8_0 {
                // the kernel's range ends at −127, as that of every writer does
                for block in blocks.chunks_exact_mut(34) {
                    block[2..].iter_mut().filter(|b| **b == 128).for_each(|b| *b = 129);
                }
            }
            let mut expected = vec![0.0; n];
            decode(ty, &blocks, &mut expected);
            let (value_bytes, scale_bytes) = row_bytes(storage, n);
            let (mut values, mut scales) = (vec![255; value_bytes], vec![255; scale_bytes]);
            assert!(repack_row(ty, &blocks, &mut values, &mut scales));
            let mut found = vec![0.0; n];
            decode_row(storage, &values, &scales, &mut found);
            assert_eq!(found, expected, "{}", ty.name());
            assert!(expected.iter().any(|x| *x < 0.0) && expected.iter().any(|x| *x > 0.0));
        }
    }

    #[test]
    fn types_without_a_storage_in_blocks_are_left_alone() {
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q4_1, GgmlType::Q5_0] {
            let mut values = [9; 64];
            assert!(!repack_row(ty, &[0; 64], &mut values, &mut []));
            assert_eq!(values, [9; 64]);
        }
    }
}
