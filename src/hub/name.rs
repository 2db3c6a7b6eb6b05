//! How models are called: `org/repo[:file][@revision]`, or a name of the registry in place of the
//! repository. Owns what may stand in names, so that none leads out of the cache's folder.

use super::HubError;

/// A parsed name; its parts may stand in paths and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `org/repo`, or a name of the registry.
    pub base: String,
    /// A file of the repository, or a part of its name (`Q4_K_M`).
    pub file: Option<String>,
    /// A branch, tag or commit.
    pub revision: Option<String>,
}

impl HubName {
    /// Takes `base[:file][@revision]` or `base[@revision][:file]` apart.
    ///
    /// # Errors
    /// [`HubError::Name`] for a part with characters that no hub has there.
    pub fn parse(text: &str) -> Result<HubName, HubError> {
        let bad = |reason: &str| HubError::Name { name: text.into(), reason: reason.into() };
        let (base, rest) = match text.find([':', '@']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let (file, revision) = match rest.chars().next() {
            None => (None, None),
            Some(':') => match rest[1..].rsplit_once('@') {
                Some((file, revision)) => (Some(file), Some(revision)),
                None => (Some(&rest[1..]), None),
            },
            Some(_) => match rest[1..].split_once(':') {
                Some((revision, file)) => (Some(file), Some(revision)),
                None => (None, Some(&rest[1..])),
            },
        };
        let is_repo = match base.split_once('/') {
            Some((owner, repo)) => is_word(owner) && is_word(repo),
            None => is_word(base),
        };
        if !is_repo {
            return Err(bad("letters, digits, `-`, `_` and `.` make a name"));
        }
        if let Some(file) = file {
            safe_file_name(file).map_err(|reason| bad(&format!("file: {reason}")))?;
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(bad("the revision is no branch, tag or commit"));
        }
        Ok(HubName {
            base: base.into(),
            file: file.map(Into::into),
            revision: revision.map(Into::into),
        })
    }

    /// True for `org/repo`, false for what only the registry can know.
    pub fn is_repo(&self) -> bool {
        self.base.contains('/')
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.base)?;
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// One part of `org/repo`. `--` separates the two in the cache's folder names.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&text.len())
        && text.chars().all(is_plain)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
        && !text.contains("--")
        && !text.contains("..")
}

/// True for a whole `org/repo`.
pub fn is_repo_id(text: &str) -> bool {
    text.split_once('/').is_some_and(|(owner, repo)| is_word(owner) && is_word(repo))
}

/// True for what may be a branch, tag or commit.
pub fn is_revision(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    text.len() <= 256
        && text.chars().all(is_plain)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']))
}

/// True for a full commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// True for a SHA-256 in hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// True for an ETag that can be the name of a file among the blobs.
pub fn is_blob_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=128).contains(&text.len())
        && text.chars().all(is_plain)
        && !text.starts_with('.')
        && !text.ends_with(".incomplete")
}

/// Refuses a file's path in a repository that could lead out of a folder, on any system.
///
/// # Errors
/// The reason.
pub fn safe_file_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 1024 {
        return Err(format!("{} bytes are no file name", name.len()));
    }
    if name.contains(['\\', ':', '\0']) || name.chars().any(char::is_control) {
        return Err(format!("{name:?} has characters that no file name needs"));
    }
    let is_bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 255;
    match name.split('/').any(is_bad) {
        true => Err(format!("{name:?} does not stay in its folder")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let name = HubName::parse(text).unwrap();
        (name.base, name.file, name.revision)
    }

    #[test]
    fn names_are_taken_apart_in_either_order() {
        let some = |text: &str| Some(text.to_string());
        assert_eq!(parts("SmolLM3-3B"), ("SmolLM3-3B".into(), None, None));
        assert_eq!(parts("a/b"), ("a/b".into(), None, None));
        assert_eq!(parts("a/b:c/d.gguf"), ("a/b".into(), some("c/d.gguf"), None));
        assert_eq!(parts("a/b@main"), ("a/b".into(), None, some("main")));
        let all = ("a/b".into(), some("c.gguf"), some("refs/pr/1"));
        assert_eq!(parts("a/b:c.gguf@refs/pr/1"), all);
        assert_eq!(parts("a/b@refs/pr/1:c.gguf"), all);
        assert_eq!(HubName::parse("a/b@x:c").unwrap().to_string(), "a/b:c@x");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let bad = [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a--b/c",
            "a/b c",
            "a/b:",
            "a/b@",
            "a/b:../x",
            "a/b:/etc/passwd",
            "a/b:c/../../d",
            "a/b:c\\d",
            "a/b@../x",
            "a/b@-x",
            "a/b@x//y",
            "a/b:c@",
            "a/b:c:d",
            "a/b:x\u{7}",
            "~/x",
            ".hidden/x",
        ];
        for text in bad {
            assert!(HubName::parse(text).is_err(), "{text:?}");
        }
        for name in ["C:/x", "a/./b", "a//b", "a/", "\0"] {
            assert!(safe_file_name(name).is_err(), "{name:?}");
        }
        assert!(safe_file_name("a/b..c/.gitattributes").is_ok());
        for etag in ["", "..", ".x", "a/b", "a\\b", "x.incomplete"] {
            assert!(!is_blob_name(etag), "{etag:?}");
        }
        assert!(is_commit(&"0a".repeat(20)) && !is_commit("main") && !is_commit(&"0A".repeat(20)));
    }
}
