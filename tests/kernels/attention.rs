//! rope_kv and attention, with every form of the KV cache.

use crate::bench::*;
use deltamem::config::{DeltaConfig, ModelConfig};
use deltamem::footprint;
use deltamem::kernels::{
    self, AttentionBuffers, AttentionParams, Reads, RopeKvBuffers, RopeKvParams,
};
use deltamem::reference::{self, KvCache, Output};
use deltamem::rope::RopeTable;
use deltamem::shader::Storage;
use half::f16;

/// A cache with these contents on the device.
fn upload(bench: &Bench, values: &[f32], kv: Storage, dim: usize) -> wgpu::Buffer {
    match kv {
        Storage::Q8 => {
            let head = |head: &[f32]| {
                let scale = head.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                let quant = |x: &f32| if scale > 0.0 { (x / scale).round() as i8 as u8 } else { 0 };
                let quants: Vec<u8> = head.iter().map(quant).collect();
                let words = quants.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]]));
                [scale.to_bits()].into_iter().chain(words).collect::<Vec<u32>>()
            };
            bench.words(&values.chunks(dim).flat_map(head).collect::<Vec<u32>>())
        }
        Storage::F16 => {
            let pair = |p: &[f32]| {
                let bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
                bits(p[0]) | bits(p[1]) << 16
            };
            bench.words(&values.chunks(2).map(pair).collect::<Vec<u32>>())
        }
        _ => bench.floats(values),
    }
}

fn download(bench: &Bench, cache: &wgpu::Buffer, kv: Storage, dim: usize) -> Vec<f32> {
    let words = bench.read_words(cache);
    match kv {
        Storage::Q8 => {
            let head = |head: &[u32]| {
                let scale = f32::from_bits(head[0]);
                let quants = head[1..].iter().flat_map(|word| word.to_le_bytes());
                quants.map(|q| f32::from(q as i8) * scale).collect::<Vec<f32>>()
            };
            words.chunks(1 + dim / 4).flat_map(head).collect()
        }
        Storage::F16 => words
            .iter()
            .flat_map(|w| [*w as u16, (w >> 16) as u16])
            .map(|bits| f16::from_bits(bits).to_f32())
            .collect(),
        _ => words.into_iter().map(f32::from_bits).collect(),
    }
}

/// What a cache keeps of these values.
fn kept(values: &[f32], kv: Storage, dim: usize) -> Vec<f32> {
    let mut cache = KvCache::default();
    reference::kv_write(&mut cache, values, &[], kv, dim);
    cache.k
}

struct Heads {
    q: usize,
    kv: usize,
    dim: usize,
}

const SMOLLM3: Heads = Heads { q: 16, kv: 4, dim: 128 };
/// Pairs straddle the middle of a head.
const ODD: Heads = Heads { q: 3, kv: 3, dim: 6 };
const SMALL: Heads = Heads { q: 6, kv: 2, dim: 24 };
/// More query heads share a KV head than a tile has rows.
const CROWDED: Heads = Heads { q: 18, kv: 1, dim: 24 };
const WIDEST: Heads = Heads { q: 2, kv: 1, dim: 256 };

/// What is done to heads before they are rotated.
#[derive(Clone, Copy, Debug, Default)]
struct Adjusted {
    has_norm: bool,
    /// q, k, v
    corrects: [bool; 3],
    n_reads: usize,
    /// The reads of one token are made on the spot, from states of rank 8.
    makes_reads: bool,
}

/// What the reads of a token are made of, with the states of the second of three layers.
struct Making {
    raw: Vec<f32>,
    states: Vec<f32>,
    reads: Vec<f32>,
}

impl Making {
    fn new(n_reads: usize) -> Making {
        let json = format!(r#"{{"rank": 8, "num_state_heads": {}}}"#, n_reads / 8);
        let delta = DeltaConfig::from_json(json.as_bytes(), "test").expect("a configuration");
        let raw = noise(4 * n_reads, 30, 4.0);
        let states = noise(3 * 8 * n_reads, 32, 1.0);
        let zeros = vec![0.0; n_reads];
        let projected = reference::memory_project(&delta, &raw, &zeros, &zeros);
        let own = &states[8 * n_reads..16 * n_reads];
        let reads = reference::memory_read(own, &projected.q, 8);
        Making { raw, states, reads }
    }
}

fn check_rope_kv(
    kv: Storage,
    heads: &Heads,
    n_tokens: usize,
    n_past: usize,
    scale: f32,
    adjusted: Adjusted,
) {
    for mut bench in benches(kv, 8, heads.dim) {
        check_rope_kv_on(&mut bench, kv, heads, (n_tokens, n_past), scale, adjusted);
    }
}

fn check_rope_kv_on(
    bench: &mut Bench,
    kv: Storage,
    heads: &Heads,
    (n_tokens, n_past): (usize, usize),
    scale: f32,
    adjusted: Adjusted,
) {
    let (q_len, kv_len) = (heads.q * heads.dim, heads.kv * heads.dim);
    let stride = q_len + 2 * kv_len;
    let n_positions = n_past + n_tokens + 2;
    let table = RopeTable::new(5e6, heads.dim, None, n_positions);
    for use_rope in [true, false] {
        let qkv = noise(n_tokens * stride, 1, scale);
        let gather = |at: usize, len: usize| -> Vec<f32> {
            qkv.chunks(stride).flat_map(|token| token[at..at + len].to_vec()).collect()
        };
        let (q, k, v) = (gather(0, q_len), gather(q_len, kv_len), gather(q_len + kv_len, kv_len));
        let mut parts = [q, k, v];
        // bound as whole quads even where nothing is read
        let mut reads = noise((n_tokens * adjusted.n_reads).max(4), 5, 1.0);
        let making = adjusted.makes_reads.then(|| Making::new(adjusted.n_reads));
        if let Some(making) = &making {
            reads.clone_from(&making.reads);
        }
        let mut adjustments = Vec::new();
        let norms = [7, 8].map(|seed| -> Vec<f32> {
            noise(heads.dim, seed, 1.0).iter().map(|w| w + 1.0).collect()
        });
        if adjusted.has_norm {
            adjustments.extend(norms.iter().flatten().copied());
        }
        for (index, part) in parts.iter_mut().enumerate() {
            if adjusted.corrects[index] {
                let n = part.len() / n_tokens;
                let delta = noise(n * adjusted.n_reads, 10 + index as u32, scale);
                reference::low_rank_add(part, &delta, &reads, adjusted.n_reads);
                adjustments.extend(delta);
            }
            if adjusted.has_norm && index < 2 {
                let before = part.clone();
                reference::rms_norm(&before, &norms[index], 1e-6, part, Output::Store);
            }
        }
        let [mut q, mut k, v] = parts;
        if use_rope {
            reference::rope(&mut q, heads.q, &table, n_past);
            reference::rope(&mut k, heads.kv, &table, n_past);
        }
        let mut new = KvCache::default();
        reference::kv_write(&mut new, &k, &v, kv, heads.dim);
        // what was there before and what lies behind must stay
        let before = |seed| -> Vec<f32> {
            let values = noise(n_positions * kv_len, seed, 2.0);
            kept(&kept(&values, Storage::F16, heads.dim), kv, heads.dim)
        };
        let with = |mut cache: Vec<f32>, new: &[f32]| {
            cache[n_past * kv_len..][..new.len()].copy_from_slice(new);
            cache
        };

        let qkv = bench.floats(&qkv);
        let pairs = table.cos.iter().zip(&table.sin);
        let rope_table = bench.floats(&pairs.flat_map(|(c, s)| [*c, *s]).collect::<Vec<f32>>());
        let keys = upload(bench, &before(3), kv, heads.dim);
        let values = upload(bench, &before(4), kv, heads.dim);
        let (adjustments, reads) = (bench.floats(&adjustments), bench.floats(&reads));
        let on_device = making.map(|m| (bench.floats(&m.raw), bench.floats(&m.states)));
        let params = RopeKvParams {
            use_rope: use_rope.into(),
            has_norm: adjusted.has_norm.into(),
            corrects_q: adjusted.corrects[0].into(),
            corrects_k: adjusted.corrects[1].into(),
            corrects_v: adjusted.corrects[2].into(),
            n_reads: adjusted.n_reads as u32,
            normalize_qk: 1,
            layer: 1,
            ..plain(heads)
        };
        let reads = match &on_device {
            None => Reads::Stored(&reads),
            Some((raw, state)) => Reads::Made { raw, state },
        };
        let is_adjusted = adjusted.has_norm || adjusted.n_reads > 0;
        let buffers = RopeKvBuffers {
            qkv: &qkv,
            rope_table: &rope_table,
            keys: &keys,
            values: &values,
            adjustments: is_adjusted.then_some((&adjustments, reads)),
        };
        let op = made(kernels::rope_kv(&mut bench.kernels, &bench.gpu, params, buffers));
        bench.run(step(n_tokens, n_past, 0), &[op]);

        let (tier, kv_name) = (bench.tier, kv.name());
        let what =
            format!("rope_kv {}×{} {kv_name} {scale} {adjusted:?} on {tier}", heads.q, heads.dim);
        // two products and their sum; a correction adds up to 32 products, and a norm divides by a root
        // and leaves numbers of a few, so these keep some units more
        let size = if adjusted.has_norm { scale.max(20.0) } else { scale };
        let (absolute, relative) = match (adjusted.makes_reads, is_adjusted) {
            // reads that are made here keep 2e-5, as memory_step's
            (true, _) => (2e-5, 2e-6),
            (false, true) => (1e-6, 2e-6),
            (false, false) => (2e-7, 1e-6),
        };
        let exact = Tolerance::new(size * absolute, relative);
        let found = bench.read(&qkv);
        let found: Vec<f32> = found.chunks(stride).flat_map(|t| &t[..q_len]).copied().collect();
        assert_close(&what, &found, &q, exact);
        // pack2x16float may round either way: a unit of f16 in the last place, 2⁻¹⁰, and a
        // subnormal one
        let cached = match kv {
            Storage::F16 => Tolerance::new(6e-8 + exact.absolute, 1e-3),
            // what lies between two quants may go to either: a 127th of the largest, which is below √2
            // times half the scale (and with a correction or a norm below some such numbers)
            Storage::Q8 => {
                let largest = new.k.iter().chain(&new.v).fold(2.0f32, |m, x| m.max(x.abs()));
                Tolerance::new(largest / 127.0, 1e-6)
            }
            _ => exact,
        };
        let found = download(bench, &keys, kv, heads.dim);
        assert_close(&format!("{what}, keys"), &found, &with(before(3), &new.k), cached);
        let found = download(bench, &values, kv, heads.dim);
        assert_close(&format!("{what}, values"), &found, &with(before(4), &new.v), cached);
    }
}

/// Params without adjustments and rotation.
fn plain(heads: &Heads) -> RopeKvParams {
    RopeKvParams {
        n_heads: heads.q as u32,
        n_kv_heads: heads.kv as u32,
        stride: ((heads.q + 2 * heads.kv) * heads.dim) as u32,
        eps: 1e-6,
        ..RopeKvParams::default()
    }
}

#[test]
fn rope_kv_matches_reference() {
    let as_they_are = Adjusted::default();
    for kv in Storage::KV {
        check_rope_kv(kv, &SMOLLM3, 2, 60, 2.0, as_they_are);
        check_rope_kv(kv, &SMALL, 3, 0, 2.0, as_they_are);
        if kv != Storage::Q8 {
            // q8 is for heads of whole quads
            check_rope_kv(kv, &ODD, 5, 7, 2.0, as_they_are);
        }
        check_rope_kv(kv, &WIDEST, 2, 1, 2.0, as_they_are);
        // beyond f16, where the cache holds its largest number; and nothing at all
        check_rope_kv(kv, &SMALL, 2, 3, 1e6, as_they_are);
        check_rope_kv(kv, &SMALL, 2, 3, 0.0, as_they_are);
    }
}

#[test]
fn rope_kv_with_corrections_and_norms_matches_reference() {
    let of =
        |has_norm, corrects, n_reads| Adjusted { has_norm, corrects, n_reads, makes_reads: false };
    for kv in Storage::KV {
        check_rope_kv(kv, &SMOLLM3, 2, 60, 2.0, of(false, [true, false, false], 8));
        check_rope_kv(kv, &SMALL, 3, 2, 2.0, of(true, [true, true, true], 4));
        check_rope_kv(kv, &SMALL, 2, 2, 2.0, of(true, [false, false, true], 32));
        check_rope_kv(kv, &WIDEST, 2, 1, 2.0, of(false, [false, true, true], 4));
        check_rope_kv(kv, &WIDEST, 1, 1, 2.0, of(true, [false; 3], 0));
        if kv != Storage::Q8 {
            check_rope_kv(kv, &ODD, 5, 7, 2.0, of(true, [true, false, true], 8));
        }
    }
}

#[test]
fn rope_kv_that_makes_its_reads_matches_reference() {
    let of =
        |has_norm, corrects, n_reads| Adjusted { has_norm, corrects, n_reads, makes_reads: true };
    for kv in Storage::KV {
        check_rope_kv(kv, &SMOLLM3, 1, 60, 2.0, of(false, [true, false, false], 8));
        check_rope_kv(kv, &SMOLLM3, 1, 3, 2.0, of(false, [true, false, false], 64));
        check_rope_kv(kv, &SMALL, 1, 2, 2.0, of(true, [true, true, true], 8));
        check_rope_kv(kv, &WIDEST, 1, 1, 2.0, of(true, [false, true, true], 16));
    }
}

/// Attention over a cache that already holds the chunk's own tokens.
fn check_attention(
    bench: &mut Bench,
    kv: Storage,
    heads: &Heads,
    (n_past, n_tokens): (usize, usize),
    (q, mut cache): (Vec<f32>, KvCache),
) {
    cache.k = kept(&cache.k, kv, heads.dim);
    cache.v = kept(&cache.v, kv, heads.dim);
    let expected = reference::attention(&q, &cache, n_past, heads.q, heads.kv, heads.dim);
    let q_len = heads.q * heads.dim;
    let o_stride = q_len + 2;
    let expected = strided(&expected, q_len, o_stride, 777.0);

    // as the first part of rows that are longer
    let q_stride = q_len + 6;
    let q = bench.floats(&strided(&q, q_len, q_stride, 777.0));
    // positions behind the chunk hold what must not be seen
    let beyond = vec![9e3; 3 * heads.kv * heads.dim];
    let keys = upload(bench, &[&cache.k[..], &beyond].concat(), kv, heads.dim);
    let values = upload(bench, &[&cache.v[..], &beyond].concat(), kv, heads.dim);
    let o = bench.floats(&vec![777.0; n_tokens * o_stride]);
    let params = AttentionParams {
        n_heads: heads.q as u32,
        n_kv_heads: heads.kv as u32,
        q_stride: q_stride as u32,
        o_stride: o_stride as u32,
        scale: (heads.dim as f32).powf(-0.5),
    };
    let n_parts = kernels::attention_parts_len(&bench.gpu, n_tokens, n_tokens, heads.q, heads.dim);
    let parts = bench.floats(&vec![f32::NAN; n_parts]);
    let (gpu, kernels) = (&bench.gpu, &mut bench.kernels);
    let buffers = AttentionBuffers { q: &q, keys: &keys, values: &values, parts: &parts, o: &o };
    let many = made(kernels::attention(kernels, gpu, params, buffers));
    let few = made(kernels::attention_few(kernels, gpu, params, buffers, None));
    let (name, dim) = (kv.name(), heads.dim);
    // weights are relative to 3e-6 (exp of a sum of d products); the values they mix are below 1e5
    let largest = cache.v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (form, ops) in [("many", many), ("few", few)] {
        bench.gpu.queue.write_buffer(
            &o,
            0,
            bytemuck::cast_slice(&vec![777f32; n_tokens * o_stride]),
        );
        bench.run(step(n_tokens, n_past, 0), &ops);
        let what = format!("attention {form} {name} {n_past}+{n_tokens} d {dim} on {}", bench.tier);
        assert_close(&what, &bench.read(&o), &expected, Tolerance::new(5e-6 * largest, 1e-5));
    }
}

fn random(heads: &Heads, n_past: usize, n_tokens: usize, scale: f32) -> (Vec<f32>, KvCache) {
    let n = (n_past + n_tokens) * heads.kv * heads.dim;
    let cache = KvCache { k: noise(n, 6, scale), v: noise(n, 7, 2.0) };
    (noise(n_tokens * heads.q * heads.dim, 5, scale), cache)
}

#[test]
fn attention_matches_reference() {
    for kv in Storage::KV {
        for bench in &mut benches(kv, 8, 128) {
            // key counts on both sides of a tile of 64 and of 8
            check_attention(bench, kv, &SMOLLM3, (62, 4), random(&SMOLLM3, 62, 4, 2.0));
            check_attention(bench, kv, &SMOLLM3, (0, 2), random(&SMOLLM3, 0, 2, 2.0));
            check_attention(bench, kv, &SMOLLM3, (200, 1), random(&SMOLLM3, 200, 1, 4.0));
            // ranges of more than one tile
            check_attention(bench, kv, &SMOLLM3, (2100, 1), random(&SMOLLM3, 2100, 1, 4.0));
            // a tile of tokens that is not full, across a tile of keys; ranges of two of those
            check_attention(bench, kv, &SMOLLM3, (61, 7), random(&SMOLLM3, 61, 7, 2.0));
            check_attention(bench, kv, &SMOLLM3, (700, 5), random(&SMOLLM3, 700, 5, 4.0));
        }
        for bench in &mut benches(kv, 8, SMALL.dim) {
            check_attention(bench, kv, &CROWDED, (60, 9), random(&CROWDED, 60, 9, 2.0));
            check_attention(bench, kv, &SMALL, (0, 3), random(&SMALL, 0, 3, 2.0));
            check_attention(bench, kv, &SMALL, (6, 3), random(&SMALL, 6, 3, 2.0));
            // one key takes all; all keys are alike; nothing
            let extreme = random(&SMALL, 20, 2, 2e4);
            check_attention(bench, kv, &SMALL, (20, 2), extreme);
            let (q, mut cache) = random(&SMALL, 20, 2, 2.0);
            cache.k.fill(0.25);
            check_attention(bench, kv, &SMALL, (20, 2), (q, cache));
            let (q, mut cache) = random(&SMALL, 9, 2, 0.0);
            cache.v.iter_mut().for_each(|v| *v *= 6e4);
            check_attention(bench, kv, &SMALL, (9, 2), (q, cache));
        }
        for bench in &mut benches(kv, 8, WIDEST.dim) {
            check_attention(bench, kv, &WIDEST, (70, 2), random(&WIDEST, 70, 2, 2.0));
        }
        if kv == Storage::Q8 {
            continue; // for heads of whole quads only
        }
        for bench in &mut benches(kv, 8, ODD.dim) {
            check_attention(bench, kv, &ODD, (0, 9), random(&ODD, 0, 9, 2.0));
        }
    }
}

/// The longest window of SmolLM3 in caches that are to hold it: the last position is written where
/// it belongs, within one binding of plain WebGPU, and all are read.
#[test]
fn positions_up_to_65536_are_addressable() {
    const POSITIONS: usize = 65_536;
    let heads = Heads { q: 2, kv: 1, dim: 8 };
    let json = String::from_utf8(footprint::SMOLLM3_3B.to_vec()).expect("text");
    let json = json.replace("\"num_hidden_layers\": 36", "\"num_hidden_layers\": 1");
    let config = ModelConfig::from_json(json.as_bytes(), "config.json").expect("a configuration");
    for kv in [Storage::F16, Storage::Q8] {
        // the others are a GPU's, and lavapipe would end their loops early
        for bench in &mut benches(kv, 8, heads.dim)[..2] {
            let random = random(&heads, POSITIONS - 1, 1, 2.0);
            check_attention(bench, kv, &heads, (POSITIONS - 1, 1), random);
        }
        let Some(mut bench) = bench(kv, 8, SMOLLM3.dim) else { return };
        let cache = made(deltamem::kv_cache::KvCache::new(&bench.gpu, &config, kv, POSITIONS));
        let (keys, values) = &cache.layers[0];
        let kv_len = SMOLLM3.kv * SMOLLM3.dim;
        let stride = (SMOLLM3.q + 2 * SMOLLM3.kv) * SMOLLM3.dim;
        let new = noise(stride, 1, 2.0);
        let qkv = bench.floats(&new);
        let rope = bench.floats(&[0.0; 4]);
        let buffers =
            RopeKvBuffers { qkv: &qkv, rope_table: &rope, keys, values, adjustments: None };
        let params = plain(&SMOLLM3);
        let op = made(kernels::rope_kv(&mut bench.kernels, &bench.gpu, params, buffers));
        bench.run(step(1, POSITIONS - 1, 0), &[op]);
        let (k, v) = new[stride - 2 * kv_len..].split_at(kv_len);
        for (what, buffer, expected) in [("keys", keys, k), ("values", values, v)] {
            let found = download(&bench, buffer, kv, SMOLLM3.dim);
            let (before, last) = found.split_at((POSITIONS - 1) * kv_len);
            assert!(before.iter().all(|&x| x == 0.0), "{what}: another position was written");
            let tolerance = Tolerance::new(0.5 / 127.0 * 1.01, 1e-3);
            assert_close(&format!("{what} {}", kv.name()), last, expected, tolerance);
        }
    }
}
