//! A hub on this machine, and the other host that it sends large files to. Owns the addresses that a hub
//! answers under and its headers; what goes wrong is told by each test.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Both hosts; they answer as long as the test runs.
pub struct Mirror {
    hub: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files_host: Mutex<String>,
    repos: Mutex<BTreeMap<String, Repo>>,
    requests: Mutex<Vec<Request>>,
    meddler: Mutex<Option<Meddler>>,
}

/// Changes an answer before it is sent.
type Meddler = Arc<dyn Fn(&Request, &mut Response) + Send + Sync>;

#[derive(Clone, Default)]
struct Repo {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// True for the hub itself, false for the host of large files.
    pub is_hub: bool,
    pub method: String,
    pub path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// True for a request for bytes of a large file.
    pub fn is_bytes(&self) -> bool {
        !self.is_hub && self.method == "GET"
    }
}

/// What is answered.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
}

impl Response {
    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
    }

    /// Another answer altogether.
    pub fn replace(&mut self, status: u16, headers: &[(&str, &str)]) {
        *self = Response { status, headers: Vec::new(), body: Vec::new(), cut: None };
        headers.iter().for_each(|(name, value)| self.set(name, value));
    }
}

/// Larger files are on the other host, with their SHA-256 as ETag.
const LARGEST_SMALL_FILE: usize = 10_000;

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ETag that the hub gives a file.
pub fn etag(bytes: &[u8]) -> String {
    let hash = sha256(bytes);
    if bytes.len() > LARGEST_SMALL_FILE { hash } else { hash[..40].to_string() }
}

impl Mirror {
    pub fn start() -> Mirror {
        let shared = Arc::new(Shared::default());
        let listen = |is_hub: bool| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = format!("http://{}", listener.local_addr().expect("an address"));
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.serve(stream, is_hub));
                }
            });
            address
        };
        *shared.files_host.lock().unwrap() = listen(false);
        Mirror { hub: listen(true), shared }
    }

    /// What HF_ENDPOINT is to be.
    pub fn endpoint(&self) -> &str {
        &self.hub
    }

    /// Puts a repository there, or a newer commit of it.
    pub fn put(&self, repo: &str, commit: &str, files: &[(&str, Vec<u8>)]) {
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let made = Repo { commit: commit.into(), files };
        self.shared.repos.lock().unwrap().insert(repo.into(), made);
    }

    /// From now on `meddler` changes every answer.
    pub fn meddle(&self, meddler: impl Fn(&Request, &mut Response) + Send + Sync + 'static) {
        *self.shared.meddler.lock().unwrap() = Some(Arc::new(meddler));
    }

    /// From now on answers are as they should be.
    pub fn behave(&self) {
        *self.shared.meddler.lock().unwrap() = None;
    }

    /// Everything that was asked since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream, is_hub: bool) {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        let mut stream = stream;
        while let Some(request) = read_request(&mut reader, is_hub) {
            self.requests.lock().unwrap().push(request.clone());
            let mut response = match is_hub {
                true => self.hub_answer(&request),
                false => self.files_answer(&request),
            };
            let meddler = self.meddler.lock().unwrap().clone();
            if let Some(meddler) = meddler {
                meddler(&request, &mut response);
            }
            if write_response(&mut stream, &request, response).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn hub_answer(&self, request: &Request) -> Response {
        let mut response = Response { status: 404, headers: vec![], body: vec![], cut: None };
        response.set("x-error-code", "RepoNotFound");
        let path = request.path.split('?').next().unwrap_or_default();
        let repos = self.repos.lock().unwrap();
        if let Some((id, revision)) =
            path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/"))
        {
            let Some(repo) = repos.get(id) else { return response };
            if revision != "main" && revision != repo.commit {
                response.set("x-error-code", "RevisionNotFound");
                return response;
            }
            let sibling = |(name, bytes): (&String, &Vec<u8>)| {
                let lfs = (bytes.len() > LARGEST_SMALL_FILE)
                    .then(|| json!({ "sha256": sha256(bytes), "size": bytes.len() }));
                json!({ "rfilename": name, "size": bytes.len(), "lfs": lfs })
            };
            let siblings: Vec<_> = repo.files.iter().map(sibling).collect();
            let answer = json!({ "id": id, "sha": repo.commit, "siblings": siblings });
            response.replace(200, &[("content-type", "application/json")]);
            response.body = answer.to_string().into_bytes();
            return response;
        }
        let parsed = path[1..].split_once("/resolve/").and_then(|(id, rest)| {
            let (_, name) = rest.split_once('/')?;
            Some((repos.get(id)?, name.replace("%20", " ")))
        });
        let Some((repo, name)) = parsed else { return response };
        let Some(bytes) = repo.files.get(&name) else {
            response.set("x-error-code", "EntryNotFound");
            return response;
        };
        if bytes.len() > LARGEST_SMALL_FILE {
            let hash = sha256(bytes);
            let host = self.files_host.lock().unwrap();
            let location = format!("{host}/bytes/{hash}?Signature=secret");
            response.replace(302, &[("location", &location)]);
            response.set("x-linked-etag", &format!("\"{hash}\""));
            response.set("x-linked-size", &bytes.len().to_string());
        } else {
            response = whole_or_rest(request, bytes, &etag(bytes));
        }
        response.set("x-repo-commit", &repo.commit);
        response
    }

    fn files_answer(&self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default();
        let hash = path.strip_prefix("/bytes/").unwrap_or_default();
        let repos = self.repos.lock().unwrap();
        let mut all = repos.values().flat_map(|repo| repo.files.values());
        match all.find(|bytes| sha256(bytes) == hash) {
            Some(bytes) => whole_or_rest(request, bytes, &format!("bucket-{}", &hash[..8])),
            None => Response { status: 404, headers: vec![], body: vec![], cut: None },
        }
    }
}

fn whole_or_rest(request: &Request, bytes: &[u8], etag: &str) -> Response {
    let mut response = Response { status: 200, headers: vec![], body: bytes.to_vec(), cut: None };
    response.set("etag", &format!("\"{etag}\""));
    response.set("accept-ranges", "bytes");
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some(first) = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok()) else {
        return response;
    };
    if first >= bytes.len() {
        response.replace(416, &[("content-range", &format!("bytes */{}", bytes.len()))]);
        return response;
    }
    response.status = 206;
    response.body = bytes[first..].to_vec();
    let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
    response.set("content-range", &range);
    response
}

fn read_request(reader: &mut impl BufRead, is_hub: bool) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    Some(Request { is_hub, method, path, headers })
}

fn write_response(
    stream: &mut TcpStream,
    request: &Request,
    mut response: Response,
) -> std::io::Result<()> {
    if !response.headers.iter().any(|(name, _)| name == "content-length") {
        response.set("content-length", &response.body.len().to_string());
    }
    let mut head = format!("HTTP/1.1 {} -\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let end = response.cut.unwrap_or(response.body.len()).min(response.body.len());
    stream.write_all(&response.body[..end])?;
    match response.cut {
        Some(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
        None => Ok(()),
    }
}

/// A proxy that tunnels to wherever it is asked; counts how often.
pub fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().expect("a handle"));
            let Some(request) = read_request(&mut reader, false) else { continue };
            seen.lock().unwrap().push(format!("{} {}", request.method, request.path));
            let Ok(server) = TcpStream::connect(&request.path) else { continue };
            let mut client = client;
            let _ = client.write_all(b"HTTP/1.1 200 -\r\n\r\n");
            let mut to_server = server.try_clone().expect("a handle");
            std::thread::spawn(move || pass_on(&mut reader, &mut to_server));
            let mut from_server = server;
            std::thread::spawn(move || pass_on(&mut from_server, &mut client));
        }
    });
    (address, asked)
}

fn pass_on(from: &mut impl Read, to: &mut TcpStream) {
    let _ = std::io::copy(from, to);
    let _ = to.shutdown(Shutdown::Both);
}
