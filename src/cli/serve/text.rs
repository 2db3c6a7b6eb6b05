//! Plain texts: OpenAI's older completions, and texts as tokens and back in the shapes of vLLM and of
//! llama.cpp. Owns what of such requests is read and refused, and their routes.

use super::api_error::ApiError;
use super::host::{Job, TextJob};
use super::http::{MAX_REQUEST_BYTES, Shared, body, profile, respond};
use super::reply::Head;
use super::request::{
    Given, PASSED_OVER, Settings, flag, present, read_has_usage, read_object, read_settings, text,
    wrong,
};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

/// OpenAI's length of a completion where none is asked for.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A text that is to go on, and how.
#[derive(Debug, Clone)]
pub struct TextRequest {
    pub model: Option<String>,
    pub prompt: String,
    pub settings: Settings,
    /// The prompt is told again in front of what follows.
    pub has_echo: bool,
    pub is_streamed: bool,
    pub has_usage: bool,
}

/// Reads the body of a request.
///
/// # Errors
/// 400 with the parameter that is wrong or cannot be honoured.
pub fn read_text_request(body: &[u8]) -> Result<TextRequest, ApiError> {
    let given = read_object(body)?;
    for (name, value) in &given {
        if !is_honoured(name, value) {
            let message = format!("`{name}` cannot be honoured by this server; leave it out");
            return Err(ApiError::unsupported(name, message));
        }
    }
    Ok(TextRequest {
        model: text(&given, "model")?,
        prompt: read_prompt(present(&given, "prompt"))?,
        settings: read_settings(&given)?.or_max_tokens(DEFAULT_MAX_TOKENS),
        has_echo: flag(&given, "echo")?.unwrap_or(false),
        is_streamed: flag(&given, "stream")?.unwrap_or(false),
        has_usage: read_has_usage(&given),
    })
}

fn is_honoured(name: &str, value: &Value) -> bool {
    match name {
        _ if value.is_null() || PASSED_OVER.contains(&name) => true,
        "prompt" | "model" | "stream" | "stream_options" | "temperature" | "top_p" | "top_k"
        | "min_p" | "repetition_penalty" | "seed" | "max_tokens" | "stop" | "echo" => true,
        "n" | "best_of" => value.as_u64() == Some(1),
        "frequency_penalty" | "presence_penalty" => value.as_f64() == Some(0.0),
        "logit_bias" => value.as_object().is_some_and(Given::is_empty),
        "suffix" => value == "",
        _ => false,
    }
}

/// One text; a list may hold it.
fn read_prompt(prompt: Option<&Value>) -> Result<String, ApiError> {
    let Some(prompt) = prompt else {
        return Err(ApiError::parameter("prompt", "the body has no text `prompt`"));
    };
    let one = match prompt {
        Value::Array(list) if list.len() == 1 => &list[0],
        other => other,
    };
    match one {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::String(_) => Err(ApiError::parameter("prompt", "`prompt` is empty")),
        Value::Array(list) if list.iter().all(Value::is_string) && list.len() > 1 => {
            let message =
                format!("`prompt` has {} texts; one is gone on with at a time", list.len());
            Err(ApiError::unsupported("prompt", message))
        }
        _ => Err(wrong("prompt", prompt, "a text")),
    }
}

// ---- routes ----------------------------------------------------------------------------------------

/// `POST /v1/completions`: what follows the text, without a chat template. The memory is only read.
pub async fn completions(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let profile = profile(request.headers())?;
    let request = read_text_request(&body(request, "application/json", MAX_REQUEST_BYTES).await?)?;
    if let Some(name) = &request.model {
        shared.app.check_model(name)?;
    }
    let echo = if request.has_echo { request.prompt.clone() } else { String::new() };
    let head = Head::of_text(shared.app.model(), echo);
    let (is_streamed, has_usage) = (request.is_streamed, request.has_usage);
    let job = |sink| Job::Text(Box::new(TextJob { request, profile, sink }));
    respond(&shared, head, is_streamed, has_usage, job).await
}

/// `POST /tokenize`: the tokens of `prompt` (vLLM) or `content` (llama.cpp).
pub async fn tokenize(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let given = read_object(&body(request, "application/json", MAX_REQUEST_BYTES).await?)?;
    let name = if given.contains_key("content") { "content" } else { "prompt" };
    for (other, value) in &given {
        let is_known = matches!(other.as_str(), "model" | "prompt" | "content");
        // nothing is ever added around a text here
        let is_fine = other == "add_special" && *value == Value::Bool(false);
        let is_default = matches!(other.as_str(), "add_special_tokens" | "parse_special");
        if !(is_known || is_fine || is_default || value.is_null()) {
            let message = format!("`{other}` cannot be honoured by this server; leave it out");
            return Err(ApiError::unsupported(other, message));
        }
    }
    let Some(text) = text(&given, name)? else {
        return Err(ApiError::parameter(name, "the body has no text `prompt` or `content`"));
    };
    let tokens = shared.ask(|answer| Job::Tokenize { text, answer }).await?;
    Ok(Json(json!({
        "tokens": tokens,
        "count": tokens.len(),
        "max_model_len": shared.app.context_window(),
    })))
}

/// `POST /detokenize`: the text of `tokens`, under the names of vLLM and llama.cpp.
pub async fn detokenize(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let given = read_object(&body(request, "application/json", MAX_REQUEST_BYTES).await?)?;
    let name = "tokens";
    let Some(Value::Array(list)) = present(&given, name) else {
        return Err(ApiError::parameter(name, "the body has no list `tokens`"));
    };
    let read = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(name, value, "numbers of tokens"))
    };
    let tokens = list.iter().map(read).collect::<Result<Vec<u32>, ApiError>>()?;
    let text = shared.ask(|answer| Job::Detokenize { tokens, answer }).await?;
    Ok(Json(json!({ "prompt": text, "content": text })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<TextRequest, (String, String)> {
        read_text_request(body.to_string().as_bytes()).map_err(|error| {
            let json = error.to_json();
            let field = |name: &str| json["error"][name].as_str().unwrap_or("").to_string();
            (field("code"), field("param"))
        })
    }

    #[test]
    fn a_text_and_its_settings_are_read_and_the_rest_is_refused_by_name() {
        let request = read(json!({
            "model": "nano", "prompt": ["Once "], "max_tokens": 4, "echo": true, "stream": true,
            "stream_options": { "include_usage": true }, "n": 1, "best_of": 1, "suffix": null,
            "logprobs": null, "user": "x", "stop": ["."], "presence_penalty": 0,
        }));
        let request = request.unwrap();
        assert_eq!((request.prompt.as_str(), request.model.as_deref()), ("Once ", Some("nano")));
        assert!(request.has_echo && request.is_streamed && request.has_usage);
        let length = |body| read(body).unwrap().settings.max_tokens();
        assert_eq!(length(json!({ "prompt": "a" })), Some(DEFAULT_MAX_TOKENS));
        assert_eq!(length(json!({ "prompt": "a", "max_tokens": 4 })), Some(4));
        for (name, value, code) in [
            ("n", json!(2), "unsupported"),
            ("logprobs", json!(0), "unsupported"),
            ("suffix", json!("."), "unsupported"),
            ("messages", json!([]), "unsupported"),
            ("response_format", json!({ "type": "json_object" }), "unsupported"),
            ("max_tokens", json!(0), "invalid_value"),
            ("echo", json!("yes"), "invalid_value"),
            ("prompt", json!(""), "invalid_value"),
            ("prompt", json!([]), "invalid_value"),
            ("prompt", json!([1, 2]), "invalid_value"),
            ("prompt", json!(["a", "b"]), "unsupported"),
            ("prompt", Value::Null, "invalid_value"),
        ] {
            let mut body = json!({ "prompt": "a" });
            body[name] = value;
            assert_eq!(read(body.clone()).unwrap_err(), (code.into(), name.into()), "{body}");
        }
    }
}
