//! Data files as benchmarks publish them: one JSON array, or a JSON object a line. Owns reading them and
//! saying where something is wrong; what the objects mean is each benchmark's.

use crate::error::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Largest data file, in bytes. The largest published one has about 100 MB.
pub const MAX_DATA_BYTES: u64 = 2 << 30;

/// An object of a data file, or a value in it, with where it stands.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    pub value: &'a Value,
    file: &'a DataFile,
    /// Such as `record 3, qa 5`.
    place: String,
}

/// A data file's objects.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    name: String,
    /// What the file should be, for errors.
    format: &'static str,
    /// Each with its place.
    records: Vec<(String, Value)>,
    /// SHA-256 of the bytes, hexadecimal.
    pub digest: String,
}

impl DataFile {
    /// Reads a file of `format`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] with the place of what is no JSON object, or for an empty or
    /// oversized file.
    pub fn read(path: &Path, format: &'static str) -> Result<DataFile> {
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > MAX_DATA_BYTES {
            let reason = format!("{size} bytes, at most {MAX_DATA_BYTES} are read");
            return Err(Error::format(path.display().to_string(), format, reason));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        DataFile::parse(&bytes, path.display().to_string(), format)
    }

    /// As [`DataFile::read`], from bytes; `name` names them in errors.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn parse(bytes: &[u8], name: String, format: &'static str) -> Result<DataFile> {
        let records = parse(bytes).map_err(|reason| Error::format(&name, format, reason))?;
        Ok(DataFile { name, format, records, digest: digest(bytes) })
    }

    /// The objects in order.
    pub fn records(&self) -> impl Iterator<Item = Place<'_>> {
        let place = |(place, value)| Place { value, file: self, place: String::clone(place) };
        self.records.iter().map(|(place, value)| (place, value)).map(place)
    }

    /// An error about the file as a whole.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::format(&self.name, self.format, reason)
    }
}

/// SHA-256, 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| format!("byte {} is not UTF-8", e.valid_up_to()))?;
    let text = text.trim_start_matches('\u{feff}');
    let records: Vec<(String, Value)> = if text.trim_start().starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let name = |(index, value)| (format!("record {}", index + 1), value);
        values.into_iter().enumerate().map(name).collect()
    } else if let Ok(value @ Value::Object(_)) = serde_json::from_str(text) {
        vec![("record 1".into(), value)]
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let read = |(index, line): (usize, &str)| {
            let place = format!("line {}", index + 1);
            match serde_json::from_str(line) {
                Ok(value) => Ok((place, value)),
                // serde counts lines from the one that it was given
                Err(e) => Err(format!("{place}, column {}: not JSON", e.column())),
            }
        };
        lines.map(read).collect::<Result<_, String>>()?
    };
    match records.iter().find(|(_, value)| !value.is_object()) {
        Some((place, _)) => Err(format!("{place} is not an object")),
        None if records.is_empty() => Err("there is nothing in it".into()),
        None => Ok(records),
    }
}

impl<'a> Place<'a> {
    /// An error about this value.
    pub fn error(&self, reason: impl AsRef<str>) -> Error {
        self.file.error(format!("{}: {}", self.place, reason.as_ref()))
    }

    /// The value of a key, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<Place<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Place { value, file: self.file, place: format!("{}, `{key}`", self.place) })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing.
    pub fn require(&self, key: &str) -> Result<Place<'a>> {
        self.get(key).ok_or_else(|| self.error(format!("`{key}` is missing")))
    }

    /// The elements of an array.
    ///
    /// # Errors
    /// [`Error::Format`] if it is none.
    pub fn elements(&self) -> Result<Vec<Place<'a>>> {
        let values = self.value.as_array().ok_or_else(|| self.error("not an array"))?;
        let element = |(index, value)| Place {
            value,
            file: self.file,
            place: format!("{} {}", self.place, index + 1),
        };
        Ok(values.iter().enumerate().map(element).collect())
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Format`] if it is none.
    pub fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.error("not a text"))
    }

    /// A text, or a number or truth value as Python writes it: answers can be years.
    ///
    /// # Errors
    /// [`Error::Format`] for anything else.
    pub fn as_text(&self) -> Result<String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(is_true) => Ok(if *is_true { "True" } else { "False" }.into()),
            _ => Err(self.error("neither a text nor a number")),
        }
    }

    /// The text of a key.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing or no text.
    pub fn require_text(&self, key: &str) -> Result<&'a str> {
        self.require(key)?.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        DataFile::parse(bytes, "x.json".into(), "test").unwrap_err().to_string()
    }

    #[test]
    fn arrays_lines_and_single_objects_are_read() {
        for bytes in ["[{\"a\": 1}, {\"a\": 2}]", "{\"a\": 1}\n\n{\"a\": 2}\n"] {
            let file = DataFile::parse(bytes.as_bytes(), "x".into(), "test").unwrap();
            let found: Vec<i64> = file.records().map(|r| r.value["a"].as_i64().unwrap()).collect();
            assert_eq!(found, [1, 2]);
            assert_eq!(file.digest.len(), 64);
        }
        let file = DataFile::parse(b"{\n\"a\": 1\n}", "x".into(), "test").unwrap();
        assert_eq!(file.records().count(), 1);
    }

    #[test]
    fn errors_name_file_and_place() {
        assert!(error(b"").contains("x.json: not a valid test: there is nothing in it"));
        assert!(error(b"[{\"a\": 1},\n {\"a\": }]").contains("line 2 column 8"));
        assert!(error(b"{\"a\": 1}\n{\"a\": }").contains("line 2, column 7"));
        assert!(error(b"[{}, 3]").contains("record 2 is not an object"));
        assert!(error(b"\xff").contains("byte 0 is not UTF-8"));
        let bytes = b"[{\"qa\": [{\"question\": 7}]}]";
        let file = DataFile::parse(bytes, "x.json".into(), "test").unwrap();
        let record = file.records().next().unwrap();
        let qa = &record.require("qa").unwrap().elements().unwrap()[0];
        let error = qa.require_text("question").unwrap_err().to_string();
        assert!(error.contains("record 1, `qa` 1, `question`: not a text"), "{error}");
        let error = qa.require("category").unwrap_err().to_string();
        assert!(error.contains("record 1, `qa` 1: `category` is missing"), "{error}");
        assert_eq!(qa.require("question").unwrap().as_text().unwrap(), "7");
        assert!(record.require("qa").unwrap().as_text().is_err());
        assert!(qa.elements().is_err());
    }
}
