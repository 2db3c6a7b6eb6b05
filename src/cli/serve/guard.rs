//! Who may ask. Owns the checks in front of every request: the host it was sent to, the page it
//! comes from, the token; and the headers that let another page in.
//!
//! A server on this machine can be reached by every page that its browser opens. Such a page has
//! an `Origin`; and a name of its own that was pointed at this machine in the meantime (DNS
//! rebinding) stands in `Host`.

use super::PROFILE_HEADER;
use super::api_error::ApiError;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;

/// What is let in.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Names, without ports, that the server may be called by, beside `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask, as browsers write them.
    pub origins: Vec<String>,
    pub token: Option<String>,
}

/// What is about someone or takes the model's time; the rest is the page, which must come before its
/// reader can enter a token.
const WITH_TOKEN: [&str; 3] = ["/v1/", "/tokenize", "/detokenize"];
const METHODS: &str = "GET, POST, DELETE";

impl Guard {
    /// Refuses what is not for this server or must not come from there. Gives the origin that has to
    /// be told that it may read the answer.
    pub fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let host = self.check_host(headers)?;
        let allowed = self.check_origin(path, headers, host)?;
        // browsers ask without a token whether they may ask with one
        if method != Method::OPTIONS && WITH_TOKEN.iter().any(|start| path.starts_with(start)) {
            self.check_token(headers)?;
        }
        Ok(allowed)
    }

    fn check_host<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        let mut given = headers.get_all(header::HOST).iter();
        let host = given.next().and_then(|host| host.to_str().ok());
        let parsed = host.and_then(|host| host.parse::<Authority>().ok());
        let (Some(host), Some(parsed), None) = (host, parsed, given.next()) else {
            return Err(ApiError::bad_request("host", "the request has no single valid Host"));
        };
        let name = parsed.host();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let is_known = bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
        if host.contains('@') || !is_known {
            let message = "this server is not known by the name in Host; see --allow-host";
            return Err(ApiError::forbidden("host_not_allowed", message));
        }
        Ok(host)
    }

    fn check_origin(
        &self,
        path: &str,
        headers: &HeaderMap,
        host: &str,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let refused = || {
            let message = "pages of this origin may not ask here; see --allow-origin";
            Err(ApiError::forbidden("origin_not_allowed", message))
        };
        let mut given = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = given.next() else {
            // Requests without an origin that another page made a browser send: an image, a link.
            let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
            let is_foreign = !matches!(site, None | Some(b"same-origin" | b"none"));
            return if is_foreign && path != "/" { refused() } else { Ok(None) };
        };
        let text = origin.to_str().unwrap_or("");
        if given.next().is_some() {
            return refused();
        }
        if self.origins.iter().any(|allowed| allowed == text) {
            return Ok(Some(origin.clone()));
        }
        match text.strip_prefix("http://") {
            Some(own) if own.eq_ignore_ascii_case(host) => Ok(None),
            _ => refused(),
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|given| match given.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token),
            _ => None,
        });
        match given {
            Some(given) if is_same(given, token.as_bytes()) => Ok(()),
            _ => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "invalid_api_key",
                "this server wants its token: `Authorization: Bearer TOKEN`",
            )),
        }
    }
}

/// Takes the same time whatever the bytes are: how many of them agree must not be measurable.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    let difference = a.iter().zip(&b).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// Lets through what the guard lets in, and tells allowed origins that they may read it.
pub async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let checked = guard.check(request.method(), request.uri().path(), request.headers());
    let (mut response, allowed) = match checked {
        Err(error) => {
            // a page of an allowed origin is to see that its token is wrong
            let origin = request.headers().get(header::ORIGIN).cloned();
            let is_allowed =
                |o: &HeaderValue| o.to_str().is_ok_and(|o| guard.origins.iter().any(|a| a == o));
            (error.into_response(), origin.filter(is_allowed))
        }
        Ok(Some(origin)) if request.method() == Method::OPTIONS => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
            // the request's own list: official clients add headers of their own
            let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let asked = asked.unwrap_or_else(|| HeaderValue::from_static("content-type"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            (response, Some(origin))
        }
        Ok(allowed) => (next.run(request).await, allowed),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if !guard.origins.is_empty() {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if let Ok(exposed) = HeaderValue::from_str(&format!("{PROFILE_HEADER}, Retry-After")) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, path: &str, headers: &[(&'static str, &str)]) -> Result<bool, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let checked = guard.check(&Method::GET, path, &map);
        checked.map(|origin| origin.is_some()).map_err(|e| e.to_json()["error"]["code"].to_string())
    }

    fn open() -> Guard {
        Guard { hosts: vec!["box.example".into()], origins: Vec::new(), token: None }
    }

    #[test]
    fn only_names_of_this_server_are_hosts() {
        for host in ["localhost:11435", "127.0.0.1", "[::1]:80", "LOCALHOST", "box.example:1"] {
            assert_eq!(check(&open(), "/v1/models", &[("host", host)]), Ok(false), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:11435"] {
            let refused = check(&open(), "/", &[("host", host)]);
            assert_eq!(refused, Err("\"host_not_allowed\"".into()), "{host}");
        }
        let refused = Err("\"host\"".into());
        assert_eq!(check(&open(), "/", &[]), refused);
        assert_eq!(check(&open(), "/", &[("host", "localhost"), ("host", "evil")]), refused);
        assert!(check(&open(), "/", &[("host", "evil@localhost")]).is_err());
    }

    #[test]
    fn no_page_asks_that_is_neither_ours_nor_allowed() {
        let host = ("host", "localhost:11435");
        let allowing = Guard { origins: vec!["https://app.example".into()], ..open() };
        let refused = Err("\"origin_not_allowed\"".into());
        let own = ("origin", "http://localhost:11435");
        assert_eq!(check(&open(), "/v1/models", &[host, own]), Ok(false));
        for origin in
            ["null", "http://localhost:1", "https://localhost:11435", "https://app.example", ""]
        {
            let found = check(&open(), "/v1/models", &[host, ("origin", origin)]);
            assert_eq!(found, refused, "{origin}");
        }
        let app = ("origin", "https://app.example");
        assert_eq!(check(&allowing, "/v1/models", &[host, app]), Ok(true));
        assert_eq!(check(&allowing, "/v1/models", &[host, app, own]), refused);
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(check(&allowing, "/v1/memory", &[host, cross]), refused);
        assert_eq!(check(&allowing, "/", &[host, cross]), Ok(false));
        assert_eq!(check(&allowing, "/v1/memory", &[host, ("sec-fetch-site", "none")]), Ok(false));
    }

    #[test]
    fn a_token_is_wanted_whole_and_nothing_else() {
        let guard = Guard { token: Some("secret".into()), ..open() };
        let host = ("host", "localhost");
        let with = |value: &str| check(&guard, "/v1/models", &[host, ("authorization", value)]);
        assert_eq!(with("Bearer secret"), Ok(false));
        assert_eq!(with("bearer secret"), Ok(false));
        let wrong =
            ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "secret", "Basic secret"];
        for wrong in wrong {
            assert_eq!(with(wrong), Err("\"invalid_api_key\"".into()), "{wrong}");
        }
        assert!(check(&guard, "/v1/models", &[host]).is_err());
        assert_eq!(check(&guard, "/health", &[host]), Ok(false));
        assert_eq!(check(&guard, "/", &[host]), Ok(false));
        assert_eq!(check(&guard, "/assets/main.js", &[host]), Ok(false));
        for path in ["/v1/memory", "/tokenize", "/detokenize"] {
            assert!(check(&guard, path, &[host]).is_err(), "{path}");
        }
    }
}
