//! Every shader in every variant, without a GPU: the text is complete and valid, and the Rust side
//! of its interface (params, bindings) is the WGSL side, and naga can write it for Metal. All failures
//! are reported together.

use deltamem::kernels::{Access, KernelSpec, SPECS, Step};
use deltamem::shader::{self, Fusion, Storage, Variant};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Every variant that a device tier and a command line can lead to.
fn variants(spec: &KernelSpec) -> Vec<Variant> {
    let mut all = Vec::new();
    for weight in Storage::ALL {
        // the kernels for q8 and for the others are different files
        let kvs = if spec.name == "rope_kv" { &Storage::KV[..2] } else { &Storage::KV[..] };
        let kvs = if spec.name == "rope_kv_q8" { &Storage::KV[2..] } else { kvs };
        for &kv in kvs {
            for (min_subgroup_size, f16) in [(0, false), (8, false), (0, true), (4, true)] {
                for (rank, head_dim, workgroup_size) in [(8, 128, 64), (5, 24, 8), (128, 256, 256)]
                {
                    let fusions = spec.fusions.iter().map(|(fusion, _)| *fusion);
                    for fusion in fusions.chain([Fusion::None]) {
                        all.push(Variant {
                            weight,
                            kv,
                            kv_write: spec.name.starts_with("rope_kv"),
                            fusion,
                            min_subgroup_size,
                            shuffle: min_subgroup_size >= 8
                                && workgroup_size == 8
                                && spec.name != "matvec_blocks"
                                || spec.name == "matmul_shuffle",
                            short_loops: workgroup_size == 8 && min_subgroup_size == 0,
                            f16,
                            enable_subgroups_line: false,
                            workgroup_size,
                            rank,
                            head_dim,
                        });
                    }
                }
            }
        }
    }
    all
}

/// The module, and the bindings that its entry point really uses: a pipeline's layout has no others.
fn parse(source: &str) -> Result<(naga::Module, BTreeSet<u32>), String> {
    let (module, info) = validated(source)?;
    let entry = info.get_entry_point(0);
    let is_used = |g: &(naga::Handle<naga::GlobalVariable>, _)| !entry[g.0].is_empty();
    let used = module.global_variables.iter().filter(is_used);
    let used = used.filter_map(|(_, g)| Some(g.binding.as_ref()?.binding)).collect();
    Ok((module, used))
}

fn validated(source: &str) -> Result<(naga::Module, naga::valid::ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let capabilities = Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    match validator.validate(&module) {
        Ok(info) => Ok((module, info)),
        Err(e) => Err(e.emit_to_string(source)),
    }
}

/// (binding, access) of every global in group 0.
fn bindings(module: &naga::Module) -> BTreeSet<(u32, &'static str)> {
    let mut found = BTreeSet::new();
    for (_, global) in module.global_variables.iter() {
        let Some(binding) = &global.binding else { continue };
        assert_eq!(binding.group, 0, "all bindings are in group 0");
        let access = match global.space {
            naga::AddressSpace::Uniform => "uniform",
            naga::AddressSpace::Storage { access }
                if access.contains(naga::StorageAccess::STORE) =>
            {
                "read_write"
            }
            _ => "read",
        };
        found.insert((binding.binding, access));
    }
    found
}

fn expected_bindings(spec: &KernelSpec, variant: &Variant) -> BTreeSet<(u32, &'static str)> {
    let fused = spec.fusions.iter().filter(|(fusion, _)| *fusion == variant.fusion);
    let mut expected: BTreeSet<_> = spec
        .bindings
        .iter()
        .chain(fused.flat_map(|(_, bindings)| *bindings))
        .map(|(binding, access)| match access {
            Access::Read => (*binding, "read"),
            Access::ReadWrite => (*binding, "read_write"),
        })
        .collect();
    if !spec.params.is_empty() {
        expected.insert((0, "uniform"));
    }
    if spec.uses_step {
        expected.insert((1, "read"));
    }
    if spec.uses_weight {
        expected.insert((8, "read"));
        if !matches!(variant.weight, Storage::F32 | Storage::F16 | Storage::Bf16) {
            expected.insert((9, "read"));
        }
    }
    expected
}

/// Name, type and offset of every member of a struct.
fn members(module: &naga::Module, name: &str) -> Option<Vec<(String, String, u32)>> {
    let (_, found) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name))?;
    let naga::TypeInner::Struct { members, .. } = &found.inner else {
        return None;
    };
    let kind = |t: naga::Handle<naga::Type>| match &module.types[t].inner {
        naga::TypeInner::Scalar(naga::Scalar::U32) => "u32".to_string(),
        naga::TypeInner::Scalar(naga::Scalar::F32) => "f32".to_string(),
        other => format!("{other:?}"),
    };
    let member =
        |m: &naga::StructMember| (m.name.clone().unwrap_or_default(), kind(m.ty), m.offset);
    Some(members.iter().map(member).collect())
}

/// What `members` should say for a `params!` struct: 4 bytes a field.
fn fields(fields: &[(&str, &str)]) -> Vec<(String, String, u32)> {
    let numbered = fields.iter().zip((0..).step_by(4));
    numbered.map(|((name, kind), at)| (name.to_string(), kind.to_string(), at)).collect()
}

/// Every combination of a kernel's flags.
fn flag_sets(spec: &KernelSpec) -> Vec<Vec<(&'static str, u32)>> {
    let mut sets = vec![Vec::new()];
    for (name, values) in spec.flags {
        assert!(spec.params.iter().any(|(param, kind)| param == name && *kind == "u32"));
        let with = |set: &Vec<_>, value: u32| [set.as_slice(), &[(*name, value)]].concat();
        sets = sets.iter().flat_map(|set| values.iter().map(move |&v| with(set, v))).collect();
    }
    sets
}

#[test]
fn every_shader_is_valid_and_matches_its_host_side() {
    let mut failures = String::new();
    let mut checked = 0;
    for spec in SPECS {
        let mut sources = BTreeSet::new();
        let flag_sets = flag_sets(spec);
        for (variant, flags) in
            variants(spec).iter().flat_map(|v| flag_sets.iter().map(move |f| (v, f)))
        {
            let source = shader::source(spec.name, variant, flags);
            if !sources.insert(source.clone()) {
                continue; // this kernel does not depend on what differs
            }
            checked += 1;
            let (module, used) = match parse(&source) {
                Ok(parsed) => parsed,
                Err(e) => {
                    writeln!(failures, "{} {variant:?}:\n{e}", spec.name).unwrap();
                    continue;
                }
            };
            let (found, expected) = (bindings(&module), expected_bindings(spec, variant));
            if found != expected {
                writeln!(failures, "{}: bindings {found:?}, host {expected:?}", spec.name).unwrap();
            }
            for (binding, _) in found.iter().filter(|(binding, _)| !used.contains(binding)) {
                writeln!(failures, "{}: binding {binding} is not used", spec.name).unwrap();
            }
            let storage = found.iter().filter(|(_, access)| *access != "uniform").count();
            if storage > 8 {
                writeln!(failures, "{}: {storage} storage buffers, WebGPU has 8", spec.name)
                    .unwrap();
            }
            if !spec.params.is_empty() && members(&module, "Params") != Some(fields(spec.params)) {
                let found = members(&module, "Params");
                writeln!(failures, "{}: Params {found:?}, host {:?}", spec.name, spec.params)
                    .unwrap();
            }
            if spec.uses_step && members(&module, "Step") != Some(fields(Step::FIELDS)) {
                writeln!(failures, "{}: Step differs from the host's", spec.name).unwrap();
            }
            let entry = &module.entry_points[0];
            if entry.name != "main" || entry.workgroup_size.iter().product::<u32>() > 256 {
                let size = entry.workgroup_size;
                writeln!(failures, "{}: entry {} of {size:?}", spec.name, entry.name).unwrap();
            }
            let workgroup_bytes: u32 = module
                .global_variables
                .iter()
                .filter(|(_, g)| g.space == naga::AddressSpace::WorkGroup)
                .map(|(_, g)| module.types[g.ty].inner.size(module.to_ctx()))
                .sum();
            if workgroup_bytes > 16384 {
                writeln!(failures, "{}: {workgroup_bytes} bytes of workgroup memory", spec.name)
                    .unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(checked > 60, "only {checked} distinct shaders were checked");
}

/// What runs on Apple's GPUs is this text; no Metal compiler sees it here.
#[test]
fn every_shader_can_be_written_for_metal() {
    use naga::back::msl;
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    let mut written = BTreeSet::new();
    for spec in SPECS {
        for variant in variants(spec) {
            // the flags' first values; their texts differ in literals only
            let flags: Vec<_> =
                spec.flags.iter().map(|(name, values)| (*name, values[0])).collect();
            let source = shader::source(spec.name, &variant, &flags);
            if !written.insert(source.clone()) {
                continue;
            }
            let (module, info) = validated(&source).unwrap();
            let pipeline = msl::PipelineOptions::default();
            let text = msl::write_string(&module, &info, &options, &pipeline)
                .map(|(text, _)| text)
                .unwrap_or_else(|e| panic!("{} {variant:?}: {e}", spec.name));
            assert!(text.contains("kernel void main_("), "{}: {text}", spec.name);
            let uses_subgroups = source.contains("subgroup");
            assert_eq!(text.contains("simd_"), uses_subgroups, "{}", spec.name);
        }
    }
    assert!(written.len() > 60, "only {} distinct shaders were written", written.len());
}

/// Those that measure an adapter are no part of a forward pass and have no twin: they check their own
/// results whenever they run.
#[test]
fn the_roofline_shaders_are_valid_and_can_be_written_for_metal() {
    use naga::back::msl;
    let sources = deltamem::measure::roofline::sources();
    for (name, source) in &sources {
        let (module, info) = validated(source).unwrap_or_else(|e| panic!("{name}:\n{e}"));
        let size = module.entry_points[0].workgroup_size;
        assert!(size.iter().product::<u32>() <= 256, "{name}: {size:?}");
        let expected = BTreeSet::from([(2, "read"), (10, "read_write")]);
        assert_eq!(bindings(&module), expected, "{name}");
        let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(sources.len(), 12);
}

#[test]
fn every_shader_file_has_a_host_entry_and_a_header() {
    let specs: Vec<_> = SPECS.iter().map(|s| s.name).collect();
    let kernels: Vec<_> = shader::KERNELS.iter().map(|(name, _)| *name).collect();
    assert_eq!(specs, kernels);
    for (name, text) in shader::KERNELS.iter().chain(shader::LIBRARY) {
        assert!(text.starts_with("// "), "{name} has no header");
    }
    let on_disk = |folder: &str| -> BTreeSet<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|e| {
                Some(e.unwrap().file_name().to_str()?.strip_suffix(".wgsl")?.to_string())
            })
            .collect()
    };
    let names = |list: &[(&str, &str)]| list.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(on_disk("shaders"), names(shader::KERNELS));
    assert_eq!(on_disk("shaders/lib"), names(shader::LIBRARY));
}

#[test]
fn the_browser_prelude_comes_first_and_only_where_needed() {
    let mut variant = variants(SPECS[0])[0];
    variant.min_subgroup_size = 4;
    variant.enable_subgroups_line = true;
    assert!(shader::source("matvec", &variant, &[]).starts_with("enable subgroups;\n"));
    assert!(!shader::source("silu_mul", &variant, &[]).contains("enable"));
    variant.f16 = true;
    variant.weight = Storage::F16;
    assert!(shader::source("embed", &variant, &[]).starts_with("enable f16;\n"));
    let mut n_enabled = 0;
    for &spec in SPECS {
        for variant in variants(spec) {
            let variant = Variant { enable_subgroups_line: true, ..variant };
            let text = shader::source(spec.name, &variant, &[]);
            let calls = ["subgroupAdd(", "subgroupMax(", "subgroupShuffle("];
            let uses_subgroups = calls.iter().any(|call| text.contains(call));
            assert_eq!(text.contains("enable subgroups;"), uses_subgroups, "{}", spec.name);
            assert_eq!(text.contains("enable f16;"), text.contains("<f16>"), "{}", spec.name);
            n_enabled += usize::from(uses_subgroups);
        }
    }
    assert!(n_enabled > 0);
}

#[test]
fn a_broken_shader_is_noticed() {
    let variant = variants(SPECS[0])[0];
    let broken = shader::source("argmax", &variant, &[]).replace("best = key;", "best = 1.0;");
    assert!(parse(&broken).is_err());
}

/// Expressions of a function with those of what it calls in the places where it calls.
fn inlined_size(module: &naga::Module, function: &naga::Function) -> usize {
    fn calls(block: &naga::Block, found: &mut Vec<naga::Handle<naga::Function>>) {
        for statement in block.iter() {
            match statement {
                naga::Statement::Call { function, .. } => found.push(*function),
                naga::Statement::Block(block) => calls(block, found),
                naga::Statement::If { accept, reject, .. } => {
                    calls(accept, found);
                    calls(reject, found);
                }
                naga::Statement::Loop { body, continuing, .. } => {
                    calls(body, found);
                    calls(continuing, found);
                }
                naga::Statement::Switch { cases, .. } => {
                    cases.iter().for_each(|case| calls(&case.body, found));
                }
                _ => {}
            }
        }
    }
    let mut called = Vec::new();
    calls(&function.body, &mut called);
    let called = called.iter().map(|&f| inlined_size(module, &module.functions[f]));
    function.expressions.len() + called.sum::<usize>()
}

/// SwiftShader compiles every kernel anew on each visit of a page, with all functions inlined, and the
/// first token waits for it: longer text takes longer. The longest has 768 expressions.
#[test]
fn what_a_page_compiles_on_a_cpu_stays_short() {
    // those of a GPU, of a CPU that shuffles, of weights in blocks, and of an 8-bit cache
    let others = [
        ("matvec", "matvec_blocks", "matvec_serial"),
        ("matmul", "matmul_shuffle", "rope_kv_q8"),
        ("attention", "attention_tiled", "top_k"),
    ];
    let others: Vec<_> = others.iter().flat_map(|&(a, b, c)| [a, b, c]).collect();
    let mut sizes = Vec::new();
    for spec in SPECS.iter().filter(|spec| !others.contains(&spec.name)) {
        let fusions = spec.fusions.iter().map(|(fusion, _)| *fusion);
        for fusion in fusions.chain([Fusion::None]) {
            let variant = Variant {
                weight: Storage::F16,
                kv: Storage::F16,
                kv_write: spec.name.starts_with("rope_kv"),
                fusion,
                min_subgroup_size: 0,
                shuffle: false,
                short_loops: true,
                f16: false,
                enable_subgroups_line: false,
                workgroup_size: 8,
                rank: 8,
                head_dim: 64,
            };
            for flags in flag_sets(spec) {
                let source = shader::source(spec.name, &variant, &flags);
                let (module, _) = validated(&source).expect("a valid shader");
                let size = inlined_size(&module, &module.entry_points[0].function);
                sizes.push((size, spec.name, fusion));
            }
        }
    }
    sizes.retain(|(size, _, _)| *size > 1000);
    assert!(sizes.is_empty(), "{sizes:?}");
}
