//! A memory as bytes: one versioned, checksummed format for files, exports and IndexedDB. Owns the
//! format (docs/memory-format.md) and the check that a memory belongs to the loaded model; where the
//! bytes are kept is the business of `store` (native) and of the page.

use crate::config::{MAX_MEMORY_ROWS, MAX_RANK, WriteGranularity};
use crate::error::{Error, Result};
use crate::memory::{MemoryDims, MemoryState};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use diff::{MemoryDiff, StateDiff, diff};

/// The version that [`MemoryFile::encode`] writes; older ones are upgraded while reading.
pub const FORMAT_VERSION: u32 = 1;
/// Largest file accepted or written, in bytes. A rank-8 memory of 36 layers has about ten thousand.
pub const MAX_FILE_BYTES: usize = 64 << 20;
/// What memory files are called: `name.dmem`.
pub const FILE_EXTENSION: &str = "dmem";

const FORMAT_NAME: &str = "deltamem memory";
const MAGIC: &[u8; 8] = b"deltamem";
/// Magic, version, header length, states length.
const PREAMBLE_BYTES: usize = 20;
/// SHA-256.
const CHECKSUM_BYTES: usize = 32;
const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_BACKBONE_NAME_BYTES: usize = 256;
const MAX_LAYERS: usize = 1 << 10;
/// Largest whole number that JSON readers with 64-bit floats (JavaScript) keep exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// What a memory belongs to, and what a loaded engine knows about itself. A memory fits an engine
/// only if all of it is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryIdentity {
    /// The backbone's name for people, such as `HuggingFaceTB/SmolLM3-3B`.
    pub backbone: String,
    /// SHA-256 over the backbone's weights, 64 lower-case hex digits.
    pub backbone_fingerprint: String,
    /// How the weights are kept: `f32`, `f16`, `q8`, `q4`, …
    pub quantisation: String,
    /// SHA-256 over the δ-mem adapter, 64 lower-case hex digits.
    pub adapter_hash: String,
    pub write_mode: WriteGranularity,
    pub dims: MemoryDims,
}

impl MemoryIdentity {
    /// SHA-256 over the identity in its file form, 64 hex digits; equal for equal identities.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(&IdentityV1::from(self)).expect("strings and numbers");
        hex(&Sha256::digest(json))
    }

    /// Checks each field's form: hex digits, lengths, dimensions.
    ///
    /// # Errors
    /// [`Error::Format`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|reason| Error::format("memory identity", FORMAT_NAME, reason))
    }

    fn check(&self) -> Result<(), String> {
        if self.backbone.is_empty() || self.backbone.len() > MAX_BACKBONE_NAME_BYTES {
            return Err(format!(
                "`backbone` has {} bytes, expected 1 to {MAX_BACKBONE_NAME_BYTES}",
                self.backbone.len()
            ));
        }
        if self.backbone.chars().any(char::is_control) {
            return Err("`backbone` contains control characters".into());
        }
        for (name, value) in [
            ("backbone_fingerprint", &self.backbone_fingerprint),
            ("adapter_hash", &self.adapter_hash),
        ] {
            let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if value.len() != 64 || !value.bytes().all(is_hex) {
                return Err(format!("`{name}` is not 64 lower-case hex digits"));
            }
        }
        let is_label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if self.quantisation.is_empty()
            || self.quantisation.len() > 16
            || !self.quantisation.bytes().all(is_label)
        {
            return Err("`quantisation` is not 1 to 16 of a-z, 0-9 and _".into());
        }
        let MemoryDims { layers, num_state_heads, rank } = &self.dims;
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(format!(
                "`layers` lists {} layers, expected 1 to {MAX_LAYERS}",
                layers.len()
            ));
        }
        if !layers.is_sorted_by(|a, b| a < b) || layers.iter().any(|&layer| layer >= MAX_LAYERS) {
            return Err(format!("`layers` is not strictly ascending below {MAX_LAYERS}"));
        }
        if !(1..=MAX_RANK).contains(rank) {
            return Err(format!("`rank` is {rank}, expected 1 to {MAX_RANK}"));
        }
        if !(1..=MAX_MEMORY_ROWS / rank).contains(num_state_heads) {
            return Err(format!(
                "`num_state_heads` is {num_state_heads}, expected 1 to {} at rank {rank}",
                MAX_MEMORY_ROWS / rank
            ));
        }
        Ok(())
    }
}

/// What has happened to a memory since it was created. Each is at most 2⁵³ − 1. The order of the
/// fields is that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryCounters {
    /// Rises by one with each save; 0 before the first.
    pub generation: u64,
    pub turns: u64,
    pub tokens_seen: u64,
    pub tokens_written: u64,
    /// Writes into the states: one a token, or one a message or sentence mean.
    pub writes: u64,
}

/// Everything about a memory except its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryHeader {
    pub identity: MemoryIdentity,
    pub counters: MemoryCounters,
    /// Unix milliseconds, UTC.
    pub created_ms: u64,
    /// Unix milliseconds, UTC, of the last change of the states.
    pub updated_ms: u64,
}

impl MemoryHeader {
    fn check(&self) -> Result<(), String> {
        self.identity.check()?;
        let c = &self.counters;
        for (name, value) in [
            ("generation", c.generation),
            ("turns", c.turns),
            ("tokens_seen", c.tokens_seen),
            ("tokens_written", c.tokens_written),
            ("writes", c.writes),
            ("created_ms", self.created_ms),
            ("updated_ms", self.updated_ms),
        ] {
            if value > MAX_EXACT {
                return Err(format!("`{name}` is {value}, at most {MAX_EXACT}"));
            }
        }
        Ok(())
    }

    /// The one JSON form of this header, padded with spaces so that the states are aligned.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&HeaderV1::from(self)).expect("strings and numbers");
        bytes.resize(bytes.len().next_multiple_of(4), b' ');
        bytes
    }
}

/// A memory with everything needed to use it again.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryFile {
    pub header: MemoryHeader,
    /// Its `dims` equal those in the header.
    pub state: MemoryState,
}

impl MemoryFile {
    /// An empty memory of this model, created `now_ms` (Unix milliseconds).
    pub fn new(identity: MemoryIdentity, now_ms: u64) -> MemoryFile {
        MemoryFile {
            state: MemoryState::zeros(identity.dims.clone()),
            header: MemoryHeader {
                identity,
                counters: MemoryCounters::default(),
                created_ms: now_ms,
                updated_ms: now_ms,
            },
        }
    }

    /// The bytes of this memory; equal memories give equal bytes on every platform.
    ///
    /// # Errors
    /// [`Error::Format`] for what [`MemoryFile::decode`] would refuse (a NaN or an infinity in a
    /// state, malformed hashes, too large), so that a spoilt memory never replaces a good one.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.to_bytes()
            .map_err(|reason| Error::format("the memory to be saved", FORMAT_NAME, reason))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        self.header.check()?;
        let dims = &self.header.identity.dims;
        if self.state.dims != *dims || self.state.values.len() != dims.len() {
            return Err("the states have other dimensions than the header".into());
        }
        check_finite(&self.state)?;
        let header = self.header.to_bytes();
        // At most 2^27 floats (see the dimension checks), so this fits 32 bits.
        let states_bytes = dims.len() * 4;
        let size = PREAMBLE_BYTES + header.len() + states_bytes + CHECKSUM_BYTES;
        check_size(size)?;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(states_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        for value in &self.state.values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        Ok(bytes)
    }

    /// Reads what [`MemoryFile::encode`] wrote. `file` names the bytes in errors. Whatever is
    /// accepted encodes to the same bytes again.
    ///
    /// # Errors
    /// [`Error::Format`] with the reason: foreign, newer version, truncated, appended, changed,
    /// oversized, inconsistent, or not finite.
    pub fn decode(bytes: &[u8], file: &str) -> Result<MemoryFile> {
        parse(bytes).map_err(|reason| Error::format(file, FORMAT_NAME, reason))
    }

    /// Checks that this memory belongs to the model `loaded`. Other weights quantisation is refused
    /// too: the write and read projections then see other activations than those that made the
    /// states.
    ///
    /// # Errors
    /// [`Error::MemoryMismatch`] naming the first field that differs.
    pub fn check_fits(&self, loaded: &MemoryIdentity) -> Result<()> {
        let own = &self.header.identity;
        let layers = |identity: &MemoryIdentity| format!("{:?}", identity.dims.layers);
        let pairs = [
            ("backbone", own.backbone.clone(), loaded.backbone.clone()),
            (
                "backbone fingerprint",
                own.backbone_fingerprint.clone(),
                loaded.backbone_fingerprint.clone(),
            ),
            ("weights quantisation", own.quantisation.clone(), loaded.quantisation.clone()),
            ("adapter hash", own.adapter_hash.clone(), loaded.adapter_hash.clone()),
            ("write mode", own.write_mode.name().into(), loaded.write_mode.name().into()),
            ("list of layers", layers(own), layers(loaded)),
            (
                "number of state heads",
                own.dims.num_state_heads.to_string(),
                loaded.dims.num_state_heads.to_string(),
            ),
            ("rank", own.dims.rank.to_string(), loaded.dims.rank.to_string()),
        ];
        for (field, found, expected) in pairs {
            if found != expected {
                return Err(Error::MemoryMismatch { field, expected, found });
            }
        }
        Ok(())
    }
}

/// The SHA-256 at the end of an encoded memory, as 64 hex digits: a name for this exact content.
pub fn checksum_hex(encoded: &[u8]) -> String {
    hex(&encoded[encoded.len().saturating_sub(CHECKSUM_BYTES)..])
}

/// The header of version 1 as JSON: these keys in this order. Apart from the public type, so that
/// version 2 can leave it as it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderV1 {
    identity: IdentityV1,
    counters: MemoryCounters,
    created_ms: u64,
    updated_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityV1 {
    backbone: String,
    backbone_fingerprint: String,
    quantisation: String,
    adapter_hash: String,
    write_mode: String,
    layers: Vec<u32>,
    num_state_heads: u32,
    rank: u32,
}

impl From<&MemoryHeader> for HeaderV1 {
    fn from(header: &MemoryHeader) -> HeaderV1 {
        HeaderV1 {
            identity: IdentityV1::from(&header.identity),
            counters: header.counters,
            created_ms: header.created_ms,
            updated_ms: header.updated_ms,
        }
    }
}

impl From<&MemoryIdentity> for IdentityV1 {
    fn from(identity: &MemoryIdentity) -> IdentityV1 {
        // Values beyond u32 are refused by `check` before anything is written.
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        IdentityV1 {
            backbone: identity.backbone.clone(),
            backbone_fingerprint: identity.backbone_fingerprint.clone(),
            quantisation: identity.quantisation.clone(),
            adapter_hash: identity.adapter_hash.clone(),
            write_mode: identity.write_mode.name().into(),
            layers: identity.dims.layers.iter().map(|&n| narrow(n)).collect(),
            num_state_heads: narrow(identity.dims.num_state_heads),
            rank: narrow(identity.dims.rank),
        }
    }
}

impl HeaderV1 {
    fn into_header(self) -> Result<MemoryHeader, String> {
        let identity = self.identity;
        let write_mode = [
            WriteGranularity::Token,
            WriteGranularity::MessageMean,
            WriteGranularity::SentenceMean,
        ]
        .into_iter()
        .find(|mode| mode.name() == identity.write_mode)
        .ok_or("`write_mode` is none of token, message_mean, sentence_mean")?;
        Ok(MemoryHeader {
            identity: MemoryIdentity {
                backbone: identity.backbone,
                backbone_fingerprint: identity.backbone_fingerprint,
                quantisation: identity.quantisation,
                adapter_hash: identity.adapter_hash,
                write_mode,
                dims: MemoryDims {
                    layers: identity.layers.into_iter().map(|n| n as usize).collect(),
                    num_state_heads: identity.num_state_heads as usize,
                    rank: identity.rank as usize,
                },
            },
            counters: self.counters,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
        })
    }
}

fn parse(bytes: &[u8]) -> Result<MemoryFile, String> {
    check_size(bytes.len())?;
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err("it does not begin with `deltamem`; this is another kind of file".into());
    }
    if bytes.len() < PREAMBLE_BYTES {
        return Err(format!("truncated after {} bytes", bytes.len()));
    }
    // A later version adds its own arm and leaves the older ones: each reads its own layout and
    // hands it, upgraded one version, to the next.
    match u32_at(bytes, 8) {
        1 => parse_v1(bytes),
        version if version > FORMAT_VERSION => Err(format!(
            "it has format version {version}, newer than the {FORMAT_VERSION} that this program \
             reads; update deltamem"
        )),
        version => Err(format!("there is no format version {version}")),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<MemoryFile, String> {
    let header_bytes = u32_at(bytes, 12) as usize;
    let states_bytes = u32_at(bytes, 16);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!(
            "it claims a header of {header_bytes} bytes, at most {MAX_HEADER_BYTES} are accepted"
        ));
    }
    let expected =
        (PREAMBLE_BYTES + header_bytes + CHECKSUM_BYTES) as u64 + u64::from(states_bytes);
    let found = bytes.len() as u64;
    if found != expected {
        let what = if found < expected { "truncated" } else { "longer than it should be" };
        return Err(format!("{what}: {found} bytes, expected {expected}"));
    }
    let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if *Sha256::digest(content) != *checksum {
        return Err("the checksum does not match: the file was changed or damaged".into());
    }
    let (header_json, states) = content[PREAMBLE_BYTES..].split_at(header_bytes);
    let header = serde_json::from_slice::<HeaderV1>(header_json)
        .map_err(|e| format!("header: {e}"))?
        .into_header()?;
    header.check()?;
    if header.to_bytes() != header_json {
        return Err("the header is not in its one canonical form (order, spaces, escapes)".into());
    }
    let dims = header.identity.dims.clone();
    if states_bytes as usize != dims.len() * 4 {
        return Err(format!(
            "{states_bytes} bytes of states, its dimensions need {}",
            dims.len() * 4
        ));
    }
    let values = states.chunks_exact(4).map(|x| u32_at(x, 0));
    let state = MemoryState { values: values.map(f32::from_bits).collect(), dims };
    check_finite(&state)?;
    Ok(MemoryFile { header, state })
}

fn check_size(size_bytes: usize) -> Result<(), String> {
    if size_bytes > MAX_FILE_BYTES {
        return Err(format!("{size_bytes} bytes, at most {MAX_FILE_BYTES} are accepted"));
    }
    Ok(())
}

fn check_finite(state: &MemoryState) -> Result<(), String> {
    match state.values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(format!(
            "the state of layer {} is {} at index {}",
            state.dims.layers[index / state.dims.layer_len()],
            state.values[index],
            index % state.dims.layer_len()
        )),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let b = &bytes[offset..offset + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

mod diff;
#[cfg(test)]
mod tests;
