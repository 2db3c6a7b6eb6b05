//! Errors as OpenAI's clients read them. Owns the status that each error of the library gets.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use deltamem::Error;
use serde_json::{Value, json};

/// `{"error": {"message", "type", "param", "code"}}` with a status.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The parameter or header that is wrong.
    param: Option<String>,
    retry_after_s: Option<u32>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), param: None, retry_after_s: None }
    }

    /// A request that cannot be answered as it is.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A bad request because of one parameter.
    pub fn parameter(name: &str, message: impl Into<String>) -> ApiError {
        ApiError::bad_request("invalid_value", message).with_param(name)
    }

    /// A parameter that is understood and cannot be honoured.
    pub fn unsupported(name: &str, message: impl Into<String>) -> ApiError {
        ApiError::bad_request("unsupported", message).with_param(name)
    }

    pub fn not_found(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn forbidden(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, code, message)
    }

    /// More requests wait than are kept.
    pub fn queue_full() -> ApiError {
        let message = "too many requests are waiting for the model; try again in a moment";
        ApiError {
            retry_after_s: Some(2),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", message)
        }
    }

    pub fn shutting_down() -> ApiError {
        let message = "the server is shutting down; nothing was written into the memory";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message)
    }

    pub fn with_param(self, name: &str) -> ApiError {
        ApiError { param: Some(name.into()), ..self }
    }

    pub fn to_json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let status = match &error {
            Error::Setting { .. }
            | Error::Messages { .. }
            | Error::Template { .. }
            | Error::Constraint { .. }
            | Error::ContextFull { .. }
            | Error::Unsupported { .. } => StatusCode::BAD_REQUEST,
            Error::Locked { .. } | Error::MemoryMismatch { .. } => StatusCode::CONFLICT,
            Error::Cancelled | Error::DeviceLost { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let code = match &error {
            // what OpenAI's clients look for
            Error::ContextFull { .. } => "context_length_exceeded",
            error => error.code(),
        };
        let param = match &error {
            Error::Setting { name: "profile", .. } => Some(super::PROFILE_HEADER),
            Error::Setting { name, .. } => Some(*name),
            Error::Messages { .. } | Error::ContextFull { .. } => Some("messages"),
            _ => None,
        };
        let is_busy = matches!(error, Error::Locked { .. });
        ApiError {
            param: param.map(String::from),
            retry_after_s: is_busy.then_some(2),
            ..ApiError::new(status, code, error.to_string())
        }
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> ApiError {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                ApiError::new(status, "internal", format!("{error:#}"))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openais_shape_and_a_fitting_status() {
        let full = ApiError::from(Error::ContextFull { needed: 9, window: 8 });
        assert_eq!(full.status, StatusCode::BAD_REQUEST);
        let json = full.to_json();
        assert_eq!(json["error"]["code"], "context_length_exceeded");
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert_eq!(json["error"]["param"], "messages");
        let gone = ApiError::from(Error::DeviceLost { reason: "x".into() });
        assert_eq!(gone.to_json()["error"]["type"], "server_error");
        let wrapped = anyhow::Error::from(Error::Setting { name: "profile", reason: "x".into() });
        let wrapped = ApiError::from(wrapped.context("opening"));
        assert_eq!(wrapped.param.as_deref(), Some("X-Memory-Profile"));
        let response = ApiError::queue_full().into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
