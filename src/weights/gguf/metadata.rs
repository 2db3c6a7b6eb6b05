//! The typed values in front of a GGUF file's tensors. Owns their encoding and its limits, and
//! errors that name the key.

use super::cursor::Cursor;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Most keys of a file. Real ones have some dozens.
const MAX_KEYS: u64 = 1 << 14;
/// Longest key, the format's own limit.
const MAX_KEY_BYTES: u64 = 65535;
/// Longest text. Chat templates have some ten kilobytes.
const MAX_TEXT_BYTES: u64 = 8 << 20;
/// Most list elements of a file, all lists together.
const MAX_ELEMENTS: u64 = 1 << 23;
/// Deepest list in lists.
const MAX_DEPTH: u32 = 4;

/// One value; numbers of all widths are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(List),
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum List {
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Texts),
    /// Lists, booleans and 64-bit numbers, which no key has that plays a role here: their count.
    Other(u64),
}

/// Many texts in one allocation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Texts {
    bytes: String,
    /// Where each ends in `bytes`.
    ends: Vec<u32>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text at `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[start..end])
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        // A header, and so the sum of its texts, is far smaller than 4 GiB.
        self.ends.push(self.bytes.len() as u32);
    }
}

/// All keys of a file with their values.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    label: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` keys and values.
    pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Metadata> {
        // The shortest entry: a key of one byte, its length and type, and a value of one byte.
        if count > MAX_KEYS || count > cursor.remaining() / 14 {
            return Err(cursor.bad(format!("{count} metadata keys are too many")));
        }
        let mut values = BTreeMap::new();
        let mut n_elements = 0;
        for _ in 0..count {
            let key = cursor.text(MAX_KEY_BYTES, "a key")?.to_string();
            let kind = cursor.u32()?;
            let value = read_value(cursor, kind, &mut n_elements)?;
            if values.contains_key(&key) {
                return Err(cursor.bad(format!("the key {key:?} is there twice")));
            }
            values.insert(key, value);
        }
        Ok(Metadata { label: cursor.label().into(), values })
    }

    /// What to call the file in errors.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Config`] for a value of another type, here and in the following functions.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number that is not negative.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a count", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// Any finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            Value::Float(x) if x.is_finite() => Some(*x),
            _ => None,
        })
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<&Texts>> {
        self.typed(key, "a list of texts", |value| match value {
            Value::List(List::Texts(texts)) => Some(texts),
            _ => None,
        })
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        self.typed(key, "a list of whole numbers", |value| match value {
            Value::List(List::Integers(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// An [`Error::Config`] that names this file and `key`.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.label.clone(), key: key.into(), reason: reason.into() }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let reason = || format!("expected {expected}, found {}", kind_of(value));
        get(value).map(Some).ok_or_else(|| self.error(key, reason()))
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(_) => "a text".into(),
        Value::List(List::Integers(list)) => format!("{} whole numbers", list.len()),
        Value::List(List::Floats(list)) => format!("{} numbers", list.len()),
        Value::List(List::Texts(list)) => format!("{} texts", list.len()),
        Value::List(List::Other(n)) => format!("a list of {n} others"),
    }
}

/// Bytes of a number or truth value of a type, 0 for texts and lists, `None` for no type.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        8 | 9 => Some(0),
        _ => None,
    }
}

fn read_value(cursor: &mut Cursor, kind: u32, n_elements: &mut u64) -> Result<Value> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(u8::from_le_bytes(cursor.array()?))),
        1 => Value::Signed(i64::from(i8::from_le_bytes(cursor.array()?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array()?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(cursor.array()?))),
        4 => Value::Unsigned(u64::from(cursor.u32()?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(cursor.array()?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
        7 => match u8::from_le_bytes(cursor.array()?) {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(cursor.bad(format!("a truth value is {other}"))),
        },
        8 => Value::Text(cursor.text(MAX_TEXT_BYTES, "a text")?.into()),
        9 => Value::List(read_list(cursor, n_elements, 1)?),
        10 => Value::Unsigned(cursor.u64()?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        other => return Err(cursor.bad(format!("{other} is not the type of a value"))),
    })
}

fn read_list(cursor: &mut Cursor, n_elements: &mut u64, depth: u32) -> Result<List> {
    let (kind, count) = (cursor.u32()?, cursor.u64()?);
    let Some(width) = width(kind) else {
        return Err(cursor.bad(format!("{kind} is not the type of a value")));
    };
    let smallest = match kind {
        8 => 8,
        9 => 12,
        _ => width,
    };
    *n_elements = n_elements.saturating_add(count);
    // What follows is no larger than the file, so nothing is reserved that was not paid for.
    if *n_elements > MAX_ELEMENTS || count > cursor.remaining() / smallest {
        return Err(cursor.bad(format!("a list of {count} is too long")));
    }
    let n = count as usize;
    let mut integers = |take: fn(&[u8]) -> i64| {
        let bytes = cursor.take(count * width)?;
        Ok(List::Integers(bytes.chunks_exact(width as usize).map(take).collect()))
    };
    match kind {
        0 => integers(|b| i64::from(b[0])),
        1 => integers(|b| i64::from(b[0] as i8)),
        2 => integers(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))),
        3 => integers(|b| i64::from(i16::from_le_bytes([b[0], b[1]]))),
        4 => integers(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        5 => integers(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        6 => {
            let bytes = cursor.take(count * width)?.chunks_exact(4);
            Ok(List::Floats(bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
        }
        8 => {
            let mut texts = Texts { bytes: String::new(), ends: Vec::with_capacity(n) };
            for _ in 0..n {
                texts.push(cursor.text(MAX_TEXT_BYTES, "a text in a list")?);
            }
            Ok(List::Texts(texts))
        }
        9 if depth == MAX_DEPTH => {
            Err(cursor.bad(format!("lists are more than {MAX_DEPTH} deep in each other")))
        }
        9 => {
            for _ in 0..n {
                read_list(cursor, n_elements, depth + 1)?;
            }
            Ok(List::Other(count))
        }
        _ => {
            cursor.take(count * width)?;
            Ok(List::Other(count))
        }
    }
}
