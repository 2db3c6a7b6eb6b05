use super::*;
use crate::matrix::Matrix;
use crate::shader::MATVEC_ROWS;
use crate::weights::quantize::BLOCK;

params! {
    /// Parameters of `matvec.wgsl` and `matmul.wgsl`.
    pub struct LinearParams {
        pub n_rows: u32,
        /// ceil(k / 4)
        pub n_quads: u32,
        /// Storage units a row.
        pub weight_stride: u32,
        /// Floats from token to token in y.
        pub y_stride: u32,
        /// Floats before the first row in y.
        pub y_offset: u32,
        /// 1: y += …, 0: y = …
        pub accumulate: u32,
        /// 1: k is a multiple of 32.
        pub whole_blocks: u32,
        /// 1: y = silu(gate)·up, where gate is the first half of the rows; 0: y = the rows.
        pub gated: u32,
        /// R of the correction, if there is one.
        pub n_reads: u32,
    }
}

const FLAGS: &[(&str, &[u32])] =
    &[("accumulate", &[0, 1]), ("whole_blocks", &[0, 1]), ("gated", &[0, 1]), ("n_reads", &[8])];
const CORRECTION: (Fusion, &[(u32, Access)]) =
    (Fusion::Correction, &[(3, Access::Read), (4, Access::Read)]);
const MEMORY_ROWS: (Fusion, &[(u32, Access)]) =
    (Fusion::MemoryRows, &[(3, Access::Read), (11, Access::ReadWrite)]);
const BF16_MEMORY_ROWS: (Fusion, &[(u32, Access)]) = (Fusion::Bf16MemoryRows, MEMORY_ROWS.1);

pub(super) const MATVEC: KernelSpec = KernelSpec {
    name: "matvec",
    params: LinearParams::FIELDS,
    flags: FLAGS,
    bindings: &[(2, Access::Read), (10, Access::ReadWrite)],
    fusions: &[CORRECTION, MEMORY_ROWS, BF16_MEMORY_ROWS],
    uses_step: true,
    uses_weight: true,
};
/// For quantised weights on a GPU.
pub(super) const MATVEC_BLOCKS: KernelSpec = KernelSpec { name: "matvec_blocks", ..MATVEC };
/// For CPUs that play the GPU.
pub(super) const MATVEC_SERIAL: KernelSpec = KernelSpec { name: "matvec_serial", ..MATVEC };
/// For those without shuffles, and weights that are no blocks.
pub(super) const MATVEC_QUADS: KernelSpec = KernelSpec { name: "matvec_quads", ..MATVEC };

pub(super) const MATMUL: KernelSpec = KernelSpec { name: "matmul", fusions: &[], ..MATVEC };
/// For CPUs that play the GPU. It takes nothing along: with a correction of its 32 sums SwiftShader
/// compiles it for 0.8 s instead of 0.1.
pub(super) const MATMUL_SERIAL: KernelSpec = KernelSpec { name: "matmul_serial", ..MATMUL };
/// The same with subgroups of eight.
pub(super) const MATMUL_SHUFFLE: KernelSpec =
    KernelSpec { name: "matmul_shuffle", fusions: &[CORRECTION], ..MATVEC };

/// Rows a workgroup of `matvec_blocks`.
const BLOCKS_ROWS: u32 = 8;
/// Rows a workgroup where each invocation has four.
const SERIAL_ROWS: u32 = 4 * SERIAL_WORKGROUP;
/// Tokens of an invocation of `matmul_serial` and `matmul_shuffle`.
const SERIAL_TOKENS: u32 = 8;
/// Tokens and rows of a tile of `matmul`.
const TILE: u32 = 64;

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
pub struct LinearTarget<'a> {
    /// `[T, y_stride]` f32
    pub y: &'a wgpu::Buffer,
    /// Floats from token to token.
    pub y_stride: usize,
    /// True adds to what is there (a residual).
    pub accumulate: bool,
    /// True stores silu(gate)·up, where gate is the first half of the rows and up the second; only
    /// where [`can_gate`] says so.
    pub gated: bool,
    /// What is computed with it.
    pub beside: Beside<'a>,
}

/// What is computed with a product, in the same dispatch where that can be, else after it.
#[derive(Debug, Clone, Copy)]
pub enum Beside<'a> {
    Nothing,
    /// raw = M·x; raw `[T, n]` f32, M `[n, k]` in f32 or bf16.
    MemoryRows {
        weight: &'a Matrix,
        raw: &'a wgpu::Buffer,
    },
    /// y += D·ρ; delta `[rows, R]` already scaled, reads `[T, R]`, all f32.
    Correction {
        delta: &'a wgpu::Buffer,
        reads: &'a wgpu::Buffer,
        n_reads: usize,
    },
}

impl<'a> Beside<'a> {
    fn fusion(&self) -> Fusion {
        match self {
            Beside::Nothing => Fusion::None,
            Beside::MemoryRows { weight, .. } => match weight.parts[0].storage {
                Storage::Bf16 => Fusion::Bf16MemoryRows,
                _ => Fusion::MemoryRows,
            },
            Beside::Correction { .. } => Fusion::Correction,
        }
    }

    /// Bindings of the dispatch that takes it along.
    fn bindings(&self) -> Vec<(u32, &'a wgpu::Buffer)> {
        match self {
            Beside::Nothing => Vec::new(),
            Beside::MemoryRows { weight, raw } => {
                let weight = weight.parts[0].bindings(&[]);
                weight.into_iter().map(|(_, buffer)| (3, buffer)).chain([(11, *raw)]).collect()
            }
            Beside::Correction { delta, reads, .. } => vec![(3, *delta), (4, *reads)],
        }
    }

    /// Whether a kernel can take it along: rows in one binding, and reads of whole quads.
    fn fits(&self, spec: &KernelSpec) -> bool {
        let is_simple = match self {
            Beside::Nothing => return true,
            Beside::MemoryRows { weight, .. } => weight.parts.len() == 1,
            Beside::Correction { n_reads, .. } => n_reads.is_multiple_of(4),
        };
        is_simple && spec.fusions.iter().any(|(fusion, _)| *fusion == self.fusion())
    }
}

/// One way to compute a product of so many rows in this storage.
struct Form {
    spec: &'static KernelSpec,
    variant: Variant,
    /// Rows a workgroup.
    rows: u32,
    /// Tokens a workgroup.
    tokens: u32,
}

fn few(kernels: &Kernels, storage: Storage) -> Form {
    let (spec, variant, rows) = match storage {
        storage if kernels.software && !kernels.can_shuffle && !storage.is_quantised() => {
            (&MATVEC_QUADS, kernels.serial(), SERIAL_ROWS)
        }
        _ if kernels.software => (&MATVEC_SERIAL, kernels.serial(), SERIAL_ROWS),
        storage if storage.is_quantised() => (&MATVEC_BLOCKS, kernels.reducing(), BLOCKS_ROWS),
        _ => (&MATVEC, kernels.reducing(), MATVEC_ROWS),
    };
    Form { spec, variant, rows, tokens: 1 }
}

fn many(kernels: &Kernels) -> Form {
    let (spec, variant, rows, tokens) = match (kernels.software, kernels.can_shuffle) {
        (false, _) => (&MATMUL, kernels.variant, TILE, TILE),
        (true, false) => (&MATMUL_SERIAL, kernels.serial(), SERIAL_ROWS, SERIAL_TOKENS),
        (true, true) => (&MATMUL_SHUFFLE, kernels.serial(), SERIAL_ROWS, SERIAL_TOKENS),
    };
    Form { spec, variant, rows, tokens }
}

/// Whether products with this matrix of gate and up can be stored as silu(gate)·up: for a few tokens,
/// and for many.
pub fn can_gate(kernels: &Kernels, weight: &Matrix) -> (bool, bool) {
    // where both halves are in one dispatch
    let is_whole = weight.parts.len() == 1;
    (is_whole, is_whole && kernels.software)
}

/// y = x·Wᵀ for a few tokens (or exactly one): one op for each part of W `[rows, k]`; x
/// `[T, ceil(k/4)·4]` f32 with zero padding.
pub async fn matvec(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
    one_token: bool,
) -> Result<Vec<Op>> {
    let mut ops = linear(kernels, gpu, weight, x, target, few, one_token).await?;
    if let Beside::MemoryRows { weight: rows, raw } = target.beside
        && !target.beside.fits(&MATVEC)
    {
        let target = memory_target(rows, raw);
        ops.extend(linear(kernels, gpu, rows, x, target, few, one_token).await?);
    }
    Ok(ops)
}

/// y = x·Wᵀ for many tokens; as [`matvec`].
pub async fn matmul(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
) -> Result<Vec<Op>> {
    let form = |kernels: &Kernels, _| many(kernels);
    let mut ops = linear(kernels, gpu, weight, x, target, form, false).await?;
    if let Beside::MemoryRows { weight: rows, raw } = target.beside {
        let target = memory_target(rows, raw);
        ops.extend(linear(kernels, gpu, rows, x, target, form, false).await?);
    }
    Ok(ops)
}

fn memory_target<'a>(rows: &Matrix, raw: &'a wgpu::Buffer) -> LinearTarget<'a> {
    let beside = Beside::Nothing;
    LinearTarget { y: raw, y_stride: rows.n_rows, accumulate: false, gated: false, beside }
}

/// One op for each part; `form` tells how a part in its storage is computed.
async fn linear(
    kernels: &mut Kernels,
    gpu: &Gpu,
    weight: &Matrix,
    x: &wgpu::Buffer,
    target: LinearTarget<'_>,
    form: impl Fn(&Kernels, Storage) -> Form,
    one_token: bool,
) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    let mut is_after = false;
    for (index, part) in weight.parts.iter().enumerate() {
        let Form { spec, variant, rows, tokens } = form(kernels, part.storage);
        let mut beside = match target.beside {
            // once, with the last rows
            Beside::MemoryRows { .. } if index + 1 < weight.parts.len() => Beside::Nothing,
            beside => beside,
        };
        if !beside.fits(spec) {
            is_after |= matches!(beside, Beside::Correction { .. });
            beside = Beside::Nothing;
        }
        let params = LinearParams {
            n_rows: part.n_rows as u32,
            n_quads: weight.k.div_ceil(4) as u32,
            weight_stride: part.row_stride,
            y_stride: target.y_stride as u32,
            y_offset: part.row_start as u32,
            accumulate: target.accumulate.into(),
            whole_blocks: weight.k.is_multiple_of(BLOCK).into(),
            gated: target.gated.into(),
            n_reads: match beside {
                Beside::Correction { n_reads, .. } => n_reads as u32,
                _ => 0,
            },
        };
        let mut n = params.n_rows.div_ceil(rows);
        if let Beside::MemoryRows { weight, .. } = beside {
            // one an invocation where a CPU plays the GPU, else as many as of W
            let memory_rows = if kernels.software { SERIAL_WORKGROUP } else { rows };
            n += (weight.n_rows as u32).div_ceil(memory_rows);
        }
        let grid = match (tokens, one_token) {
            (1, true) => Grid::Fixed(n, 1),
            (1, false) => Grid::PerToken(n),
            (tokens, _) => Grid::PerTile(n, tokens),
        };
        let variant = Variant { weight: part.storage, fusion: beside.fusion(), ..variant };
        let mut bound = part.bindings(&[(2, x), (10, target.y)]);
        bound.extend(beside.bindings());
        ops.push(kernels.op(gpu, spec, variant, &params, &bound, grid).await?);
    }
    if let Beside::Correction { delta, reads, n_reads } = target.beside
        && is_after
    {
        let params = LowRankAddParams {
            n: weight.n_rows as u32,
            n_rows: n_reads as u32,
            y_stride: target.y_stride as u32,
            y_offset: 0,
            accumulate: 1,
        };
        ops.push(low_rank_add(kernels, gpu, params, delta, reads, target.y).await?);
    }
    Ok(ops)
}
