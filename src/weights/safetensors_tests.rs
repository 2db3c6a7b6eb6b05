use super::*;
use safetensors::tensor::TensorView;

/// A file made by the format's own crate.
fn sample() -> Vec<u8> {
    let f32s: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let halves: Vec<u8> =
        (0..4).flat_map(|i| half::bf16::from_f32(i as f32 * 0.5).to_le_bytes()).collect();
    let views = [
        ("f", TensorView::new(StoredType::F32, vec![2, 3], &f32s).unwrap()),
        ("b", TensorView::new(StoredType::BF16, vec![4], &halves).unwrap()),
        ("i", TensorView::new(StoredType::I64, vec![1], &[0; 8]).unwrap()),
        ("e", TensorView::new(StoredType::F16, vec![0, 7], &[]).unwrap()),
    ];
    safetensors::serialize(views, None).unwrap()
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn refusal(bytes: Vec<u8>) -> String {
    match SafetensorsFile::from_bytes(bytes, "bad.safetensors") {
        Err(e @ Error::Format { .. }) => e.to_string(),
        Err(e) => panic!("another error: {e}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn reads_what_the_safetensors_crate_wrote() {
    let file = SafetensorsFile::from_bytes(sample(), "sample").unwrap();
    assert_eq!(file.names(), ["b", "e", "f", "i"]);
    assert_eq!(file.read_all("f").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(file.read_all("b").unwrap(), [0.0, 0.5, 1.0, 1.5]);
    assert_eq!(file.read_all("e").unwrap(), [0.0; 0]);
    let mut piece = [0.0; 2];
    file.read_f32("f", 3, &mut piece).unwrap();
    assert_eq!(piece, [3.0, 4.0]);
    assert_eq!(file.info("b").unwrap().dtype, DType::BF16);
    assert_eq!(file.info("f").unwrap().shape, [2, 3]);
    file.check_shape("f", &[2, 3]).unwrap();
    assert_eq!(file.check_shape("f", &[3, 2]).unwrap_err().code(), "tensor_shape");
    assert_eq!(file.check_shape("x", &[]).unwrap_err().code(), "missing_tensor");
    assert_eq!(file.read_all("x").unwrap_err().code(), "missing_tensor");
}

#[test]
fn another_type_is_refused_only_when_asked_for() {
    let file = SafetensorsFile::from_bytes(sample(), "sample").unwrap();
    for error in [
        file.check_shape("i", &[1]).unwrap_err(),
        file.read_all("i").unwrap_err(),
        file.read_f32("i", 0, &mut [0.0]).unwrap_err(),
    ] {
        assert_eq!(error.code(), "unsupported");
        assert!(error.to_string().contains("`i` of type I64"), "{error}");
    }
}

#[test]
#[should_panic(expected = "not inside shape")]
fn a_range_past_the_end_panics() {
    let file = SafetensorsFile::from_bytes(sample(), "sample").unwrap();
    let _ = file.read_f32("f", 5, &mut [0.0; 2]);
}

#[test]
fn broken_headers_are_refused() {
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |e: String| format!(r#"{{"t":{e}}}"#);
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    SafetensorsFile::from_bytes(file(&one(entry("F32", "[2]", 0, 8)), 8), "ok").unwrap();

    assert!(refusal(vec![]).contains("too short"));
    assert!(refusal(vec![0; 7]).contains("too short"));
    assert!(refusal(u64::MAX.to_le_bytes().to_vec()).contains("header of"));
    assert!(refusal(100_000_001u64.to_le_bytes().to_vec()).contains("header of"));
    assert!(refusal(file("", 0)).contains("header"));
    assert!(refusal(file("[]", 0)).contains("an object of tensors"));
    assert!(refusal(file("{\"t\":3}", 0)).contains("header"));
    assert!(refusal(file(&one(entry("Q9", "[2]", 0, 8)), 8)).contains("Q9"));
    assert!(refusal(file(&one(entry("F32", "[-2]", 0, 8)), 8)).contains("header"));
    assert!(refusal(file(&one(entry("F32", "[2.5]", 0, 8)), 8)).contains("header"));
    assert!(
        refusal(file(&one(entry("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4)), 4)).contains("dimensions")
    );
    assert!(refusal(file(&one(entry("F32", "[3]", 0, 8)), 8)).contains("does not take 8 bytes"));
    // Past the end, a gap before, a gap after, backwards.
    assert!(refusal(file(&one(entry("F32", "[2]", 0, 8)), 7)).contains("outside"));
    assert!(refusal(file(&one(entry("F32", "[2]", 4, 12)), 12)).contains("gap"));
    assert!(refusal(file(&one(entry("F32", "[2]", 0, 8)), 9)).contains("has 9"));
    assert!(refusal(file(&one(entry("F32", "[0]", 8, 0)), 8)).contains("`t`"));
    assert!(refusal(file(&one(entry("F32", "[2]", u64::MAX - 7, u64::MAX)), 8)).contains("`t`"));
    // Sizes whose product overflows, also to a fitting number.
    let huge = "[4294967296,4294967296,4294967296]";
    assert!(refusal(file(&one(entry("F32", huge, 0, 0)), 0)).contains("does not take"));
    assert!(
        refusal(file(&one(entry("F32", "[2305843009213693952]", 0, 0)), 0)).contains("not take")
    );
    let overlapping = two(entry("F32", "[2]", 0, 8), entry("F32", "[2]", 4, 12));
    assert!(refusal(file(&overlapping, 12)).contains("overlaps"));
    let same = two(entry("F32", "[2]", 0, 8), entry("F32", "[2]", 0, 8));
    assert!(refusal(file(&same, 8)).contains("overlaps"));
    let twice = two(entry("F32", "[2]", 0, 8), entry("F32", "[0]", 8, 8)).replace("\"b\"", "\"a\"");
    assert!(refusal(file(&twice, 8)).contains("listed twice"));
    assert!(refusal(file(&format!("{{\"t\":{}", "[".repeat(100_000)), 0)).contains("header"));
}

#[test]
fn too_many_tensors_are_refused() {
    let entries: Vec<String> = (0..=MAX_TENSORS)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    assert!(refusal(file(&format!("{{{}}}", entries.join(",")), 0)).contains("more than"));
}

/// Two shards in a folder, and an index with the given map.
fn shards(weight_map: &str) -> Result<SafetensorsShards> {
    let folder = tempfile::tempdir().unwrap();
    for (name, tensor, value) in [("1.safetensors", "a", 1.0f32), ("2.safetensors", "b", 2.0)] {
        let bytes = value.to_le_bytes();
        let view = TensorView::new(StoredType::F32, vec![1], &bytes).unwrap();
        let bytes = safetensors::serialize([(tensor, view)], None).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let index = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{weight_map}}}"#);
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    SafetensorsShards::open(folder.path())
}

#[test]
fn shards_act_as_one_file() {
    let all = shards(r#"{"a":"1.safetensors","b":"2.safetensors"}"#).unwrap();
    assert_eq!(all.names(), ["a", "b"]);
    assert_eq!(all.read_all("a").unwrap(), [1.0]);
    assert_eq!(all.read_all("b").unwrap(), [2.0]);
    assert_eq!(all.check_shape("c", &[1]).unwrap_err().code(), "missing_tensor");
}

#[test]
fn bad_indexes_are_refused() {
    let code = |map: &str| shards(map).err().map_or("accepted", |e| e.code());
    for name in ["../1.safetensors", "/1.safetensors", "..", ".", "", "a\\\\b", "C:x", "x\\u0000"] {
        assert_eq!(code(&format!(r#"{{"a":"{name}"}}"#)), "format", "{name}");
    }
    assert_eq!(code(r#"{"a":"3.safetensors"}"#), "io");
    assert_eq!(code(r#"{"b":"1.safetensors"}"#), "missing_tensor");
    assert_eq!(code(r#"{"a":"1.safetensors","a":"2.safetensors"}"#), "format");
    assert_eq!(code(r#"{"a":1}"#), "format");
    assert_eq!(code("[]"), "format");
    assert_eq!(code("{"), "format");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let open = |_: &str| SafetensorsFile::from_bytes(sample(), "shard");
    let index = br#"{"weight_map":{"f":"1","b":"2"}}"#;
    let error = SafetensorsShards::from_index(index, "index", open).err().unwrap();
    assert!(error.to_string().contains("is in shard too"), "{error}");
}
