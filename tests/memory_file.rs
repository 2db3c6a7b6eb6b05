//! The documented format against the encoder, and every way in which a file can be damaged.

use deltamem::Error;
use deltamem::config::WriteGranularity;
use deltamem::memory::MemoryDims;
use deltamem::memory_file::{MemoryCounters, MemoryFile, MemoryIdentity};

const DOCUMENT: &str = include_str!("../docs/memory-format.md");

/// The worked example of docs/memory-format.md.
fn example() -> MemoryFile {
    let identity = MemoryIdentity {
        backbone: "nano".into(),
        backbone_fingerprint: "b".repeat(64),
        quantisation: "f32".into(),
        adapter_hash: "a".repeat(64),
        write_mode: WriteGranularity::Token,
        dims: MemoryDims { layers: vec![1], num_state_heads: 1, rank: 2 },
    };
    let mut file = MemoryFile::new(identity, 1_767_225_600_000);
    file.state.values = vec![1.0, -0.5, 0.0, 0.25];
    file.header.counters =
        MemoryCounters { generation: 1, turns: 1, tokens_seen: 12, tokens_written: 9, writes: 9 };
    file.header.updated_ms = 1_767_225_660_000;
    file
}

/// Lines as in the document: offset, up to 16 bytes, text.
fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|&b| if (b' '..=b'~').contains(&b) { b as char } else { '.' })
            .collect();
        out += &format!("{:04x}  {:<47}  |{text}|\n", i * 16, hex.join(" "));
    }
    out
}

fn block_after<'a>(heading: &str, document: &'a str) -> &'a str {
    let section = document.split_once(heading).expect("the heading is there").1;
    let block = section.split_once("```text\n").expect("a block follows").1;
    block.split_once("```").expect("the block ends").0
}

#[test]
fn the_documented_example_is_what_the_encoder_writes() {
    let bytes = example().encode().unwrap();
    let documented = block_after("## Worked example", DOCUMENT);
    assert_eq!(documented, hex_dump(&bytes), "expected in the document:\n{}", hex_dump(&bytes));
}

#[test]
fn the_documented_bytes_decode_to_the_example() {
    let block = block_after("## Worked example", DOCUMENT);
    let bytes: Vec<u8> = block
        .lines()
        .flat_map(|line| line[6..53].split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    assert_eq!(MemoryFile::decode(&bytes, "example").unwrap(), example());
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = example().encode().unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_format_error(&damaged, &format!("bit {bit}"));
    }
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let bytes = example().encode().unwrap();
    for n in 0..bytes.len() {
        let reason = assert_format_error(&bytes[..n], &format!("{n} bytes"));
        assert!(reason.contains("truncated"), "{n} bytes: {reason}");
    }
    for n in 1..70 {
        let longer = [&bytes[..], &vec![0; n]].concat();
        let reason = assert_format_error(&longer, &format!("{n} more bytes"));
        assert!(reason.contains("longer"), "{n} more bytes: {reason}");
    }
}

fn assert_format_error(bytes: &[u8], what: &str) -> String {
    match MemoryFile::decode(bytes, "damaged.dmem") {
        Err(Error::Format { reason, .. }) => reason,
        other => panic!("{what}: {other:?}"),
    }
}
