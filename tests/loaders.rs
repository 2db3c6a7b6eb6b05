//! Damaged and hostile model and adapter files: every one ends in a typed error, or in a source
//! whose tensors can be read; nothing panics, hangs or takes memory that the input does not pay for.

use deltamem::Error;
use deltamem::config::ModelConfig;
use deltamem::model_folder::{Adapter, MAX_TOKENIZER_BYTES, ModelFolder};
use deltamem::weights::TensorSource;
use deltamem::weights::safetensors::{SafetensorsFile, SafetensorsShards};
use deltamem::weights::torch::TorchFile;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FIXTURE: &str = "n_bf16_sharded";
/// What any single file may take; generous, because test machines are busy.
const LIMIT: Duration = Duration::from_secs(1);

fn fixture(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures").join(FIXTURE).join(file)
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(fixture(file)).unwrap()
}

fn model() -> ModelConfig {
    ModelConfig::from_json(&read("config.json"), "config.json").unwrap()
}

/// A small linear congruential generator; the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Reads all that a source offers, and checks that it is no more than the bytes behind it.
fn read_everything(source: &dyn TensorSource, n_bytes: usize) -> Result<(), Error> {
    for name in source.names() {
        if let Some(info) = source.info(name) {
            assert!(info.n_elements() <= n_bytes, "{name} is larger than its file");
            source.read_all(name)?;
        }
    }
    Ok(())
}

fn open_safetensors(bytes: Vec<u8>) -> Result<(), Error> {
    let n = bytes.len();
    read_everything(&SafetensorsFile::from_bytes(bytes, "test.safetensors")?, n)
}

fn open_torch(bytes: Vec<u8>) -> Result<(), Error> {
    let n = bytes.len();
    read_everything(&TorchFile::from_bytes(bytes, "test.pt")?, n)
}

type Open = fn(Vec<u8>) -> Result<(), Error>;

/// Each format with a good file and the stretch of it that describes the tensors.
fn formats() -> [(&'static str, Open, Vec<u8>, std::ops::Range<usize>); 2] {
    let safetensors = read("delta_mem_adapter.safetensors");
    let torch = read("delta_mem_adapter.pt");
    let header = 8 + u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize;
    // The pickle comes first in the archive.
    let end = torch.windows(3).position(|w| w == b"u.P").unwrap();
    [
        ("safetensors", open_safetensors, safetensors, 0..header),
        ("torch", open_torch, torch, 0..end),
    ]
}

fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    assert!(start.elapsed() < LIMIT, "{what} took {:?}", start.elapsed());
    result
}

#[test]
fn every_truncation_is_an_error() {
    for (name, open, good, described) in formats() {
        open(good.clone()).unwrap();
        let ends =
            (0..good.len()).filter(|&end| end < 200 || described.contains(&end) || end % 97 == 0);
        for end in ends.chain(good.len() - 200..good.len()) {
            let error = timed(name, || open(good[..end].to_vec())).expect_err(name);
            assert_eq!(error.code(), "format", "{name} cut at {end}: {error}");
        }
        let longer = [good, vec![0]].concat();
        assert_eq!(open(longer).unwrap_err().code(), "format", "{name} with a byte more");
    }
}

#[test]
fn byte_flips_never_panic() {
    for (name, open, good, described) in formats() {
        let mut random = Random(7);
        let mut n_refused = 0;
        for i in 0..4_000 {
            let mut bytes = good.clone();
            // Half of the damage goes where the structure is: the header, and a ZIP's directory.
            let region = match i % 4 {
                0 => described.clone(),
                1 => good.len() - good.len() / 10..good.len(),
                _ => 0..good.len(),
            };
            for _ in 0..1 + random.below(3) {
                let at = region.start + random.below(region.len());
                bytes[at] = match random.below(3) {
                    0 => bytes[at] ^ (1 << random.below(8)),
                    1 => 0xFF,
                    _ => random.below(256) as u8,
                };
            }
            n_refused += usize::from(timed(name, || open(bytes)).is_err());
        }
        // If nearly everything passed, the damage did not reach the parser.
        assert!((800..4_000).contains(&n_refused), "{name}: {n_refused} refused");
    }
}

#[test]
fn spliced_files_never_panic() {
    for (name, open, good, described) in formats() {
        let mut random = Random(11);
        for _ in 0..1_000 {
            let mut bytes = good.clone();
            let at = described.start + random.below(described.len());
            let from = random.below(good.len());
            let len = 1 + random.below(64.min(good.len() - from));
            match random.below(3) {
                0 => drop(bytes.drain(at..good.len().min(at + len))),
                1 => drop(bytes.splice(at..at, good[from..from + len].to_vec())),
                _ => drop(bytes.splice(at..at + 8, u64::MAX.to_le_bytes())),
            }
            let _ = timed(name, || open(bytes));
        }
    }
}

#[test]
fn damaged_adapters_never_panic() {
    let (model, config) = (model(), read("delta_mem_config.json"));
    let mut random = Random(13);
    for file in ["delta_mem_adapter.pt", "delta_mem_adapter.safetensors"] {
        let good = read(file);
        Adapter::from_bytes(&config, good.clone(), file, &model).unwrap();
        for _ in 0..500 {
            let mut bytes = good.clone();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            if let Err(error) = timed(file, || Adapter::from_bytes(&config, bytes, file, &model)) {
                assert!(error.to_string().len() < 2_000, "{error}");
            }
        }
    }
}

#[test]
fn not_a_number_in_a_file_is_refused_by_name() {
    let (model, config) = (model(), read("delta_mem_config.json"));
    let good = read("delta_mem_adapter.safetensors");
    let file = SafetensorsFile::from_bytes(good.clone(), "good").unwrap();
    for bits in [0x7FC0u16, 0x7F80, 0xFF80] {
        let mut bytes = good.clone();
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&bits.to_le_bytes());
        let error = Adapter::from_bytes(&config, bytes, "bad", &model).err().unwrap();
        assert_eq!(error.code(), "format");
        let named = file.names().iter().any(|n| error.to_string().contains(&format!("`{n}`")));
        assert!(named, "{error}");
    }
}

#[test]
fn claims_are_checked_before_memory_is_taken() {
    // A header that claims the format's 100 MB in a file of a few bytes, then long ones that are there.
    let mut claim = 100_000_000u64.to_le_bytes().to_vec();
    claim.extend(b"{}");
    assert_eq!(timed("claim", || open_safetensors(claim)).unwrap_err().code(), "format");
    for filling in ["[", "{\"a\":", "\"a", "1,", " "] {
        let n = 20_000_000 / filling.len();
        let header = filling.repeat(n);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        let error = timed(filling, || open_safetensors(bytes)).unwrap_err();
        assert_eq!(error.code(), "format", "{filling}");
    }
    let shape = "1,".repeat(10_000_000);
    let header = format!(r#"{{"t":{{"dtype":"F32","shape":[{shape}1],"data_offsets":[0,4]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    let error = timed("shape", || open_safetensors(bytes)).unwrap_err();
    assert!(error.to_string().contains("dimensions"), "{error}");
}

/// A folder with the fixture's model, for one change to be made in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let path = entry.unwrap().path();
        let copy = std::fs::read(&path).unwrap();
        std::fs::write(folder.path().join(path.file_name().unwrap()), copy).unwrap();
    }
    folder
}

#[test]
fn a_folder_that_lacks_or_mixes_up_files_is_refused() {
    let shard = "model-00002-of-00003.safetensors";
    let open = |folder: &Path| timed("folder", || ModelFolder::open(folder));
    open(folder().path()).unwrap();

    let lacks = |name: &str| {
        let folder = folder();
        std::fs::remove_file(folder.path().join(name)).unwrap();
        open(folder.path()).err().unwrap()
    };
    for name in ["config.json", shard, "model.safetensors.index.json"] {
        assert_eq!(lacks(name).code(), "io", "{name}");
    }
    assert!(lacks(shard).to_string().contains(shard));

    let changed = |name: &str, bytes: &[u8]| {
        let folder = folder();
        std::fs::write(folder.path().join(name), bytes).unwrap();
        open(folder.path()).err().unwrap().code()
    };
    assert_eq!(changed(shard, &read("model-00001-of-00003.safetensors")), "missing_tensor");
    assert_eq!(changed(shard, b""), "format");
    assert_eq!(
        changed("model.safetensors", &read("delta_mem_adapter.safetensors")),
        "missing_tensor"
    );
    assert_eq!(changed("model.safetensors", &read("delta_mem_adapter.pt")), "format");
    assert_eq!(changed("config.json", b"[]"), "format");
    assert_eq!(changed("config.json", &[b' '; (1 << 20) + 1]), "format");
    assert_eq!(changed("generation_config.json", b"{\"top_k\":\"x\"}"), "config");
    assert_eq!(changed("tokenizer_config.json", b"3"), "format");
    assert_eq!(changed("chat_template.jinja", b"\xff\xfe"), "format");
    let index = br#"{"weight_map":{"model.norm.weight":"../model-00003-of-00003.safetensors"}}"#;
    assert_eq!(changed("model.safetensors.index.json", index), "format");
}

#[test]
fn a_huge_tokenizer_is_refused_by_its_size_alone() {
    let folder = folder();
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    // Sparse: takes no space on disk.
    file.set_len(MAX_TOKENIZER_BYTES as u64 + 1).unwrap();
    let error = timed("tokenizer", || ModelFolder::open(folder.path())).err().unwrap();
    assert!(error.code() == "format" && error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn a_file_cut_while_it_is_open_gives_an_error_and_no_signal() {
    let folder = folder();
    let shards = SafetensorsShards::open(folder.path()).unwrap();
    for name in ["model-00001-of-00003", "model-00002-of-00003", "model-00003-of-00003"] {
        let path = folder.path().join(format!("{name}.safetensors"));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(9).unwrap();
    }
    for name in shards.names() {
        assert_eq!(shards.read_all(name).unwrap_err().code(), "format", "{name}");
    }
}

#[cfg(unix)]
#[test]
fn things_that_are_not_files_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert_eq!(timed("pipe", || SafetensorsFile::open(&pipe)).err().unwrap().code(), "io");
    assert_eq!(timed("pipe", || TorchFile::open(&pipe)).err().unwrap().code(), "io");
    let endless = Path::new("/dev/zero");
    assert_eq!(timed("zero", || SafetensorsFile::open(endless)).err().unwrap().code(), "io");
}
