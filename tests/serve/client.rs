//! A server under test and a small HTTP client for it: one connection a request, no more of HTTP/1.1
//! than that takes.

use super::common;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longest silence of a server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, serving; ended when dropped.
pub struct Server {
    child: Child,
    home: Option<TempDir>,
    arguments: Vec<String>,
    /// Host and port.
    pub address: String,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer's JSON, if it has this status.
pub fn json_of(answer: Answer, status: u16) -> Value {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What a person says.
pub fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

/// An answer that is still coming.
pub struct Stream(TcpStream);

impl Stream {
    /// Waits for the beginning.
    pub fn read_some(&mut self) {
        let mut bytes = [0; 16];
        let n = self.0.read(&mut bytes).expect("it answers");
        assert!(bytes[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes));
    }

    pub fn read_to_end(mut self) -> String {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("it ends");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

fn command(home: &TempDir, arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltamem"));
    command.env("DELTAMEM_DATA_DIR", home.path().join("data")).env_remove("DELTAMEM_TOKEN");
    command.args(["serve", "--cpu"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    /// Serves on a free port, the built-in model if the arguments name no other.
    pub fn start(arguments: &[&str]) -> Server {
        let port: &[&str] = &["--port", "0"];
        let arguments = [port, arguments].concat();
        let arguments = arguments.into_iter().map(String::from).collect();
        Server::start_in(tempfile::tempdir().expect("a folder"), arguments)
    }

    /// With a model whose replies do not end by themselves, whatever is said to it.
    pub fn endless(arguments: &[&str]) -> Server {
        let model: PathBuf = common::endless();
        let model = model.to_str().expect("a plain name");
        Server::start(&[arguments, &["--model", model]].concat())
    }

    fn start_in(home: TempDir, arguments: Vec<String>) -> Server {
        let mut child = command(&home, &arguments).spawn().expect("the program");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let output = child.wait_with_output().expect("its end");
            panic!("{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        Server { address: address.into(), child, home: Some(home), arguments }
    }

    /// What a server that does not start says: its exit code and its standard error.
    pub fn fail(arguments: &[&str]) -> (Option<i32>, String) {
        let home = tempfile::tempdir().expect("a folder");
        let arguments: Vec<String> = arguments.iter().map(|a| a.to_string()).collect();
        let output = command(&home, &arguments).output().expect("the program");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Ends this server, as a crash would, and begins another with the same data.
    pub fn restart(mut self) -> Server {
        self.end();
        let home = self.home.take().expect("its data");
        Server::start_in(home, std::mem::take(&mut self.arguments))
    }

    /// The folder of its memories.
    pub fn data(&self) -> PathBuf {
        self.home.as_ref().expect("its data").path().join("data")
    }

    fn end(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        self.child.wait().expect("its end");
    }

    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success());
    }

    pub fn can_connect(&self) -> bool {
        TcpStream::connect(&self.address).is_ok()
    }

    /// Waits until it has ended by itself: its exit code and its standard error.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().expect("its errors");
        stderr.read_to_string(&mut err).expect("text");
        (self.child.wait().expect("its end").code(), err)
    }

    fn write(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut connection = TcpStream::connect(&self.address).expect("a connection");
        connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let has = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !has("host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !has("content-length") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        connection.write_all(format!("{head}\r\n").as_bytes()).expect("it reads");
        connection.write_all(body).expect("it reads");
        connection
    }

    /// One request and its answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut bytes = Vec::new();
        let mut connection = self.write(method, path, headers, body);
        connection.read_to_end(&mut bytes).expect("an answer");
        parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// Posts JSON.
    pub fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let kind: &[(&str, &str)] = &[("Content-Type", "application/json")];
        self.send("POST", path, &[kind, headers].concat(), body.to_string().as_bytes())
    }

    /// The error with which JSON is refused.
    pub fn refused(&self, path: &str, body: &Value, status: u16) -> Value {
        json_of(self.post(path, body, &[]), status)["error"].take()
    }

    /// A whole completion.
    pub fn chat(&self, body: &Value, headers: &[(&str, &str)]) -> Value {
        json_of(self.post("/v1/chat/completions", body, headers), 200)
    }

    /// The text of a completion.
    pub fn text(&self, body: &Value, headers: &[(&str, &str)]) -> String {
        let reply = self.chat(body, headers);
        let text = reply["choices"][0]["message"]["content"].as_str();
        text.unwrap_or_else(|| panic!("{reply:#}")).into()
    }

    /// The chunks of a completion, all but the `[DONE]` at its end.
    pub fn stream(&self, body: &Value, headers: &[(&str, &str)]) -> Vec<Value> {
        let answer = self.post("/v1/chat/completions", body, headers);
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/event-stream")),
            "{text}"
        );
        let mut events: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    /// A completion whose answer is not waited for.
    pub fn open(&self, body: &Value, headers: &[(&str, &str)]) -> Stream {
        let kind: &[(&str, &str)] = &[("Content-Type", "application/json")];
        let body = body.to_string();
        Stream(self.write(
            "POST",
            "/v1/chat/completions",
            &[kind, headers].concat(),
            body.as_bytes(),
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
        .collect();
    let mut answer =
        Answer { status: status.expect("a status"), headers, body: bytes[end + 4..].into() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = unchunk(&answer.body);
    }
    answer
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..line]);
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        let begin = line + 2;
        body.extend_from_slice(&bytes[begin..begin + size]);
        bytes = &bytes[begin + size + 2..];
        if size == 0 {
            break;
        }
    }
    body
}
