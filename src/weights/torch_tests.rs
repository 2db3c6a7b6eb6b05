use super::*;
use crate::weights::DType;
use crate::weights::safetensors::SafetensorsFile;
use std::path::PathBuf;

fn fixtures() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut with_adapter: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("delta_mem_adapter.pt").exists())
        .collect();
    with_adapter.sort();
    with_adapter
}

#[test]
fn every_fixture_equals_its_safetensors_copy_bit_by_bit() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 10, "{} fixtures", fixtures.len());
    for folder in fixtures {
        let torch = TorchFile::open(folder.join("delta_mem_adapter.pt")).unwrap();
        let copy = SafetensorsFile::open(folder.join("delta_mem_adapter.safetensors")).unwrap();
        assert_eq!(torch.names(), copy.names(), "{}", folder.display());
        for name in copy.names() {
            assert_eq!(torch.info(name), copy.info(name), "{name}");
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let (a, b) = (torch.read_all(name).unwrap(), copy.read_all(name).unwrap());
            assert_eq!(bits(a), bits(b), "{}: {name}", folder.display());
        }
    }
}

/// Turns an entry of the archive under test into another one.
#[derive(Default, Clone)]
struct Quirks {
    method: u16,
    flags: u16,
    /// Added to both sizes.
    extra_size: u32,
    /// Added to the full size only.
    extra_full_size: u32,
    local_name: Option<&'static str>,
    zip64: bool,
    entry_count: Option<u16>,
    header_offset: u32,
}

/// An archive in the layout of `torch.save`, each entry's data aligned by an extra field.
fn archive(entries: &[(&str, &[u8])], quirks: &Quirks) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32 + quirks.header_offset;
        let stored = data.len() as u32 + quirks.extra_size;
        let full = stored.wrapping_add(quirks.extra_full_size);
        let mut zip64 = Vec::new();
        let (mut sizes, mut offset_field) = ([stored, full], offset);
        if quirks.zip64 {
            zip64.extend([7, 0, 1, 0, 9]); // a field of another kind first
            zip64.extend([1, 0, 24, 0]);
            for value in [full, stored, offset] {
                zip64.extend(u64::from(value).to_le_bytes());
            }
            (sizes, offset_field) = ([u32::MAX; 2], u32::MAX);
        }
        let common = |out: &mut Vec<u8>, name: &str, extra: usize| {
            out.extend([0, 0]);
            out.extend(quirks.flags.to_le_bytes());
            out.extend(quirks.method.to_le_bytes());
            out.extend([0; 8]);
            out.extend(sizes[0].to_le_bytes());
            out.extend(sizes[1].to_le_bytes());
            out.extend((name.len() as u16).to_le_bytes());
            out.extend((extra as u16).to_le_bytes());
        };
        let local_name = quirks.local_name.unwrap_or(name);
        let padding = 64 - (out.len() + 30 + local_name.len()) % 64;
        out.extend(b"PK\x03\x04");
        common(&mut out, local_name, padding);
        out.extend(local_name.as_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(*data);
        directory.extend(b"PK\x01\x02\0\0");
        common(&mut directory, name, zip64.len());
        directory.extend([0; 10]);
        directory.extend(offset_field.to_le_bytes());
        directory.extend(name.as_bytes());
        directory.extend(zip64);
    }
    let start = out.len() as u64;
    let n = quirks.entry_count.unwrap_or(entries.len() as u16);
    out.extend(&directory);
    let end_64 = out.len() as u64;
    if quirks.zip64 {
        out.extend(b"PK\x06\x06");
        out.extend([0; 20]);
        for value in [n.into(), n.into(), directory.len() as u64, start] {
            out.extend(u64::to_le_bytes(value));
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(end_64.to_le_bytes());
        out.extend([1, 0, 0, 0]);
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    let (n, start) = if quirks.zip64 { (u16::MAX, u32::MAX) } else { (n, start as u32) };
    out.extend(n.to_le_bytes());
    out.extend(n.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([3, 0]);
    out.extend(b"end");
    out
}

fn text(s: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((s.len() as u32).to_le_bytes());
    out.extend(s.as_bytes());
    out
}

fn integer(n: i64) -> Vec<u8> {
    let mut out = vec![0x8a, 8];
    out.extend(n.to_le_bytes());
    out
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn integers(values: &[i64]) -> Vec<u8> {
    tuple(&values.iter().map(|&n| integer(n)).collect::<Vec<_>>())
}

/// What `torch.save` writes for one tensor of storage `0`.
fn tensor(class: &str, len: i64, offset: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    tensor_in("0", class, len, offset, shape, stride)
}

/// The same for another storage.
fn tensor_in(
    key: &str,
    class: &str,
    len: i64,
    offset: i64,
    shape: &[i64],
    stride: &[i64],
) -> Vec<u8> {
    let id = tuple(&[
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        text(key),
        text("cpu"),
        integer(len),
    ]);
    let arguments = tuple(&[
        [id, b"Q".to_vec()].concat(),
        integer(offset),
        integers(shape),
        integers(stride),
        vec![0x89],
        b"ccollections\nOrderedDict\n)R".to_vec(),
    ]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"R".to_vec()].concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (name, value) in items {
        out.extend(text(name));
        out.extend(value);
    }
    out.extend(b"u.");
    out
}

const STORAGE: [u8; 24] = {
    let mut bytes = [0; 24];
    let mut i = 0;
    while i < 6 {
        bytes[4 * i + 3] = 0x3f; // 0x3f000000 = 0.5
        i += 1;
    }
    bytes[4 * 5 + 2] = 0x80; // the last is 1.0
    bytes
};

fn open_with(pickle: &[u8], quirks: &Quirks) -> Result<TorchFile> {
    let entries: [(&str, &[u8]); 3] =
        [("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &STORAGE)];
    TorchFile::from_bytes(archive(&entries, quirks), "test.pt")
}

fn open(pickle: &[u8]) -> Result<TorchFile> {
    open_with(pickle, &Quirks::default())
}

fn refusal(pickle: &[u8]) -> (&'static str, String) {
    let error = open(pickle).err().expect("accepted");
    (error.code(), error.to_string())
}

#[test]
fn shared_storages_offsets_and_zip64_are_read() {
    let pickle = dict(&[
        ("all", tensor("FloatStorage", 6, 0, &[2, 3], &[3, 1])),
        ("tail", tensor("FloatStorage", 6, 4, &[2], &[1])),
        ("one", tensor("FloatStorage", 6, 5, &[1, 1], &[77, 5])),
        ("scalar", tensor("FloatStorage", 6, 5, &[], &[])),
        ("empty", tensor("FloatStorage", 6, 6, &[0, 9], &[9, 1])),
    ]);
    for zip64 in [false, true] {
        let quirks = Quirks { zip64, ..Quirks::default() };
        let file = open_with(&pickle, &quirks).unwrap();
        assert_eq!(file.names(), ["all", "empty", "one", "scalar", "tail"]);
        assert_eq!(file.read_all("all").unwrap(), [0.5, 0.5, 0.5, 0.5, 0.5, 1.0]);
        assert_eq!(file.read_all("tail").unwrap(), [0.5, 1.0]);
        assert_eq!(file.read_all("one").unwrap(), [1.0]);
        assert_eq!(file.read_all("scalar").unwrap(), [1.0]);
        assert_eq!(file.read_all("empty").unwrap(), [0.0; 0]);
        assert_eq!(file.info("all").unwrap().shape, [2, 3]);
    }
    let halves = open(&dict(&[("h", tensor("HalfStorage", 12, 11, &[1], &[1]))])).unwrap();
    assert_eq!(halves.info("h").unwrap().dtype, DType::F16);
    assert_eq!(halves.read_all("h").unwrap(), [1.875]); // 0x3f80 as f16
    let brain = open(&dict(&[("h", tensor("BFloat16Storage", 12, 11, &[1], &[1]))])).unwrap();
    assert_eq!(brain.read_all("h").unwrap(), [1.0]);
}

/// The structure of the published adapter for Qwen3-4B, with made-up values.
#[test]
fn an_adapter_of_the_published_structure_goes_through_the_loader() {
    use crate::config::{DeltaConfig, ModelConfig};
    use crate::footprint::{Footprint, Layout, QWEN3_4B};
    use crate::model_folder::Adapter;
    use crate::shader::Storage;
    use crate::weights::recipe::{Exceptions, RecipeSource};

    let json = br#"{"rank": 8, "alpha": 16, "delta_heads": ["q", "o"],
        "memory_write_granularity": "token", "num_state_heads": 1}"#;
    let model = ModelConfig::from_json(QWEN3_4B, "config.json").unwrap();
    let config = DeltaConfig::from_json(json, "delta_mem_config.json").unwrap();
    let rounded = Exceptions { is_bf16: true, ..Exceptions::default() };
    let made =
        || RecipeSource::adapter(&model, &config, 7).unwrap().with_exceptions(rounded.clone());

    // one storage a tensor, as torch.save has it
    let source = made();
    let mut storages = Vec::new();
    let mut items = Vec::new();
    for (index, name) in source.names().into_iter().enumerate() {
        let values = source.read_all(name).unwrap();
        let shape: Vec<i64> = source.info(name).unwrap().shape.iter().map(|&n| n as i64).collect();
        let stride = if shape.len() == 2 { vec![shape[1], 1] } else { vec![1] };
        let bytes: Vec<u8> =
            values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        let (key, len) = (index.to_string(), values.len() as i64);
        items.push((name, tensor_in(&key, "BFloat16Storage", len, 0, &shape, &stride)));
        storages.push((format!("a/data/{index}"), bytes));
    }
    let pickle = dict(&items);
    let mut entries: Vec<(&str, &[u8])> = vec![("a/data.pkl", &pickle), ("a/byteorder", b"little")];
    entries.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let file = archive(&entries, &Quirks::default());

    let adapter = Adapter::from_bytes(json, file, "delta_mem_adapter.pt", &model).unwrap();
    assert_eq!(adapter.config, config);
    assert_eq!(adapter.tensors.names(), source.names());
    // memory_q, k, v; delta_q, k, v, o; beta_proj and its bias in each of 36 layers
    assert_eq!(adapter.tensors.names().len(), 36 * 9);
    for name in source.names() {
        let info = adapter.tensors.info(name).unwrap();
        assert_eq!((info.dtype, &info.shape), (DType::BF16, &source.info(name).unwrap().shape));
        assert!(
            adapter.tensors.read_all(name).unwrap() == source.read_all(name).unwrap(),
            "{name}"
        );
    }
    // the same values from elsewhere are the same adapter
    let again = Adapter::new(config.clone(), Box::new(made()), &model).unwrap();
    assert_eq!(adapter.hash, again.hash);
    assert_eq!(config.n_trainable(&model).unwrap(), 4_866_336);
    let layout = Layout {
        weights: Storage::Q4,
        kv: Storage::F16,
        context_window: 4096,
        chunk: 64,
        software: false,
    };
    let print = Footprint::new(&model, Some(&config), &layout).unwrap();
    // 36 states of 8 × 8, and on the device what is trained but for the biases
    assert_eq!(print.state, 36 * 8 * 8 * 4);
    assert_eq!(print.adapter, 4 * (4_866_336 - 36 * 8));
}

#[test]
fn foreign_names_are_refused_by_name_and_never_called() {
    let calls: [(&str, &[u8]); 7] = [
        ("os.system", b"cos\nsystem\nX\x04\0\0\0true\x85R."),
        ("posix.system", b"cposix\nsystem\nX\x04\0\0\0true\x85R."),
        ("builtins.eval", b"cbuiltins\neval\n."),
        ("torch.DoubleStorage", b"ctorch\nDoubleStorage\n."),
        ("torch._utils._rebuild_parameter", b"ctorch._utils\n_rebuild_parameter\n."),
        ("collections.OrderedDict.x", b"ccollections\nOrderedDict.x\n."),
        (".", b"c\n\n."),
    ];
    for (name, body) in calls {
        let (code, message) = refusal(&[b"\x80\x02", body].concat());
        assert_eq!(code, "unsupported", "{message}");
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
    // The opcodes that can import, build or call in other ways.
    for opcode in *b"iobRV\x81\x82\x83\x84\x8c\x92\x93\x94\x95\x97]aeIFGLPST012dgl" {
        let (code, message) = refusal(&[0x80, 2, b'N', b'N', opcode]);
        assert!(code == "unsupported" || opcode == b'R', "{message}");
    }
}

#[test]
fn broken_pickles_are_refused() {
    let good = tensor("FloatStorage", 6, 0, &[2, 3], &[3, 1]);
    let refuse = |body: &[u8], part: &str| {
        let (_, message) = refusal(body);
        assert!(message.contains(part), "{message} does not mention {part}");
    };
    refuse(b"", "cut short");
    refuse(b"\x80\x02", "cut short");
    refuse(b"\x80\x04}.", "protocol 4");
    refuse(b"\x80\x02N.", "None instead of a dict");
    refuse(b"\x80\x02.", "too few values");
    refuse(b"\x80\x02(.", "too few values");
    refuse(b"\x80\x02}(.", "too few values");
    refuse(b"\x80\x02t.", "mark is missing");
    refuse(b"\x80\x02N\x86.", "too few values");
    refuse(b"\x80\x02NN(\x85.", "too few values");
    refuse(b"\x80\x02h\x05.", "slot 5");
    refuse(b"\x80\x02q\x05.", "remember");
    refuse(b"\x80\x02s.", "too few values");
    refuse(b"\x80\x02}Ns.", "too few values");
    refuse(b"\x80\x02(NNu.", "too few values");
    refuse(b"\x80\x02N(NNu.", "not a dict");
    refuse(b"\x80\x02}(Nu.", "lacks its value");
    refuse(b"\x80\x02}(NNu.", "None as the name");
    refuse(&dict(&[("x", b"K\x05".to_vec())]), "an integer under \"x\"");
    refuse(&dict(&[("x", good.clone()), ("x", good.clone())]), "listed twice");
    refuse(b"\x80\x02NQ.", "persistent id");
    refuse(b"\x80\x02NNR.", "without arguments");
    refuse(b"\x80\x02N)R.", "None is called");
    refuse(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "wrong arguments");
    refuse(b"\x80\x02ctorch\nFloatStorage\n)R.", "wrong arguments");
    refuse(b"\x80\x02X\xff\xff\xff\xffabc", "cut short");
    refuse(b"\x80\x02X\x01\0\0\0\xff.", "UTF-8");
    refuse(b"\x80\x02ctorch", "cut short");
    refuse(&[&b"\x80\x02\x8a\x09"[..], &[1; 9], b"."].concat(), "64 bits");
    // A dict inside itself.
    refuse(b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.", "a dict under");
}

#[test]
fn pickles_that_would_blow_up_are_refused() {
    let refuse = |body: Vec<u8>, part: &str| {
        let (_, message) = refusal(&[b"\x80\x02".to_vec(), body].concat());
        assert!(message.contains(part), "{message} does not mention {part}");
    };
    refuse(vec![b'N'; 1 << 20], "on the stack");
    refuse(vec![b'('; 1 << 20], "marks");
    refuse(b"}0".repeat(1 << 10), "opcode 0x30");
    refuse(vec![b'}'; 1 << 20], "on the stack");
    refuse([vec![b')'], vec![0x85; 1 << 20]].concat(), "nest");
    // Doubling by memo: (x, x), ((x, x), (x, x)), …
    refuse([b")".to_vec(), b"q\0h\0\x86".repeat(64)].concat(), "nest");
    // Memo slots without end, on one value.
    let slots = (0..1 << 20).flat_map(|i: u32| [&b"r"[..], &i.to_le_bytes()].concat());
    let slots: Vec<u8> = [b"N".to_vec(), slots.collect(), b"r\xff\xff\xff\xff.".to_vec()].concat();
    refuse(slots, "memo slots");
    refuse(vec![b'N'; 9 << 20], "too large");
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    let refuse = |tensor: Vec<u8>, part: &str| {
        let (_, message) = refusal(&dict(&[("x", tensor)]));
        assert!(message.contains(part), "{message} does not mention {part}");
    };
    let max = i64::MAX;
    refuse(tensor("FloatStorage", 6, 1, &[2, 3], &[3, 1]), "outside its storage");
    refuse(tensor("FloatStorage", 6, max, &[6], &[1]), "outside its storage");
    refuse(tensor("FloatStorage", 6, 7, &[0], &[1]), "outside its storage");
    refuse(tensor("FloatStorage", 7, 0, &[7], &[1]), "outside its storage");
    refuse(tensor("FloatStorage", max, 0, &[max], &[1]), "outside its storage");
    refuse(tensor("HalfStorage", 6, 0, &[6], &[1]), "outside its storage");
    refuse(tensor("FloatStorage", -6, 0, &[6], &[1]), "persistent id");
    refuse(tensor("FloatStorage", 6, -1, &[6], &[1]), "impossible offset");
    refuse(tensor("FloatStorage", 6, 0, &[-6], &[1]), "impossible offset");
    refuse(tensor("FloatStorage", 6, 0, &[1; 9], &[1; 9]), "impossible offset");
    refuse(tensor("FloatStorage", 6, 0, &[max, max, max], &[1, 1, 1]), "strides");
    refuse(tensor("FloatStorage", 6, 0, &[2, 3], &[1, 2]), "strides [1, 2]");
    refuse(tensor("FloatStorage", 6, 0, &[1 << 40], &[0]), "strides [0]");
    refuse(tensor("FloatStorage", 6, 0, &[2, 3], &[1]), "strides [1]");
    let elsewhere = tensor("FloatStorage", 6, 0, &[6], &[1]);
    let key = elsewhere.windows(6).position(|w| w == b"X\x01\0\0\x000").unwrap() + 5;
    for other in [b'1', b'/'] {
        let mut elsewhere = elsewhere.clone();
        elsewhere[key] = other;
        refuse(elsewhere, "is missing");
    }
}

#[test]
fn archives_other_than_torchs_are_refused() {
    let pickle = dict(&[("x", tensor("FloatStorage", 6, 0, &[6], &[1]))]);
    let refuse = |quirks: Quirks, part: &str| {
        let message = open_with(&pickle, &quirks).err().expect(part).to_string();
        assert!(message.contains(part), "{message} does not mention {part}");
    };
    let plain = Quirks::default();
    open_with(&pickle, &plain).unwrap();
    let deflated = Quirks { method: 8, ..plain.clone() };
    refuse(deflated, "compressed or encrypted entry `a/data.pkl`");
    let encrypted = Quirks { flags: 1, ..plain.clone() };
    refuse(encrypted, "compressed or encrypted");
    let bomb = Quirks { extra_full_size: 1 << 30, ..plain.clone() };
    refuse(bomb, "claims");
    let longer = Quirks { extra_size: 1 << 30, ..plain.clone() };
    refuse(longer, "inside the file");
    let renamed = Quirks { local_name: Some("a/data.pkx"), ..plain.clone() };
    refuse(renamed, "inside the file");
    let shifted = Quirks { header_offset: 1, ..plain.clone() };
    refuse(shifted, "inside the file");
    let outside = Quirks { header_offset: 1 << 20, ..plain.clone() };
    refuse(outside, "past its end");
    let more = Quirks { entry_count: Some(4), ..plain.clone() };
    refuse(more, "cut short");
    let none = Quirks { entry_count: Some(0), ..plain.clone() };
    refuse(none, "exactly one");
    let many = Quirks { entry_count: Some(u16::MAX), ..plain.clone() };
    refuse(many, "zip64 locator");

    let refuse = |entries: &[(&str, &[u8])], part: &str| {
        let file = TorchFile::from_bytes(archive(entries, &plain), "test.pt");
        let message = file.err().expect(part).to_string();
        assert!(message.contains(part), "{message} does not mention {part}");
    };
    refuse(&[("a/data.pkl", b"}."), ("a/data.pkl", b"}.")], "listed twice");
    refuse(&[("a/data.pkl", b"}."), ("b/data.pkl", b"}.")], "exactly one");
    refuse(&[("data.pkl", b"}.")], "exactly one");
    refuse(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")], "big-endian");
    assert!(TorchFile::from_bytes(b"\x80\x02\x8a\x0al".to_vec(), "old.pt").is_err());
    assert!(TorchFile::from_bytes(vec![], "empty.pt").is_err());
}
