//! `deltamem convert` and `deltamem synth`: models as GGUF files. Owns what is said while a file is
//! written and after it; the writing is the library's.

use super::Usage;
use super::options::LoadProgress;
use super::output::{bytes, note, printable, put, table};
use super::place::ModelPlace;
use anyhow::Result;
use clap::Args;
use deltamem::config::MAX_CONFIG_BYTES;
use deltamem::convert::synth::{Synthesis, known_config, known_names};
use deltamem::convert::{Conversion, ConvertOptions, Extra, TensorError, TypeRule};
use deltamem::model_folder::is_gguf;
use deltamem::weights::bytes::read_bounded;
use deltamem::weights::gguf::blocks::GgmlType;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Which types, and where to.
#[derive(Args, Debug)]
struct FileOptions {
    /// Type of the matrices: f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, q5_1, q5_0, q4_1, q4_0
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k", value_parser = type_of)]
    ty: GgmlType,
    /// Another type where the regular expression PATTERN finds a tensor's GGUF name; the last counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<TypeRule>,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What to convert.
#[derive(Args, Debug)]
pub struct ConvertCommand {
    /// Folder with a model's files as on Hugging Face, or the name of one that was pulled
    #[arg(value_name = "FOLDER|NAME")]
    folder: PathBuf,
    /// The file to write; an interrupted run goes on where it was
    #[arg(value_name = "FILE.gguf")]
    out: PathBuf,
    #[command(flatten)]
    file: FileOptions,
}

/// What to make up.
#[derive(Args, Debug)]
pub struct SynthCommand {
    /// The file to write; an interrupted run goes on where it was
    #[arg(value_name = "FILE.gguf")]
    out: PathBuf,
    /// Whose shapes: SmolLM3-3B, Qwen3-4B, S, M, or a config.json
    #[arg(long, value_name = "NAME|CONFIG.json")]
    config: String,
    /// Which random weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    file: FileOptions,
}

/// A type by its name; that of the mix that it stands for is understood too.
pub fn type_of(name: &str) -> Result<GgmlType, String> {
    let plain = name.to_lowercase();
    let plain = plain.strip_suffix("_k_m").map_or(plain.clone(), |bits| format!("{bits}_k"));
    GgmlType::from_name(&plain).ok_or_else(|| "there is no such type".into())
}

/// Runs `deltamem convert`.
pub fn convert(command: &ConvertCommand) -> Result<ExitCode> {
    command.file.check(&command.out)?;
    let place = ModelPlace::of(&command.folder)?;
    if is_gguf(&place.path) {
        let reason = "the model is a GGUF file already; weights that were rounded once are not \
                      converted again"
            .to_string();
        return Err(Usage(reason).into());
    }
    let folder = place.open()?;
    let extra = Extra::open(&place.path)?;
    let conversion = Conversion::new(&folder, &extra, &command.file.options())?;
    tell_notes(&conversion);
    let begin = Instant::now();
    let mut progress = LoadProgress::writing(&command.out);
    let errors = conversion.write(folder.tensors.as_ref(), &command.out, &mut |done, of| {
        progress.set(done, of);
    })?;
    drop(progress);
    report(&conversion, Some(&errors), begin, &command.out, command.file.json)
}

/// The name and the `config.json` of a known model's name or a path; `option` is what it was given to.
pub fn config_of(option: &str, wanted: &str) -> Result<(String, Vec<u8>)> {
    if let Some(known) = known_config(wanted) {
        return Ok((wanted.into(), known.to_vec()));
    }
    if !wanted.ends_with(".json") {
        let names = known_names().join(", ");
        let reason = format!("{option} is {names} or the path of a config.json");
        return Err(Usage(reason).into());
    }
    let path = Path::new(wanted);
    let name = path.parent().and_then(Path::file_name).unwrap_or(path.as_os_str());
    let config = read_bounded(path, MAX_CONFIG_BYTES as u64)?;
    Ok((name.to_string_lossy().into_owned(), config))
}

/// Runs `deltamem synth`.
pub fn synth(command: &SynthCommand) -> Result<ExitCode> {
    command.file.check(&command.out)?;
    let (name, config) = config_of("--config", &command.config)?;
    let synthesis = Synthesis::new(&name, &config, &command.file.options(), command.seed)?;
    tell_notes(synthesis.conversion());
    let begin = Instant::now();
    let mut progress = LoadProgress::writing(&command.out);
    synthesis.write(&command.out, &mut |done, of| progress.set(done, of))?;
    drop(progress);
    report(synthesis.conversion(), None, begin, &command.out, command.file.json)
}

impl FileOptions {
    fn options(&self) -> ConvertOptions {
        ConvertOptions { ty: self.ty, rules: self.tensor_type.clone() }
    }

    fn check(&self, out: &Path) -> Result<()> {
        if out.exists() && !self.force {
            let reason = format!("{} is there already; --force replaces it", out.display());
            return Err(Usage(reason).into());
        }
        Ok(())
    }
}

fn tell_notes(conversion: &Conversion) {
    for text in conversion.notes() {
        note!("note: {}", printable(text));
    }
}

fn report(
    conversion: &Conversion,
    errors: Option<&[TensorError]>,
    begin: Instant,
    out: &Path,
    is_json: bool,
) -> Result<ExitCode> {
    let (size, seconds) = (conversion.plan().size_bytes(), begin.elapsed().as_secs_f64());
    let error_of = |i: usize| errors.and_then(|errors| errors.get(i)).map(|e| e.relative_rms);
    let tensors = conversion.plan().tensors();
    if is_json {
        let tensors: Vec<_> = tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| {
                json!({
                    "name": tensor.name,
                    "type": tensor.ty.name(),
                    "shape": tensor.shape,
                    "size_bytes": tensor.size_bytes,
                    "relative_rms_error": error_of(i),
                })
            })
            .collect();
        let report = json!({
            "file": out,
            "size_bytes": size,
            "seconds": seconds,
            "notes": conversion.notes(),
            "tensors": tensors,
        });
        put!("{report:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if errors.is_some() {
        let heads = ["tensor", "shape", "type", "size", "relative error (RMS)"];
        let mut rows = vec![heads.map(String::from).to_vec()];
        for (i, tensor) in tensors.iter().enumerate() {
            let shape: Vec<_> = tensor.shape.iter().map(usize::to_string).collect();
            rows.push(vec![
                tensor.name.clone(),
                shape.join(" × "),
                tensor.ty.name().into(),
                bytes(tensor.size_bytes),
                error_of(i).map_or(String::new(), |error| match error {
                    0.0 => "0".into(),
                    error => format!("{:.3} %", 100.0 * error),
                }),
            ]);
        }
        put!("{}\n", table(&rows))?;
    }
    put!("{}: {} in {seconds:.1} s", printable(&out.display().to_string()), bytes(size))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_by_their_names_and_by_those_of_mixes() {
        assert_eq!(type_of("q4_k"), Ok(GgmlType::Q4_K));
        assert_eq!(type_of("Q5_K_M"), Ok(GgmlType::Q5_K));
        assert_eq!(type_of("bf16"), Ok(GgmlType::BF16));
        assert!(type_of("q4").is_err());
    }
}
