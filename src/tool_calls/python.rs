//! Calls written as Python. Reads statements that call a tool with literals, `name(city="Paris",
//! days=3)`, also assigned to a name or printed; everything else is refused, as nothing is executed.

use super::Signature;
use crate::chat::ToolCall;
use serde_json::{Map, Number, Value};

/// Deepest nesting of lists and dictionaries.
const MAX_DEPTH: usize = 32;

/// The calls of some code, at least one.
pub(super) fn calls(code: &str, tools: &[Signature]) -> Result<Vec<ToolCall>, String> {
    let mut reader = Reader { rest: code, tools };
    let mut calls = Vec::new();
    loop {
        reader.skip_to_statement();
        if reader.rest.is_empty() {
            break;
        }
        calls.extend(reader.statement()?);
        reader.skip_blanks();
        if !(reader.rest.is_empty() || reader.rest.starts_with(['\n', '\r', ';', '#'])) {
            return Err(reader.unexpected("the end of the statement"));
        }
    }
    match calls.is_empty() {
        true => Err("there is no call in the code".into()),
        false => Ok(calls),
    }
}

/// A dictionary or list of literals, and nothing else.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text, tools: &[] };
    if !text.starts_with(['{', '[']) {
        return Err(reader.unexpected("a dictionary or a list"));
    }
    let value = reader.literal(MAX_DEPTH)?;
    reader.skip_space();
    match reader.rest.is_empty() {
        true => Ok(value),
        false => Err(reader.unexpected("the end")),
    }
}

struct Reader<'a> {
    rest: &'a str,
    tools: &'a [Signature],
}

impl<'a> Reader<'a> {
    /// A call, `name = call`, `print(call)`, or `print(name)`, which calls nothing.
    fn statement(&mut self) -> Result<Option<ToolCall>, String> {
        let mut name = self.name()?;
        self.skip_blanks();
        if !self.rest.starts_with("==") && self.take("=") {
            self.skip_blanks();
            name = self.name()?;
            self.skip_blanks();
        }
        if name == "print" && !self.tools.iter().any(|tool| tool.name == "print") {
            self.expect("(")?;
            self.skip_space();
            let inner = self.name()?;
            self.skip_space();
            let call = match self.rest.starts_with('(') {
                true => Some(self.call(inner)?),
                false => None,
            };
            self.skip_space();
            self.expect(")")?;
            return Ok(call);
        }
        self.call(name).map(Some)
    }

    fn call(&mut self, name: &str) -> Result<ToolCall, String> {
        let tools = self.tools;
        let Some(tool) = tools.iter().find(|tool| tool.name == name) else {
            return Err(format!("{name:?} is none of the tools"));
        };
        self.expect("(")?;
        let mut arguments = Map::new();
        let mut n_positional = 0;
        loop {
            self.skip_space();
            if self.take(")") {
                return Ok(ToolCall { name: name.into(), arguments, id: None });
            }
            let (key, value) = self.argument(tool, n_positional)?;
            n_positional += 1;
            if arguments.contains_key(&key) {
                return Err(format!("the argument {key:?} is given twice"));
            }
            arguments.insert(key, value);
            self.skip_space();
            if !self.rest.starts_with(')') {
                self.expect(",")?;
            }
        }
    }

    /// `name=literal`, or a literal that takes its name from its place.
    fn argument(&mut self, tool: &Signature, place: usize) -> Result<(String, Value), String> {
        let before = self.rest;
        if let Ok(name) = self.name() {
            self.skip_space();
            if !self.rest.starts_with("==") && self.take("=") {
                self.skip_space();
                return Ok((name.into(), self.literal(MAX_DEPTH)?));
            }
        }
        self.rest = before;
        let value = self.literal(MAX_DEPTH)?;
        match tool.parameters.get(place) {
            Some(name) => Ok((name.clone(), value)),
            None => Err(format!("argument {} of {:?} has no name", place + 1, tool.name)),
        }
    }

    fn literal(&mut self, depth: usize) -> Result<Value, String> {
        if depth == 0 {
            return Err(format!("values are nested deeper than {MAX_DEPTH}"));
        }
        match self.rest.as_bytes().first() {
            Some(b'"' | b'\'') => self.string().map(Value::String),
            Some(b'[') => self.items("[", "]", |r| r.literal(depth - 1)).map(Value::Array),
            Some(b'(') => self.items("(", ")", |r| r.literal(depth - 1)).map(Value::Array),
            Some(b'{') => {
                let entries = self.items("{", "}", |r| {
                    let key = r.string()?;
                    r.skip_space();
                    r.expect(":")?;
                    r.skip_space();
                    Ok((key, r.literal(depth - 1)?))
                })?;
                Ok(Value::Object(entries.into_iter().collect()))
            }
            Some(b'+' | b'-' | b'.' | b'0'..=b'9') => self.number(),
            _ => match self.name()? {
                "True" | "true" => Ok(Value::Bool(true)),
                "False" | "false" => Ok(Value::Bool(false)),
                "None" | "null" => Ok(Value::Null),
                other => Err(format!("{other:?} is no literal")),
            },
        }
    }

    fn items<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.expect(open)?;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            if self.take(close) {
                return Ok(items);
            }
            items.push(item(self)?);
            self.skip_space();
            if !self.rest.starts_with(close) {
                self.expect(",")?;
            }
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        let plain = text.replace('_', "");
        let number = match plain.parse::<i64>() {
            Ok(whole) => Some(Number::from(whole)),
            Err(_) => plain.parse::<f64>().ok().and_then(Number::from_f64),
        };
        self.rest = rest;
        number.map(Value::Number).ok_or_else(|| format!("{text:?} is no number"))
    }

    /// `"…"` or `'…'`, also three of them; without prefixes.
    fn string(&mut self) -> Result<String, String> {
        let all = ["\"\"\"", "'''", "\"", "'"];
        let Some(quote) = all.into_iter().find(|quote| self.rest.starts_with(quote)) else {
            return Err(self.unexpected("a string"));
        };
        let inside = &self.rest[quote.len()..];
        let mut text = String::new();
        let mut letters = inside.char_indices();
        while let Some((at, letter)) = letters.next() {
            if inside[at..].starts_with(quote) {
                self.rest = &inside[at + quote.len()..];
                return Ok(text);
            }
            match letter {
                '\n' if quote.len() == 1 => break,
                '\\' => {
                    let (_, escape) = letters.next().ok_or("a string has no end")?;
                    let mut code = |n_digits: usize| {
                        let digits: String = letters.by_ref().take(n_digits).map(|l| l.1).collect();
                        let is_hex = digits.len() == n_digits
                            && digits.bytes().all(|b| b.is_ascii_hexdigit());
                        let code = u32::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
                        let letter = code.and_then(char::from_u32);
                        letter.ok_or_else(|| format!("\"\\{escape}{digits}\" is no character"))
                    };
                    match escape {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '\\' | '\'' | '"' => text.push(escape),
                        '\n' => {}
                        'x' => text.push(code(2)?),
                        'u' => text.push(code(4)?),
                        'U' => text.push(code(8)?),
                        // Python keeps both
                        other => text.extend(['\\', other]),
                    }
                }
                other => text.push(other),
            }
        }
        Err("a string has no end".into())
    }

    /// A name, perhaps with dots.
    fn name(&mut self) -> Result<&'a str, String> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        match name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            true => {
                self.rest = rest;
                Ok(name)
            }
            false => Err(self.unexpected("a name")),
        }
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        match self.take(text) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("{text:?}"))),
        }
    }

    fn unexpected(&self, expected: &str) -> String {
        let found: String = self.rest.chars().take(20).collect();
        match found.is_empty() {
            true => format!("the code ends where {expected} should be"),
            false => format!("{found:?} stands where {expected} should be"),
        }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// White space and comments, inside brackets.
    fn skip_space(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.skip_line();
        }
    }

    fn skip_to_statement(&mut self) {
        loop {
            self.skip_space();
            if !self.take(";") {
                return;
            }
        }
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.find('\n').map_or("", |at| &self.rest[at..]);
    }
}
