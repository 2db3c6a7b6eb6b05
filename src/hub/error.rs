//! What can go wrong between this program, a hub and its cache. Owns the messages and codes; wrapped
//! in [`crate::Error::Hub`].

use std::path::PathBuf;

/// An error of the hub or of its cache; says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that can be neither a known model nor a repository.
    #[error(
        "`{name}`: {reason}; a model is called by a name of the registry or as \
         org/repo[:file][@revision]"
    )]
    Name { name: String, reason: String },
    /// The host cannot be reached, breaks off again and again, or answers what no hub answers.
    #[error("{url}: {reason}")]
    Network { url: String, reason: String },
    /// The hub wants to know who asks, or does not let him in.
    #[error("{what}: access denied ({reason}); {advice}")]
    AccessDenied { what: String, reason: String, advice: &'static str },
    /// The hub has no such repository, revision or file.
    #[error("{what} is not on {host}: {reason}")]
    NotFound { what: String, host: String, reason: String },
    /// The hub wants a pause longer than anybody waits at a terminal.
    #[error("{host} asks for a pause of {seconds} s (too many requests); try again later")]
    RateLimited { host: String, seconds: u64 },
    /// The disk is too full.
    #[error(
        "{}: {needed_bytes} more bytes are needed, {available_bytes} are free; make room, or set \
         HF_HUB_CACHE to a folder on another disk",
        path.display()
    )]
    NoSpace { path: PathBuf, needed_bytes: u64, available_bytes: u64 },
    /// The bytes that came are not those that were promised; they were deleted.
    #[error("{file}: SHA-256 is {found}, expected {expected}; the wrong bytes are not kept")]
    WrongHash { file: String, expected: String, found: String },
    /// Something must be fetched and HF_HUB_OFFLINE forbids it.
    #[error("{what} is not in the cache, and HF_HUB_OFFLINE is set")]
    Offline { what: String },
    /// A model that is asked for is not in the cache, or not whole.
    #[error("{what}; `{command}` downloads it")]
    NotDownloaded { what: String, command: String },
    /// A repository has several models, and none was named.
    #[error("{repo} has several: {choices}; name one as {repo}:FILE")]
    Choose { repo: String, choices: String },
    /// A hub sends something that is never followed: a path out of the cache, a redirect to plain text.
    #[error("refused: {what}: {reason}")]
    Refused { what: String, reason: String },
}

impl HubError {
    /// A stable, machine-readable name.
    pub fn code(&self) -> &'static str {
        match self {
            HubError::Name { .. } => "hub_name",
            HubError::Network { .. } => "network",
            HubError::AccessDenied { .. } => "access_denied",
            HubError::NotFound { .. } => "not_found",
            HubError::RateLimited { .. } => "rate_limited",
            HubError::NoSpace { .. } => "no_space",
            HubError::WrongHash { .. } => "wrong_hash",
            HubError::Offline { .. } => "offline",
            HubError::NotDownloaded { .. } => "not_downloaded",
            HubError::Choose { .. } => "choose_file",
            HubError::Refused { .. } => "refused",
        }
    }
}
