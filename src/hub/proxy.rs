//! Which proxy a request goes through. Owns HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY as curl and
//! Python's requests read them; the talking is `ureq`'s.

/// The proxies of the environment.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    https: Option<ureq::Proxy>,
    http: Option<ureq::Proxy>,
    /// Hosts that are asked directly, in lower case; a host stands for those below it too.
    direct: Vec<String>,
}

impl Proxies {
    /// As `variable` says; an address that is none counts as not given.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Proxies {
        let either = |upper: &str| variable(&upper.to_lowercase()).or_else(|| variable(upper));
        let proxy = |name: &str| {
            let address = either(name).or_else(|| either("ALL_PROXY"))?;
            ureq::Proxy::new(address.trim()).ok()
        };
        let direct = either("NO_PROXY").unwrap_or_default();
        let direct = direct.split([',', ' ']).map(str::trim).filter(|host| !host.is_empty());
        Proxies {
            https: proxy("HTTPS_PROXY"),
            http: proxy("HTTP_PROXY"),
            direct: direct.map(str::to_lowercase).collect(),
        }
    }

    /// The proxy for an address, if there is one.
    pub(super) fn of(&self, is_https: bool, host: &str, port: u16) -> Option<ureq::Proxy> {
        let host = host.trim_matches(['[', ']']).to_lowercase();
        let is_direct = self.direct.iter().any(|entry| {
            let entry = entry.strip_suffix(&format!(":{port}")).unwrap_or(entry);
            let entry = entry.trim_start_matches('*').trim_start_matches('.');
            // `*` alone is empty now
            entry.is_empty()
                || host == entry
                || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
        });
        let proxy = if is_https { &self.https } else { &self.http };
        proxy.clone().filter(|_| !is_direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(variables: &[(&str, &str)], is_https: bool, host: &str) -> Option<String> {
        let proxies = Proxies::from_variables(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        });
        let port = if is_https { 443 } else { 80 };
        proxies.of(is_https, host, port).map(|proxy| proxy.host().to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2")];
        assert_eq!(host_of(&both, true, "huggingface.co").as_deref(), Some("s"));
        assert_eq!(host_of(&both, false, "huggingface.co").as_deref(), Some("p"));
        let all = [("ALL_PROXY", "socks5h://a:1080")];
        assert_eq!(host_of(&all, true, "x").as_deref(), Some("a"));
        assert_eq!(host_of(&[("HTTP_PROXY", "p:2")], true, "x"), None);
        assert_eq!(host_of(&[("HTTPS_PROXY", "::::")], true, "x"), None);
    }

    #[test]
    fn no_proxy_names_hosts_and_those_below_them() {
        let via = |no_proxy: &str, host: &str| {
            host_of(&[("HTTPS_PROXY", "s:1"), ("NO_PROXY", no_proxy)], true, host).is_some()
        };
        assert!(via("", "huggingface.co"));
        assert!(!via("*", "huggingface.co"));
        assert!(!via("localhost, HuggingFace.co", "huggingface.co"));
        assert!(!via("huggingface.co", "cdn.huggingface.co"));
        assert!(!via(".hf.co", "cas-bridge.xethub.hf.co") && !via("*.hf.co", "a.hf.co"));
        assert!(!via("huggingface.co:443", "huggingface.co"));
        assert!(via("face.co", "huggingface.co"));
        assert!(!via("::1", "[::1]"));
    }
}
