//! From the files under `shaders/` to complete WGSL. Owns `#import`, the constants that come from
//! Rust, and the choice of library variant by device tier; knows nothing of wgpu.
//!
//! A kernel says `#import reduce`; which file that means (`reduce_tree`, `reduce_subgroup`, …) is
//! decided here from a [`Variant`], so a kernel's own text is the same on every device.

use std::fmt::Write;

/// Every kernel by name with its text, in the order of the forward pass.
pub const KERNELS: &[(&str, &str)] = &[
    ("embed", include_str!("../shaders/embed.wgsl")),
    ("rms_norm", include_str!("../shaders/rms_norm.wgsl")),
    ("matvec", include_str!("../shaders/matvec.wgsl")),
    ("matvec_blocks", include_str!("../shaders/matvec_blocks.wgsl")),
    ("matvec_serial", include_str!("../shaders/matvec_serial.wgsl")),
    ("matvec_quads", include_str!("../shaders/matvec_quads.wgsl")),
    ("matmul", include_str!("../shaders/matmul.wgsl")),
    ("matmul_serial", include_str!("../shaders/matmul_serial.wgsl")),
    ("matmul_shuffle", include_str!("../shaders/matmul_shuffle.wgsl")),
    ("memory_project", include_str!("../shaders/memory_project.wgsl")),
    ("memory_scan", include_str!("../shaders/memory_scan.wgsl")),
    ("memory_read", include_str!("../shaders/memory_read.wgsl")),
    ("memory_step", include_str!("../shaders/memory_step.wgsl")),
    ("segment_mean", include_str!("../shaders/segment_mean.wgsl")),
    ("low_rank_add", include_str!("../shaders/low_rank_add.wgsl")),
    ("rope_kv", include_str!("../shaders/rope_kv.wgsl")),
    ("rope_kv_q8", include_str!("../shaders/rope_kv_q8.wgsl")),
    ("attention", include_str!("../shaders/attention.wgsl")),
    ("attention_tiled", include_str!("../shaders/attention_tiled.wgsl")),
    ("attention_combine", include_str!("../shaders/attention_combine.wgsl")),
    ("attention_serial", include_str!("../shaders/attention_serial.wgsl")),
    ("silu_mul", include_str!("../shaders/silu_mul.wgsl")),
    ("note_token", include_str!("../shaders/note_token.wgsl")),
    ("repetition_penalty", include_str!("../shaders/repetition_penalty.wgsl")),
    ("mask_logits", include_str!("../shaders/mask_logits.wgsl")),
    ("argmax", include_str!("../shaders/argmax.wgsl")),
    ("top_k", include_str!("../shaders/top_k.wgsl")),
    ("choose", include_str!("../shaders/choose.wgsl")),
    ("next_step", include_str!("../shaders/next_step.wgsl")),
];

/// Every file under `shaders/lib`.
pub const LIBRARY: &[(&str, &str)] = &[
    ("step", include_str!("../shaders/lib/step.wgsl")),
    ("reduce_tree", include_str!("../shaders/lib/reduce_tree.wgsl")),
    ("reduce_subgroup", include_str!("../shaders/lib/reduce_subgroup.wgsl")),
    ("reduce_one_subgroup", include_str!("../shaders/lib/reduce_one_subgroup.wgsl")),
    ("reduce_rows_shared", include_str!("../shaders/lib/reduce_rows_shared.wgsl")),
    ("reduce_rows_subgroup", include_str!("../shaders/lib/reduce_rows_subgroup.wgsl")),
    ("weight_f32", include_str!("../shaders/lib/weight_f32.wgsl")),
    ("weight_f16", include_str!("../shaders/lib/weight_f16.wgsl")),
    ("weight_bf16", include_str!("../shaders/lib/weight_bf16.wgsl")),
    ("bf16", include_str!("../shaders/lib/bf16.wgsl")),
    ("weight_f16_native", include_str!("../shaders/lib/weight_f16_native.wgsl")),
    ("weight_q8", include_str!("../shaders/lib/weight_q8.wgsl")),
    ("weight_q4", include_str!("../shaders/lib/weight_q4.wgsl")),
    ("weight_q4_k", include_str!("../shaders/lib/weight_q4_k.wgsl")),
    ("weight_q5_k", include_str!("../shaders/lib/weight_q5_k.wgsl")),
    ("weight_q6_k", include_str!("../shaders/lib/weight_q6_k.wgsl")),
    ("weight_blocks_of_quads", include_str!("../shaders/lib/weight_blocks_of_quads.wgsl")),
    ("linear", include_str!("../shaders/lib/linear.wgsl")),
    ("memory_walk", include_str!("../shaders/lib/memory_walk.wgsl")),
    ("memory_beside", include_str!("../shaders/lib/memory_beside.wgsl")),
    ("memory_beside_none", include_str!("../shaders/lib/memory_beside_none.wgsl")),
    ("memory_weight_f32", include_str!("../shaders/lib/memory_weight_f32.wgsl")),
    ("memory_weight_bf16", include_str!("../shaders/lib/memory_weight_bf16.wgsl")),
    ("memory_rows_none", include_str!("../shaders/lib/memory_rows_none.wgsl")),
    ("memory_rows_reduce", include_str!("../shaders/lib/memory_rows_reduce.wgsl")),
    ("memory_rows_serial", include_str!("../shaders/lib/memory_rows_serial.wgsl")),
    ("memory_rows_quads", include_str!("../shaders/lib/memory_rows_quads.wgsl")),
    ("correction_none", include_str!("../shaders/lib/correction_none.wgsl")),
    ("correction_low_rank", include_str!("../shaders/lib/correction_low_rank.wgsl")),
    ("four_rows", include_str!("../shaders/lib/four_rows.wgsl")),
    ("group_rows", include_str!("../shaders/lib/group_rows.wgsl")),
    ("silu", include_str!("../shaders/lib/silu.wgsl")),
    ("gates", include_str!("../shaders/lib/gates.wgsl")),
    ("heads_of_tile", include_str!("../shaders/lib/heads_of_tile.wgsl")),
    ("corrected_head", include_str!("../shaders/lib/corrected_head.wgsl")),
    ("head_plain", include_str!("../shaders/lib/head_plain.wgsl")),
    ("head_adjusted", include_str!("../shaders/lib/head_adjusted.wgsl")),
    ("head_tile", include_str!("../shaders/lib/head_tile.wgsl")),
    ("reads_stored", include_str!("../shaders/lib/reads_stored.wgsl")),
    ("reads_made", include_str!("../shaders/lib/reads_made.wgsl")),
    ("rotated", include_str!("../shaders/lib/rotated.wgsl")),
    ("x_block_load", include_str!("../shaders/lib/x_block_load.wgsl")),
    ("x_block_shuffle", include_str!("../shaders/lib/x_block_shuffle.wgsl")),
    ("pairs_by_eight", include_str!("../shaders/lib/pairs_by_eight.wgsl")),
    ("pairs_by_two", include_str!("../shaders/lib/pairs_by_two.wgsl")),
    ("order", include_str!("../shaders/lib/order.wgsl")),
    ("kv_f32", include_str!("../shaders/lib/kv_f32.wgsl")),
    ("kv_f16", include_str!("../shaders/lib/kv_f16.wgsl")),
    ("kv_q8", include_str!("../shaders/lib/kv_q8.wgsl")),
];

/// How the numbers of a weight matrix or of the KV cache are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    F32,
    F16,
    /// For an adapter that comes so.
    Bf16,
    Q8,
    Q4,
    /// GGUF's blocks of 256, for weights that come in them.
    Q4K,
    Q5K,
    Q6K,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 8] = [
        Storage::F32,
        Storage::F16,
        Storage::Bf16,
        Storage::Q8,
        Storage::Q4,
        Storage::Q4K,
        Storage::Q5K,
        Storage::Q6K,
    ];

    /// Those that a KV cache can have.
    pub const KV: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Q8];

    /// As on the command line: `f32`, `f16`, `q8`, `q4`; those that only files bring: `bf16`, `q4_k`,
    /// `q5_k`, `q6_k`.
    pub fn name(self) -> &'static str {
        ["f32", "f16", "bf16", "q8", "q4", "q4_k", "q5_k", "q6_k"][self as usize]
    }
}

/// What a kernel takes along in its dispatch that would be one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fusion {
    /// Nothing.
    None,
    /// A product: the memory's linear rows of the same x, in f32.
    MemoryRows,
    /// The same in bf16.
    Bf16MemoryRows,
    /// A product: the memory's correction of what it writes.
    Correction,
    /// Rotation: the memory's corrections of q, k, v, and the norms of heads.
    Heads,
    /// The same, and the reads of a call's only token that the corrections take.
    HeadsAndReads,
    /// The end of attention: the memory's reads and writes.
    MemoryStep,
}

/// Everything a kernel's text depends on besides its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// For `#import weight`.
    pub weight: Storage,
    /// For `#import kv`; one of [`Storage::KV`].
    pub kv: Storage,
    /// True where the kernel writes the KV cache.
    pub kv_write: bool,
    /// Invocations that a subgroup has at least; 0: subgroup operations may not be used.
    pub min_subgroup_size: u32,
    /// For `#import memory_rows_…`, `correction`, `head`, `reads` and `memory_beside`.
    pub fusion: Fusion,
    /// Eight invocations share loads by `subgroupShuffle`: for `#import x_block`; and where they can,
    /// `#import head` is for tiles of tokens.
    pub shuffle: bool,
    /// Loops are short rather than few rounds long: for `#import pairs`.
    pub short_loops: bool,
    /// The `f16` type may be used.
    pub f16: bool,
    /// The browser's compiler wants `enable subgroups;`, naga refuses the line.
    pub enable_subgroups_line: bool,
    /// `WORKGROUP_SIZE`; a power of two.
    pub workgroup_size: u32,
    /// `RANK`, r.
    pub rank: u32,
    /// `HEAD_DIM`, d.
    pub head_dim: u32,
}

impl Variant {
    /// Whether a workgroup is never more than a subgroup.
    fn is_one_subgroup(&self) -> bool {
        self.workgroup_size <= self.min_subgroup_size
    }

    /// Whether heads are corrected or normed before they are rotated.
    fn adjusts_heads(&self) -> bool {
        matches!(self.fusion, Fusion::Heads | Fusion::HeadsAndReads)
    }
}

impl Storage {
    /// True for formats with blocks of their own, false for one number after the other.
    pub fn is_quantised(self) -> bool {
        !matches!(self, Storage::F32 | Storage::F16 | Storage::Bf16)
    }
}

/// Library files with subgroup operations.
const USE_SUBGROUPS: &[&str] =
    &["reduce_subgroup", "reduce_one_subgroup", "reduce_rows_subgroup", "x_block_shuffle"];
/// Rows that a workgroup of `matvec` computes (`ROWS_PER_WORKGROUP`).
pub const MATVEC_ROWS: u32 = 4;
/// Candidates that `top_k` has room for (`CAPACITY`): 256 and their ties.
pub const TOP_K_CAPACITY: u32 = 320;

/// The complete WGSL of a kernel. `flags` are params that choose between ways through the kernel;
/// they become literals, so that each way is compiled by itself and nothing is decided at run time
/// (lavapipe would compile anew at every dispatch whose uniforms steer an `if`).
///
/// # Panics
/// If there is no kernel of this name or it imports a file that does not exist: both are faults of
/// this crate that the shader tests find.
pub fn source(kernel: &str, variant: &Variant, flags: &[(&str, u32)]) -> String {
    let (mut body, mut imported) = (String::new(), Vec::new());
    push_lines(&mut body, find(KERNELS, kernel), variant, &mut imported);
    let has = |file: &str| imported.iter().any(|name| name == file);
    let mut text = String::new();
    if has("weight_f16_native") {
        text.push_str("enable f16;\n");
    }
    if variant.enable_subgroups_line && USE_SUBGROUPS.iter().any(|&file| has(file)) {
        text.push_str("enable subgroups;\n");
    }
    for (name, value) in [
        ("WORKGROUP_SIZE", variant.workgroup_size),
        ("RANK", variant.rank),
        ("HEAD_DIM", variant.head_dim),
        ("ROWS_PER_WORKGROUP", MATVEC_ROWS),
        ("CAPACITY", TOP_K_CAPACITY),
    ] {
        writeln!(text, "const {name}: u32 = {value}u;").expect("writing to a string");
    }
    text.push_str(&body);
    for (name, value) in flags {
        text = text.replace(&format!("params.{name}"), &format!("{value}u"));
    }
    text.replace("KV_ACCESS", if variant.kv_write { "read_write" } else { "read" })
}

/// A file's lines, with what it imports in the place of the first import.
fn push_lines(text: &mut String, file: &str, variant: &Variant, imported: &mut Vec<String>) {
    for line in file.lines() {
        match line.trim().strip_prefix("#import ").map(|name| library_file(name, variant)) {
            Some(name) if imported.contains(&name) => {}
            Some(name) => {
                let file = find(LIBRARY, &name);
                imported.push(name);
                push_lines(text, file, variant, imported);
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

/// The library file that an import means on this device.
fn library_file(import: &str, variant: &Variant) -> String {
    match import {
        "reduce" if variant.is_one_subgroup() => "reduce_one_subgroup".into(),
        "reduce" if variant.min_subgroup_size > 0 => "reduce_subgroup".into(),
        "reduce" => "reduce_tree".into(),
        "reduce_rows" if variant.min_subgroup_size > 0 => "reduce_rows_subgroup".into(),
        "reduce_rows" => "reduce_rows_shared".into(),
        "weight" if variant.weight == Storage::F16 && variant.f16 => "weight_f16_native".into(),
        "weight" => format!("weight_{}", variant.weight.name()),
        "x_block" if variant.shuffle => "x_block_shuffle".into(),
        "x_block" => "x_block_load".into(),
        "pairs" if variant.short_loops => "pairs_by_two".into(),
        "pairs" => "pairs_by_eight".into(),
        "kv" => format!("kv_{}", variant.kv.name()),
        "memory_rows_reduce" | "memory_rows_serial" | "memory_rows_quads"
            if !matches!(variant.fusion, Fusion::MemoryRows | Fusion::Bf16MemoryRows) =>
        {
            "memory_rows_none".into()
        }
        "memory_weight" if variant.fusion == Fusion::Bf16MemoryRows => "memory_weight_bf16".into(),
        "memory_weight" => "memory_weight_f32".into(),
        "correction" if variant.fusion == Fusion::Correction => "correction_low_rank".into(),
        "correction" => "correction_none".into(),
        "head" if variant.adjusts_heads() && variant.shuffle => "head_tile".into(),
        "head" if variant.adjusts_heads() => "head_adjusted".into(),
        "head" => "head_plain".into(),
        "reads" if variant.fusion == Fusion::HeadsAndReads => "reads_made".into(),
        "reads" => "reads_stored".into(),
        "memory_beside" if variant.fusion != Fusion::MemoryStep => "memory_beside_none".into(),
        other => other.into(),
    }
}

fn find(files: &'static [(&str, &str)], name: &str) -> &'static str {
    match files.iter().find(|(file, _)| *file == name) {
        Some((_, text)) => text,
        None => panic!("no shader file named {name}"),
    }
}
