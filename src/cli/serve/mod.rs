//! `deltamem serve`: the model behind OpenAI's HTTP interface, with a memory for each profile. Owns
//! its options, the two threads, and how the server begins and ends. The model stays on the thread
//! that loaded it (`host`); connections are another's (`http`); between them is a bounded line
//! (`queue`).

mod api_error;
mod conversations;
mod guard;
mod host;
mod http;
mod memories;
mod page;
mod queue;
mod reply;
mod request;
mod text;
pub(super) mod turns;

use super::Usage;
use super::options::{ModelOptions, RunOptions, engine_name};
use super::output::{note, printable, put};
use super::prefix_cache::PrefixCacheOptions;
use super::talk::{random_seed, today};
use anyhow::{Context, Result};
use axum::http::Uri;
use clap::Args;
use deltamem::session::{Session, SessionOptions};
use guard::Guard;
use host::{Host, Job};
use page::Page;
use queue::Queue;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Says whose memory a request is about.
pub const PROFILE_HEADER: &str = "X-Memory-Profile";
/// `false` reads the memory and leaves it as it is.
pub const WRITE_HEADER: &str = "X-Memory-Write";
/// Names the token without showing it to whoever lists processes.
const TOKEN_VARIABLE: &str = "DELTAMEM_TOKEN";

/// How to serve.
#[derive(Args)]
pub struct ServeOptions {
    /// Where to listen: an address of this machine, or its name
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 11435)]
    port: u16,
    /// Answer only those who send this bearer token [default: the variable DELTAMEM_TOKEN, if set]
    #[arg(long, value_name = "TOKEN", visible_alias = "api-key")]
    token: Option<String>,
    /// Let everyone ask who reaches an address that is not this machine's own
    #[arg(long)]
    without_token: bool,
    /// Let pages of this origin ask, as in https://app.example; can be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Answer also under this name; can be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Most requests that wait for the model; others are sent away
    #[arg(long, value_name = "N", default_value_t = 16)]
    queue: usize,
    /// Conversations that are kept ready; each takes the memory of its context
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    conversations: usize,
    /// Beginnings (tools, system messages) that are kept to be read once for all conversations; each
    /// takes the memory of its context
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=64))]
    prefixes: usize,
    /// The built demo page, to be shown at / with this model behind it, or `small` for a small page
    /// [default: the one beside the program, or else the small one]
    #[arg(long, value_name = "FOLDER")]
    page: Option<PathBuf>,
    #[command(flatten)]
    prefix_cache: PrefixCacheOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    run: RunOptions,
}

impl ServeOptions {
    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs();
        Ok(found.with_context(|| format!("{} is no address to listen on", self.host))?.collect())
    }

    fn guard(&self, addresses: &[SocketAddr]) -> Result<Guard> {
        let token = match &self.token {
            None => std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()),
            given => given.clone(),
        };
        let usage = |text: String| -> Result<Guard> { Err(Usage(text).into()) };
        if token.as_ref().is_some_and(|token| token.is_empty() || !token.is_ascii()) {
            return usage("a token has ASCII characters, at least one".into());
        }
        let is_loopback = addresses.iter().all(|address| address.ip().is_loopback());
        if !is_loopback && token.is_none() && !self.without_token {
            return usage(format!(
                "{} can be reached from other machines: give a --token (or {TOKEN_VARIABLE}), or \
                 --without-token if everyone may read and change the memories",
                self.host
            ));
        }
        if let Some(origin) = self.allow_origin.iter().find(|origin| !is_origin(origin)) {
            return usage(format!("{origin:?} is no origin; one looks like https://app.example"));
        }
        let hosts = self.allow_host.iter().chain([&self.host]).cloned().collect();
        Ok(Guard { hosts, origins: self.allow_origin.clone(), token })
    }
}

/// As browsers write it: a scheme and a host, nothing behind.
fn is_origin(text: &str) -> bool {
    let parsed: Option<Uri> = text.parse().ok();
    parsed.is_some_and(|uri| {
        let (scheme, authority) = (uri.scheme_str(), uri.authority());
        let same = scheme.zip(authority).map(|(scheme, host)| format!("{scheme}://{host}"));
        same.is_some_and(|same| same == text && same == text.to_lowercase())
    })
}

/// Runs the command.
pub fn run(options: &ServeOptions) -> Result<ExitCode> {
    let addresses = options.addresses()?;
    let guard = options.guard(&addresses)?;
    let has_token = guard.token.is_some();
    let (page, page_folder) = Page::find(options.page.as_deref())?;
    // before the model is loaded: an address in use is the more common mistake
    let listener = TcpListener::bind(&addresses[..])
        .with_context(|| format!("listening on {} port {}", options.host, options.port))?;
    listener.set_nonblocking(true).context("listening")?;
    let address = listener.local_addr().context("listening")?;

    let model = options.model.load(&options.run)?;
    note!("{} on {}", printable(&model.name), engine_name(&model.engine));
    if model.identity.is_none() {
        note!("no δ-mem adapter: nothing is remembered beyond the context");
    }
    let app = http::App::new(&model);
    let session = SessionOptions { system: None, enable_thinking: None, date: today() };
    let mut session = pollster::block_on(Session::new(model, session))?;
    session.keep_prefixes(options.prefixes);
    pollster::block_on(options.prefix_cache.apply(&mut session))?;
    let queue = Queue::<Job>::new(options.queue, session.canceller());
    let defaults = session.default_turn_options();
    let host = Host::new(session, defaults, options.conversations);

    let router = http::router(app, queue.clone(), guard, page);
    let connections = std::thread::Builder::new().name("http".into());
    let connections = connections.spawn({
        let queue = Arc::clone(&queue);
        move || {
            let served = http::serve(listener, router, &queue);
            // also after a failure: the model's thread must not wait for ever
            queue.close();
            served
        }
    })?;
    put!("listening on http://{address}")?;
    match page_folder {
        Some(folder) => note!("the page at / is {}", printable(&folder.display().to_string())),
        None => note!("a small page is at /; the whole one is built by ./dev web (see --page)"),
    }
    if has_token {
        note!("with a token");
    }
    host.work(&queue);
    match connections.join() {
        Ok(served) => served?,
        Err(_) => anyhow::bail!("the thread of connections ended with a panic"),
    }
    note!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// A name that no other object of this kind has.
fn random_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random_seed(), random_seed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_write() {
        for origin in ["https://app.example", "http://localhost:5173", "tauri://localhost"] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in ["*", "null", "app.example", "https://app.example/", "https://App.example", ""]
        {
            assert!(!is_origin(other), "{other}");
        }
    }
}
