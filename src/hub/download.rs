//! One file from a hub into the cache's blobs. Owns resuming, the check of length and SHA-256 while
//! bytes arrive, and what happens when a host changes its mind in between.

use super::api::encoded;
use super::cache::{RepoCache, remove_file};
use super::http::{Client, Failure, Method, Reply, Retry, plain_etag, text};
use super::name::{is_blob_name, is_sha256};
use super::{Event, HubError};
use crate::error::{Error, Result};
use crate::memory_file::hex;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// How often a file may become another one while it is read.
const MAX_CHANGES: usize = 3;
const BUFFER_BYTES: usize = 256 << 10;

/// What a hub says about a file.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub name: String,
    pub size_bytes: u64,
    /// The name of its blob.
    pub etag: String,
    /// What its bytes must be, if that is known.
    pub sha256: Option<String>,
    /// The same as the registry has it: no hub can change that.
    pinned: Option<String>,
}

/// A file of a commit and where it is asked for.
pub(super) struct Place<'a> {
    pub client: &'a Client<'a>,
    pub repo: &'a RepoCache,
    pub commit: &'a str,
}

enum Outcome {
    Whole,
    /// The host has another file by this name now.
    Changed,
}

impl Place<'_> {
    fn url(&self, name: &str) -> String {
        self.client.url(&format!("/{}/resolve/{}/{}", self.repo.id, self.commit, encoded(name)))
    }

    /// For people, also in errors.
    fn what(&self, name: &str) -> String {
        format!("{}:{name}", self.repo.id)
    }

    /// Asks for a file's size and ETag. `pinned` is the registry's SHA-256, `listed` that of the hub's
    /// own list.
    ///
    /// # Errors
    /// [`HubError`]; [`HubError::WrongHash`] if two of those who know a SHA-256 do not agree.
    pub fn look(
        &self,
        name: &str,
        pinned: Option<&str>,
        listed: Option<&str>,
        events: &mut dyn FnMut(Event),
    ) -> Result<RemoteFile> {
        let (url, what) = (self.url(name), self.what(name));
        let reply = self
            .client
            .patiently(&url, events, || self.client.once(Method::Head, &url, None, &what))?;
        let no_hub = |reason: &str| HubError::Network { url: url.clone(), reason: reason.into() };
        let etag = reply.linked.etag.ok_or_else(|| no_hub("no ETag, as a hub gives"))?;
        if !is_blob_name(&etag) {
            let reason = format!("the ETag {etag:?} cannot name a file");
            return Err(HubError::Refused { what, reason }.into());
        }
        let size = reply.linked.size_bytes.ok_or_else(|| no_hub("no length, as a hub gives"))?;
        let promised = Some(etag.as_str()).filter(|etag| is_sha256(etag));
        let expected = pinned.or(listed).or(promised);
        for found in [listed, promised].into_iter().flatten() {
            if let Some(expected) = expected.filter(|&expected| expected != found) {
                let (expected, found) = (expected.into(), found.into());
                return Err(HubError::WrongHash { file: what, expected, found }.into());
            }
        }
        let sha256 = expected.map(str::to_string);
        let pinned = pinned.map(str::to_string);
        Ok(RemoteFile { name: name.into(), size_bytes: size, etag, sha256, pinned })
    }

    /// Brings a file into the cache, whole and under its name, or fails; bytes that were right so far
    /// stay for the next time.
    ///
    /// # Errors
    /// [`Error::Hub`], [`Error::Io`].
    pub fn fetch(&self, mut file: RemoteFile, events: &mut dyn FnMut(Event)) -> Result<RemoteFile> {
        for _ in 0..MAX_CHANGES {
            match self.fetch_blob(&file, events)? {
                Outcome::Whole => {
                    self.repo.link(self.commit, &file.name, &file.etag)?;
                    return Ok(file);
                }
                Outcome::Changed => {
                    file = self.look(&file.name, file.pinned.as_deref(), None, events)?;
                }
            }
        }
        let reason = "the host changes the file again and again".into();
        Err(HubError::Network { url: self.url(&file.name), reason }.into())
    }

    fn fetch_blob(&self, file: &RemoteFile, events: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let blobs = self.repo.blobs();
        fs::create_dir_all(&blobs).map_err(Error::io(&blobs))?;
        let _lock = self.repo.lock(&file.etag, events)?;
        // the one who held the lock may have fetched it
        if self.repo.has(self.commit, &file.name, &file.etag, file.size_bytes) {
            return Ok(Outcome::Whole);
        }
        let mut part = Part::open(self.repo.incomplete(&file.etag), file.size_bytes)?;
        // bytes of another day may be wrong where ours are right: they get a second chance
        let mut is_suspect = part.len_bytes > 0;
        let mut retry = Retry::new(self.client.settings);
        let mut body_etag = None;
        let url = self.url(&file.name);
        let mut furthest = part.len_bytes;
        events(Event::Bytes(part.len_bytes));
        loop {
            if part.len_bytes == file.size_bytes {
                let found = part.sha256();
                match &file.sha256 {
                    Some(expected) if *expected != found && is_suspect => {
                        is_suspect = false;
                        part.restart()?;
                        continue;
                    }
                    Some(expected) if *expected != found => {
                        part.remove()?;
                        let (file, expected) = (self.what(&file.name), expected.clone());
                        return Err(HubError::WrongHash { file, expected, found }.into());
                    }
                    _ => {}
                }
                part.finish(self.repo.blob(&file.etag))?;
                return Ok(Outcome::Whole);
            }
            match self.attempt(file, &url, &mut part, &mut body_etag, events) {
                Ok(Outcome::Whole) => {}
                Ok(Outcome::Changed) => return Ok(Outcome::Changed),
                Err(failure) => {
                    // what was read before and thrown away is no progress
                    if part.len_bytes > furthest {
                        furthest = part.len_bytes;
                        retry.reset();
                    }
                    retry.pause(failure, &url, events)?;
                }
            }
        }
    }

    /// One request, read as far as it goes; [`Outcome::Whole`] if all bytes are here.
    fn attempt(
        &self,
        file: &RemoteFile,
        url: &str,
        part: &mut Part,
        body_etag: &mut Option<String>,
        events: &mut dyn FnMut(Event),
    ) -> Result<Outcome, Failure> {
        let first_byte = (part.len_bytes > 0).then_some(part.len_bytes);
        let reply = self.client.once(Method::Get, url, first_byte, &self.what(&file.name))?;
        if reply.linked.etag.as_ref().is_some_and(|etag| *etag != file.etag) {
            return Ok(Outcome::Changed);
        }
        let etag = text(&reply.headers, "etag").map(plain_etag);
        if reply.status == 206 && body_etag.is_some() && etag != *body_etag {
            // another file where the bytes come from, though the hub calls it the same
            *body_etag = None;
            part.restart()?;
            return Err(Failure::passing("the file changed on its host"));
        }
        let is_rest = match reply.status {
            206 => {
                check_range(&reply, part.len_bytes, file.size_bytes)?;
                true
            }
            416 => {
                part.restart()?;
                return Err(Failure::passing("the host has no rest of the file"));
            }
            // all of it, whether or not that was asked for
            _ => false,
        };
        let expected = if is_rest { file.size_bytes - part.len_bytes } else { file.size_bytes };
        let announced = text(&reply.headers, "content-length").and_then(|n| n.parse::<u64>().ok());
        // a page that asks to log in, say: no reason to throw away what is here
        if let Some(announced) = announced.filter(|&n| n != expected) {
            let reason = format!("{announced} bytes are announced, {expected} are expected");
            return Err(Failure::passing(reason));
        }
        if !is_rest {
            part.restart()?;
        }
        *body_etag = etag;
        let mut body = reply.body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::passing(e.to_string())),
            };
            let missing = file.size_bytes - part.len_bytes;
            if n == 0 {
                return match missing {
                    0 => Ok(Outcome::Whole),
                    _ => Err(Failure::passing("the connection ended early")),
                };
            }
            if n as u64 > missing {
                part.restart()?;
                return Err(Failure::passing("more bytes came than were announced"));
            }
            part.write(&buffer[..n], missing)?;
            events(Event::Bytes(part.len_bytes));
        }
    }
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` must be the rest that was asked for.
fn check_range(reply: &Reply, first_byte: u64, size_bytes: u64) -> Result<(), Failure> {
    let range = text(&reply.headers, "content-range").unwrap_or_default();
    let parsed = (|| {
        let (bytes, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, _) = bytes.split_once('-')?;
        let total = if total == "*" { size_bytes } else { total.parse().ok()? };
        Some((first.parse::<u64>().ok()?, total))
    })();
    match parsed == Some((first_byte, size_bytes)) {
        true => Ok(()),
        false => Err(Failure::passing(format!(
            "asked for bytes {first_byte} to {size_bytes}, the host sends `{range}`"
        ))),
    }
}

/// The bytes of a file so far, and their hash.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len_bytes: u64,
}

impl Part {
    /// What an earlier attempt left, if that can belong to a file of `size_bytes`.
    fn open(path: PathBuf, size_bytes: u64) -> Result<Part> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        let mut part = Part { path, file, hash: Sha256::new(), len_bytes: 0 };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = part.file.read(&mut buffer).map_err(Error::io(&part.path))?;
            if n == 0 {
                break;
            }
            part.hash.update(&buffer[..n]);
            part.len_bytes += n as u64;
            if part.len_bytes > size_bytes {
                part.restart()?;
                break;
            }
        }
        Ok(part)
    }

    fn write(&mut self, bytes: &[u8], missing: u64) -> Result<()> {
        if let Err(source) = self.file.write_all(bytes) {
            if source.kind() != ErrorKind::StorageFull {
                return Err(Error::Io { path: self.path.clone(), source });
            }
            let path = self.path.parent().unwrap_or(&self.path).to_path_buf();
            return Err(
                HubError::NoSpace { path, needed_bytes: missing, available_bytes: 0 }.into()
            );
        }
        self.hash.update(bytes);
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Empties it.
    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(Error::io(&self.path))?;
        self.hash = Sha256::new();
        self.len_bytes = 0;
        Ok(())
    }

    fn remove(self) -> Result<()> {
        remove_file(&self.path)
    }

    /// Makes it durable under its name.
    fn finish(self, blob: PathBuf) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))?;
        fs::rename(&self.path, &blob).map_err(Error::io(blob))
    }
}
