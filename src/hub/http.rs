//! Requests to a hub. Owns redirects (the token stays with the hub's own address), what a status means,
//! and how long is waited; the protocol and TLS are `ureq`'s.

use super::settings::HubSettings;
use super::{Event, HubError};
use crate::error::{Error, Result};
use std::time::Duration;
use ureq::http::{HeaderMap, Request, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};

const MAX_REDIRECTS: usize = 10;
/// Longest pause that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A hub that can be asked.
pub(super) struct Client<'a> {
    pub settings: &'a HubSettings,
    agent: ureq::Agent,
}

/// An answer with status 200, 206 or 416.
pub(super) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: ureq::Body,
    /// What the hub itself said about the file on the way, before it sent us elsewhere.
    pub linked: Linked,
}

/// The hub's headers about a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Linked {
    pub etag: Option<String>,
    pub size_bytes: Option<u64>,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// Asking again does not help.
    Final(Error),
    /// It may; not before `wait`, if the host says so.
    Passing { reason: String, wait: Option<Duration>, is_limit: bool },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Failure {
        Failure::Final(error.into())
    }
}

impl Failure {
    pub fn passing(reason: impl Into<String>) -> Failure {
        Failure::Passing { reason: reason.into(), wait: None, is_limit: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Get,
    Head,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a HubSettings) -> Client<'a> {
        // the system's certificates, as for every other program here: companies have their own
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let silence = Some(settings.patience.silence);
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("deltamem/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            .timeout_recv_response(silence)
            .build();
        Client { settings, agent: config.into() }
    }

    /// One request, redirects followed. `first_byte` asks for the rest of a file from there. With
    /// [`Method::Head`] a redirect to another host is not followed: what the hub says is wanted.
    /// `what` is what the error is about.
    pub fn once(
        &self,
        method: Method,
        url: &str,
        first_byte: Option<u64>,
        what: &str,
    ) -> Result<Reply, Failure> {
        let home = Address::parse(&self.settings.endpoint)?;
        let mut address = Address::parse(url)?;
        let mut is_home = true;
        let mut linked = Linked::default();
        for _ in 0..=MAX_REDIRECTS {
            // having left once, what comes back is a stranger's wish
            is_home &= address.has_origin_of(&home);
            let response = self.send(method, &address, first_byte, is_home)?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            let is_redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
            linked.update(&parts.headers, is_redirect);
            if !is_redirect {
                check_status(status, &parts.headers, &address, what, self.settings)?;
                return Ok(Reply { status, headers: parts.headers, body, linked });
            }
            let location = text(&parts.headers, "location").unwrap_or_default();
            let next = address.follow(&location)?;
            if method == Method::Head && linked.etag.is_some() && !next.has_origin_of(&home) {
                return Ok(Reply { status: 200, headers: parts.headers, body, linked });
            }
            address = next;
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Network { url: address.shown(), reason }.into())
    }

    fn send(
        &self,
        method: Method,
        address: &Address,
        first_byte: Option<u64>,
        is_home: bool,
    ) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let name = if method == Method::Head { "HEAD" } else { "GET" };
        let mut request = Request::builder().method(name).uri(&address.uri);
        if let Some(first_byte) = first_byte {
            request = request.header(header::RANGE, format!("bytes={first_byte}-"));
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| is_home) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        let network =
            |reason: String| Failure::from(HubError::Network { url: address.shown(), reason });
        let request = request.body(()).map_err(|e| network(e.to_string()))?;
        let proxy = self.settings.proxies.of(address.is_https, &address.host, address.port);
        let request = self.agent.configure_request(request).proxy(proxy).build();
        self.agent.run(request).map_err(|error| match &error {
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                network(error.to_string())
            }
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Failure::passing(format!("{}: {error}", address.host)),
            _ => network(error.to_string()),
        })
    }

    /// Asks until there is an answer that is not passing, or patience ends.
    pub fn patiently<T>(
        &self,
        url: &str,
        events: &mut dyn FnMut(Event),
        mut ask: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut retry = Retry::new(self.settings);
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => retry.pause(failure, url, events)?,
            }
        }
    }

    /// The address of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.endpoint)
    }
}

/// Counts attempts that brought nothing and waits between them.
pub(super) struct Retry<'a> {
    settings: &'a HubSettings,
    n_failed: u32,
}

impl<'a> Retry<'a> {
    pub fn new(settings: &'a HubSettings) -> Retry<'a> {
        Retry { settings, n_failed: 0 }
    }

    /// Something came: patience is whole again.
    pub fn reset(&mut self) {
        self.n_failed = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// What failed, if it is final or was the last attempt.
    pub fn pause(
        &mut self,
        failure: Failure,
        url: &str,
        events: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let (reason, asked, is_limit) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { reason, wait, is_limit } => (reason, wait, is_limit),
        };
        let patience = &self.settings.patience;
        let backoff = patience.first_wait.saturating_mul(1 << self.n_failed.min(16));
        let wait = asked.unwrap_or(backoff.min(MAX_BACKOFF));
        self.n_failed += 1;
        if wait > patience.longest_wait || self.n_failed >= patience.attempts {
            if is_limit {
                let host = self.settings.host().to_string();
                return Err(HubError::RateLimited { host, seconds: wait.as_secs() }.into());
            }
            let reason = format!("{reason}; {} attempts failed", self.n_failed);
            return Err(HubError::Network { url: shown(url), reason }.into());
        }
        events(Event::Waiting { reason: &reason, time: wait });
        std::thread::sleep(wait);
        Ok(())
    }
}

impl Linked {
    /// What the hub says first counts, before what those say to whom it sends us; the ETag and length
    /// of a redirect are not those of the file.
    fn update(&mut self, headers: &HeaderMap, is_redirect: bool) {
        let own = |name: &str| text(headers, name).filter(|_| !is_redirect);
        let etag = text(headers, "x-linked-etag").or_else(|| own("etag"));
        let size = text(headers, "x-linked-size").or_else(|| own("content-length"));
        self.etag = self.etag.take().or(etag.map(plain_etag));
        self.size_bytes = self.size_bytes.or(size.and_then(|size| size.parse().ok()));
    }
}

/// `"abc"` and `W/"abc"` are abc.
pub(super) fn plain_etag(etag: String) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_string()
}

/// A header that is text.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

fn check_status(
    status: u16,
    headers: &HeaderMap,
    address: &Address,
    what: &str,
    settings: &HubSettings,
) -> Result<(), Failure> {
    let said = text(headers, "x-error-message");
    let reason = || match &said {
        Some(said) => format!("{status}, {said}"),
        None => format!("status {status}"),
    };
    let code = text(headers, "x-error-code").unwrap_or_default();
    let what = what.to_string();
    match status {
        200 | 206 | 416 => Ok(()),
        // the hub says this also of a repository that there is not, to whom it does not know
        401 | 403 => {
            let advice = match (&settings.token, code.as_str()) {
                (_, "GatedRepo") => {
                    "open its page on the hub, accept its terms, and set HF_TOKEN to a token of \
                     that account"
                }
                (None, _) => {
                    "check the name; a private or gated repository needs a token (HF_TOKEN, or \
                     the file that `hf auth login` writes)"
                }
                (Some(_), _) => "check the name, and whether the token may read it",
            };
            Err(HubError::AccessDenied { what, reason: reason(), advice }.into())
        }
        404 | 410 => {
            let reason = match code.as_str() {
                "RepoNotFound" => "there is no such repository".into(),
                "RevisionNotFound" => "the repository has no such revision".into(),
                "EntryNotFound" => "the repository has no such file".into(),
                _ => reason(),
            };
            Err(HubError::NotFound { what, host: address.host.clone(), reason }.into())
        }
        408 | 425 | 429 | 500..=599 => Err(Failure::Passing {
            reason: format!("{}: {}", address.host, reason()),
            wait: text(headers, "retry-after")
                .and_then(|value| retry_after(&value))
                .or_else(|| rate_limit_reset(&text(headers, "ratelimit")?)),
            is_limit: status == 429,
        }),
        _ => Err(HubError::Network { url: address.shown(), reason: reason() }.into()),
    }
}

/// Seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp();
    let seconds = date.duration_since(jiff::Timestamp::now()).as_secs();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// `"api";r=0;t=55`: what Hugging Face sends in place of `Retry-After`; t is in seconds.
fn rate_limit_reset(value: &str) -> Option<Duration> {
    let seconds = value.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// An http or https address.
#[derive(Debug, Clone, PartialEq)]
struct Address {
    uri: Uri,
    is_https: bool,
    host: String,
    port: u16,
}

impl Address {
    fn parse(url: &str) -> Result<Address, HubError> {
        let bad = |reason: String| HubError::Network { url: shown(url), reason };
        let uri: Uri = url.parse().map_err(|_| bad("it is no address".into()))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it is no http or https address".into())),
        };
        let has_login = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let host = uri.host().unwrap_or_default().to_lowercase();
        if host.is_empty() || has_login {
            return Err(bad("it names no host, or also a person".into()));
        }
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Address { uri, is_https, host, port })
    }

    fn has_origin_of(&self, other: &Address) -> bool {
        (self.is_https, &self.host, self.port) == (other.is_https, &other.host, other.port)
    }

    /// Where a `Location` leads.
    fn join(&self, location: &str) -> Result<Address, HubError> {
        let location = location.split('#').next().unwrap_or_default().trim();
        let scheme = if self.is_https { "https" } else { "http" };
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let folder = self.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        if location.is_empty() {
            let reason = "a redirect that leads nowhere".into();
            return Err(HubError::Network { url: self.shown(), reason });
        }
        Address::parse(&if location.contains("://") {
            location.to_string()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            format!("{scheme}://{authority}{folder}/{location}")
        })
    }

    /// The same, but never from TLS to plain text.
    fn follow(&self, location: &str) -> Result<Address, HubError> {
        let next = self.join(location)?;
        match self.is_https && !next.is_https {
            true => {
                let reason = "a redirect from https to http".into();
                Err(HubError::Refused { what: next.shown(), reason })
            }
            false => Ok(next),
        }
    }

    fn shown(&self) -> String {
        shown(&self.uri.to_string())
    }
}

/// Without what stands behind `?`: signed addresses let their reader in.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(location: &str) -> String {
        let base = Address::parse("https://hub.example:444/a/b/c?x=1").unwrap();
        base.join(location).map_or_else(|e| e.code().into(), |next| next.uri.to_string())
    }

    #[test]
    fn locations_are_joined_as_browsers_do() {
        assert_eq!(joined("https://cdn.example/x?sig=1#top"), "https://cdn.example/x?sig=1");
        assert_eq!(joined("//cdn.example/x"), "https://cdn.example/x");
        assert_eq!(joined("/api/x"), "https://hub.example:444/api/x");
        assert_eq!(joined("d"), "https://hub.example:444/a/b/d");
        for bad in ["", "ftp://x/y", "https://", "file:///etc/passwd", "https://me:pw@x/"] {
            assert_eq!(joined(bad), "network", "{bad}");
        }
    }

    #[test]
    fn tls_is_never_left() {
        let secure = Address::parse("https://hub.example/a").unwrap();
        assert_eq!(secure.follow("http://hub.example/a").unwrap_err().code(), "refused");
        assert!(secure.follow("https://cdn.example/a").is_ok());
        let plain = Address::parse("http://127.0.0.1:1/a").unwrap();
        assert!(plain.follow("http://127.0.0.1:2/a").is_ok());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| {
            Address::parse(a).unwrap().has_origin_of(&Address::parse(b).unwrap())
        };
        assert!(same("https://Hub.example/a", "https://hub.example:443/b"));
        assert!(!same("https://hub.example", "http://hub.example"));
        assert!(!same("https://hub.example", "https://hub.example:8443"));
        assert!(!same("https://hub.example", "https://hub.example.evil.example"));
    }

    #[test]
    fn pauses_are_seconds_or_dates() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = retry_after("Wed, 21 Oct 2065 07:28:00 GMT").unwrap();
        assert!(later > Duration::from_secs(1 << 30));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(rate_limit_reset("\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(rate_limit_reset("\"api\";r=0"), None);
    }

    #[test]
    fn what_is_shown_keeps_signatures_out() {
        assert_eq!(shown("https://cdn.example/x?Signature=abc"), "https://cdn.example/x");
        assert_eq!(plain_etag("W/\"abc\"".into()), "abc");
    }
}
