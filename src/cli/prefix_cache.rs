//! `--prefix-cache`: beginnings of conversations kept in a folder. Owns the options and how sizes are
//! written.

use super::output::{note, printable};
use anyhow::{Context, Result};
use clap::Args;
use deltamem::prefix_folder::PrefixFolder;
use deltamem::session::Session;
use std::path::PathBuf;

/// Where beginnings are kept.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Beginnings")]
pub struct PrefixCacheOptions {
    /// Keep what conversations begin with (tools, system messages), as the model has read it, in this
    /// folder, and read it no more where it is there. Private text can be found out from the files
    #[arg(long, value_name = "FOLDER")]
    prefix_cache: Option<PathBuf>,
    /// Most bytes that the folder's files take together: a number, or one with K, M, G, T (1024 each)
    #[arg(long, value_name = "BYTES", requires = "prefix_cache", value_parser = parse_size,
          default_value = DEFAULT_SIZE)]
    prefix_cache_size: u64,
}

/// The library's default as one writes it.
const DEFAULT_SIZE: &str = "4G";

impl PrefixCacheOptions {
    /// Lets a session that has just begun use the folder, if one was given.
    pub async fn apply(&self, session: &mut Session) -> Result<()> {
        let Some(folder) = &self.prefix_cache else { return Ok(()) };
        let report = Box::new(|problem: &str| note!("{}", printable(problem)));
        let opened = PrefixFolder::open(folder, self.prefix_cache_size, report);
        let folder = opened.context("opening the folder of --prefix-cache")?;
        Ok(session.store_prefixes(Box::new(folder)).await?)
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let shift = match text.bytes().last().map(|c| c.to_ascii_uppercase()) {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let digits = if shift > 0 { &text[..text.len() - 1] } else { text };
    let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "expected a number of bytes, as in 500M or 4G".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltamem::prefix_folder::DEFAULT_SIZE_BYTES;

    #[test]
    fn sizes_are_numbers_with_a_letter() {
        assert_eq!(parse_size(DEFAULT_SIZE), Ok(DEFAULT_SIZE_BYTES));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("1500"), Ok(1500));
        assert_eq!(parse_size("3k"), Ok(3 << 10));
        assert_eq!(parse_size("2T"), Ok(2 << 40));
        for other in ["", "G", "-1", "+1", "1.5G", "4 G", "1GB", "ä", "16777216T"] {
            assert!(parse_size(other).is_err(), "{other:?}");
        }
    }
}
