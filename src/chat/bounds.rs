//! Keeps a hostile template from eating memory. Owns what minijinja does not bound: its fuel
//! counts instructions, but twenty-seven doublings `s = s ~ s` make a gigabyte.
//!
//! The compiled program is rewritten: each instruction that makes a string or a list is followed
//! by a check of the result, and literal text is emitted through the checked formatter. That needs
//! minijinja's `unstable_machinery`, so Cargo.toml pins its exact version.

use super::MAX_RENDERED_BYTES;
use super::python::{str_of, write_str};
use minijinja::machinery::{Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What all values made during one rendering may weigh, in bytes.
const MAX_TOTAL_BYTES: usize = 1 << 30;
/// What may be written, also into variables (`{% set x %}…{% endset %}`) and by macros.
const MAX_WRITTEN_BYTES: usize = 4 * MAX_RENDERED_BYTES;
/// Weight of a list entry beside its content.
const ENTRY_BYTES: usize = 16;
pub(super) const MAX_NESTING: usize = 64;
/// Products of literals are computed while compiling, each up to 100 MB.
const MAX_PRODUCTS: usize = 4;
/// Longest number in a format string; a width makes that many characters.
const MAX_FORMAT_DIGITS: usize = 3;
/// The filter that checks; no name that a template can write.
const CHECK: &str = "\u{0}check";
/// The filter in the place of `~`, which joins texts as Python writes the values.
const CONCAT: &str = "\u{0}concat";

pub(super) fn too_large() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("a value is larger than {MAX_RENDERED_BYTES} bytes, or nested too deeply"),
    )
}

/// Refuses a source that compiles into something large.
pub(super) fn check_source(source: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    let mut products = 0;
    for token in tokenize(source, false, syntax) {
        if matches!(token?.0, Token::Mul) {
            products += 1;
        }
    }
    match products <= MAX_PRODUCTS {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("more than {MAX_PRODUCTS} products"),
        )),
    }
}

/// The same program with checks.
pub(super) fn with_checks<'a>(program: &Instructions<'a>) -> Result<Instructions<'a>, Error> {
    use Instruction as I;
    let grows = |instruction: &I<'_>| {
        matches!(
            instruction,
            I::Add
                | I::Mul
                | I::StringConcat
                | I::BuildMap(_)
                | I::BuildList(_)
                | I::BuildTuple(_)
                | I::Slice
                | I::EndCapture
                | I::ApplyFilter(..)
                | I::CallFunction(..)
                | I::CallMethod(..)
                | I::CallObject(_)
        )
    };
    // Where each instruction goes, and the end, which is a jump target too.
    let mut targets = Vec::new();
    let mut next = 0u32;
    for at in 0.. {
        targets.push(next);
        match program.get(at) {
            Some(I::EmitRaw(_)) => next += 2,
            Some(instruction) => next += 1 + u32::from(grows(instruction)),
            None => break,
        }
    }
    let mut checked = Instructions::new(program.name(), program.source());
    for at in 0..targets.len() as u32 - 1 {
        let Some(instruction) = program.get(at) else {
            break;
        };
        let line = program.get_line(at).unwrap_or(0).min(usize::from(u16::MAX)) as u16;
        let mut instruction = instruction.clone();
        match &mut instruction {
            I::Iterate(target)
            | I::Jump(target)
            | I::JumpIfFalse(target)
            | I::JumpIfFalseOrPop(target)
            | I::JumpIfTrueOrPop(target)
            | I::BuildMacro(_, target, _) => *target = targets[*target as usize],
            I::LoadConst(value) if weight(value, 0) > MAX_RENDERED_BYTES => return Err(too_large()),
            I::StringConcat => instruction = I::ApplyFilter(CONCAT, Some(2), !0),
            I::EmitRaw(text) => {
                checked.add_with_line(I::LoadConst(Value::from(*text)), line);
                instruction = I::Emit;
            }
            _ => {}
        }
        let is_checked = grows(&instruction);
        checked.add_with_line(instruction, line);
        if is_checked {
            checked.add_with_line(I::ApplyFilter(CHECK, Some(1), !0), line);
        }
    }
    Ok(checked)
}

/// Installs the check, and replaces the built-ins that can make a large result out of small
/// arguments before it could be seen.
pub(super) fn install(environment: &mut Environment<'_>) {
    for name in ["batch", "slice", "indent", "pprint", "chain", "zip", "groupby"] {
        environment.remove_filter(name);
    }
    environment.add_global("debug", Value::UNDEFINED);
    let made = AtomicUsize::new(0);
    environment.add_filter(CHECK, move |value: Value| -> Result<Value, Error> {
        spend(&made, weight(&value, 0), MAX_TOTAL_BYTES)?;
        Ok(value)
    });
    let written = AtomicUsize::new(0);
    environment.set_formatter(move |out: &mut Output, _: &mut State, value: &Value| {
        let text = str_of(value)?;
        spend(&written, text.len(), MAX_WRITTEN_BYTES)?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_filter(CONCAT, |left: &Value, right: &Value| {
        let mut out = Bounded::default();
        let written = write_str(&mut out, left).and_then(|()| write_str(&mut out, right));
        written.map_err(|_| too_large())?;
        Ok::<_, Error>(out.into_text())
    });
    environment.add_filter("string", |value: &Value| str_of(value));
    environment.add_filter(
        "join",
        |value: &Value, joiner: Option<&str>, attribute: Option<&str>, options: Kwargs| {
            let attribute = match attribute {
                Some(name) => Some(name.to_string()),
                None => options.get::<Option<String>>("attribute")?,
            };
            options.assert_all_used()?;
            join(value, joiner.unwrap_or_default(), attribute.as_deref())
        },
    );
    environment.add_filter("replace", |value: &Value, from: &str, to: &str| {
        let text = str_of(value)?;
        check_replace(&text, from, to)?;
        Ok::<_, Error>(text.replace(from, to))
    });
    environment.add_filter("format", |_: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "the filter `format` is not supported"))
    });
}

fn spend(spent: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), Error> {
    match bytes <= MAX_RENDERED_BYTES && spent.fetch_add(bytes, Relaxed) <= limit {
        true => Ok(()),
        false => Err(too_large()),
    }
}

/// As [`install`], for Python's methods.
pub(super) fn check_method(value: &Value, method: &str, args: &[Value]) -> Result<(), Error> {
    let text = value.as_str().unwrap_or_default();
    match (method, args) {
        ("join", [list, ..]) => join(list, text, None).map(|_| ()),
        ("replace", [from, to, ..]) => {
            check_replace(text, from.as_str().unwrap_or_default(), to.as_str().unwrap_or_default())
        }
        ("format", _) => {
            let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
            match longest <= Some(MAX_FORMAT_DIGITS) && !text.contains(":{") {
                true => Ok(()),
                false => Err(too_large()),
            }
        }
        _ => Ok(()),
    }
}

fn check_replace(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let n_matches = text.matches(from).count();
    match n_matches.saturating_mul(to.len()) <= MAX_RENDERED_BYTES {
        true => Ok(()),
        false => Err(too_large()),
    }
}

fn join(value: &Value, joiner: &str, attribute: Option<&str>) -> Result<String, Error> {
    let mut out = Bounded::default();
    for (index, item) in value.try_iter()?.enumerate() {
        let item = match attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        let joiner = if index > 0 { joiner } else { "" };
        let written = out.write_str(joiner).and_then(|()| write_str(&mut out, &item));
        written.map_err(|_| too_large())?;
    }
    Ok(out.into_text())
}

/// A string that refuses to grow too long.
#[derive(Default)]
pub(super) struct Bounded(String);

impl Bounded {
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_RENDERED_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// About how many bytes `value` takes when it is written out, counting shared parts as often as
/// they occur; stops soon after the bound is passed.
fn weight(value: &Value, depth: usize) -> usize {
    if depth > MAX_NESTING {
        return usize::MAX;
    }
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Bytes => value.len().unwrap_or(0),
        // Other iterables are made lazily, or know no length; what they give is checked when it
        // is put into a list or written.
        ValueKind::Seq | ValueKind::Map => {
            let Some(n_items) = value.len() else { return 0 };
            let mut total = n_items.saturating_mul(ENTRY_BYTES);
            let Ok(items) = value.try_iter() else {
                return total;
            };
            for item in items {
                if total > MAX_RENDERED_BYTES {
                    break;
                }
                total = total.saturating_add(weight(&item, depth + 1));
                if value.kind() == ValueKind::Map {
                    let entry = value.get_item(&item).unwrap_or_default();
                    total = total.saturating_add(weight(&entry, depth + 1));
                }
            }
            total
        }
        ValueKind::Iterable => value.len().map_or(0, |n| n.saturating_mul(ENTRY_BYTES)),
        _ => 0,
    }
}
