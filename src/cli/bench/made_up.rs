//! Models of a real one's shapes for `deltamem bench --synth`: written once into the cache folder, as
//! `deltamem synth` writes them, and used again.

use crate::cli::Usage;
use crate::cli::convert::{config_of, type_of};
use crate::cli::options::{LoadProgress, ModelOptions};
use crate::cli::output::note;
use anyhow::{Context, Result};
use clap::Args;
use deltamem::convert::ConvertOptions;
use deltamem::convert::synth::Synthesis;
use deltamem::weights::gguf::blocks::GgmlType;
use std::path::{Path, PathBuf};

/// Which made-up model, if any.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct MadeUpOptions {
    /// Measure a model with random weights and the shapes of SmolLM3-3B, Qwen3-4B, S, M, or of a
    /// config.json
    #[arg(long, value_name = "NAME|CONFIG.json", conflicts_with_all = ["model", "weights"])]
    synth: Option<String>,
    /// Type of its matrices, as for `deltamem synth`
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k", value_parser = type_of,
          requires = "synth")]
    ty: GgmlType,
    /// Where its file is or is written [default: the cache folder of this program]
    #[arg(long, value_name = "FILE.gguf", requires = "synth")]
    out: Option<PathBuf>,
}

/// Which random weights.
const SEED: u64 = 1;

impl MadeUpOptions {
    /// The model to measure: the given one, or the made-up one, whose file is then there.
    pub fn model(&self, given: &ModelOptions) -> Result<ModelOptions> {
        let Some(wanted) = &self.synth else { return Ok(given.clone()) };
        let (name, config) = config_of("--synth", wanted)?;
        let options = ConvertOptions { ty: self.ty, rules: Vec::new() };
        let synthesis = Synthesis::new(&name, &config, &options, SEED)?;
        let path = match &self.out {
            Some(path) if path.extension().is_none_or(|e| e != "gguf") => {
                let reason = format!("--out {} does not end in .gguf", path.display());
                return Err(Usage(reason).into());
            }
            Some(path) => path.clone(),
            None => {
                let folder = cache_folder()?;
                std::fs::create_dir_all(&folder)
                    .with_context(|| format!("making {}", folder.display()))?;
                folder.join(format!("{name}-{}.gguf", self.ty.name().to_lowercase()))
            }
        };
        // only the same model has a header and tensors of the same size
        let size_bytes = synthesis.conversion().plan().size_bytes();
        if !std::fs::metadata(&path).is_ok_and(|found| found.len() == size_bytes) {
            if self.out.is_some() && path.exists() {
                let reason = format!("{} is another file than this model's", path.display());
                return Err(Usage(reason).into());
            }
            write(&synthesis, &path)?;
        }
        Ok(given.with_model(path))
    }
}

fn write(synthesis: &Synthesis, path: &Path) -> Result<()> {
    note!("writing {} …", path.display());
    let mut progress = LoadProgress::writing(path);
    synthesis.write(path, &mut |done, of| progress.set(done, of))?;
    Ok(())
}

fn cache_folder() -> Result<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "deltamem")
        .context("there is no home folder for a cache; see --out")?;
    Ok(folders.cache_dir().join("synth"))
}
