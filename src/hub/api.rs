//! What a hub says about a repository. Owns the one call of its API and the bounds of the answer.

use super::http::{Client, Failure, Method};
use super::name::{is_commit, is_sha256, safe_file_name};
use super::{Event, HubError};
use crate::error::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::io::Read;

/// Longest answer that is read; repositories of models have some hundred files at most.
const MAX_ANSWER_BYTES: u64 = 32 << 20;

/// What stays as it is in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/');

/// A file's path as it stands in an address.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

/// A repository at one commit.
#[derive(Debug, Clone)]
pub(super) struct RepoInfo {
    pub commit: String,
    /// Only files whose names stay in their folder.
    pub files: Vec<RepoFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RepoFile {
    pub name: String,
    pub size_bytes: Option<u64>,
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

/// Asks for the commit and the files of a revision.
///
/// # Errors
/// [`HubError`]; [`HubError::Refused`] for a file whose name leads out of its folder.
pub(super) fn repo_info(
    client: &Client,
    id: &str,
    revision: &str,
    events: &mut dyn FnMut(Event),
) -> Result<RepoInfo> {
    let revision_part = revision.replace('/', "%2F");
    let url = client.url(&format!("/api/models/{id}/revision/{revision_part}?blobs=true"));
    let what = match revision {
        "main" => id.to_string(),
        revision => format!("{id}@{revision}"),
    };
    let text = client.patiently(&url, events, || {
        let reply = client.once(Method::Get, &url, None, &what)?;
        let mut text = Vec::new();
        let mut body =
            reply.body.into_with_config().limit(u64::MAX).reader().take(MAX_ANSWER_BYTES);
        body.read_to_end(&mut text).map_err(|e| Failure::passing(e.to_string()))?;
        Ok(text)
    })?;
    let bad = |reason: String| HubError::Network { url: url.clone(), reason };
    let answer: Answer = serde_json::from_slice(&text)
        .map_err(|e| bad(format!("the answer is not that of a hub: {e}")))?;
    if !is_commit(&answer.sha) {
        return Err(bad(format!("the commit `{}` is none", answer.sha)).into());
    }
    let file = |sibling: Sibling| {
        safe_file_name(&sibling.rfilename)
            .map_err(|reason| HubError::Refused { what: what.clone(), reason })?;
        let sha256 = sibling.lfs.and_then(|lfs| lfs.sha256).filter(|hash| is_sha256(hash));
        Ok(RepoFile { name: sibling.rfilename, size_bytes: sibling.size, sha256 })
    };
    let files = answer.siblings.into_iter().map(file).collect::<Result<_, HubError>>()?;
    Ok(RepoInfo { commit: answer.sha, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_addresses() {
        assert_eq!(encoded("a b/c#1?.gguf"), "a%20b/c%231%3F.gguf");
        assert_eq!(encoded("é-_.x"), "%C3%A9-_.x");
    }
}
