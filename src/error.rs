//! The one error type of the library. Owns the messages and the stable codes; the program wraps
//! it in `anyhow`, the web surface sends [`Error::code`] beside the message.

use std::path::PathBuf;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with input, storage or device. Messages name the file, key or
/// tensor, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to open, read or write a file.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is not what its format says: truncated, oversized, inconsistent or hostile.
    #[error("{file}: not a valid {format}: {reason}")]
    Format { file: String, format: &'static str, reason: String },
    /// A configuration key has a value that cannot be used.
    #[error("{file}: key `{key}`: {reason}")]
    Config { file: String, key: String, reason: String },
    /// The file is valid, but asks for something this crate does not do.
    #[error("{what} is not supported: {reason}")]
    Unsupported { what: String, reason: String },
    /// A tensor that the configuration calls for is in none of the files.
    #[error("{file}: tensor `{name}` is missing")]
    MissingTensor { file: String, name: String },
    /// A tensor that the configuration does not know.
    #[error(
        "{file}: tensor `{name}` is not part of this model (wrong configuration or wrong file?)"
    )]
    UnknownTensor { file: String, name: String },
    /// A tensor has another shape than the configuration implies.
    #[error("{file}: tensor `{name}` has shape {found:?}, expected {expected:?}")]
    TensorShape { file: String, name: String, expected: Vec<usize>, found: Vec<usize> },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { id: u32, vocab_size: usize },
    /// The tokenizer cannot be built or cannot encode this text.
    #[error("tokenizer: {reason}")]
    Tokenizer { reason: String },
    /// The chat template does not parse or refuses these messages.
    #[error("chat template: {reason}")]
    Template { reason: String },
    /// Messages that cannot be turned into a turn (wrong role, empty prompt, …).
    #[error("messages: {reason}")]
    Messages { reason: String },
    /// The next tokens do not fit into the context window.
    #[error(
        "context is full: {needed} tokens needed, the window holds {window}; start a new context (the memory stays) or load with a larger --context"
    )]
    ContextFull { needed: usize, window: usize },
    /// The caller ended a turn before its reply began.
    #[error("cancelled while the prompt was read; conversation and memory are as they were")]
    Cancelled,
    /// A memory that belongs to another backbone, adapter, write mode or size.
    #[error(
        "this memory does not fit: {field} is {found}, the loaded model needs {expected}; nothing was changed"
    )]
    MemoryMismatch { field: &'static str, expected: String, found: String },
    /// A sampling or generation setting outside its range.
    #[error("setting `{name}`: {reason}")]
    Setting { name: &'static str, reason: String },
    /// A schema or regular expression that replies cannot be held to.
    #[error("constraint: {reason}")]
    Constraint { reason: String },
    /// No usable GPU adapter.
    #[error("no GPU adapter: {reason}")]
    NoAdapter { reason: String },
    /// The device cannot hold or bind something of this size.
    #[error("{what} needs {needed}, this adapter allows {limit}; {advice}")]
    DeviceLimit { what: String, needed: u64, limit: u64, advice: &'static str },
    /// The device ran out of memory.
    #[error(
        "the GPU is out of memory while making {what} ({size_bytes} bytes); try --weights q4 or a smaller --context"
    )]
    OutOfMemory { what: String, size_bytes: u64 },
    /// The device is gone: a driver reset, a sleeping computer, a browser that took it away.
    #[error("the GPU device was lost ({reason}); load the model again")]
    DeviceLost { reason: String },
    /// The device refused a command.
    #[error("GPU: {reason}")]
    Gpu { reason: String },
    /// Another engine that was to be measured beside this one does not do its part.
    #[error("{name}: {reason}")]
    Peer { name: String, reason: String },
    /// Another program holds this store.
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// Something about a hub or its cache on disk.
    #[cfg(not(target_arch = "wasm32"))]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
}

impl Error {
    /// A stable, machine-readable name; it survives wasm and workers, messages may change.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::Format { .. } => "format",
            Error::Config { .. } => "config",
            Error::Unsupported { .. } => "unsupported",
            Error::MissingTensor { .. } => "missing_tensor",
            Error::UnknownTensor { .. } => "unknown_tensor",
            Error::TensorShape { .. } => "tensor_shape",
            Error::TokenOutOfRange { .. } => "token_out_of_range",
            Error::Tokenizer { .. } => "tokenizer",
            Error::Template { .. } => "template",
            Error::Messages { .. } => "messages",
            Error::ContextFull { .. } => "context_full",
            Error::Cancelled => "cancelled",
            Error::MemoryMismatch { .. } => "memory_mismatch",
            Error::Setting { .. } => "setting",
            Error::Constraint { .. } => "constraint",
            Error::NoAdapter { .. } => "no_adapter",
            Error::DeviceLimit { .. } => "device_limit",
            Error::OutOfMemory { .. } => "out_of_memory",
            Error::DeviceLost { .. } => "device_lost",
            Error::Gpu { .. } => "gpu",
            Error::Peer { .. } => "peer",
            Error::Locked { .. } => "locked",
            #[cfg(not(target_arch = "wasm32"))]
            Error::Hub(error) => error.code(),
        }
    }

    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::Format`].
    pub fn format(
        file: impl Into<String>,
        format: &'static str,
        reason: impl Into<String>,
    ) -> Error {
        Error::Format { file: file.into(), format, reason: reason.into() }
    }
}
