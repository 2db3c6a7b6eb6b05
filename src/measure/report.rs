//! What a measurement found, as the program and a page print it. Owns the names and units of the JSON.

use super::peer::PeerAbout;
use super::roofline::Limits;
use super::runs::{median, speed_ratio};
use super::{Candidate, Measured, Settings, Task, WriteMode};
use crate::chat::CivilDate;
use crate::gpu::{KernelTime, Tier};
use crate::loaded::Device;
use crate::model::LoadOptions;
use serde::Serialize;
use serde_json::{Value, json};
use web_time::SystemTime;

/// What only its caller knows.
#[derive(Debug, Serialize)]
pub struct About {
    pub model: String,
    /// As `loaded::quantisation` has it.
    pub weights: String,
    /// The mode of the adapter that came with the model; the others' were generated.
    pub given_adapter: Option<WriteMode>,
    pub base_tier: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The adapter's name, or `cpu` for the twin of the shaders.
    pub adapter: String,
    /// What kernels may use; `None` for the twin.
    pub tier: Option<TierReport>,
    pub kv: &'static str,
    pub chunk: usize,
    /// Positions of the KV cache.
    pub context_window: usize,
    /// Rounds that were wanted.
    pub runs: usize,
    pub debug_build: bool,
    /// False where the modes were loaded one after the other for want of room, and ratios are not of
    /// one round.
    pub is_interleaved: bool,
    /// Reading the files, uploading and compiling, of the first mode.
    pub load_seconds: f64,
    /// `None` if nothing but loading was wanted.
    pub first_token: Option<FirstToken>,
    pub prefill: Vec<Rate>,
    pub decode: Vec<Rate>,
    /// Other engines that ran in the same rounds.
    pub peers: Vec<PeerReport>,
    /// What a token of the first mode with δ-mem asks of the device; `None` for the twin.
    pub per_token: Option<PerToken>,
    pub memory_bytes: Memory,
    pub memory_checks: Vec<MemoryCheck>,
    /// `None` for the twin.
    pub limits: Option<Limits>,
    /// Empty where the adapter has no timestamps.
    pub kernels: Vec<KernelRow>,
    pub left_out: Vec<LeftOut>,
}

/// What kernels may use on the device.
#[derive(Debug, Serialize)]
pub struct TierReport {
    pub subgroups: bool,
    pub f16: bool,
    pub software: bool,
}

/// How long a first token takes.
#[derive(Debug, Serialize)]
pub struct FirstToken {
    pub prompt_tokens: usize,
    pub delta: WriteMode,
    /// Loading and the first prompt.
    pub cold_seconds: f64,
    /// The same prompt once more.
    pub warm_seconds: f64,
}

/// The speed of one thing in one mode.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Before what was decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    pub delta: WriteMode,
    /// Median, tokens a second.
    pub tok_s: f64,
    /// Of the slowest and the fastest round.
    pub tok_s_range: [f64; 2],
    pub rounds: usize,
    /// Tokens of a run, for decode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoded_tokens: Option<usize>,
    /// Of what the adapter could do at best, 0 to 1; `None` for the twin.
    pub fraction_of_limit: Option<f64>,
    /// Against δ-mem off, round by round; `None` for that itself.
    pub ratio_to_off: Option<f64>,
}

impl Rate {
    pub(super) fn of(measured: &Measured, off: Option<&Measured>) -> Rate {
        let n = measured.n_tokens as f64;
        let rates = || measured.seconds.iter().map(|seconds| n / seconds);
        let (tokens, context) = match measured.task {
            Task::Prefill(n) => (Some(n), None),
            Task::Decode(n) => (None, Some(n)),
        };
        let off = off.filter(|off| measured.mode != WriteMode::Off && off.n_tokens > 0);
        let per_token = |m: &Measured| -> Vec<f64> {
            m.seconds.iter().map(|seconds| seconds / m.n_tokens as f64).collect()
        };
        Rate {
            tokens,
            context,
            delta: measured.mode,
            tok_s: median(rates()),
            tok_s_range: [rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max)],
            rounds: measured.seconds.len(),
            decoded_tokens: context.map(|_| measured.n_tokens),
            fraction_of_limit: measured
                .limit_seconds
                .map(|limit| limit / median(measured.seconds.iter().copied())),
            ratio_to_off: off.map(|off| speed_ratio(&per_token(measured), &per_token(off))),
        }
    }
}

/// What a peer did in the rounds of this engine.
#[derive(Debug, Serialize)]
pub struct PeerReport {
    #[serde(flatten)]
    pub about: PeerAbout,
    pub prefill: Vec<PeerRate>,
    pub decode: Vec<PeerRate>,
}

/// The speed of one thing in a peer.
#[derive(Debug, Serialize)]
pub struct PeerRate {
    /// Of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Before what was decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Median, tokens a second.
    pub tok_s: f64,
    /// Of the slowest and the fastest round.
    pub tok_s_range: [f64; 2],
    pub rounds: usize,
    /// How often as fast this engine was.
    pub ratios: Vec<PeerRatio>,
}

/// This engine in one mode against a peer, which has no memory.
#[derive(Debug, Serialize)]
pub struct PeerRatio {
    pub delta: WriteMode,
    /// The median over rounds; above 1 this engine is the faster.
    pub ratio: f64,
    /// The same by the CPU time of both processes in all rounds, which other load on the machine hardly
    /// changes; only of a device that is a CPU. A thread that spins while it waits counts, so a peer has
    /// one thread where this is to mean something.
    pub cpu_ratio: Option<f64>,
}

impl PeerReport {
    pub(super) fn of(about: &PeerAbout, measured: &[Measured], is_cpu: bool) -> PeerReport {
        let mut report =
            PeerReport { about: about.clone(), prefill: Vec::new(), decode: Vec::new() };
        for m in measured {
            let (tokens, context, rates) = match m.task {
                Task::Prefill(n) => (Some(n), None, &mut report.prefill),
                Task::Decode(n) => (None, Some(n), &mut report.decode),
            };
            let peer_seconds: Vec<f64> = m.peer.iter().map(|time| time.seconds).collect();
            let peer_cpu: Option<f64> = m.peer.iter().map(|time| time.cpu_seconds).sum();
            let ours = m.cpu_seconds.filter(|seconds| is_cpu && *seconds > 0.0);
            let ratio = PeerRatio {
                delta: m.mode,
                ratio: speed_ratio(&m.seconds, &peer_seconds),
                cpu_ratio: peer_cpu.zip(ours).map(|(theirs, ours)| theirs / ours),
            };
            let is_same = |rate: &&mut PeerRate| (rate.tokens, rate.context) == (tokens, context);
            if let Some(rate) = rates.iter_mut().find(is_same) {
                rate.ratios.push(ratio);
                continue;
            }
            let speeds = || peer_seconds.iter().map(|seconds| m.n_tokens as f64 / seconds);
            rates.push(PeerRate {
                tokens,
                context,
                tok_s: median(speeds()),
                tok_s_range: [speeds().fold(f64::INFINITY, f64::min), speeds().fold(0.0, f64::max)],
                rounds: peer_seconds.len(),
                ratios: vec![ratio],
            });
        }
        report
    }
}

/// What decoding asks of the device, a token.
#[derive(Debug, Serialize)]
pub struct PerToken {
    pub delta: WriteMode,
    pub dispatches: f64,
    pub submits: f64,
    pub bind_groups_created: f64,
    pub buffers_created: f64,
    pub bytes_read_back: f64,
    pub bytes_uploaded: f64,
}

impl PerToken {
    pub(super) fn of(measured: &Measured) -> Option<PerToken> {
        let counters = measured.counters?;
        let each = |count: u64| count as f64 / measured.n_tokens as f64;
        Some(PerToken {
            delta: measured.mode,
            dispatches: each(counters.dispatches),
            submits: each(counters.submits),
            bind_groups_created: each(counters.bind_groups_created),
            buffers_created: each(counters.buffers_created),
            bytes_read_back: each(counters.bytes_read_back),
            bytes_uploaded: each(counters.bytes_uploaded),
        })
    }
}

/// Memory after the first reply of the first mode, before the limits were measured. The first three are
/// the process's, as the system tells it; of the others, those of the device are what was asked for,
/// but for the last two.
#[derive(Debug, Serialize, Default)]
pub struct Memory {
    pub host_before_load: Option<u64>,
    pub host_resident: Option<u64>,
    pub host_peak: Option<u64>,
    pub weights: u64,
    pub adapter: u64,
    pub kv: u64,
    pub state: u64,
    pub activations: u64,
    /// In use and reserved, where wgpu tells.
    pub device_allocated: Option<u64>,
    pub device_reserved: Option<u64>,
    /// The device is a CPU, and its memory is part of the process's.
    pub device_is_host: bool,
}

/// A bound on memory.
#[derive(Debug, Serialize)]
pub struct MemoryCheck {
    pub what: &'static str,
    pub bytes: u64,
    pub limit: u64,
    pub is_met: bool,
}

impl Memory {
    /// Against weights (with δ-mem's) and KV cache.
    pub(super) fn checks(&self) -> Vec<MemoryCheck> {
        let base = self.weights + self.adapter + self.kv;
        let check = |what, bytes: u64, limit: u64| MemoryCheck {
            what,
            bytes,
            limit,
            is_met: bytes <= limit,
        };
        // beside a small model, the process itself is more than a tenth
        let is_large = base >= 1 << 30;
        let host = self.host_peak.filter(|_| is_large).map(|peak| {
            check("host memory at its peak: weights + KV + 10 %", peak, base + base / 10)
        });
        let device = self
            .device_allocated
            .map(|bytes| check("device memory: weights + KV + 150 MB", bytes, base + 150_000_000));
        host.into_iter().chain(device).collect()
    }
}

/// All dispatches of a kernel in one token, or in one piece of a prompt.
#[derive(Debug, Serialize)]
pub struct KernelRow {
    /// `decode` or `prefill`
    pub phase: &'static str,
    pub delta: WriteMode,
    #[serde(flatten)]
    pub time: KernelTime,
}

/// What was wanted and not measured.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    pub what: String,
    pub delta: Vec<WriteMode>,
    pub reason: String,
}

impl LeftOut {
    pub(super) fn new(task: Task, group: &[Candidate], reason: String) -> LeftOut {
        let delta = group.iter().map(|candidate| candidate.mode).collect();
        LeftOut { what: task.name(), delta, reason }
    }
}

impl Report {
    /// The whole as JSON, with who measured what and when.
    pub fn with(&self, about: About) -> Value {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let date = CivilDate::from_unix_seconds(since.as_secs() as i64);
        let mut all = json!({ "version": env!("CARGO_PKG_VERSION"), "date": date.to_string() });
        for part in [json!(about), json!(self)] {
            if let (Value::Object(all), Value::Object(part)) = (&mut all, part) {
                all.extend(part);
            }
        }
        all
    }

    pub(super) fn new(device: &Device, load: &LoadOptions, settings: &Settings) -> Report {
        let tier = |tier: &Tier| TierReport {
            subgroups: tier.subgroups,
            f16: tier.f16,
            software: tier.software,
        };
        let (adapter, tier) = match device {
            Device::Gpu(gpu) => (gpu.info.name.clone(), Some(tier(&gpu.tier))),
            Device::Cpu => ("cpu".into(), None),
        };
        Report {
            adapter,
            tier,
            kv: load.kv.name(),
            chunk: load.chunk,
            context_window: load.context_window.unwrap_or(0),
            runs: settings.runs,
            debug_build: cfg!(debug_assertions),
            is_interleaved: true,
            load_seconds: 0.0,
            first_token: None,
            prefill: Vec::new(),
            decode: Vec::new(),
            peers: Vec::new(),
            per_token: None,
            memory_bytes: Memory::default(),
            memory_checks: Vec::new(),
            limits: None,
            kernels: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::peer::PeerTime;

    fn measured(task: Task, mode: WriteMode, seconds: &[f64], peer_seconds: &[f64]) -> Measured {
        let time = |seconds: &f64| PeerTime { seconds: *seconds, cpu_seconds: Some(seconds * 3.0) };
        let cpu_seconds = Some(seconds.iter().sum());
        let (seconds, peer) = (seconds.to_vec(), peer_seconds.iter().map(time).collect());
        Measured {
            task,
            mode,
            n_tokens: 8,
            seconds,
            counters: None,
            limit_seconds: None,
            cpu_seconds,
            peer,
        }
    }

    #[test]
    fn a_peer_is_compared_with_every_mode_round_by_round() {
        let [name, version, engine] = ["peer", "1", "CPU"].map(String::from);
        let about = PeerAbout { name, version, engine };
        let peer = [2.0, 4.0, 8.0];
        let report = PeerReport::of(
            &about,
            &[
                measured(Task::Prefill(8), WriteMode::Off, &[1.0, 2.0, 1.0], &peer),
                measured(Task::Prefill(8), WriteMode::Tsw, &[4.0, 8.0, 2.0], &peer),
                measured(Task::Decode(8), WriteMode::Off, &[4.0], &[2.0]),
            ],
            true,
        );
        let found = json!(report);
        let ratios = json!([{ "delta": "off", "ratio": 2.0, "cpu_ratio": 10.5 },
            { "delta": "tsw", "ratio": 0.5, "cpu_ratio": 3.0 }]);
        let prefill = json!([{ "tokens": 8, "tok_s": 2.0, "tok_s_range": [1.0, 4.0], "rounds": 3,
            "ratios": ratios }]);
        let decode = json!([{ "context": 8, "tok_s": 4.0, "tok_s_range": [4.0, 4.0], "rounds": 1,
            "ratios": [{ "delta": "off", "ratio": 0.5, "cpu_ratio": 1.5 }] }]);
        let expected = json!({ "name": "peer", "version": "1", "engine": "CPU",
            "prefill": prefill, "decode": decode });
        assert_eq!(found, expected);
    }
}
