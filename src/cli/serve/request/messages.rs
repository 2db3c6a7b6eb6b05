//! The messages of a request. Owns how OpenAI's become the crate's: roles, parts of text, calls and
//! their results, and which message may be the last.

use super::{ApiError, wrong};
use deltamem::chat::{Message, Role, ToolCall};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Reads a history; with `is_continued` its last message is the assistant's, and the reply goes on in it.
///
/// # Errors
/// 400 with the message that is wrong or cannot be read.
pub(super) fn read_messages(
    messages: Option<&Value>,
    is_continued: bool,
) -> Result<Vec<Message>, ApiError> {
    let Some(Value::Array(messages)) = messages else {
        return Err(ApiError::parameter("messages", "`messages` is not an array"));
    };
    if messages.is_empty() {
        return Err(ApiError::parameter("messages", "`messages` is empty"));
    }
    let mut name_of_call: HashMap<String, String> = HashMap::new();
    let mut history = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let mut message = read_message(message, &format!("messages[{index}]"))?;
        for call in &message.tool_calls {
            if let Some(id) = &call.id {
                name_of_call.insert(id.clone(), call.name.clone());
            }
        }
        if let Some(id) = &message.tool_call_id {
            message.name = name_of_call.get(id).cloned();
        }
        history.push(message);
    }
    // before anything is made ready for an answer; the session refuses the same
    let refuse =
        |reason: &str| Err(ApiError::bad_request("messages", reason).with_param("messages"));
    match history.last() {
        Some(last) if is_continued => match last.role {
            Role::Assistant if last.tool_calls.is_empty() => Ok(history),
            Role::Assistant => refuse("the last message calls tools, so no reply goes on in it"),
            _ => refuse("`continue_final_message` wants a last message from the assistant"),
        },
        Some(last) if last.role == Role::Assistant => refuse(
            "the last message is the assistant's; `continue_final_message` goes on with it, else it has \
             to be from the user or a tool",
        ),
        Some(last) if last.role == Role::User && last.content.trim().is_empty() => {
            refuse("the last message is empty")
        }
        Some(last) if !matches!(last.role, Role::User | Role::Tool) => {
            refuse("the last message is neither from the user nor from a tool")
        }
        _ => Ok(history),
    }
}

fn read_message(message: &Value, at: &str) -> Result<Message, ApiError> {
    let Value::Object(given) = message else {
        return Err(ApiError::parameter(at, format!("{at} is not an object")));
    };
    let content = read_content(given.get("content"), at)?;
    let role = match given.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => {
            let message = "is not system, developer, user, assistant or tool";
            return Err(ApiError::parameter(at, format!("the role of {at} {message}")));
        }
    };
    let string = |name: &str| given.get(name).and_then(Value::as_str).map(str::to_string);
    let mut read = Message::new(role, content);
    match role {
        Role::Assistant => {
            // the second name is newer vLLM's
            let thoughts = string("reasoning_content").or_else(|| string("reasoning"));
            read.reasoning = thoughts.filter(|text| !text.is_empty());
            read.tool_calls = read_calls(given.get("tool_calls"), at)?;
        }
        Role::Tool => {
            read.tool_call_id = string("tool_call_id");
            if read.content.trim().is_empty() {
                // templates and the session want a text
                read.content = "(no output)".into();
            }
        }
        Role::System | Role::User => {}
    }
    Ok(read)
}

fn read_content(content: Option<&Value>, at: &str) -> Result<String, ApiError> {
    let refuse = |at: &str| {
        let message = format!("{at} is neither text nor parts of text; only text can be read");
        Err(ApiError::unsupported(at, message))
    };
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut joined = String::new();
            for (index, part) in parts.iter().enumerate() {
                match (part.get("type").and_then(Value::as_str), part.get("text")) {
                    (Some("text"), Some(Value::String(text))) => joined.push_str(text),
                    _ => return refuse(&format!("{at}.content[{index}]")),
                }
            }
            Ok(joined)
        }
        Some(_) => refuse(&format!("{at}.content")),
    }
}

fn read_calls(calls: Option<&Value>, at: &str) -> Result<Vec<ToolCall>, ApiError> {
    let calls = match calls {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong(&format!("{at}.tool_calls"), other, "an array")),
    };
    let read = |(index, call): (usize, &Value)| {
        let at = format!("{at}.tool_calls[{index}]");
        let function = call.get("function");
        let field = |name: &str| function.and_then(|f| f.get(name)).and_then(Value::as_str);
        let Some(name) = field("name") else {
            return Err(ApiError::unsupported(&at, format!("{at} is no call of a function")));
        };
        // JSON text with an object in it
        let arguments = match field("arguments") {
            None | Some("") => Ok(Map::new()),
            Some(text) => serde_json::from_str(text),
        };
        let arguments = arguments.map_err(|e| {
            let message = format!("the arguments of {at} are not a JSON object in text: {e}");
            ApiError::parameter(&at, message)
        })?;
        let id = call.get("id").and_then(Value::as_str).map(str::to_string);
        Ok(ToolCall { name: name.into(), arguments, id })
    };
    calls.iter().enumerate().map(read).collect()
}
