//! Messages to the text a model reads, and its reasoning apart from its answer. Owns rendering of
//! Hugging Face chat templates (Jinja, set up as transformers does) and `<think>` parts.
//!
//! Templates come with a model and are not trusted: no files, no other templates, bounded steps,
//! recursion and output (SPEC.md section 8).

use crate::error::{Error, Result};
use minijinja::machinery::{CompiledTemplate, Instructions, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

mod bounds;
mod continued;
mod date;
mod python;
mod think;
mod tools;
pub use date::CivilDate;
pub(crate) use think::{CLOSE as THINK_CLOSE, OPEN as THINK_OPEN};
pub use think::{ThinkPiece, ThinkSplitter, answer_part, default_enable_thinking};
pub use tools::{ToolFormat, check_variables, tool_descriptions};

/// Largest template accepted, in bytes. The longest known ones have about 30 kB.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Largest rendered conversation, in bytes.
pub const MAX_RENDERED_BYTES: usize = 16 << 20;
/// Instructions of the template engine for one rendering; a message takes about a hundred.
const MAX_STEPS: u64 = 2_000_000;
const MAX_RECURSION: usize = 100;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The name that templates use.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A function that an assistant wants called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    pub name: String,
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// Ties a result to its call, where a caller counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// What was thought before an answer, without tags; whether it is shown again is up to the
    /// template, which sees it as `reasoning_content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// An assistant's calls, beside what it said; templates see them as `tool_calls`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result: which call it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a tool's result: which tool it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message that is only text.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }
}

/// What a template is told besides the messages.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderOptions {
    /// Ends with the header of the assistant's next message.
    pub add_generation_prompt: bool,
    /// `None` passes nothing, and the template decides; see [`default_enable_thinking`].
    pub enable_thinking: Option<bool>,
    /// What `strftime_now` calls now. Fixed for a conversation: another date is another prompt.
    pub date: CivilDate,
    /// JSON descriptions of tools as [`tool_descriptions`] gives them.
    pub tools: Option<Vec<serde_json::Value>>,
    /// How the template is told of them.
    pub tool_format: ToolFormat,
    /// Further variables; they win over what `tools` comes to.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl RenderOptions {
    /// Everything left to the template.
    pub fn new(date: CivilDate) -> RenderOptions {
        RenderOptions {
            add_generation_prompt: false,
            enable_thinking: None,
            date,
            tools: None,
            tool_format: ToolFormat::Template,
            extra: serde_json::Map::new(),
        }
    }

    /// The same with or without the generation prompt.
    pub fn with_generation_prompt(&self, add: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt: add, ..self.clone() }
    }
}

/// A chat template that parses.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    /// Whether calls in a history are shown, once that was needed.
    shows_calls: OnceLock<bool>,
}

impl ChatTemplate {
    /// Parses a Jinja template; the tokens are what it calls `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that does not parse.
    pub fn parse(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::Template {
                reason: format!("{} bytes, at most {MAX_TEMPLATE_BYTES} are read", source.len()),
            });
        }
        let source = without_generation_tags(source);
        compile(&source).map_err(template_error)?;
        Ok(ChatTemplate {
            source,
            bos_token: bos_token.map(str::to_string),
            eos_token: eos_token.map(str::to_string),
            shows_calls: OnceLock::new(),
        })
    }

    /// The text of `messages`. Where the template passes over an assistant's calls, as SmolLM3's does,
    /// they stand in its content as the model writes them: else their results would answer nothing.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the messages or runs out of bounds;
    /// [`Error::Setting`] for a format of tools that it does not know.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let has_calls = messages.iter().any(|message| !message.tool_calls.is_empty());
        if has_calls && !self.shows_calls() {
            let messages = tools::with_calls_in_content(messages, options.tool_format);
            return self.render_as_given(&messages, options);
        }
        self.render_as_given(messages, options)
    }

    /// Whether a call of a tool leaves a trace in the text. A template that refuses the question may
    /// have its own view of calls.
    fn shows_calls(&self) -> bool {
        *self.shows_calls.get_or_init(|| {
            let name = "deltamem_asks";
            let call = ToolCall { name: name.into(), arguments: Default::default(), id: None };
            let calling = Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") };
            let messages = [Message::new(Role::User, "?"), calling];
            let options = RenderOptions::new(CivilDate::from_unix_seconds(0));
            let text = self.render_as_given(&messages, &options);
            text.map_or(true, |text| text.contains(name))
        })
    }

    /// Whether the template has a switch for thinking.
    pub fn reads_enable_thinking(&self) -> bool {
        self.source.contains("enable_thinking")
    }

    fn render_as_given(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(message_value).collect();
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(messages)),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), options.add_generation_prompt.into()),
        ];
        let tools = tools::variables(&self.source, options)?;
        context.extend(tools.into_iter().map(|(name, value)| (name.to_string(), value)));
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if let Some(token) = token {
                context.push((name.into(), token.as_str().into()));
            }
        }
        for (name, value) in &options.extra {
            context.push((name.clone(), json_value(value)));
        }
        if let Some(enable) = options.enable_thinking {
            context.push(("enable_thinking".into(), enable.into()));
        }
        let environment = environment(options.date).map_err(template_error)?;
        // Compiling takes a fraction of a millisecond; keeping the program would tie this type to
        // a lifetime.
        let program = compile(&self.source).map_err(template_error)?;
        let mut text = String::new();
        let mut output = minijinja::machinery::make_string_output(&mut text);
        minijinja::machinery::eval(
            &environment,
            &program,
            Value::from_pairs(context),
            &BTreeMap::new(),
            &mut output,
            AutoEscape::None,
        )
        .map_err(template_error)?;
        if text.len() > MAX_RENDERED_BYTES {
            return Err(Error::Template {
                reason: format!("the conversation is longer than {MAX_RENDERED_BYTES} bytes"),
            });
        }
        Ok(text)
    }
}

/// As transformers: ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).
fn syntax() -> Result<SyntaxConfig, minijinja::Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// The bounded program of a template.
fn compile(source: &str) -> Result<Instructions<'_>, minijinja::Error> {
    let config = TemplateConfig {
        syntax_config: syntax()?,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    bounds::check_source(source, config.syntax_config.clone())?;
    let compiled = CompiledTemplate::new("chat_template", source, &config)?;
    if !compiled.blocks.is_empty() {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "blocks are not supported"));
    }
    bounds::with_checks(&compiled.instructions)
}

/// What a template can call.
fn environment(date: CivilDate) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_RECURSION);
    bounds::install(&mut environment);
    environment.set_unknown_method_callback(unknown_method);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<(), _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| {
        let error = |reason| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
        date.strftime(&format).map_err(error)
    });
    Ok(environment)
}

/// `{% generation %}` marks the assistant's text for training and renders as nothing. Whitespace
/// control is kept by putting an `if` in its place.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else {
            break;
        };
        let (inside, sign) = (&rest[start + 2..start + len], ['-', '+']);
        let name = inside.trim_start_matches(sign).trim_end_matches(sign);
        let replacement = match name.trim() {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(tag) => {
                out.push_str(&rest[..start + 2]);
                out.push_str(&inside.replace(name.trim(), &format!(" {tag} ")));
            }
            None => out.push_str(&rest[..start + len]),
        }
        out.push_str("%}");
        rest = &rest[start + len + 2..];
    }
    out.push_str(rest);
    out
}

fn template_error(error: minijinja::Error) -> Error {
    let mut reason = match error.kind() {
        ErrorKind::OutOfFuel => format!("more than {MAX_STEPS} steps"),
        _ => error.detail().map_or_else(|| error.kind().to_string(), str::to_string),
    };
    if let Some(source) = std::error::Error::source(&error) {
        let _ = write!(reason, ": {source}");
    }
    if let Some(line) = error.line() {
        let _ = write!(reason, " (line {line})");
    }
    Error::Template { reason }
}

fn message_value(message: &Message) -> Value {
    let mut entries = vec![
        ("role", Value::from(message.role.name())),
        ("content", Value::from(message.content.as_str())),
    ];
    if let Some(reasoning) = &message.reasoning {
        // the second name is gpt-oss's; transformers passes both too
        entries.push(("reasoning_content", Value::from(reasoning.as_str())));
        entries.push(("thinking", Value::from(reasoning.as_str())));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(tool_call_value);
        entries.push(("tool_calls", Value::from_iter(calls)));
    }
    if let Some(id) = &message.tool_call_id {
        entries.push(("tool_call_id", Value::from(id.as_str())));
    }
    if let Some(name) = &message.name {
        entries.push(("name", Value::from(name.as_str())));
    }
    Value::from_pairs(entries)
}

/// As in OpenAI's messages, which is what templates are written for.
fn tool_call_value(call: &ToolCall) -> Value {
    let arguments = call.arguments.iter().map(|(k, v)| (k.as_str(), json_value(v)));
    let function = Value::from_pairs([
        ("name", Value::from(call.name.as_str())),
        ("arguments", Value::from_pairs(arguments)),
    ]);
    let mut entries = vec![("type", Value::from("function")), ("function", function)];
    if let Some(id) = &call.id {
        entries.push(("id", Value::from(id.as_str())));
    }
    Value::from_pairs(entries)
}

fn json_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64()),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(list) => Value::from_iter(list.iter().map(json_value)),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), json_value(v))))
        }
    }
}

/// Python's string methods, some of them beyond what minijinja-contrib knows.
fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    if let (Some(text), [arg]) = (value.as_str(), args)
        && let Some(affix) = arg.as_str()
    {
        match method {
            "removeprefix" => return Ok(text.strip_prefix(affix).unwrap_or(text).into()),
            "removesuffix" => return Ok(text.strip_suffix(affix).unwrap_or(text).into()),
            _ => {}
        }
    }
    bounds::check_method(value, method, args)?;
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// `json.dumps(value, ensure_ascii=False, …)`, which transformers puts in the place of Jinja's
/// HTML-escaping `tojson`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(json_error("separators must be a pair")),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let mut writer = JsonWriter {
        out: String::new(),
        indent: indent.map(|n| n.min(64)),
        is_ascii: ensure_ascii.unwrap_or(false),
        is_sorted: sort_keys.unwrap_or(false),
        item,
        key,
    };
    writer.write(value, 0)?;
    Ok(writer.out)
}

/// `json.dumps(value, ensure_ascii=False)` of plain data.
fn json_text(value: &Value) -> String {
    to_json(value, Kwargs::from_iter(std::iter::empty::<(String, Value)>())).unwrap_or_default()
}

fn json_error(reason: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::BadSerialization, reason.into())
}

struct JsonWriter {
    out: String,
    indent: Option<usize>,
    is_ascii: bool,
    is_sorted: bool,
    item: String,
    key: String,
}

impl JsonWriter {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        if depth > MAX_RECURSION || self.out.len() > MAX_RENDERED_BYTES {
            return Err(json_error("tojson: too deep or too long"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(&value.is_true().to_string()),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(x) if x.is_nan() => self.out.push_str("NaN"),
                Ok(x) if x == f64::INFINITY => self.out.push_str("Infinity"),
                Ok(x) if x == f64::NEG_INFINITY => self.out.push_str("-Infinity"),
                Ok(x) if !value.is_integer() => {
                    let _ = python::write_float(&mut self.out, x);
                }
                _ => {
                    let _ = write!(self.out, "{value}");
                }
            },
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items('[', ']', items, depth, |writer, item| {
                    writer.write(&item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((key.to_string(), item));
                }
                if self.is_sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_items('{', '}', entries, depth, |writer, (key, item)| {
                    writer.write_string(&key);
                    let separator = writer.key.clone();
                    writer.out.push_str(&separator);
                    writer.write(&item, depth + 1)
                })?;
            }
            other => return Err(json_error(format!("{other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn write_items<T>(
        &mut self,
        open: char,
        close: char,
        items: Vec<T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.is_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests;
