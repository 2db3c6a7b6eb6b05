//! Tools as templates are told of them, and calls in a history as templates show them. Owns under which
//! names descriptions are passed, and the text of a call for templates that know of none.

use super::python::repr_of;
use super::{Message, RenderOptions, Role, ToolCall, json_text, json_value};
use crate::error::{Error, Result};
use crate::tool_calls::{JSON_CLOSE, JSON_OPEN, PYTHON_CLOSE, PYTHON_OPEN};
use minijinja::value::Value;
use serde::{Deserialize, Serialize};

/// How a model is told of tools, and with that how it calls them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolFormat {
    /// As the template does it by itself.
    #[default]
    Template,
    /// As JSON between `<tool_call>` and `</tool_call>`: SmolLM3's `xml_tools`.
    Xml,
    /// As Python between `<code>` and `</code>`: SmolLM3's `python_tools`.
    Python,
}

/// What this crate passes to a template by itself, or has a switch for.
const OWN_VARIABLES: [&str; 9] = [
    "messages",
    "tools",
    "enable_thinking",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "strftime_now",
    "raise_exception",
];
/// Variables whose lists describe tools.
const TOOL_VARIABLES: [&str; 2] = ["xml_tools", "python_tools"];

/// Refuses variables that would take the place of what a template is given anyway.
///
/// # Errors
/// [`Error::Setting`] with the variable's name.
pub fn check_variables(variables: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    let refuse = |reason| Err(Error::Setting { name: "template variables", reason });
    for (name, value) in variables {
        if OWN_VARIABLES.contains(&name.as_str()) {
            return refuse(format!("`{name}` is set by other means"));
        }
        if TOOL_VARIABLES.contains(&name.as_str()) && !(value.is_array() || value.is_null()) {
            return refuse(format!("`{name}` is no list of tools"));
        }
    }
    Ok(())
}

/// Brings descriptions of functions, bare or in OpenAI's wrapping, to the wrapped form that
/// templates are written for: `{"type": "function", "function": {"name", …}}`.
///
/// # Errors
/// [`Error::Setting`] for what is no function with a name.
pub fn tool_descriptions(tools: Vec<serde_json::Value>) -> Result<Vec<serde_json::Value>> {
    let wrapped = |(index, tool): (usize, serde_json::Value)| {
        let function = tool.get("function").unwrap_or(&tool);
        let name = function.get("name").and_then(|name| name.as_str());
        if name.is_none_or(str::is_empty) {
            let reason = format!("tool {} is no function with a name", index + 1);
            return Err(Error::Setting { name: "tools", reason });
        }
        Ok(match tool.get("function") {
            Some(_) => tool,
            None => serde_json::json!({ "type": "function", "function": tool }),
        })
    };
    tools.into_iter().enumerate().map(wrapped).collect()
}

impl RenderOptions {
    /// Every tool that the template is told of, also by variables of its own.
    pub fn described_tools(&self) -> Vec<serde_json::Value> {
        let lists = TOOL_VARIABLES.iter().filter_map(|name| self.extra.get(*name)?.as_array());
        self.tools.iter().chain(lists).flatten().cloned().collect()
    }
}

/// The variables that tell a template of `options.tools`.
///
/// # Errors
/// [`Error::Setting`] for a format that the template does not know.
pub(super) fn variables(
    source: &str,
    options: &RenderOptions,
) -> Result<Vec<(&'static str, Value)>> {
    let Some(tools) = &options.tools else { return Ok(vec![("tools", Value::from(()))]) };
    let wrapped = || Value::from_iter(tools.iter().map(json_value));
    // SmolLM3's own names take them without their wrapping
    let bare = || {
        Value::from_iter(tools.iter().map(|tool| json_value(tool.get("function").unwrap_or(tool))))
    };
    Ok(match options.tool_format {
        ToolFormat::Template => vec![("tools", wrapped()), ("xml_tools", bare())],
        ToolFormat::Xml if source.contains("xml_tools") => {
            vec![("tools", Value::from(())), ("xml_tools", bare())]
        }
        // others know this one format
        ToolFormat::Xml => vec![("tools", wrapped())],
        ToolFormat::Python if source.contains("python_tools") => {
            vec![("tools", Value::from(())), ("python_tools", bare())]
        }
        ToolFormat::Python => {
            let reason = "the model's template has no `python_tools`".into();
            return Err(Error::Setting { name: "tool format", reason });
        }
    })
}

/// The messages with the calls in their content, as a model writes them itself.
pub(super) fn with_calls_in_content(messages: &[Message], format: ToolFormat) -> Vec<Message> {
    let shown = |message: &Message| {
        let mut message = message.clone();
        if message.role == Role::Assistant && !message.tool_calls.is_empty() {
            if !message.content.is_empty() {
                message.content.push('\n');
            }
            message.content.push_str(&text_of(&message.tool_calls, format));
        }
        message
    };
    messages.iter().map(shown).collect()
}

fn text_of(calls: &[ToolCall], format: ToolFormat) -> String {
    if format == ToolFormat::Python
        && let Some(lines) = calls.iter().map(python_call).collect::<Option<Vec<_>>>()
    {
        return format!("{PYTHON_OPEN}\n{}\n{PYTHON_CLOSE}", lines.join("\n"));
    }
    let json = |call: &ToolCall| {
        let name = json_text(&Value::from(call.name.as_str()));
        let arguments = json_text(&json_value(&serde_json::Value::Object(call.arguments.clone())));
        format!("{JSON_OPEN}\n{{\"name\": {name}, \"arguments\": {arguments}}}\n{JSON_CLOSE}")
    };
    calls.iter().map(json).collect::<Vec<_>>().join("\n")
}

/// `None` for what Python cannot call by name.
fn python_call(call: &ToolCall) -> Option<String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let argument = |(name, value): (&String, &serde_json::Value)| {
        let value = repr_of(&json_value(value)).ok()?;
        is_name(name).then(|| format!("{name}={value}"))
    };
    let arguments: Option<Vec<String>> = call.arguments.iter().map(argument).collect();
    call.name
        .split('.')
        .all(is_name)
        .then_some(arguments?)
        .map(|arguments| format!("{}({})", call.name, arguments.join(", ")))
}
