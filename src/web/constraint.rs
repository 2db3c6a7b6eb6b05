//! What a reply must match, as a page says it. Owns its JSON.

use crate::constraint::Constraint;
use serde::Deserialize;
use serde_json::Value;

/// As `Constraint` in `web/lib/wasm.ts`.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum WebConstraint {
    JsonSchema { schema: Value },
    JsonObject,
    Regex { pattern: String },
    ToolCalls { tools: Vec<Value>, most: usize },
}

impl From<WebConstraint> for Constraint {
    fn from(constraint: WebConstraint) -> Constraint {
        match constraint {
            WebConstraint::JsonSchema { schema } => Constraint::JsonSchema(schema),
            WebConstraint::JsonObject => Constraint::JsonObject,
            WebConstraint::Regex { pattern } => Constraint::Regex(pattern),
            WebConstraint::ToolCalls { tools, most } => Constraint::ToolCalls { tools, most },
        }
    }
}
