//! The page at `/`. Owns which page that is – the demo of this project, built, or a small one that is
//! part of the program – and the headers that keep it to this server.
//!
//! The demo is built by Node.js, so a program from `cargo install` cannot have it inside: it is looked
//! for beside the program, where release archives and a checkout have it, and read once.

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a built page can be expected to have at most, without models and the wasm module.
const MAX_PAGE_BYTES: u64 = 32 << 20;
const MAX_DEPTH: usize = 4;
/// In a folder's place: the page that is part of the program.
const SMALL: &str = "small";
/// Where the page is, from the folder of the program: in a release archive, where it was installed to,
/// in a checkout.
const BESIDE: [&str; 3] = ["page", "../share/deltamem/page", "../../web/demo/dist"];
/// Tells the page that the model is here and not in the browser; its value is the interface's address.
const MARK: &str = r#"<meta name="deltamem-server" content=".">"#;
/// Stricter than what the page itself says: nothing is downloaded from elsewhere here, and neither a
/// worker nor WebAssembly is needed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; manifest-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The files of a page, by their path in the address.
pub struct Page(BTreeMap<String, File>);

struct File {
    kind: &'static str,
    bytes: Bytes,
}

impl Page {
    /// The page in `folder`, or the small one if that is called `small`; without a folder the demo
    /// beside the program, or else the small page.
    ///
    /// # Errors
    /// If a folder was given and the built demo is not in it.
    pub fn find(folder: Option<&Path>) -> Result<(Page, Option<PathBuf>)> {
        if folder == Some(Path::new(SMALL)) {
            return Ok((Page::small(), None));
        }
        if let Some(folder) = folder {
            return Ok((Page::read(folder)?, Some(folder.into())));
        }
        let program = std::env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent);
        for folder in beside.iter().flat_map(|beside| BESIDE.map(|place| beside.join(place))) {
            if let Ok(page) = Page::read(&folder) {
                return Ok((page, Some(folder)));
            }
        }
        Ok((Page::small(), None))
    }

    fn small() -> Page {
        let files = [
            ("/", "html", include_str!("page.html")),
            ("/page.css", "css", include_str!("page.css")),
            ("/page.js", "js", include_str!("page.js")),
        ];
        let file = |extension, text: &'static str| File {
            kind: kind(extension).unwrap_or_default(),
            bytes: Bytes::from_static(text.as_bytes()),
        };
        Page(files.map(|(path, extension, text)| (path.into(), file(extension, text))).into())
    }

    fn read(folder: &Path) -> Result<Page> {
        let mut page = Page(BTreeMap::new());
        let index = folder.join("index.html");
        let text = std::fs::read_to_string(&index)
            .with_context(|| format!("reading the page {}", index.display()))?;
        let Some(at) = text.find("<head>").map(|at| at + "<head>".len()) else {
            bail!("{} is not the page of this project", index.display());
        };
        let marked = [&text[..at], MARK, &text[at..]].concat();
        let mut room = MAX_PAGE_BYTES;
        page.read_folder(folder, "/", MAX_DEPTH, &mut room)
            .with_context(|| format!("reading the page in {}", folder.display()))?;
        let html = kind("html").unwrap_or_default();
        page.0.insert("/".into(), File { kind: html, bytes: marked.into() });
        Ok(page)
    }

    fn read_folder(
        &mut self,
        folder: &Path,
        path: &str,
        depth: usize,
        room: &mut u64,
    ) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file_type = entry.file_type()?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if file_type.is_dir() && depth > 0 && name != "models" {
                self.read_folder(&entry.path(), &format!("{path}{name}/"), depth - 1, room)?;
            }
            let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
            // Links are not followed. The service worker would keep a page that has no server.
            let kind = extension.filter(|_| file_type.is_file() && name != "sw.js").and_then(kind);
            let Some(kind) = kind.filter(|_| name != "index.html") else { continue };
            *room = room.saturating_sub(entry.metadata()?.len());
            if *room == 0 {
                bail!("there are more than {MAX_PAGE_BYTES} bytes; this is no page");
            }
            let bytes = std::fs::read(entry.path())?.into();
            self.0.insert(format!("{path}{name}"), File { kind, bytes });
        }
        Ok(())
    }

    /// The file at this path of an address.
    pub fn get(&self, path: &str) -> Option<Response> {
        let file = self.0.get(path)?;
        // names in assets/ carry the hash of what is in them
        let caching = match path.starts_with("/assets/") {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(file.kind)),
            (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        Some((headers, file.bytes.clone()).into_response())
    }
}

/// The type of a file that a page needs; others are not served.
fn kind(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_is_a_page_if_the_demo_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Page::find(Some(folder.path())).is_err());
        fs::write(folder.path().join("index.html"), "no page").unwrap();
        assert!(Page::find(Some(folder.path())).is_err());
        fs::write(folder.path().join("index.html"), "<html><head><title>x</title>").unwrap();
        for inner in ["assets", "models/nano"] {
            fs::create_dir_all(folder.path().join(inner)).unwrap();
        }
        for name in ["assets/a.js", "assets/a.wasm", "sw.js", "models/nano/config.json", "secret"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let (page, found) = Page::find(Some(folder.path())).unwrap();
        assert_eq!(found.as_deref(), Some(folder.path()));
        let index = String::from_utf8(page.0["/"].bytes.to_vec()).unwrap();
        assert_eq!(index, format!("<html><head>{MARK}<title>x</title>"));
        let paths: Vec<&str> = page.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/", "/assets/a.js"]);
        assert!(page.get("/../secret").is_none());
        let script = page.get("/assets/a.js").unwrap();
        assert!(script.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    }
}
