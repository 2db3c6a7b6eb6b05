//! What a packager installs beside the program: completions for shells and manual pages. Both are
//! made from the command line as it is.

use anyhow::{Context, Result, bail};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// For which shell.
#[derive(Args)]
pub struct CompletionsOptions {
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Args)]
pub struct ManOptions {
    /// Write a page for the program and one for each command into this folder, instead of printing
    /// the program's
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints the completions.
pub fn completions(options: &CompletionsOptions, mut command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    let name = command.get_name().to_string();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page, or writes all of them.
pub fn man(options: &ManOptions, command: Command) -> Result<ExitCode> {
    match &options.out {
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
        }
        Some(folder) if !folder.is_dir() => bail!("{} is not a folder", folder.display()),
        Some(folder) => clap_mangen::generate_to(command, folder)
            .with_context(|| format!("writing to {}", folder.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}
