//! Values as Python writes them. Owns `str` and `repr` of what a template puts into its text: templates
//! are written for Jinja in Python, and some (SmolLM3's, for its tools) show whole objects that way.

use super::bounds::{Bounded, MAX_NESTING, too_large};
use minijinja::Error;
use minijinja::value::{Value, ValueKind};
use std::fmt::{self, Write};

/// `str(value)`.
///
/// # Errors
/// For a text over the bound of a rendering, and for values nested too deeply.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    let mut out = Bounded::default();
    write_str(&mut out, value).map_err(|_| too_large())?;
    Ok(out.into_text())
}

/// `repr(value)`, as arguments of a call in Python have it.
///
/// # Errors
/// As [`str_of`].
pub(super) fn repr_of(value: &Value) -> Result<String, Error> {
    let mut out = Bounded::default();
    write_repr(&mut out, value, 0).map_err(|_| too_large())?;
    Ok(out.into_text())
}

/// Writes `str(value)`.
pub(super) fn write_str(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => Ok(()),
        _ => write_repr(out, value, 0),
    }
}

fn write_repr(out: &mut impl Write, value: &Value, depth: usize) -> fmt::Result {
    if depth > MAX_NESTING {
        return Err(fmt::Error);
    }
    match value.kind() {
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => out.write_str("Undefined"),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => write_float(out, number),
            Err(_) => write!(out, "{value}"),
        },
        // Objects may look like lists and print as they like; those have no length that is known.
        ValueKind::Seq => {
            out.write_char('[')?;
            for (index, item) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                write_repr(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                write_repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                write_repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// In single quotes, unless there are single ones and no double ones in the text.
fn write_quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for letter in text.chars() {
        match letter {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if is_printable(c) => out.write_char(c)?,
            c => match u32::from(c) {
                code @ ..=0xff => write!(out, "\\x{code:02x}")?,
                code @ ..=0xffff => write!(out, "\\u{code:04x}")?,
                code => write!(out, "\\U{code:08x}")?,
            },
        }
    }
    out.write_char(quote)
}

/// As `str.isprintable`: no control or format characters, no separators but the space, nothing private
/// or unassigned. Rust escapes just these, and at the beginning of a text those that extend others too.
fn is_printable(letter: char) -> bool {
    match letter {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => {
            let text = String::from_iter(['a', c]);
            text.escape_debug().nth(1) == Some(c)
        }
    }
}

/// The shortest digits that give the number again, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn write_float(out: &mut impl Write, number: f64) -> fmt::Result {
    if number.is_nan() {
        return out.write_str("nan");
    }
    if number.is_infinite() {
        return out.write_str(if number > 0.0 { "inf" } else { "-inf" });
    }
    let shortest = format!("{number:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..=15 if exponent >= 0 || number != 0.0 => {
            let plain = number.to_string();
            out.write_str(&plain)?;
            out.write_str(if plain.contains('.') { "" } else { ".0" })
        }
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repr(value: serde_json::Value) -> String {
        repr_of(&super::super::json_value(&value)).unwrap()
    }

    /// The expected texts were printed by Python 3.11.
    #[test]
    fn values_are_written_as_python_writes_them() {
        use serde_json::json;
        assert_eq!(
            repr(json!({ "b": [1, -2.5, true, null, "x"], "a": {} , "": [] })),
            "{'b': [1, -2.5, True, None, 'x'], 'a': {}, '': []}"
        );
        for (text, expected) in [
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("\"", "'\"'"),
            ("a\\b\n\r\t\u{0}\u{1b}\u{7f}", "'a\\\\b\\n\\r\\t\\x00\\x1b\\x7f'"),
            ("é日本🦊e\u{301}", "'é日本🦊e\u{301}'"),
            ("\u{301}", "'\u{301}'"),
            ("\u{85}\u{a0}\u{ad}", "'\\x85\\xa0\\xad'"),
            ("\u{200b}\u{2028}\u{3000}\u{feff}\u{e000}", "'\\u200b\\u2028\\u3000\\ufeff\\ue000'"),
            ("\u{e0001}\u{f0000}", "'\\U000e0001\\U000f0000'"),
        ] {
            assert_eq!(repr(json!(text)), expected);
        }
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e22, "-1.25e+22"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(repr(json!(number)), expected);
        }
        assert_eq!(repr(json!(u64::MAX)), "18446744073709551615");
        assert_eq!(repr(json!(i64::MIN)), "-9223372036854775808");
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        assert!(repr_of(&super::super::json_value(&deep)).is_err());
    }
}
