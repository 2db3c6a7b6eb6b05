//! Models from a hub, which is a mirror on this machine (`mirror.rs`): what is fetched, how, and what
//! becomes of it when hosts, networks and names are not as they should be. Nothing here has met the real
//! hub.

mod cache;
mod download;
mod mirror;
mod program;

use deltamem::hub::{Event, HubName, HubSettings, Patience, Pulled, pull};
use mirror::Mirror;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A mirror and a cache of its own.
struct Place {
    pub mirror: Mirror,
    pub settings: HubSettings,
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place::with(&[])
    }

    /// With other variables of the environment.
    pub fn with(variables: &[(&str, &str)]) -> Place {
        let mirror = Mirror::start();
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().join("hf");
        let mut settings = HubSettings::from_variables(&|name| match name {
            "HF_HOME" => Some(home.clone().into()),
            "HF_ENDPOINT" => Some(mirror.endpoint().into()),
            name => {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            }
        })
        .expect("settings");
        settings.patience = Patience {
            attempts: 4,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_secs(2),
            silence: Duration::from_secs(2),
        };
        Place { mirror, settings, folder }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn cache(&self) -> &Path {
        &self.settings.cache
    }

    pub fn pull(&self, name: &str) -> deltamem::Result<Vec<Pulled>> {
        self.pull_with(name, &mut |_| {})
    }

    pub fn pull_with(
        &self,
        name: &str,
        events: &mut dyn FnMut(Event),
    ) -> deltamem::Result<Vec<Pulled>> {
        pull(&self.settings, &HubName::parse(name).expect("a name"), true, events)
    }

    /// The code of a pull that fails, and its message.
    pub fn failure(&self, name: &str) -> (&'static str, String) {
        let error = self.pull(name).expect_err("it must fail");
        (error.code(), error.to_string())
    }

    /// The folder of a repository in the cache.
    pub fn repo(&self, id: &str) -> std::path::PathBuf {
        self.cache().join(format!("models--{}", id.replace('/', "--")))
    }
}

/// Bytes that are never the same at two places.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// Files that look like a model's.
fn model_files(seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"read me".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", noise(300_000, seed)),
        ("pytorch_model.bin", noise(20_000, seed + 1)),
        ("tokenizer.json", noise(40_000, seed + 2)),
    ]
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.unwrap_or_default().iter().map(name).collect();
    names.sort();
    names
}
