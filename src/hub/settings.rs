//! Where the cache is, which hub is asked and as whom. Owns the environment variables of Hugging Face's
//! tools (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>) and
//! those of proxies; everything else here is told by a [`HubSettings`].

use super::proxy::Proxies;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The hub if HF_ENDPOINT names no other.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Largest token file that is read.
const MAX_TOKEN_BYTES: usize = 4096;

/// Everything about the hub and its cache that a person can set.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The folder of `models--org--repo` folders.
    pub cache: PathBuf,
    /// Scheme, host and perhaps a path, without a slash at the end.
    pub endpoint: String,
    pub token: Option<Token>,
    /// Nothing may be fetched.
    pub is_offline: bool,
    pub proxies: Proxies,
    pub patience: Patience,
}

/// How long the hub is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Attempts that bring nothing, one after the other, before it is given up.
    pub attempts: u32,
    /// Before the second attempt; doubles with each.
    pub first_wait: Duration,
    /// Longest pause that a hub may ask for.
    pub longest_wait: Duration,
    /// Longest silence of a connection.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 6,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(120),
            silence: Duration::from_secs(60),
        }
    }
}

/// Who asks. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// `None` for text that can be no token: nothing, or characters that no header may have.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let is_plain = text.bytes().all(|b| b.is_ascii_graphic());
        (!text.is_empty() && is_plain).then(|| Token(text.into()))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubSettings {
    /// As the environment says.
    ///
    /// # Errors
    /// [`Error::Io`] for a token file that is there and cannot be read, [`Error::Setting`] for an
    /// HF_ENDPOINT that is no http address or a machine without a home and without HF_HOME.
    pub fn from_env() -> Result<HubSettings> {
        HubSettings::from_variables(&|name| std::env::var_os(name))
    }

    /// The same with other variables.
    ///
    /// # Errors
    /// As [`HubSettings::from_env`].
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<HubSettings> {
        let value = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());
        let home_folder = || value("HOME").or_else(|| value("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| {
            let path = PathBuf::from(value(name)?);
            // as the shell does, also where it stands in quotes
            match (path.strip_prefix("~"), home_folder()) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path),
            }
        };
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home_folder().map(|home| home.join(".cache").join("huggingface")));
        let no_home = || Error::Setting {
            name: "HF_HOME",
            reason: "there is no home folder; say where the cache is".into(),
        };
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = match (cache, &home) {
            (Some(cache), _) => cache,
            (None, Some(home)) => home.join("hub"),
            (None, None) => return Err(no_home()),
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        let is_http = endpoint.starts_with("https://") || endpoint.starts_with("http://");
        if !is_http || endpoint.contains(['?', '#', '@']) {
            let reason = format!("`{endpoint}` is no http or https address");
            return Err(Error::Setting { name: "HF_ENDPOINT", reason });
        }
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let given = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        let token = match (is_true(text("HF_HUB_DISABLE_IMPLICIT_TOKEN")), given, token_file) {
            (true, ..) => None,
            (false, Some(token), _) => Some(token),
            (false, None, Some(file)) => read_token(&file)?,
            (false, None, None) => None,
        };
        Ok(HubSettings {
            cache,
            endpoint,
            token: token.as_deref().and_then(Token::new),
            is_offline: is_true(text("HF_HUB_OFFLINE")) || is_true(text("TRANSFORMERS_OFFLINE")),
            proxies: Proxies::from_variables(&|name| text(name)),
            patience: Patience::default(),
        })
    }

    /// For people: the host of the endpoint.
    pub fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest)
    }
}

fn is_true(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_uppercase();
    matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn read_token(path: &std::path::Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.len() <= MAX_TOKEN_BYTES => Ok(Some(text)),
        Ok(text) => {
            let reason = format!("{} bytes are no token", text.len());
            Err(Error::format(path.display().to_string(), "token file", reason))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings> {
        HubSettings::from_variables(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        settings(variables).unwrap().cache
    }

    #[test]
    fn the_cache_is_where_other_tools_look() {
        let home = ("HOME", "/h");
        assert_eq!(cache(&[home]), PathBuf::from("/h/.cache/huggingface/hub"));
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(cache(&[home, xdg]), PathBuf::from("/x/huggingface/hub"));
        let hf = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[home, xdg, hf]), PathBuf::from("/h/hf/hub"));
        let hub = ("HF_HUB_CACHE", "/c");
        assert_eq!(cache(&[home, xdg, hf, hub]), PathBuf::from("/c"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "")]), cache(&[home]));
        assert_eq!(settings(&[]).unwrap_err().code(), "setting");
    }

    #[test]
    fn tokens_come_from_variables_or_a_file_and_are_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let token = |more: &[(&str, &str)]| {
            let mut variables = vec![home];
            variables.extend(more);
            settings(&variables).unwrap().token.map(|token| token.header())
        };
        assert_eq!(token(&[]).as_deref(), Some("Bearer from-file"));
        assert_eq!(token(&[("HF_TOKEN", "given")]).as_deref(), Some("Bearer given"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/no/such/file")]), None);
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_TOKEN", "a\r\nHost: b")]), None);
        let shown = format!("{:?}", settings(&[home]).unwrap());
        assert!(!shown.contains("from-file"), "{shown}");
    }

    #[test]
    fn the_endpoint_is_an_address() {
        let home = ("HF_HOME", "/h");
        assert_eq!(settings(&[home]).unwrap().endpoint, DEFAULT_ENDPOINT);
        let mirror = settings(&[home, ("HF_ENDPOINT", "https://mirror.example/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "https://mirror.example/hf");
        for bad in ["ftp://x", "huggingface.co", "https://a@b", "https://a?b"] {
            assert_eq!(settings(&[home, ("HF_ENDPOINT", bad)]).unwrap_err().code(), "setting");
        }
        assert!(settings(&[home, ("HF_HUB_OFFLINE", "true")]).unwrap().is_offline);
        assert!(!settings(&[home, ("HF_HUB_OFFLINE", "0")]).unwrap().is_offline);
    }
}
