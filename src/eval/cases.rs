//! Test cases: what is told in which session, what is asked, which answers count. Owns the format, one
//! JSON object a line, for a person's own file and for the cases that come with the program, which say
//! besides what they measure.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

/// The cases that come with the program: people and wordings that no training has seen.
const BUILT_IN: &str = include_str!("../../models/nano/cases.jsonl");
/// What the file of these cases is called in errors.
pub const BUILT_IN_NAME: &str = "nano/cases.jsonl";
/// Largest file of cases that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Something is told, then asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Case {
    /// The user's messages of each session; the context is dropped after each of them.
    pub sessions: Vec<Vec<String>>,
    /// Asked in a context of its own.
    pub question: String,
    /// The case counts if one of these stands in the reply.
    pub answers: Vec<String>,
    /// Where it stands in its file, from 1.
    #[serde(skip)]
    pub line: usize,
}

/// What a case of the program's own measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Recall by the number of facts that were told.
    Recall,
    /// Recall of two facts after turns about other things.
    Unrelated,
    /// A value that was corrected.
    Correction,
    /// A question about what was not told, to a memory that holds other facts.
    Untold,
    /// Values that the adapter's training never wrote.
    Values,
}

/// A case of the program's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NanoCase {
    #[serde(flatten)]
    pub case: Case,
    pub group: Group,
    /// Facts told.
    pub n_facts: usize,
    /// Turns about other things between telling and asking.
    #[serde(default)]
    pub n_unrelated: usize,
    /// The value before the correction.
    #[serde(default)]
    pub old: Option<String>,
    /// What is asked for, such as `town`.
    #[serde(default)]
    pub kind: Option<String>,
}

impl NanoCase {
    /// Cases that are counted together.
    pub fn bucket(&self) -> (Group, usize, usize) {
        (self.group, self.n_facts, self.n_unrelated)
    }
}

/// The cases that come with the program.
///
/// # Errors
/// None in a program that passed its tests.
pub fn built_in() -> Result<Vec<NanoCase>> {
    parse(BUILT_IN, BUILT_IN_NAME, |case: &mut NanoCase, line| {
        case.case.line = line;
        let old = &case.old;
        match (case.group, old) {
            (Group::Correction, None) => Err("a correction says in `old` what was before".into()),
            (_, Some(old)) if old.trim().is_empty() => Err("`old` is empty".into()),
            _ => check(&case.case),
        }
    })
}

/// A person's own cases.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] that names file and line.
pub fn read(path: &Path) -> Result<Vec<Case>> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    let refuse = |reason: String| Error::format(&name, "file of test cases", reason);
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refuse(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        refuse(format!("line {line} is not UTF-8"))
    })?;
    parse(&text, &name, |case: &mut Case, line| {
        case.line = line;
        check(case)
    })
}

/// Reads one object a line; blank lines are none.
fn parse<T: for<'a> Deserialize<'a>>(
    text: &str,
    file: &str,
    finish: impl Fn(&mut T, usize) -> Result<(), String>,
) -> Result<Vec<T>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut cases = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let case = serde_json::from_str(line).map_err(|error| error.to_string());
        let case = case.and_then(|mut case: T| finish(&mut case, index + 1).map(|()| case));
        cases.push(case.map_err(|reason| {
            // of a line by itself, serde_json can only say that it is the first
            let reason = reason.replace(" at line 1 column ", " at column ");
            Error::format(format!("{file}, line {}", index + 1), "test case", reason)
        })?);
    }
    match cases.is_empty() {
        true => Err(Error::format(file, "file of test cases", "it has no case")),
        false => Ok(cases),
    }
}

fn check(case: &Case) -> Result<(), String> {
    let is_blank = |text: &String| text.trim().is_empty();
    if case.sessions.iter().flatten().any(is_blank) {
        return Err("a message of `sessions` is empty".into());
    }
    if is_blank(&case.question) {
        return Err("`question` is empty".into());
    }
    if case.answers.is_empty() || case.answers.iter().any(is_blank) {
        return Err("`answers` needs at least one, and none that is empty".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const GOOD: &str = r#"{"sessions": [["I live in Lisbon."], []], "question": "Where do I live?", "answers": ["Lisbon"]}"#;

    fn read_text(text: impl AsRef<[u8]>) -> Result<Vec<Case>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn cases_are_read_a_line_each() {
        let more = GOOD.replace("\"question\"", "\"group\": 7, \"question\"");
        let cases = read_text(format!("\u{feff}{GOOD}\r\n\n  \n{more}")).unwrap();
        assert_eq!(cases.len(), 2);
        assert_eq!((cases[0].line, cases[1].line), (1, 4));
        assert_eq!(cases[0].sessions, [vec!["I live in Lisbon.".to_string()], vec![]]);
        assert_eq!(cases[0].question, "Where do I live?");
        assert_eq!(cases[0].answers, ["Lisbon"]);
    }

    #[test]
    fn bad_lines_are_named() {
        let without = |key: &str| GOOD.replace(key, "other");
        for (line, expected) in [
            (without("sessions"), "missing field `sessions`"),
            (without("question"), "missing field `question`"),
            (without("answers"), "missing field `answers`"),
            (GOOD.replace("[\"Lisbon\"]", "[]"), "`answers` needs at least one"),
            (GOOD.replace("[\"Lisbon\"]", "[\" \"]"), "`answers` needs at least one"),
            (GOOD.replace("[\"Lisbon\"]", "\"Lisbon\""), "invalid type: string"),
            (GOOD.replace("Where do I live?", " "), "`question` is empty"),
            (GOOD.replace("I live in Lisbon.", "\\n"), "a message of `sessions` is empty"),
            (GOOD.replace("[[", "[3, ["), "invalid type: integer"),
            (format!("{GOOD} {GOOD}"), "trailing characters at column"),
            ("[".into(), "EOF while parsing"),
        ] {
            let error = read_text(format!("{GOOD}\n{line}\n")).unwrap_err();
            assert_eq!(error.code(), "format");
            let text = error.to_string();
            assert!(text.contains("facts.jsonl, line 2: not a valid test case: "), "{text}");
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn files_without_a_case_or_text_are_refused() {
        for empty in ["", "\n \n", "\u{feff}"] {
            let error = read_text(empty).unwrap_err();
            assert!(error.to_string().ends_with("it has no case"), "{error}");
        }
        let error = read_text(b"\n\n{\"a\": \"\xff\"}").unwrap_err();
        assert!(error.to_string().ends_with("line 3 is not UTF-8"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")).unwrap_err().code(), "io");
        assert_eq!(read(folder.path()).unwrap_err().code(), "io");
    }

    #[test]
    fn the_programs_own_cases_cover_all_that_is_measured() {
        let cases = built_in().unwrap();
        let buckets: BTreeSet<_> = cases.iter().map(NanoCase::bucket).collect();
        let recall = [1, 2, 4, 8].map(|n| (Group::Recall, n, 0));
        let unrelated = [4, 16, 64].map(|n| (Group::Unrelated, 2, n));
        for bucket in recall.into_iter().chain(unrelated) {
            assert!(buckets.contains(&bucket), "{bucket:?}");
        }
        for group in [Group::Correction, Group::Untold, Group::Values] {
            assert!(cases.iter().any(|case| case.group == group), "{group:?}");
        }
        for case in &cases {
            let line = case.case.line;
            let n_turns = case.case.sessions.iter().map(Vec::len).sum::<usize>();
            assert!(n_turns > case.n_unrelated, "line {line}");
            // what is asked for was told, in these very words but for the article: "my horse" tells
            // of "a horse"
            if case.group == Group::Untold {
                continue;
            }
            let told = case.case.sessions.concat().join("\n");
            let bare = |answer: &String| {
                let without = answer.strip_prefix("a ").or_else(|| answer.strip_prefix("an "));
                without.unwrap_or(answer).to_string()
            };
            let answers: Vec<_> = case.case.answers.iter().map(bare).collect();
            assert!(super::super::answers::is_answered(&answers, &told), "line {line}");
        }
    }
}
