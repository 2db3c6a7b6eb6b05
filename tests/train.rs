//! A few steps of training on the built-in model: `deltamem train` as a person runs it, and a trained
//! adapter in the engines that will run it.
#![cfg(feature = "train")]

mod common;

use deltamem::chat::{CivilDate, Message, Role};
use deltamem::config::DeltaConfig;
use deltamem::engine::{Call, Engine, Wanted, WantedLogits};
use deltamem::loaded::{Device, load_engine};
use deltamem::memory::MemoryState;
use deltamem::model::LoadOptions;
use deltamem::model_folder::Adapter;
use deltamem::replay::relative_error;
use deltamem::shader::Storage;
use deltamem::train::{
    self, AdamWOptions, AdapterParameters, Backbone, Episode, EpisodeReader, Initialization,
    LearningRate, Trainer, TrainerOptions, write_adapter,
};
use pollster::block_on;
use std::path::Path;
use std::process::{Command, Output};

const DATA: &str = r#"
{"messages": [{"role": "user", "content": "I live in Lima."}, {"role": "assistant", "content": "Good."}, {"role": "user", "content": "Where do I live?"}, {"role": "assistant", "content": "Lima."}]}
{"messages": [{"role": "user", "content": "My cat is Tom."}, {"role": "assistant", "content": "Nice."}, {"role": "user", "content": "My cat?"}, {"role": "assistant", "content": "Tom."}]}
{"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]}
"#;

fn deltamem(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
    command.current_dir(folder).env("DELTAMEM_DATA_DIR", folder.join("data"));
    command.args(arguments.split(' ')).output().expect("the program")
}

#[test]
fn an_adapter_is_trained_resumed_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("data.jsonl"), DATA).expect("a file");
    let train = "train --data data.jsonl --eval data.jsonl --out out --steps 3 --batch 2 \
                 --save-every 2 --preset ssw --state-update lambda-outside --free-lambda \
                 --beta-bias -4 --lambda-bias 3";
    let run = |extra: &str| {
        let output = deltamem(folder, &format!("{train}{extra}"));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = run("");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("3 conversations") && err.contains("step 3: loss"), "{err}");
    for name in [
        "delta_mem_config.json",
        "delta_mem_adapter.safetensors",
        "delta_mem_adapter.pt",
        "checkpoint.safetensors",
        "training.json",
        "loss.svg",
    ] {
        assert!(folder.join("out").join(name).exists(), "{name}");
    }
    let config = std::fs::read_to_string(folder.join("out/delta_mem_config.json")).expect("JSON");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let keys = ["state_update_mode", "couple_lambda", "memory_write_granularity", "rank"];
    let values = keys.map(|key| config[key].to_string());
    assert_eq!(values, ["\"lambda_outside\"", "false", "\"message_mean\"", "8"]);
    let log = std::fs::read_to_string(folder.join("out/log.jsonl")).expect("a log");
    assert_eq!(log.lines().count(), 4, "{log}");

    let (code, err) = run("");
    assert!(code == Some(2) && err.contains("--resume"), "{err}");
    let (code, err) = run(" --resume --seed 1");
    assert!(code == Some(2) && err.contains("another seed"), "{err}");
    #[cfg(not(feature = "train-gpu"))]
    {
        let (code, err) = run(" --resume --device gpu");
        assert!(code == Some(2) && err.contains("train-gpu"), "{err}");
    }
    let (code, err) = run(" --resume");
    assert!(code == Some(0) && err.contains("after step 3"), "{err}");

    let output = deltamem(folder, "generate --cpu --adapter out --max-tokens 2 hi");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Logits `[targets, vocab]` of an episode's learnt tokens, call by call, beginning with an empty
/// memory; `forgets` empties it again wherever the cache is dropped.
fn engine_logits(engine: &mut Engine, episode: &Episode, forgets: bool) -> Vec<f32> {
    let empty = MemoryState::zeros(engine.memory_dims().clone());
    engine.write_memory(&empty).expect("the same dimensions");
    let vocab_size = engine.config().vocab_size;
    let wanted = Wanted { logits: WantedLogits::All, ..Wanted::default() };
    let mut found = Vec::new();
    for call in &episode.calls {
        if !call.continues {
            engine.reset_context();
            if forgets {
                engine.write_memory(&empty).expect("the same dimensions");
            }
        }
        let request = Call {
            tokens: &call.tokens,
            message_ids: call.message_ids.as_deref(),
            sentence_ids: call.sentence_ids.as_deref(),
            write_enabled: call.write_enabled,
        };
        let logits = block_on(engine.forward(&request, wanted)).expect("a call").logits;
        let rows = logits.chunks_exact(vocab_size).zip(&call.targets);
        found.extend(rows.filter(|(_, target)| target.is_some()).flat_map(|(row, _)| row));
    }
    found
}

#[test]
fn a_trained_adapter_gives_the_trainers_logits_in_every_engine() {
    let (folder, _) = common::noise_model();
    let mut devices = vec![Device::Cpu];
    devices.extend(common::gpu(false).map(Device::Gpu));
    let told = |fact: &str, reply: &str, question: &str, answer: &str| {
        let parts = [fact, reply, "Hello.", "Hi.", question, answer];
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        roles.zip(parts).map(|(role, text)| Message::new(role, text)).collect::<Vec<_>>()
    };
    let conversations = [
        told("I live in Lima.", "Noted.", "Where do I live?", "You live in Lima."),
        told("My cat is Tom.", "Noted.", "Who is my cat?", "Your cat is Tom."),
    ];
    for json in [
        r#"{"rank": 8, "delta_heads": ["q", "o"]}"#,
        r#"{"rank": 8, "delta_heads": ["q", "o"], "memory_write_granularity": "message_mean"}"#,
        r#"{"rank": 8, "delta_heads": ["q", "o"], "num_state_heads": 4}"#,
        r#"{"rank": 8, "delta_heads": ["q", "o"], "state_update_mode": "no_lambda"}"#,
    ] {
        let delta = DeltaConfig::from_json(json.as_bytes(), "test").expect("a configuration");
        let date = CivilDate::new(2026, 1, 2).expect("a date");
        let reader = EpisodeReader::new(&folder, delta.write_granularity, date).expect("a reader");
        let episodes: Vec<Episode> = conversations
            .iter()
            .map(|messages| reader.episode(messages).expect("an episode"))
            .collect();
        let weights = folder.tensors.as_ref();
        let cpu = train::Device::flex();
        let backbone = Backbone::load(&folder.config, weights, Storage::F32, &cpu);
        // Far from zero at once, so that the memory has its say.
        let init = Initialization { online_gain: 4.0, ..Initialization::default() };
        let parameters = AdapterParameters::init(&folder.config, &delta, weights, &init);
        let options = TrainerOptions {
            learning_rate: LearningRate {
                peak: 0.01,
                floor_share: 1.0,
                warmup_steps: 0,
                n_steps: 3,
            },
            optimizer: AdamWOptions::default(),
            max_gradient_norm: 1.0,
            batch_size: 2,
            accumulate: 1,
            truncate_tokens: None,
            seed: 0,
        };
        let (backbone, parameters) = (backbone.expect("a backbone"), parameters.expect("values"));
        let trainer = Trainer::new(backbone, delta.clone(), parameters, options);
        let mut trainer = trainer.expect("a trainer");
        for _ in 0..3 {
            trainer.step(&episodes).expect("a step");
        }
        let files = tempfile::tempdir().expect("a folder");
        write_adapter(files.path(), &delta, trainer.parameters()).expect("files");
        let adapter = Adapter::open(files.path(), &folder.config).expect("an adapter");
        let options =
            LoadOptions { weights: Storage::F32, kv: Storage::F32, ..LoadOptions::default() };
        for device in &devices {
            let label = match device {
                Device::Gpu(gpu) => &gpu.info.name,
                Device::Cpu => "twin",
            };
            let source = Some((&adapter.config, adapter.tensors.as_ref() as _));
            let mut progress = |_, _| {};
            let config = &folder.config;
            let engine = load_engine(config, weights, source, device, &options, &mut progress);
            let mut engine = block_on(engine).expect("an engine");
            for episode in &episodes {
                let expected = trainer.logits(episode).expect("logits");
                let found = engine_logits(&mut engine, episode, false);
                let error = relative_error(&found, &expected);
                assert!(error < 1e-3, "{json}, {label}: relative error {error}");
                let forgotten = engine_logits(&mut engine, episode, true);
                let change = relative_error(&forgotten, &expected);
                println!("{json}, {label}: {error:e}, without its memory {change}");
                // ten times what an engine may differ by
                assert!(change > 0.01, "{json}, {label}: the memory changes only {change}");
            }
        }
    }
}
