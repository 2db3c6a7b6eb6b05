//! Files that llama.cpp's converter and quantiser made: weights, configuration, tokenizer and logits
//! are those of the Hugging Face folder behind them, which `RecipeSource` and `expected.json` know.

use super::{path, read};
use deltamem::config::{DeltaConfig, ModelConfig};
use deltamem::engine::{Call, Wanted, WantedLogits};
use deltamem::loaded::{load_template, load_tokenizer};
use deltamem::model_folder::ModelFolder;
use deltamem::reference::{Model, Options};
use deltamem::tokenizer::Tokenizer;
use deltamem::weights::bytes::Blob;
use deltamem::weights::gguf::GgufSource;
use deltamem::weights::gguf::blocks::GgmlType;
use deltamem::weights::gguf::header::Header;
use deltamem::weights::recipe::RecipeSource;
use deltamem::weights::{DType, TensorSource};
use safetensors::tensor::TensorView;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MODELS: [&str; 2] = ["smollm3", "qwen3"];

fn open(model: &str) -> ModelFolder {
    ModelFolder::open(path(&format!("{model}.gguf"))).expect("a model")
}

fn expected() -> Value {
    serde_json::from_slice(&read("expected.json")).expect("JSON")
}

/// The weights before they were converted.
fn recipe(model: &str) -> RecipeSource {
    let expected = expected();
    let config = expected["models"][model]["config"].to_string();
    let config = ModelConfig::from_json(config.as_bytes(), "config.json").unwrap();
    RecipeSource::backbone(&config, expected["seed"].as_u64().unwrap())
}

/// Largest root mean square of a type's rounding, relative to that of uniform values.
fn most_rounding(ty: GgmlType) -> f64 {
    match ty {
        GgmlType::Q8_0 => 0.005,
        GgmlType::Q6_K => 0.02,
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => 0.045,
        _ => 0.09,
    }
}

#[test]
fn configurations_are_those_that_were_converted() {
    for model in MODELS {
        let folder = open(model);
        let config = expected()["models"][model]["config"].to_string();
        let mut config = ModelConfig::from_json(config.as_bytes(), "config.json").unwrap();
        // `<|im_end|>` by its key, `<|end_of_text|>` because it is known to end replies
        assert_eq!(config.eos_token_ids, [399]);
        config.eos_token_ids = vec![395, 399];
        assert_eq!(folder.config, config);
        assert_eq!(folder.name, model);
        let generation = &folder.generation;
        let sampling = (generation.temperature, generation.top_p, generation.top_k);
        assert_eq!(sampling, (Some(0.6), Some(0.95), Some(20)));
        assert_eq!(folder.tokenizer.eos_token.as_deref(), Some("<|im_end|>"));
        let template = std::fs::read_to_string(path("../noise/chat_template.jinja")).unwrap();
        assert_eq!(folder.chat_template, Some(template));
        load_template(&folder).unwrap();
    }
}

#[test]
fn tensors_are_those_of_the_hugging_face_folder() {
    let mut seen = Vec::new();
    for model in MODELS {
        let (folder, recipe) = (open(model), recipe(model));
        for (name, _) in folder.config.tensor_shapes() {
            let (found, exact) =
                (folder.tensors.read_all(&name).unwrap(), recipe.read_all(&name).unwrap());
            let dtype = folder.tensors.info(&name).unwrap().dtype;
            seen.push(dtype.name());
            let rounded: Box<dyn Fn(f32) -> f32> = match dtype {
                DType::F32 => Box::new(|x| x),
                DType::F16 => Box::new(|x| half::f16::from_f32(x).to_f32()),
                DType::BF16 => Box::new(|x| half::bf16::from_f32(x).to_f32()),
                DType::Blocks(ty) => {
                    let pairs = found.iter().zip(&exact);
                    let error: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
                    let size: f64 = exact.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let rounding = (error / size).sqrt();
                    assert!(rounding < most_rounding(ty), "{model} {name} {ty:?}: {rounding}");
                    continue;
                }
            };
            let expected: Vec<f32> = exact.into_iter().map(rounded).collect();
            assert_eq!(found, expected, "{model} {name}");
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), GgmlType::ALL.len(), "every type: {seen:?}");
}

/// So that the test above does not pass because nothing was moved in the first place.
#[test]
fn rows_of_q_and_k_lie_interleaved_in_smollm3_only() {
    for model in MODELS {
        let file = read(&format!("{model}.gguf"));
        let header = Header::read(&Blob::from_bytes(file.clone(), model)).unwrap();
        let config = open(model).config;
        for (name, ours) in [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"),
        ] {
            let entry = header.tensors.iter().find(|t| t.name == name).unwrap();
            assert_eq!(entry.ty, GgmlType::F32);
            let row = 4 * config.hidden_size;
            // the second row of the second head
            let at = entry.offset as usize + (config.head_dim + 1) * row;
            let stored: Vec<f32> = file[at..at + row]
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            let from = match model {
                "smollm3" => config.head_dim + config.head_dim / 2,
                _ => config.head_dim + 1,
            };
            let mut expected = vec![0.0; config.hidden_size];
            recipe(model).read_f32(ours, from * config.hidden_size, &mut expected).unwrap();
            assert_eq!(stored, expected, "{model} {name}");
        }
    }
}

#[test]
fn any_range_can_be_read() {
    let mut random = 7u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n
    };
    for model in MODELS {
        let folder = open(model);
        for name in folder.tensors.names() {
            let all = folder.tensors.read_all(name).unwrap();
            let mut ranges = vec![(0, all.len()), (0, 0), (all.len(), 0), (all.len() - 1, 1)];
            ranges.extend((0..20).map(|_| {
                let start = below(all.len());
                (start, below(all.len() - start + 1))
            }));
            // across rows and blocks, but not much more
            ranges.extend((0..20).map(|_| {
                let start = below(all.len());
                (start, below(70).min(all.len() - start))
            }));
            for (start, len) in ranges {
                let mut out = vec![f32::NAN; len];
                folder.tensors.read_f32(name, start, &mut out).unwrap();
                assert_eq!(out, all[start..start + len], "{model} {name} {start}+{len}");
            }
        }
    }
}

#[test]
fn only_what_is_asked_for_is_read() {
    let file = read("smollm3.gguf");
    let n_file = file.len() as u64;
    let n_read = Arc::new(AtomicU64::new(0));
    let counter = n_read.clone();
    let reader = move |offset: u64, out: &mut [u8]| {
        let n = out.len().min(1000);
        out[..n].copy_from_slice(&file[offset as usize..][..n]);
        counter.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    };
    let blob = Blob::from_reader(n_file, "reader", Box::new(reader));
    let source = GgufSource::from_blobs(vec![blob]).unwrap();
    let header = n_read.swap(0, Ordering::Relaxed);
    assert!(header <= 1 << 16, "{header} bytes for the header");
    // Q4_K: 144 bytes for 256 elements, of which 300 touch three blocks
    let name = "model.layers.0.mlp.down_proj.weight";
    source.read_f32(name, 250, &mut [0.0; 300]).unwrap();
    assert_eq!(n_read.swap(0, Ordering::Relaxed), 3 * 144);
    // a row of Q4_0, in a matrix whose rows are moved
    let name = "model.layers.1.self_attn.q_proj.weight";
    source.read_f32(name, 32 * 5, &mut [0.0; 32]).unwrap();
    assert_eq!(n_read.swap(0, Ordering::Relaxed), 18);
}

#[test]
fn tokens_are_those_of_tokenizer_json() {
    let expected = expected();
    let corpus: Vec<&str> =
        expected["corpus"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for model in MODELS {
        let folder = open(model);
        let from_metadata = load_tokenizer(&folder).unwrap();
        let from_json = Tokenizer::from_json(&read(&format!("{model}-tokenizer.json"))).unwrap();
        let recorded = expected["models"][model]["ids"].as_array().unwrap();
        assert_eq!(recorded.len(), corpus.len());
        for (text, recorded) in corpus.iter().zip(recorded) {
            let ids = from_metadata.encode(text).unwrap();
            assert_eq!(ids, from_json.encode(text).unwrap(), "{model} {text:?}");
            let recorded: Vec<u32> = serde_json::from_value(recorded.clone()).unwrap();
            assert_eq!(ids, recorded, "{model} {text:?}, as the tokenizers package has it");
        }
        // Together, so that the ends of texts meet.
        let all = corpus.concat();
        assert_eq!(from_metadata.encode(&all).unwrap(), from_json.encode(&all).unwrap());
        assert_eq!(from_metadata.vocab_size(), from_json.vocab_size());
        assert_eq!(from_metadata.special_ids(), from_json.special_ids());
        for id in 0..folder.config.vocab_size as u32 {
            assert_eq!(from_metadata.token_bytes(id), from_json.token_bytes(id), "{model} {id}");
        }
    }
}

#[test]
fn files_beside_win_over_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::copy(path("qwen3.gguf"), &file).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), read("smollm3-tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"top_k": 3}"#).unwrap();
    let model = ModelFolder::open(&file).unwrap();
    assert_eq!(model.tokenizer_json, Some(read("smollm3-tokenizer.json")));
    assert_eq!(model.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!((model.generation.top_k, model.generation.temperature), (Some(3), None));
}

/// An adapter for a model, from a recipe, as a folder has it.
fn write_adapter(folder: &Path, model: &ModelConfig) {
    let config = std::fs::read(path("../noise/delta_mem_config.json")).unwrap();
    std::fs::write(folder.join("delta_mem_config.json"), &config).unwrap();
    let config = DeltaConfig::from_json(&config, "delta_mem_config.json").unwrap();
    let recipe = RecipeSource::adapter(model, &config, 5).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = config
        .tensor_shapes(model)
        .unwrap()
        .into_iter()
        .map(|(name, shape)| {
            let values = recipe.read_all(&name).unwrap();
            (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("delta_mem_adapter.safetensors"), bytes).unwrap();
}

#[test]
fn the_program_runs_a_file_with_the_adapter_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::copy(path("smollm3.gguf"), &file).unwrap();
    write_adapter(folder.path(), &open("smollm3").config);
    let run = |more: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_deltamem"));
        program.env("DELTAMEM_DATA_DIR", folder.path().join("data"));
        program.args(["generate", "I'm Ada, 12345", "--cpu", "--json", "--max-tokens", "3"]);
        let output = program.args(more).arg("--model").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert!(run(&[])["memory_norms"]["after"].as_f64() > Some(0.0));
    assert_eq!(run(&["--no-adapter"])["memory"], Value::Null);
}

/// log-probabilities
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    logits.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// The largest KL divergence from recorded rows of logits.
fn worst_kl<'a>(recorded: &Value, ours: impl ExactSizeIterator<Item = &'a [f32]>) -> f64 {
    let recorded: Vec<Vec<f32>> = serde_json::from_value(recorded.clone()).unwrap();
    assert_eq!(recorded.len(), ours.len());
    let pairs = recorded.iter().zip(ours).map(|(theirs, ours)| {
        let (p, q) = (log_softmax(theirs), log_softmax(ours));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    pairs.fold(0.0, f64::max)
}

/// On a file with blocks llama.cpp rounds activations to 8 bits, the twin does not, so its logits are
/// also recorded on the same values in f32.
#[test]
fn logits_are_those_of_llama_cpp() {
    for model in MODELS {
        let folder = open(model);
        let expected = &expected()["models"][model];
        let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
        let options = Options { context_window: 64, ..Options::default() };
        let mut twin = Model::load(&folder.config, &*folder.tensors, None, options).unwrap();
        let call =
            Call { tokens: &tokens, message_ids: None, sentence_ids: None, write_enabled: false };
        let wanted = Wanted { logits: WantedLogits::All, ..Wanted::default() };
        let logits = twin.forward(&call, wanted).unwrap().logits;
        let rows: Vec<&[f32]> = logits.chunks_exact(folder.config.vocab_size).collect();
        let ours: Vec<usize> = rows.iter().map(|row| largest(row)).collect();
        let list = |value: &Value| serde_json::from_value::<Vec<usize>>(value.clone()).unwrap();

        let exact = &expected["exact"];
        assert_eq!(ours, list(&exact["argmax"]), "{model}");
        let kl = worst_kl(&exact["logits"], rows.iter().copied().skip(7).step_by(8));
        assert!(kl < 1e-8, "{model}, exact: KL {kl}");

        let rounded = &expected["rounded"];
        let margins: Vec<f32> = serde_json::from_value(rounded["margin"].clone()).unwrap();
        let best = list(&rounded["argmax"]);
        // Rounding may decide between two that are close; where it does here, they are 0.03 apart.
        let clear: Vec<usize> = (0..rows.len()).filter(|&i| margins[i] > 0.2).collect();
        assert!(clear.len() > 20, "{clear:?}");
        for i in clear {
            assert_eq!(ours[i], best[i], "{model}, token {i}");
        }
        let kl = worst_kl(&rounded["logits"], rows.iter().copied().skip(7).step_by(16));
        assert!(kl < 1e-2, "{model}, rounded: KL {kl}");
    }
}
