//! Models from a hub: Hugging Face's, or a mirror of it. Owns `deltamem pull`, `list` and `rm` as calls,
//! and how a name becomes a path. Native only. The bytes come over [`http`], the layout on disk is that
//! of Hugging Face's tools ([`cache`]), so what they fetched is found here, and the other way round.

mod api;
mod cache;
mod contents;
mod download;
mod error;
mod find;
mod http;
mod name;
mod proxy;
mod pull;
mod registry;
mod remove;
mod select;
mod settings;

pub use cache::RepoCache;
pub use contents::{CachedFile, CachedRepo, CachedRevision, contents};
pub use error::HubError;
pub use find::{Found, find_adapter, find_model};
pub use name::HubName;
pub use proxy::Proxies;
pub use pull::{Pulled, PulledFile, pull};
pub use registry::{Format, KnownModel, Source, Target, known_model, known_models};
pub use remove::Removal;
pub use settings::{DEFAULT_ENDPOINT, HubSettings, Patience, Token};

use std::time::Duration;

/// What happens while files are fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// The hub has said what there is; `missing_bytes` of `total_bytes` are not here.
    Found { repo: &'a str, commit: &'a str, n_files: usize, total_bytes: u64, missing_bytes: u64 },
    /// A file's turn; `is_here` if nothing of it needs to be fetched.
    File { name: &'a str, size_bytes: u64, is_here: bool },
    /// Bytes of the current file that are here; less than before if it starts over.
    Bytes(u64),
    /// Nothing happens for this time (zero: nobody knows), and why.
    Waiting { reason: &'a str, time: Duration },
}
