//! The report of `deltamem bench` for people.

use crate::cli::output::{bytes, printable, put, table};
use anyhow::Result;
use serde_json::Value;

/// Prints the JSON's content as tables.
pub fn print(report: &Value) -> Result<()> {
    let text = |value: &Value| printable(value.as_str().unwrap_or("?"));
    put!(
        "{} on {}\nweights {}, KV cache {}, context {}, chunks of {}, medians of up to {} rounds",
        text(&report["model"]),
        text(&report["adapter"]),
        text(&report["weights"]),
        text(&report["kv"]),
        report["context_window"],
        report["chunk"],
        report["runs"],
    )?;
    if report["debug_build"] == true {
        put!("this is a debug build; measure with cargo run --release")?;
    }
    if report["is_interleaved"] == false {
        put!("modes one after the other, for want of memory: ratios are rough")?;
    }
    put!("\nloaded in {} s", number(&report["load_seconds"]))?;
    let first = &report["first_token"];
    if first.is_object() {
        put!(
            "first token after a prompt of {}: {} s cold (with loading), {} s warm",
            first["prompt_tokens"],
            number(&first["cold_seconds"]),
            number(&first["warm_seconds"]),
        )?;
        rates(report)?;
    }
    for peer in list(&report["peers"]) {
        against(&peer)?;
    }
    if report["per_token"].is_object() {
        let of = &report["per_token"];
        put!(
            "\nA decoded token ({}): {} dispatches, {} submits, {} bind groups and {} buffers made, {} \
             bytes uploaded, {} read back",
            text(&of["delta"]),
            number(&of["dispatches"]),
            number(&of["submits"]),
            number(&of["bind_groups_created"]),
            number(&of["buffers_created"]),
            number(&of["bytes_uploaded"]),
            number(&of["bytes_read_back"]),
        )?;
    }
    memory(report)?;
    limits(&report["limits"])?;
    kernels(report)?;
    let left_out = list(&report["left_out"]);
    if !left_out.is_empty() {
        put!("\nLeft out")?;
    }
    for left in left_out {
        let delta: Vec<String> = list(&left["delta"]).iter().map(text).collect();
        put!("  {} ({}): {}", text(&left["what"]), delta.join(", "), text(&left["reason"]))?;
    }
    Ok(())
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(x) if x.abs() >= 1000.0 || (x.fract() == 0.0 && x.abs() >= 1.0) => format!("{x:.0}"),
        Some(x) if x.abs() >= 10.0 => format!("{x:.1}"),
        Some(x) => format!("{x:.3}"),
    }
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |x| format!("{:.1} %", 100.0 * x))
}

fn rates(report: &Value) -> Result<()> {
    let head = ["", "tokens", "δ-mem", "tok/s", "range", "rounds", "of the limit", "to off"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (phase, size) in [("prefill", "tokens"), ("decode", "context")] {
        for rate in list(&report[phase]) {
            let range = &rate["tok_s_range"];
            rows.push(vec![
                phase.into(),
                match phase {
                    "decode" => format!("{} at {}", rate["decoded_tokens"], rate[size]),
                    _ => rate[size].to_string(),
                },
                rate["delta"].as_str().unwrap_or("?").into(),
                number(&rate["tok_s"]),
                format!("{}–{}", number(&range[0]), number(&range[1])),
                rate["rounds"].to_string(),
                percent(&rate["fraction_of_limit"]),
                number(&rate["ratio_to_off"]),
            ]);
        }
    }
    put!("\n{}", table(&rows))?;
    Ok(())
}

/// Another engine, and how often as fast this one is.
fn against(peer: &Value) -> Result<()> {
    let text = |key: &str| printable(peer[key].as_str().unwrap_or("?"));
    put!("\n{} ({}; {})", text("name"), text("version"), text("engine"))?;
    let head = ["", "tokens", "tok/s", "range", "rounds", "deltamem to it"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (phase, size) in [("prefill", "tokens"), ("decode", "context")] {
        for rate in list(&peer[phase]) {
            let ratio = |of: &Value| {
                let by_cpu = match of["cpu_ratio"].is_number() {
                    true => format!(" ({} by CPU time)", number(&of["cpu_ratio"])),
                    false => String::new(),
                };
                format!("{} {}{by_cpu}", of["delta"].as_str().unwrap_or("?"), number(&of["ratio"]))
            };
            let ratios: Vec<String> = list(&rate["ratios"]).iter().map(ratio).collect();
            let range = &rate["tok_s_range"];
            rows.push(vec![
                phase.into(),
                match phase {
                    "decode" => format!("at {}", rate[size]),
                    _ => rate[size].to_string(),
                },
                number(&rate["tok_s"]),
                format!("{}–{}", number(&range[0]), number(&range[1])),
                rate["rounds"].to_string(),
                ratios.join(", "),
            ]);
        }
    }
    put!("{}", table(&rows))?;
    Ok(())
}

fn memory(report: &Value) -> Result<()> {
    let memory = &report["memory_bytes"];
    let size = |key: &str| memory[key].as_u64().map_or("?".into(), bytes);
    put!(
        "\nMemory: weights {}, δ-mem {}, KV {}, state {}, activations {}",
        size("weights"),
        size("adapter"),
        size("kv"),
        size("state"),
        size("activations"),
    )?;
    put!(
        "  device: {} in use, {} reserved{}",
        size("device_allocated"),
        size("device_reserved"),
        match memory["device_is_host"] == true {
            true => "; it is part of the process's, as this device is a CPU",
            false => "",
        },
    )?;
    put!(
        "  process: {} before loading, {} after the first reply, {} at the peak",
        size("host_before_load"),
        size("host_resident"),
        size("host_peak"),
    )?;
    for check in list(&report["memory_checks"]) {
        let (found, limit) = (check["bytes"].as_u64(), check["limit"].as_u64());
        put!(
            "  {}: {} of {}: {}",
            printable(check["what"].as_str().unwrap_or("?")),
            found.map_or("?".into(), bytes),
            limit.map_or("?".into(), bytes),
            if check["is_met"] == true { "met" } else { "exceeded" },
        )?;
    }
    Ok(())
}

fn limits(limits: &Value) -> Result<()> {
    if !limits.is_object() {
        return Ok(());
    }
    let giga = |key: &str| limits[key].as_f64().map_or("-".into(), |x| format!("{:.2}", x / 1e9));
    put!(
        "\nLimits of the adapter: reads {} GB/s, f32 {} G operations/s, f16 {}",
        giga("read_bytes_per_second"),
        giga("f32_operations_per_second"),
        giga("f16_operations_per_second"),
    )?;
    Ok(())
}

fn kernels(report: &Value) -> Result<()> {
    let kernels = list(&report["kernels"]);
    if kernels.is_empty() {
        return Ok(());
    }
    let head = ["kernel", "", "δ-mem", "count", "ms", "share"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for kernel in kernels {
        let cell = |key: &str| kernel[key].as_str().unwrap_or("?").to_string();
        let ms = kernel["total_seconds"].as_f64().unwrap_or(f64::NAN) * 1e3;
        rows.push(vec![
            cell("kernel"),
            cell("phase"),
            cell("delta"),
            kernel["count"].to_string(),
            format!("{ms:.3}"),
            percent(&kernel["share"]),
        ]);
    }
    put!("\n{}", table(&rows))?;
    Ok(())
}
