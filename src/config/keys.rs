//! Typed look-ups in a JSON configuration, with errors that name file and key.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// `null`, one id or a list of ids; `None` for anything else.
pub(crate) fn token_ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    }
}

/// A JSON object with the file it came from, for typed look-ups with named errors.
pub(crate) struct Keys<'a> {
    pub(crate) map: Map<String, Value>,
    file: &'a str,
}

impl<'a> Keys<'a> {
    /// Parses a JSON object of at most `max_bytes`.
    pub(crate) fn parse(bytes: &[u8], file: &'a str, max_bytes: usize) -> Result<Keys<'a>> {
        if bytes.len() > max_bytes {
            return Err(Error::format(
                file,
                "configuration",
                format!("{} bytes; at most {max_bytes} are accepted", bytes.len()),
            ));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Keys { map, file }),
            Ok(_) => Err(Error::format(file, "configuration", "expected a JSON object")),
            Err(e) => Err(Error::format(file, "configuration", e.to_string())),
        }
    }

    /// The value of a key; `null` counts as absent, as in the reference.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.into(), key: key.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(&self, key: &str, reason: &str) -> Error {
        let found = self.get(key).map(Value::to_string).unwrap_or_default();
        Error::Unsupported {
            what: format!("{}: `{key}` = {found}", self.file),
            reason: reason.into(),
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.error(key, format!("expected true or false, found {v}"))),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.trim().to_lowercase())),
            Some(v) => Err(self.error(key, format!("expected a string, found {v}"))),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64> {
        self.get(key)
            .and_then(Value::as_f64)
            .filter(|x| x.is_finite() && (*x as f32).is_finite())
            .ok_or_else(|| self.error(key, "expected a finite number"))
    }

    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |_| self.number(key))
    }

    /// An integer in 1..=max.
    pub(crate) fn size(&self, key: &str, max: usize) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.error(key, "missing"))?;
        match value.as_u64() {
            Some(n) if n >= 1 && n <= max as u64 => Ok(n as usize),
            _ => {
                Err(self.error(key, format!("expected an integer from 1 to {max}, found {value}")))
            }
        }
    }

    pub(crate) fn size_or(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |_| self.size(key, max))
    }

    /// One of several strings; the first is the default.
    pub(crate) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let Some(found) = self.string(key)? else {
            return Ok(choices[0].1);
        };
        match choices.iter().find(|(name, _)| *name == found) {
            Some((_, value)) => Ok(*value),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.error(key, format!("expected one of {names:?}, found {found:?}")))
            }
        }
    }

    /// A list of strings or one comma-separated string; trimmed, lower-cased, empty parts dropped.
    pub(crate) fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let parts: Vec<String> = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(s)) => s.split(',').map(str::to_string).collect(),
            Some(Value::Array(a)) if a.iter().all(Value::is_string) => {
                a.iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
            }
            Some(v) => {
                return Err(self.error(key, format!("expected a list of strings, found {v}")));
            }
        };
        let parts = parts.iter().map(|s| s.trim().to_lowercase());
        Ok(Some(parts.filter(|s| !s.is_empty()).collect()))
    }
}
