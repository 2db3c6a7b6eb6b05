//! Calls of tools in a reply, apart from its text. Owns the split of a streamed answer at the tags of
//! SmolLM3 and Qwen3 (`<tool_call>` around JSON, `<code>` around Python) and what a call must look
//! like. Nothing is executed; what is no call stays text and is reported.

mod python;
#[cfg(test)]
mod tests;

use crate::chat::ToolCall;
use serde_json::{Map, Value};

/// A pair of tags, and what stands between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// One JSON object a call, `{"name": …, "arguments": {…}}`, or a list of them; also as Python
    /// writes such values.
    Json,
    /// Statements that call tools with literals.
    Python,
}

/// Around a call in JSON.
pub(crate) const JSON_OPEN: &str = "<tool_call>";
pub(crate) const JSON_CLOSE: &str = "</tool_call>";
/// Around calls in Python.
pub(crate) const PYTHON_OPEN: &str = "<code>";
pub(crate) const PYTHON_CLOSE: &str = "</code>";

impl Format {
    const ALL: [Format; 2] = [Format::Json, Format::Python];

    fn open(self) -> &'static str {
        match self {
            Format::Json => JSON_OPEN,
            Format::Python => PYTHON_OPEN,
        }
    }

    fn close(self) -> &'static str {
        match self {
            Format::Json => JSON_CLOSE,
            Format::Python => PYTHON_CLOSE,
        }
    }
}

/// Something between the tags of a call that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedCall {
    /// As it was written, tags included; it is part of the answer too.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The name in a tool's description, OpenAI's or bare.
pub(crate) fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function").unwrap_or(tool).get("name")?.as_str()
}

/// The JSON Schema of a tool's arguments.
pub(crate) fn schema_of(tool: &Value) -> Option<&Value> {
    let function = tool.get("function").unwrap_or(tool);
    ["parameters", "inputSchema", "input_schema"].iter().find_map(|key| function.get(key))
}

/// A tool's name and the names of its parameters, in order.
#[derive(Debug, Clone)]
struct Signature {
    name: String,
    parameters: Vec<String>,
}

impl Signature {
    /// From a description in OpenAI's form or a bare one.
    fn new(tool: &Value) -> Option<Signature> {
        let properties = schema_of(tool).and_then(|s| s.get("properties"));
        let properties = properties.and_then(Value::as_object);
        Some(Signature {
            name: name_of(tool)?.to_string(),
            parameters: properties.map(|p| p.keys().cloned().collect()).unwrap_or_default(),
        })
    }
}

/// Takes the calls out of an answer that comes in pieces.
#[derive(Debug, Clone)]
pub struct ToolCallSplitter {
    tools: Vec<Signature>,
    /// Set between an opening and a closing tag.
    open: Option<Format>,
    /// May be the beginning of a tag; or, between tags, everything behind the opening one.
    held: String,
    calls: Vec<ToolCall>,
    malformed: Vec<MalformedCall>,
}

impl ToolCallSplitter {
    /// For an answer of a model that was told of these tools (JSON descriptions, OpenAI's or bare).
    pub fn new(tools: &[Value]) -> ToolCallSplitter {
        ToolCallSplitter {
            tools: tools.iter().filter_map(Signature::new).collect(),
            open: None,
            held: String::new(),
            calls: Vec::new(),
            malformed: Vec::new(),
        }
    }

    /// Takes the next piece of the answer and gives the text that is surely no call.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let mut shown = String::new();
        loop {
            match self.open {
                None => {
                    let found = Format::ALL
                        .iter()
                        .filter_map(|format| Some((self.held.find(format.open())?, *format)));
                    let Some((at, format)) = found.min_by_key(|(at, _)| *at) else {
                        let rest = self.held.split_off(self.held.len() - self.n_held());
                        shown.push_str(&std::mem::replace(&mut self.held, rest));
                        return shown;
                    };
                    let rest = self.held.split_off(at + format.open().len());
                    self.held.truncate(at);
                    shown.push_str(&std::mem::replace(&mut self.held, rest));
                    self.open = Some(format);
                }
                Some(format) => {
                    let Some(at) = find_close(&self.held, format) else { return shown };
                    let rest = self.held.split_off(at + format.close().len());
                    let inside = std::mem::replace(&mut self.held, rest);
                    self.open = None;
                    shown.push_str(&self.take(format, &inside[..at], format.close()));
                }
            }
        }
    }

    /// The text that was held back, when no more comes. A last call may lack its closing tag.
    pub fn finish(&mut self) -> String {
        let mut shown = String::new();
        // a closing tag that seemed to be inside a string was none of it
        while let Some(format) = self.open
            && let Some(at) = self.held.find(format.close())
        {
            let rest = self.held.split_off(at + format.close().len());
            let inside = std::mem::replace(&mut self.held, rest);
            self.open = None;
            shown.push_str(&self.take(format, &inside[..at], format.close()));
            shown.push_str(&self.push(""));
        }
        let held = std::mem::take(&mut self.held);
        match self.open.take() {
            None => shown + &held,
            Some(format) => {
                let close = format.close();
                let cut = (0..close.len()).rev().find(|&n| held.ends_with(&close[..n]));
                let (inside, tail) = held.split_at(held.len() - cut.unwrap_or(0));
                shown + &self.take(format, inside, tail)
            }
        }
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// What looked like calls so far and was none.
    pub fn malformed(&self) -> &[MalformedCall] {
        &self.malformed
    }

    /// Both.
    pub fn into_parts(self) -> (Vec<ToolCall>, Vec<MalformedCall>) {
        (self.calls, self.malformed)
    }

    /// Takes what stood between tags; gives it back as text if it is no call.
    fn take(&mut self, format: Format, inside: &str, tail: &str) -> String {
        let calls = match format {
            Format::Json => calls_from_json(inside),
            Format::Python => python::calls(inside, &self.tools),
        };
        match calls {
            Ok(calls) => {
                self.calls.extend(calls);
                String::new()
            }
            Err(reason) => {
                let text = format!("{}{inside}{tail}", format.open());
                self.malformed.push(MalformedCall { text: text.clone(), reason });
                text
            }
        }
    }

    /// How many bytes at the end may be the beginning of an opening tag.
    fn n_held(&self) -> usize {
        let of = |tag: &str| (1..tag.len()).rev().find(|&n| self.held.ends_with(&tag[..n]));
        Format::ALL.iter().filter_map(|format| of(format.open())).max().unwrap_or(0)
    }
}

/// Where the closing tag is, unless a string goes on over it. No string goes on over the end of a
/// line, else a quote too many would swallow the rest of the answer.
fn find_close(text: &str, format: Format) -> Option<usize> {
    let quotes: &[u8] = match format {
        Format::Json => b"\"",
        Format::Python => b"\"'",
    };
    let mut quote = None;
    let mut is_escaped = false;
    let mut inside_string = None;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'<' && text[at..].starts_with(format.close()) {
            match quote {
                None => return Some(at),
                Some(_) => inside_string = inside_string.or(Some(at)),
            }
        }
        match quote {
            Some(_) if byte == b'\n' && !is_escaped => {
                if inside_string.is_some() {
                    return inside_string;
                }
                quote = None;
            }
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if byte == b'\\' => is_escaped = true,
            Some(q) if byte == q => (quote, inside_string) = (None, None),
            None if quotes.contains(&byte) => quote = Some(byte),
            _ => {}
        }
    }
    None
}

fn calls_from_json(text: &str) -> Result<Vec<ToolCall>, String> {
    let text = text.trim();
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // SmolLM3 is shown its tools as Python writes them, and may answer in kind
        Err(error) => python::value(text).map_err(|_| format!("no JSON: {error}"))?,
    };
    match value {
        Value::Array(list) if list.is_empty() => Err("an empty list of calls".into()),
        Value::Array(list) => list.into_iter().map(call_from_json).collect(),
        one => Ok(vec![call_from_json(one)?]),
    }
}

fn call_from_json(value: Value) -> Result<ToolCall, String> {
    let Value::Object(mut map) = value else { return Err("a call is a JSON object".into()) };
    let name = match map.remove("name") {
        Some(Value::String(name)) if !name.is_empty() => name,
        _ => return Err("`name` is missing or no text".into()),
    };
    let id = map.remove("id").and_then(|id| id.as_str().map(str::to_string));
    let arguments = match map.remove("arguments").or_else(|| map.remove("parameters")) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        // JSON inside a string, as in OpenAI's messages
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|_| "`arguments` is a text that is no JSON object".to_string())?,
        Some(_) => return Err("`arguments` is no JSON object".into()),
    };
    Ok(ToolCall { name, arguments, id })
}
