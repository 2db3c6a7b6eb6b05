use super::*;

#[test]
fn every_type_is_widened_as_llama_cpp_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/blocks.bin");
    let file = std::fs::read(path).unwrap();
    let mut rest = file.as_slice();
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken
    };
    for expected_ty in GgmlType::ALL {
        let ty = GgmlType::from_id(u32_at(take(4), 0)).unwrap();
        assert_eq!(ty, expected_ty);
        let n_blocks = u32_at(take(4), 0) as usize;
        let blocks = take(n_blocks * ty.block_bytes());
        let mut found = vec![0.0f32; n_blocks * ty.block_len()];
        decode(ty, blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(take(found.len() * 4).chunks(4)).enumerate()
        {
            let expected = f32::from_bits(u32_at(expected, 0));
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{} {i}: {found} {expected}",
                ty.name()
            );
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn ids_names_and_sizes_agree() {
    for ty in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
        assert_eq!(GgmlType::from_name(&ty.name().to_lowercase()), Some(ty));
        let block = ty.block_len() as u64;
        assert_eq!(ty.row_bytes(0), Some(0));
        assert_eq!(ty.row_bytes(3 * block), Some(3 * ty.block_bytes() as u64));
        assert_eq!(ty.row_bytes(block * 2 + 1).is_none(), ty.is_quantized());
    }
    // Q8_1, Q2_K, Q8_K, an integer
    for id in [4, 5, 9, 10, 11, 15, 24, 99] {
        assert_eq!(GgmlType::from_id(id), None);
    }
    assert_eq!(GgmlType::F32.row_bytes(u64::MAX), None);
    assert_eq!(GgmlType::from_name("Q4_K_M"), None);
}

#[test]
#[should_panic(expected = "are not 64 elements of Q4_0")]
fn a_wrong_number_of_bytes_is_a_mistake_of_the_caller() {
    decode(GgmlType::Q4_0, &[0; 18], &mut [0.0; 64]);
}
