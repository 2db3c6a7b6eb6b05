//! `deltamem doctor`: what this machine can run. Owns the questions and the wording of the answers;
//! never fails for want of an adapter, since that is one of the answers.

use super::options::{DeviceOptions, ModelOptions, Weights};
use super::output::{bytes, count, printable, put, table};
use anyhow::Result;
use clap::Args;
use deltamem::config::{DeltaConfig, ModelConfig};
use deltamem::footprint::{Fit, Footprint, Layout, QWEN3_4B, SMOLLM3_3B, fit, splits};
use deltamem::gpu::{self, Gpu, Tier};
use deltamem::loaded::quantisation;
use deltamem::model::{DEFAULT_CHUNK, DEFAULT_CONTEXT};
use deltamem::shader::Storage;
use deltamem::store::MemoryStore;
use serde_json::{Value, json};
use std::process::ExitCode;

/// The published adapters' size: rank 8, q and o.
const PUBLISHED_DELTA: &[u8] = br#"{"rank": 8, "delta_heads": ["q", "o"]}"#;

/// What to look at.
#[derive(Args)]
pub struct DoctorOptions {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    device: DeviceOptions,
}

/// Runs the command.
pub fn run(options: &DoctorOptions) -> Result<ExitCode> {
    let adapters = pollster::block_on(gpu::adapters());
    let opened = match options.device.cpu {
        true => None,
        false => Some(pollster::block_on(Gpu::open(&options.device.gpu_options()))),
    };
    let gpu = opened.as_ref().and_then(|opened| opened.as_ref().ok());
    let problem = opened.as_ref().and_then(|opened| opened.as_ref().err());
    let host_bytes = host_memory();
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "adapters": adapters.iter().map(adapter_json).collect::<Vec<_>>(),
        "used": gpu.map(|gpu| json!({ "name": gpu.info.name, "tier": tier_json(&gpu.tier) })),
        "problem": problem.map(|e| json!({ "code": e.code(), "message": e.to_string() })),
        "host_memory_available_bytes": host_bytes,
        "models": models(options, gpu.map(|gpu| &gpu.tier), host_bytes)?,
        "memories": memories(),
    });
    if options.json {
        put!("{report:#}")?;
    } else {
        print_report(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn adapter_json(adapter: &wgpu::Adapter) -> Value {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    json!({
        "name": info.name,
        "backend": info.backend.to_string(),
        "type": format!("{:?}", info.device_type),
        "driver": format!("{} {}", info.driver, info.driver_info).trim(),
        "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
        "max_buffer_size": limits.max_buffer_size,
        "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
        "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
        "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
        "max_compute_workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
    })
}

fn tier_json(tier: &Tier) -> Value {
    json!({
        "subgroups": tier.subgroups,
        "f16": tier.f16,
        "software": tier.software,
        "max_binding_bytes": tier.max_binding_bytes,
        "max_buffer_bytes": tier.max_buffer_bytes,
    })
}

/// What the models that people ask for, and the given one, take and whether that fits.
fn models(
    options: &DoctorOptions,
    tier: Option<&Tier>,
    host_bytes: Option<u64>,
) -> Result<Vec<Value>> {
    let published = DeltaConfig::from_json(PUBLISHED_DELTA, "delta_mem_config.json")?;
    let (folder, adapter) = options.model.open()?;
    let delta = adapter.map(|adapter| adapter.config);
    let mut models = Vec::new();
    let as_stored = quantisation(&folder, Storage::F16);
    if folder.tensors.names().iter().any(|name| folder.tensors.own_storage(name).is_some()) {
        let layout = layout(&folder.config, Storage::F16, tier);
        let tensors = folder.tensors.as_ref();
        let print = Footprint::of_source(&folder.config, delta.as_ref(), &layout, tensors)?;
        let n_trainable = trainable(delta.as_ref(), &folder.config)?;
        let (name, config, weights) = (&folder.name, &folder.config, &as_stored);
        let model = Model { name, config, weights, n_trainable };
        models.push(model_json(&model, &layout, &print, tier, host_bytes));
    }
    let wanted = [
        (folder.name.as_str(), folder.config, delta),
        ("SmolLM3-3B", ModelConfig::from_json(SMOLLM3_3B, "SmolLM3-3B")?, Some(published.clone())),
        ("Qwen3-4B-Instruct", ModelConfig::from_json(QWEN3_4B, "Qwen3-4B")?, Some(published)),
    ];
    for (name, config, delta) in &wanted {
        for weights in Weights::ALL.into_iter().filter(|&w| w != Weights::F32) {
            let layout = layout(config, weights.storage(), tier);
            let print = Footprint::new(config, delta.as_ref(), &layout)?;
            let n_trainable = trainable(delta.as_ref(), config)?;
            let model = Model { name, config, weights: layout.weights.name(), n_trainable };
            models.push(model_json(&model, &layout, &print, tier, host_bytes));
        }
    }
    Ok(models)
}

/// What a row is about.
struct Model<'a> {
    name: &'a str,
    config: &'a ModelConfig,
    weights: &'a str,
    /// Of its δ-mem, as the paper counts.
    n_trainable: Option<u64>,
}

fn trainable(delta: Option<&DeltaConfig>, config: &ModelConfig) -> Result<Option<u64>> {
    Ok(delta.map(|delta| delta.n_trainable(config)).transpose()?)
}

fn layout(config: &ModelConfig, weights: Storage, tier: Option<&Tier>) -> Layout {
    Layout {
        weights,
        kv: Storage::F16,
        context_window: DEFAULT_CONTEXT.min(config.max_position_embeddings),
        chunk: DEFAULT_CHUNK,
        software: tier.is_some_and(|tier| tier.software),
    }
}

fn model_json(
    model: &Model<'_>,
    layout: &Layout,
    print: &Footprint,
    tier: Option<&Tier>,
    host_bytes: Option<u64>,
) -> Value {
    let config = model.config;
    let binding = tier.map(|tier| tier.max_binding_bytes.min(tier.max_buffer_bytes));
    let splits = binding.map(|b| splits(config, layout.weights, b)).unwrap_or_default();
    let is_host = tier.is_none_or(|tier| tier.software);
    let (fits, verdict) = verdict(fit(print, config, layout, tier, host_bytes), is_host);
    json!({
        "model": model.name,
        "weights": model.weights,
        "context": layout.context_window,
        "weights_bytes": print.weights,
        "adapter_bytes": print.adapter,
        "adapter_trainable_parameters": model.n_trainable,
        "kv_bytes": print.kv,
        "state_bytes": print.state,
        "activation_bytes": print.activations,
        "total_bytes": print.total(),
        "split": splits.iter().map(|s| json!({
            "tensor": s.tensor, "bytes": s.size_bytes, "parts": s.n_parts,
        })).collect::<Vec<_>>(),
        "fits": fits,
        "verdict": verdict,
    })
}

/// Whether it fits, if that can be known, and why.
fn verdict(fit: Fit, is_host: bool) -> (Option<bool>, String) {
    match fit {
        Fit::Yes => (Some(true), "yes".into()),
        Fit::IfMemory if is_host => (None, "if that much memory is free".into()),
        Fit::IfMemory => (None, "if the GPU has that much memory".into()),
        Fit::BufferTooLarge { needed, .. } => {
            (Some(false), format!("no: it needs one buffer of {}", bytes(needed)))
        }
        Fit::HostTooSmall { available, .. } => {
            (Some(false), format!("no: {} of memory are free", bytes(available)))
        }
    }
}

/// Bytes of main memory that programs can still have, if the system says.
pub fn host_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn memories() -> Value {
    let found = || -> deltamem::Result<Value> {
        let folder = MemoryStore::default_dir()?;
        // looking must not make the folder
        let n_stored = match folder.exists() {
            true => MemoryStore::open(&folder)?.list()?.len(),
            false => 0,
        };
        Ok(json!({ "folder": folder.display().to_string(), "stored": n_stored }))
    };
    found().unwrap_or_else(|e| json!({ "error": { "code": e.code(), "message": e.to_string() } }))
}

fn print_report(report: &Value) -> Result<()> {
    let text = |value: &Value| printable(value.as_str().unwrap_or("?"));
    let size = |value: &Value| bytes(value.as_u64().unwrap_or(0));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    put!("deltamem {}\n", text(&report["version"]))?;

    put!("Adapters")?;
    for adapter in list(&report["adapters"]) {
        put!(
            "  {} ({}, {}, driver {})\n    bindings up to {}, buffers up to {}",
            text(&adapter["name"]),
            text(&adapter["backend"]),
            text(&adapter["type"]),
            text(&adapter["driver"]),
            size(&adapter["max_storage_buffer_binding_size"]),
            size(&adapter["max_buffer_size"]),
        )?;
    }
    if list(&report["adapters"]).is_empty() {
        put!("  none")?;
    }
    let used = &report["used"];
    if used.is_object() {
        let tier = &used["tier"];
        let yes = |key: &str| if tier[key] == true { "yes" } else { "no" };
        put!(
            "Used: {}\n  subgroups {}, f16 {}, software {}, bindings up to {}",
            text(&used["name"]),
            yes("subgroups"),
            yes("f16"),
            yes("software"),
            size(&tier["max_binding_bytes"]),
        )?;
    } else if report["problem"].is_object() {
        put!("No GPU can be used: {}", text(&report["problem"]["message"]))?;
        put!("  Everything also runs with --cpu, slowly.")?;
    } else {
        put!("Used: the CPU twin (--cpu)")?;
    }
    if let Some(free) = report["host_memory_available_bytes"].as_u64() {
        put!("Main memory: {} free", bytes(free))?;
    }

    put!("\nModels, with keys and values in f16; trained: parameters of δ-mem")?;
    let head = [
        "model", "weights", "context", "weights", "δ-mem", "trained", "KV", "state", "in all",
        "fits",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut cut = Vec::new();
    for model in list(&report["models"]) {
        rows.push(vec![
            text(&model["model"]),
            text(&model["weights"]),
            model["context"].to_string(),
            size(&model["weights_bytes"]),
            size(&model["adapter_bytes"]),
            model["adapter_trainable_parameters"].as_u64().map_or("-".into(), count),
            size(&model["kv_bytes"]),
            size(&model["state_bytes"]),
            size(&model["total_bytes"]),
            text(&model["verdict"]),
        ]);
        for split in list(&model["split"]) {
            cut.push(format!(
                "  {} {}: {} ({}) in {} bindings",
                text(&model["model"]),
                text(&model["weights"]),
                text(&split["tensor"]),
                size(&split["bytes"]),
                split["parts"],
            ));
        }
    }
    put!("{}", table(&rows))?;
    if !cut.is_empty() {
        put!("Larger than one binding, and split:\n{}", cut.join("\n"))?;
    }

    let memories = &report["memories"];
    match memories["folder"].as_str() {
        Some(folder) => {
            put!("\nMemories: {} stored in {}", memories["stored"], printable(folder))?;
        }
        None => put!("\nMemories: {}", text(&memories["error"]["message"]))?,
    }
    Ok(())
}
