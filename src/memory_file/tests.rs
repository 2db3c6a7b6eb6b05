//! Files with a right checksum and wrong content, and what `encode` and `check_fits` refuse.
//! Damaged bytes are in tests/memory_file.rs.

use super::*;

fn identity() -> MemoryIdentity {
    MemoryIdentity {
        backbone: "nano \"ä\"".into(),
        backbone_fingerprint: "0f".repeat(32),
        quantisation: "q4".into(),
        adapter_hash: "a1".repeat(32),
        write_mode: WriteGranularity::SentenceMean,
        dims: MemoryDims { layers: vec![0, 5], num_state_heads: 2, rank: 3 },
    }
}

fn memory() -> MemoryFile {
    let mut file = MemoryFile::new(identity(), 1_700_000_000_000);
    for (i, value) in file.state.values.iter_mut().enumerate() {
        *value = i as f32 * 0.37 - 5.0;
    }
    // Values that only an exact copy of the bits keeps.
    file.state.values[0] = -0.0;
    file.state.values[1] = f32::MIN_POSITIVE / 8.0;
    file.state.values[2] = f32::MAX;
    file.header.counters = MemoryCounters {
        generation: 7,
        turns: 3,
        tokens_seen: 120,
        tokens_written: 90,
        writes: MAX_EXACT,
    };
    file.header.updated_ms += 5;
    file
}

/// A file with a right checksum around any header and states.
fn seal(header: &[u8], states: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(1u32.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend((states.len() as u32).to_le_bytes());
    bytes.extend(header);
    bytes.extend(states);
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

fn states(memory: &MemoryFile) -> Vec<u8> {
    let values = memory.state.values.iter();
    values.flat_map(|x| x.to_le_bytes()).collect()
}

/// The reason for which these bytes are refused.
fn refusal(bytes: &[u8]) -> String {
    match MemoryFile::decode(bytes, "some.dmem") {
        Err(Error::Format { file, reason, .. }) => {
            assert_eq!(file, "some.dmem");
            reason
        }
        other => panic!("expected a format error, got {other:?}"),
    }
}

fn assert_refused(bytes: &[u8], expected: &str) {
    let reason = refusal(bytes);
    assert!(reason.contains(expected), "{reason:?} has no {expected:?}");
}

/// The memory's own header with one piece of text replaced, padded again.
fn edited(from: &str, to: &str) -> Vec<u8> {
    let memory = memory();
    let json = String::from_utf8(memory.header.to_bytes()).unwrap();
    assert_eq!(json.matches(from).count(), 1, "{from:?} in {json}");
    let mut header = json.trim_end().replace(from, to).into_bytes();
    header.resize(header.len().next_multiple_of(4), b' ');
    seal(&header, &states(&memory))
}

#[test]
fn decode_is_the_inverse_of_encode_bit_for_bit() {
    let memory = memory();
    let bytes = memory.encode().unwrap();
    assert_eq!(bytes, memory.encode().unwrap());
    assert_eq!(bytes, seal(&memory.header.to_bytes(), &states(&memory)));
    let again = MemoryFile::decode(&bytes, "some.dmem").unwrap();
    assert_eq!(again.header, memory.header);
    let bits =
        |file: &MemoryFile| -> Vec<u32> { file.state.values.iter().map(|x| x.to_bits()).collect() };
    assert_eq!(bits(&again), bits(&memory));
    assert_eq!(again.encode().unwrap(), bytes);
    assert_eq!(checksum_hex(&bytes), hex(&Sha256::digest(&bytes[..bytes.len() - 32])));
}

#[test]
fn states_are_aligned_for_every_length_of_header() {
    for n in 1..9 {
        let mut memory = memory();
        memory.header.identity.backbone = "x".repeat(n);
        let bytes = memory.encode().unwrap();
        assert_eq!((bytes.len() - CHECKSUM_BYTES) % 4, 0);
        assert_eq!(MemoryFile::decode(&bytes, "").unwrap(), memory);
    }
}

#[test]
fn foreign_newer_and_oversized_files_are_refused_with_the_reason() {
    assert_refused(b"GGUF\x03\0\0\0 and more", "another kind of file");
    assert_refused(b"", "truncated after 0 bytes");
    assert_refused(b"delta", "truncated after 5 bytes");
    let mut bytes = memory().encode().unwrap();
    bytes[8] = 2;
    assert_refused(&bytes, "format version 2, newer than the 1");
    bytes[8] = 0;
    assert_refused(&bytes, "no format version 0");
    assert_refused(&vec![0; MAX_FILE_BYTES + 1], "at most 67108864");

    let mut bytes = memory().encode().unwrap();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_refused(&bytes, "a header of 4294967295 bytes");
    let mut bytes = memory().encode().unwrap();
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_refused(&bytes, "truncated");
}

#[test]
fn wrong_headers_are_refused_although_the_checksum_is_right() {
    let cases = [
        (r#"{"identity""#, r#"{"extra":1,"identity""#, "unknown field"),
        (r#","updated_ms":1700000000005"#, "", "missing field"),
        (r#""rank":3"#, r#""rank":3,"rank":3"#, "duplicate field"),
        (r#""rank":3"#, r#""rank": 3"#, "canonical"),
        (r#""turns":3"#, r#""turns":03"#, "header:"),
        ("ä", r"\u00e4", "canonical"),
        ("ä", r"\u001b[2J", "control characters"),
        (r#""turns":3"#, r#""turns":-3"#, "header:"),
        (r#""turns":3"#, r#""turns":9007199254740992"#, "`turns` is 9007199254740992"),
        (r#""generation":7,"turns":3"#, r#""turns":3,"generation":7"#, "canonical"),
        ("sentence_mean", "sentence", "`write_mode`"),
        (r#""q4""#, r#""../q4""#, "`quantisation`"),
        (r#""q4""#, r#""""#, "`quantisation`"),
        (r#""adapter_hash":"a1"#, r#""adapter_hash":"A1"#, "`adapter_hash`"),
        (r#""adapter_hash":"a1"#, r#""adapter_hash":""#, "`adapter_hash`"),
        (r#""layers":[0,5]"#, r#""layers":[]"#, "`layers` lists 0"),
        (r#""layers":[0,5]"#, r#""layers":[5,5]"#, "ascending"),
        (r#""layers":[0,5]"#, r#""layers":[0,1024]"#, "ascending"),
        (r#""layers":[0,5]"#, r#""layers":[0]"#, "144 bytes of states"),
        (r#""rank":3"#, r#""rank":0"#, "`rank` is 0"),
        (r#""rank":3"#, r#""rank":4294967295"#, "`rank` is 4294967295"),
        (r#""rank":3"#, r#""rank":128"#, "need 262144"),
        (r#""num_state_heads":2"#, r#""num_state_heads":4294967295"#, "`num_state_heads`"),
        (r#""num_state_heads":2"#, r#""num_state_heads":0"#, "`num_state_heads`"),
    ];
    for (from, to, expected) in cases {
        assert_refused(&edited(from, to), expected);
    }
}

#[test]
fn hostile_headers_end_in_an_error() {
    let memory = memory();
    let states = states(&memory);
    assert_refused(&seal(b"", &states), "header:");
    assert_refused(&seal(b"null", &states), "header:");
    assert_refused(&seal(&[0xff; 8], &states), "header:");
    assert_refused(&seal(&b"[".repeat(MAX_HEADER_BYTES), &states), "header:");
    assert_refused(&seal(&b" ".repeat(MAX_HEADER_BYTES + 1), &states), "a header of 65537");
    let many = format!(r#"{{"identity":{{"layers":[{}0]"#, "0,".repeat(30_000));
    assert_refused(&seal(many.as_bytes(), &states), "header:");
    let mut padded = memory.header.to_bytes();
    padded.extend(b"    ");
    assert_refused(&seal(&padded, &states), "canonical");
    assert_refused(&seal(&memory.header.to_bytes(), &states[4..]), "bytes of states");
    assert_refused(&seal(&memory.header.to_bytes(), &states[1..]), "bytes of states");
}

#[test]
fn states_that_are_not_finite_are_neither_read_nor_written() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut memory = memory();
        memory.state.values[20] = bad;
        let expected = format!("the state of layer 5 is {bad} at index 2");
        assert_refused(&seal(&memory.header.to_bytes(), &states(&memory)), &expected);
        let error = memory.encode().unwrap_err();
        assert_eq!(error.code(), "format");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn encode_refuses_what_decode_would() {
    let spoil: [fn(&mut MemoryFile); 8] = [
        |m| m.header.identity.backbone.clear(),
        |m| m.header.identity.backbone = "x".repeat(257),
        |m| m.header.identity.adapter_hash = "sha256:1".into(),
        |m| m.header.identity.dims.rank = usize::MAX,
        |m| m.header.counters.writes += 1,
        |m| m.header.created_ms = u64::MAX,
        |m| m.state.dims.layers[0] = 1,
        |m| m.state.values.truncate(35),
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut memory = memory();
        spoil(&mut memory);
        let error = memory.encode().expect_err(&format!("case {i}"));
        assert_eq!(error.code(), "format");
    }
    // 128 · 1,024 floats in each of 129 layers: 64.5 MiB.
    let mut large = identity();
    large.dims = MemoryDims { layers: (0..129).collect(), num_state_heads: 8, rank: 128 };
    let error = MemoryFile::new(large, 0).encode().unwrap_err();
    assert!(error.to_string().contains("at most 67108864"), "{error}");
}

#[test]
fn check_fits_names_the_field_that_differs() {
    let memory = memory();
    memory.check_fits(&identity()).unwrap();
    type Change = fn(&mut MemoryIdentity);
    let change: [(&str, Change); 8] = [
        ("backbone", |i| i.backbone = "other".into()),
        ("backbone fingerprint", |i| i.backbone_fingerprint = "00".repeat(32)),
        ("weights quantisation", |i| i.quantisation = "f32".into()),
        ("adapter hash", |i| i.adapter_hash = "00".repeat(32)),
        ("write mode", |i| i.write_mode = WriteGranularity::Token),
        ("list of layers", |i| i.dims.layers = vec![0, 6]),
        ("number of state heads", |i| i.dims.num_state_heads = 3),
        ("rank", |i| i.dims.rank = 2),
    ];
    let mut digests = vec![identity().digest()];
    for (expected_field, change) in change {
        let mut loaded = identity();
        change(&mut loaded);
        match memory.check_fits(&loaded) {
            Err(Error::MemoryMismatch { field, found, expected }) => {
                assert_eq!(field, expected_field);
                assert_ne!(found, expected);
            }
            other => panic!("{expected_field}: {other:?}"),
        }
        digests.push(loaded.digest());
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 9, "every difference changes the digest");
    let mut loaded = identity();
    loaded.quantisation = "f32".into();
    let message = memory.check_fits(&loaded).unwrap_err().to_string();
    assert!(
        message.contains("weights quantisation is q4, the loaded model needs f32"),
        "{message}"
    );
}
