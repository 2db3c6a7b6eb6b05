//! Cases that are refused, and wrong results that are noticed.

use super::*;
use crate::config::MAX_CONFIG_BYTES;
use crate::loaded::Device;
use crate::model::LoadOptions;
use crate::reference::Options;
use crate::shader::Storage;
use crate::weights::safetensors::SafetensorsFile;
use std::collections::BTreeMap;
use std::path::Path;

/// Name, shape and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

const CASE: &str = r#"{"name": "small", "recipe": {"base_seed": 3, "adapter_seed": 4}, "steps": [
    {"name": "one", "kind": "prefill", "past_len": 0, "reset_kv": true, "reset_state": true,
     "load_state": null, "input_ids": [1, 2], "message_ids": null, "sentence_ids": null,
     "write_enabled": true, "next_argmax": 0}]}"#;

const CONFIG: &str = r#"{"model_type": "smollm3", "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4, "vocab_size": 9}"#;

fn parse(json: &str) -> Result<Case> {
    Case::from_json(json.as_bytes(), "case.json")
}

#[test]
fn truncated_and_hostile_cases_are_refused() {
    parse(CASE).unwrap();
    for end in (0..CASE.len()).step_by(7) {
        assert_eq!(parse(&CASE[..end]).unwrap_err().code(), "format", "{end}");
    }
    let deep = "[".repeat(100_000);
    for json in ["[]", "null", r#"{"name": "x", "steps": []}"#, &deep] {
        assert_eq!(parse(json).unwrap_err().code(), "format", "{:.20}", json);
    }
    for (from, to) in [
        ("\"past_len\": 0", "\"past_len\": 1"),
        ("\"past_len\": 0", "\"past_len\": -1"),
        ("\"past_len\": 0", "\"past_len\": 1e300"),
        ("[1, 2]", "[]"),
        ("[1, 2]", "[-1]"),
        ("[1, 2]", "[4294967296]"),
        ("[1, 2]", "\"ids\""),
        ("\"prefill\"", "\"train\""),
        ("\"next_argmax\": 0", "\"next_argmax\": 0, \"logit_rows\": [2]"),
        ("\"message_ids\": null", "\"message_ids\": [0.5, 1]"),
        ("\"kind\": \"prefill\"", "\"kind\": \"decode\", \"message_ids\": [1]"),
    ] {
        let json = CASE.replacen(from, to, 1);
        assert_ne!(json, CASE);
        assert_eq!(parse(&json).unwrap_err().code(), "format", "{to}");
    }
    let huge = vec![b' '; MAX_CASE_BYTES as usize + 1];
    assert_eq!(Case::from_json(&huge, "x").unwrap_err().code(), "format");
    let long = format!("[{}]", vec!["1"; 200_000].join(","));
    assert!(parse(&CASE.replacen("[1, 2]", &long, 1)).is_err());
}

/// A folder with recipe weights, and an engine on it.
fn open(case: &str, config: &str) -> Result<(Fixture, Engine)> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("case.json", case.as_bytes());
    write("config.json", config.as_bytes());
    write("delta_mem_config.json", br#"{"rank": 2}"#);
    write("expected.safetensors", &safetensors_bytes(&[]));
    let fixture = Fixture::open(folder.path())?;
    let engine = fixture.cpu_engine(Options::default())?;
    Ok((fixture, engine))
}

fn safetensors_bytes(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, values)| {
        let bytes = bytemuck::cast_slice(values);
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// What a correct run of [`CASE`] records.
fn record() -> (Case, Vec<Tensor>) {
    let (fixture, mut engine) = open(CASE, CONFIG).unwrap();
    let call = Call { tokens: &[1, 2], message_ids: None, sentence_ids: None, write_enabled: true };
    let wanted = Wanted { logits: WantedLogits::All, intermediates: true, ..Wanted::default() };
    let outputs = pollster::block_on(engine.forward(&call, wanted)).unwrap();
    let memory = pollster::block_on(engine.read_memory()).unwrap();
    let mut case = fixture.case;
    case.steps[0].next_argmax = argmax(&outputs.logits[9..]);
    let mut tensors = vec![("one.logits".to_string(), vec![2, 9], outputs.logits)];
    for layer in 0..2 {
        let state = memory.layer(layer).to_vec();
        tensors.push((format!("one.state.{layer}"), vec![2, 2], state));
        let reads = outputs.reads[layer].clone();
        tensors.push((format!("one.reads.{layer}"), vec![2, 2], reads));
        let hidden = outputs.hidden[layer].clone();
        tensors.push((format!("one.hidden.{layer}"), vec![2, 8], hidden));
    }
    (case, tensors)
}

fn replay_with(case: &Case, tensors: &[Tensor]) -> Result<ReplayReport> {
    let (_, mut engine) = open(CASE, CONFIG).unwrap();
    let expected = SafetensorsFile::from_bytes(safetensors_bytes(tensors), "expected").unwrap();
    pollster::block_on(replay(case, &expected, &mut engine, Labels::default()))
}

/// The files of a committed folder, in memory.
fn in_memory(name: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let entries = std::fs::read_dir(folder).unwrap();
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(&path).unwrap())
    };
    entries.map(file).collect()
}

#[test]
fn folders_in_memory_replay_as_on_disk() {
    let load = LoadOptions { weights: Storage::F32, kv: Storage::F32, ..LoadOptions::default() };
    // shards; an adapter in a torch file; a session
    for name in ["n_bf16_sharded", "c_msw4", "s6_session_readonly_smollm3"] {
        let mut files = in_memory(name);
        if name == "c_msw4" {
            files.remove("delta_mem_adapter.safetensors").unwrap();
        }
        let fixture = Fixture::from_files(FixtureFiles::Memory(files)).unwrap();
        let run = fixture.replay(&Device::Cpu, &load, Labels::default(), true);
        let report = pollster::block_on(run).unwrap();
        assert!(report.passed && report.greedy_tokens > 0, "{report:?}");
        assert_eq!(report.session.is_some(), name.starts_with('s'));
    }
    for name in ["case.json", "config.json", "expected.safetensors", "model.safetensors"] {
        let mut files = in_memory("g_carry");
        files.remove(name).unwrap();
        let error = Fixture::from_files(FixtureFiles::Memory(files)).err().unwrap();
        assert!(error.code() == "format" && error.to_string().contains(name), "{error}");
    }
    let mut files = in_memory("g_carry");
    files.insert("config.json".into(), vec![b' '; MAX_CONFIG_BYTES + 1]);
    let error = Fixture::from_files(FixtureFiles::Memory(files)).err().unwrap();
    assert_eq!(error.code(), "format");
}

#[test]
fn each_wrong_tensor_and_argmax_fails_the_replay() {
    let (mut case, tensors) = record();
    let report = replay_with(&case, &tensors).unwrap();
    assert!(report.passed, "{report:?}");
    assert_eq!(report.logits.as_ref().unwrap().error, 0.0);
    let line = serde_json::to_string(&report).unwrap();
    assert!(!line.contains('\n'));

    for index in 0..tensors.len() {
        for wrong in [1.5, f32::NAN, f32::INFINITY] {
            let mut tensors = tensors.clone();
            let last = tensors[index].2.len() - 1;
            tensors[index].2[last] += wrong;
            let report = replay_with(&case, &tensors).unwrap();
            let name = &tensors[index].0;
            assert!(!report.passed, "{name} {wrong}");
            let worst = [report.logits, report.state, report.reads, report.hidden];
            let worst = worst.into_iter().flatten().find(|w| w.error > 1e-4);
            assert_eq!(worst.map(|w| w.tensor).as_ref(), Some(name));
        }
    }
    case.steps[0].next_argmax = (case.steps[0].next_argmax + 1) % 9;
    let report = replay_with(&case, &tensors).unwrap();
    assert!(!report.passed);
    assert_eq!(report.argmax_failures.len(), 1);
}

#[test]
fn recorded_tensors_must_belong_to_the_case() {
    let (case, tensors) = record();
    assert_eq!(replay_with(&case, &tensors[1..]).unwrap_err().code(), "missing_tensor");
    let mut reshaped = tensors.clone();
    reshaped[0].1 = vec![9, 2];
    assert_eq!(replay_with(&case, &reshaped).unwrap_err().code(), "tensor_shape");
    let mut other = tensors.clone();
    other.push(("two.logits".into(), vec![1], vec![0.0]));
    let report = replay_with(&case, &other).unwrap();
    assert_eq!(report.notes.len(), 1);
    let mut loads = case.clone();
    loads.steps[0].load_state = Some("nowhere".into());
    assert_eq!(replay_with(&loads, &tensors).unwrap_err().code(), "missing_tensor");
}

#[test]
fn recipes_need_seeds_and_have_a_limit() {
    let code = |case: &str, config: &str| match open(case, config) {
        Ok(_) => "ok",
        Err(error) => error.code(),
    };
    assert_eq!(code(CASE, CONFIG), "ok");
    let no_adapter = CASE.replacen(", \"adapter_seed\": 4", "", 1);
    assert_eq!(code(&no_adapter, CONFIG), "format");
    let none = CASE.replacen("\"recipe\"", "\"other\"", 1);
    assert_eq!(code(&none, CONFIG), "format");
    let huge = CONFIG.replacen("\"vocab_size\": 9", "\"vocab_size\": 4194304", 1);
    let huge = huge.replacen("\"hidden_size\": 8", "\"hidden_size\": 65536", 1);
    assert_eq!(code(CASE, &huge), "unsupported");
}

#[test]
fn a_small_case_cannot_ask_for_large_activations() {
    let ids = format!("[{}]", vec!["1"; 1000].join(","));
    let case = CASE.replacen("[1, 2]", &ids, 1);
    let case = case.replacen("\"next_argmax\"", "\"logit_rows\": [0], \"next_argmax\"", 1);
    let wide = CONFIG.replacen("\"vocab_size\": 9", "\"vocab_size\": 1000000", 1);
    let (fixture, mut engine) = open(&case, &wide).unwrap();
    let expected = fixture.expected.as_ref();
    let run = replay(&fixture.case, expected, &mut engine, Labels::default());
    assert_eq!(pollster::block_on(run).unwrap_err().code(), "unsupported");
}

#[test]
fn effective_keys_override_the_files() {
    let case = CASE.replacen(
        "\"steps\"",
        r#""effective_config": {"vocab_size": 11}, "effective_delta_config": {"rank": 3},
        "steps""#,
        1,
    );
    let (_, engine) = open(&case, CONFIG).unwrap();
    assert_eq!(engine.config().vocab_size, 11);
    assert_eq!(engine.memory_dims().rank, 3);
}

#[test]
fn relative_error_is_infinite_for_what_cannot_be_compared() {
    assert_eq!(relative_error(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
    assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
    assert_eq!(relative_error(&[], &[]), 0.0);
    for (found, expected) in [
        (&[f32::NAN][..], &[1.0][..]),
        (&[1.0], &[f32::NAN]),
        (&[f32::INFINITY], &[f32::INFINITY]),
        (&[1.0, 2.0], &[1.0]),
    ] {
        assert_eq!(relative_error(found, expected), f64::INFINITY);
    }
}
