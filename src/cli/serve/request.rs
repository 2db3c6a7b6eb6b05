//! Requests in OpenAI's shape. Owns what of them is read, and what is refused: a setting that would
//! change the reply and cannot be honoured is an error, never passed over in silence. The npm
//! package reads the same (`web/lib/openai-request.ts`).

use super::api_error::ApiError;
use deltamem::chat::{Message, ToolFormat, check_variables};
use deltamem::constraint::Constraint;
use deltamem::session::TurnOptions;
use messages::read_messages;
use serde::Deserialize;
use serde_json::{Map, Value};

mod messages;
#[cfg(test)]
mod tests;

/// A history to be answered, and how.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    pub model: Option<String>,
    pub history: Vec<Message>,
    /// In OpenAI's wrapping.
    pub tools: Vec<Value>,
    /// Further variables of the model's template, SmolLM3's own lists of tools among them.
    pub variables: Map<String, Value>,
    pub settings: Settings,
    pub extension: Extension,
    pub is_streamed: bool,
    /// The reply goes on in the last message, which is the assistant's.
    pub is_continued: bool,
    /// A last chunk has the usage.
    pub has_usage: bool,
}

/// What `deltamem` in the body asks for; OpenAI's interface has no place for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extension {
    /// False answers with an empty memory, and leaves the profile's alone.
    pub memory: bool,
    /// Reports how much the memory had its say in the reply's last token.
    pub gauges: bool,
    pub overflow: OnOverflow,
    /// A regular expression for the whole reply.
    regex: Option<String>,
    /// How the model is told of `tools`, and calls them.
    pub tool_format: ToolFormat,
}

/// What a full window does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOverflow {
    /// The oldest turns leave the context.
    #[default]
    Evict,
    /// The request fails.
    Error,
}

impl Default for Extension {
    fn default() -> Extension {
        Extension {
            memory: true,
            gauges: false,
            overflow: OnOverflow::Evict,
            regex: None,
            tool_format: ToolFormat::Template,
        }
    }
}

/// What is not given comes from the model's files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
    max_tokens: Option<usize>,
    stop: Vec<String>,
    constraint: Option<Constraint>,
    max_tool_calls: Option<usize>,
    pub thinking: Option<bool>,
}

impl Settings {
    /// The parameter that is to blame if a reply cannot be held to what it says.
    pub fn constraint_parameter(&self) -> &'static str {
        match self.constraint {
            Some(Constraint::ToolCalls { .. }) => "tools",
            Some(Constraint::Regex(_)) => "deltamem",
            _ => "response_format",
        }
    }

    #[cfg(test)]
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// The same with a length where none was given.
    pub fn or_max_tokens(self, n: usize) -> Settings {
        Settings { max_tokens: self.max_tokens.or(Some(n)), ..self }
    }

    /// Replaces what was given; without a seed it is `seed`.
    pub fn apply(&self, turn: &mut TurnOptions, seed: u64) {
        let sampling = &mut turn.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty =
            self.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.seed = self.seed.unwrap_or(seed);
        turn.max_new_tokens = self.max_tokens.unwrap_or(turn.max_new_tokens);
        turn.stop.clone_from(&self.stop);
        turn.constraint.clone_from(&self.constraint);
        turn.max_tool_calls = self.max_tool_calls.unwrap_or(turn.max_tool_calls);
    }
}

/// These steer a service and not the reply.
pub(super) const PASSED_OVER: [&str; 9] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
];

/// The body as a JSON object.
///
/// # Errors
/// 400 for what is none.
pub(super) fn read_object(body: &[u8]) -> Result<Given, ApiError> {
    let value = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request("invalid_json", format!("the body is not JSON: {e}")))?;
    match value {
        Value::Object(given) => Ok(given),
        _ => Err(ApiError::bad_request("invalid_json", "the body is not a JSON object")),
    }
}

/// Whether a last chunk has the usage.
pub(super) fn read_has_usage(given: &Given) -> bool {
    let options = present(given, "stream_options").and_then(Value::as_object);
    let usage = options.and_then(|options| options.get("include_usage"));
    usage.and_then(Value::as_bool).unwrap_or(false)
}

/// Reads the body of a request.
///
/// # Errors
/// 400 with the parameter that is wrong or cannot be honoured.
pub fn read_request(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let given = read_object(body)?;
    for (name, value) in &given {
        refuse_unsupported(name, value)?;
    }
    let get = |name: &str| given.get(name).filter(|value| !value.is_null());
    let extension = match get("deltamem") {
        None => Extension::default(),
        Some(extension) => Extension::deserialize(extension)
            .map_err(|e| ApiError::parameter("deltamem", format!("`deltamem`: {e}")))?,
    };
    let mut settings = read_settings(&given)?;
    if let Some(pattern) = &extension.regex {
        if settings.constraint.is_some() {
            let message = "a reply is held to a schema or to a regular expression, not to both";
            return Err(ApiError::parameter("deltamem", message));
        }
        settings.constraint = Some(Constraint::Regex(pattern.clone()));
    }
    let mut variables = read_variables(&given)?;
    let Tools { described: tools, forced, max_calls } = read_tool_use(&given)?;
    if given.get("tool_choice").is_some_and(|choice| choice == "none") {
        TOOL_VARIABLES.iter().for_each(|name| drop(variables.remove(*name)));
    }
    let has_own_tools = TOOL_VARIABLES.iter().any(|name| variables.contains_key(*name));
    if variables.contains_key("xml_tools") && !tools.is_empty() {
        let message = "`chat_template_kwargs.xml_tools` and `tools` are the same list twice";
        return Err(ApiError::parameter(KWARGS, message));
    }
    if forced.is_some() && extension.tool_format == ToolFormat::Python {
        let message = "a call that is required is held to JSON; it cannot be asked for in the \
                       tool format python";
        return Err(ApiError::unsupported("tool_choice", message));
    }
    if settings.constraint.is_some() && (has_own_tools || !tools.is_empty()) {
        let message = "a reply that is held to a schema cannot call tools; ask without the schema \
                       as long as tools are wanted, then once more with it and `tool_choice: \
                       \"none\"`";
        return Err(ApiError::unsupported("response_format", message));
    }
    settings.constraint = settings.constraint.or(forced);
    settings.max_tool_calls = max_calls;
    let is_continued = read_continuation(&given)?;
    Ok(ChatRequest {
        model: text(&given, "model")?,
        history: read_messages(get("messages"), is_continued)?,
        is_continued,
        tools,
        variables,
        settings,
        extension,
        is_streamed: flag(&given, "stream")?.unwrap_or(false),
        has_usage: read_has_usage(&given),
    })
}

fn refuse_unsupported(name: &str, value: &Value) -> Result<(), ApiError> {
    let is_zero = || value.as_f64() == Some(0.0);
    let is_fine = match name {
        _ if value.is_null() || PASSED_OVER.contains(&name) => true,
        "messages"
        | "model"
        | "stream"
        | "stream_options"
        | "temperature"
        | "top_p"
        | "top_k"
        | "min_p"
        | "repetition_penalty"
        | "seed"
        | "max_tokens"
        | "max_completion_tokens"
        | "stop"
        | "response_format"
        | "tools"
        | "tool_choice"
        | "parallel_tool_calls"
        | "reasoning_effort"
        | "chat_template_kwargs"
        | "add_generation_prompt"
        | "continue_final_message"
        | "deltamem" => true,
        // refused, unless they say what holds anyway
        "n" => value.as_u64() == Some(1),
        "logprobs" => *value == Value::Bool(false),
        "top_logprobs" | "frequency_penalty" | "presence_penalty" => is_zero(),
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "modalities" => {
            value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "text"))
        }
        _ => false,
    };
    match is_fine {
        true => Ok(()),
        false => {
            let message = format!("`{name}` cannot be honoured by this server; leave it out");
            Err(ApiError::unsupported(name, message))
        }
    }
}

// ---- settings --------------------------------------------------------------------------------------

pub(super) type Given = Map<String, Value>;

pub(super) fn wrong(name: &str, value: &Value, expected: &str) -> ApiError {
    let mut shown = value.to_string();
    if shown.len() > 80 {
        shown = format!("{}…", shown.chars().take(80).collect::<String>());
    }
    ApiError::parameter(name, format!("`{name}` is {shown}; expected {expected}"))
}

pub(super) fn present<'a>(given: &'a Given, name: &str) -> Option<&'a Value> {
    given.get(name).filter(|value| !value.is_null())
}

pub(super) fn flag(given: &Given, name: &str) -> Result<Option<bool>, ApiError> {
    let read = |value: &Value| value.as_bool().ok_or_else(|| wrong(name, value, "true or false"));
    present(given, name).map(read).transpose()
}

pub(super) fn text(given: &Given, name: &str) -> Result<Option<String>, ApiError> {
    let read = |value: &Value| match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => Err(wrong(name, value, "a string")),
    };
    present(given, name).map(read).transpose()
}

fn number(given: &Given, name: &str) -> Result<Option<f32>, ApiError> {
    let read = |value: &Value| match value.as_f64().map(|number| number as f32) {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(wrong(name, value, "a number")),
    };
    present(given, name).map(read).transpose()
}

fn count(given: &Given, name: &str, least: u64) -> Result<Option<usize>, ApiError> {
    let read = |value: &Value| match value.as_u64().filter(|count| *count >= least) {
        Some(count) => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
        None => Err(wrong(name, value, &format!("a whole number, {least} or more"))),
    };
    present(given, name).map(read).transpose()
}

pub(super) fn read_settings(given: &Given) -> Result<Settings, ApiError> {
    let seed = present(given, "seed").map(|value| match (value.as_u64(), value.as_i64()) {
        (Some(seed), _) => Ok(seed),
        (_, Some(negative)) => Ok(negative.cast_unsigned()),
        _ => Err(wrong("seed", value, "a whole number")),
    });
    let max_tokens = match count(given, "max_completion_tokens", 1)? {
        None => count(given, "max_tokens", 1)?,
        given => given,
    };
    Ok(Settings {
        temperature: number(given, "temperature")?,
        top_p: number(given, "top_p")?,
        top_k: count(given, "top_k", 0)?,
        min_p: number(given, "min_p")?,
        repetition_penalty: number(given, "repetition_penalty")?,
        seed: seed.transpose()?,
        max_tokens,
        stop: read_stop(given)?,
        constraint: read_format(given)?,
        max_tool_calls: None,
        thinking: read_thinking(given)?,
    })
}

fn read_stop(given: &Given) -> Result<Vec<String>, ApiError> {
    let texts = match present(given, "stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(texts)) => texts.as_slice(),
        Some(text) => std::slice::from_ref(text),
    };
    let read = |value: &Value| match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_string()),
        _ => Err(wrong("stop", value, "strings that are not empty")),
    };
    texts.iter().map(read).collect()
}

/// What vLLM, SGLang and llama.cpp pass to the template.
const KWARGS: &str = "chat_template_kwargs";
/// SmolLM3's own lists of tools, for its two formats of calls.
const TOOL_VARIABLES: [&str; 2] = ["xml_tools", "python_tools"];

/// OpenAI's `reasoning_effort`, or the template's own switch.
fn read_thinking(given: &Given) -> Result<Option<bool>, ApiError> {
    if let Some(effort) = text(given, "reasoning_effort")? {
        return Ok(Some(effort != "none"));
    }
    let Some(Value::Object(variables)) = present(given, KWARGS) else { return Ok(None) };
    flag(variables, "enable_thinking").map_err(|error| error.with_param(KWARGS))
}

/// All but the switch for thinking. A variable that the template does not read changes nothing, as
/// elsewhere.
fn read_variables(given: &Given) -> Result<Given, ApiError> {
    let mut variables = match present(given, KWARGS) {
        None => return Ok(Map::new()),
        Some(Value::Object(variables)) => variables.clone(),
        Some(value) => return Err(wrong(KWARGS, value, "an object")),
    };
    variables.remove("enable_thinking");
    for name in TOOL_VARIABLES {
        // none is how a caller says that there are none
        if variables
            .get(name)
            .is_some_and(|tools| tools.is_null() || *tools == Value::Array(vec![]))
        {
            variables.remove(name);
        }
    }
    check_variables(&variables).map_err(|error| ApiError::from(error).with_param(KWARGS))?;
    Ok(variables)
}

/// vLLM's two switches for where a prompt ends. Together they contradict each other, and a prompt that
/// ends behind the last message asks for no reply.
fn read_continuation(given: &Given) -> Result<bool, ApiError> {
    let is_continued = flag(given, "continue_final_message")?.unwrap_or(false);
    match flag(given, "add_generation_prompt")? {
        Some(true) if is_continued => {
            let message = "`continue_final_message` and `add_generation_prompt` are both true: a reply \
                           either goes on in the last message or begins another one";
            Err(ApiError::parameter("continue_final_message", message))
        }
        Some(false) if !is_continued => {
            let message = "`add_generation_prompt` is false, so no reply would begin; set \
                           `continue_final_message` to go on with the last message";
            Err(ApiError::unsupported("add_generation_prompt", message))
        }
        _ => Ok(is_continued),
    }
}

fn read_format(given: &Given) -> Result<Option<Constraint>, ApiError> {
    let name = "response_format";
    let Some(format) = present(given, name) else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Constraint::JsonObject)),
        Some("json_schema") => {
            match format.get("json_schema").map(|described| described.get("schema")) {
                Some(Some(schema @ (Value::Object(_) | Value::Bool(_)))) => {
                    Ok(Some(Constraint::JsonSchema(schema.clone())))
                }
                // OpenAI's schema may be left out: any object
                Some(None | Some(Value::Null)) => Ok(Some(Constraint::JsonObject)),
                _ => Err(wrong(name, format, "`json_schema` with a `schema`")),
            }
        }
        _ => Err(wrong(name, format, "the type text, json_object or json_schema")),
    }
}

// ---- tools -----------------------------------------------------------------------------------------

/// Most calls that a reply is made to have at once.
const MAX_CALLS: usize = 16;

/// Which calls a request allows.
struct Tools {
    /// What the model is told of, in OpenAI's wrapping.
    described: Vec<Value>,
    /// Set if the reply must be calls.
    forced: Option<Constraint>,
    /// The reply ends with so many.
    max_calls: Option<usize>,
}

fn read_tool_use(given: &Given) -> Result<Tools, ApiError> {
    let described = read_tools(present(given, "tools"))?;
    let is_parallel = flag(given, "parallel_tool_calls")?.unwrap_or(true);
    let max_calls = (!is_parallel).then_some(1);
    let most = max_calls.unwrap_or(MAX_CALLS);
    let choice = present(given, "tool_choice");
    let forced = match choice.map(|choice| (choice, choice.as_str())) {
        None | Some((_, Some("auto"))) => None,
        Some((_, Some("none"))) => {
            return Ok(Tools { described: Vec::new(), forced: None, max_calls: None });
        }
        Some((_, Some("required"))) if described.is_empty() => {
            let message = "a call is required, and there are no `tools` to call";
            return Err(ApiError::parameter("tool_choice", message));
        }
        Some((_, Some("required"))) => {
            Some(Constraint::ToolCalls { tools: described.clone(), most })
        }
        Some((choice, _)) => {
            let name = choice.get("function").and_then(|function| function.get("name"));
            let name = name.and_then(Value::as_str).filter(|_| choice["type"] == "function");
            let Some(name) = name else {
                return Err(wrong("tool_choice", choice, "none, auto, required or a function"));
            };
            let named = described.iter().find(|tool| tool["function"]["name"] == name);
            let Some(named) = named else {
                let message = format!("there is no function {name:?} among the `tools`");
                return Err(ApiError::parameter("tool_choice", message));
            };
            let constraint = Constraint::ToolCalls { tools: vec![named.clone()], most: 1 };
            return Ok(Tools { described, forced: Some(constraint), max_calls: Some(1) });
        }
    };
    Ok(Tools { described, forced, max_calls })
}

fn read_tools(tools: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    let Some(tools) = tools else { return Ok(Vec::new()) };
    let Some(tools) = tools.as_array() else { return Err(wrong("tools", tools, "an array")) };
    let read = |(index, tool): (usize, &Value)| {
        let at = format!("tools[{index}]");
        let function = tool.get("function").and_then(Value::as_object);
        let name = function.and_then(|function| function.get("name")).and_then(Value::as_str);
        match tool.get("type").and_then(Value::as_str) {
            Some("function") if name.is_some_and(|name| !name.is_empty()) => Ok(tool.clone()),
            Some("function") => {
                Err(ApiError::parameter(&at, format!("{at} has no function's name")))
            }
            _ => Err(ApiError::unsupported(&at, format!("{at} is not of the type `function`"))),
        }
    };
    tools.iter().enumerate().map(read).collect()
}
