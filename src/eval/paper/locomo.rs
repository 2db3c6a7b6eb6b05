//! LoCoMo (Maharana et al., 2024, `locomo10.json`): long conversations of two people over many days, and
//! questions about them. Owns the format, the wording of the questions and their scores.
//!
//! The protocol is that of the δ-mem evaluation (`locomo_delta`, `locomo_protocol`), which is LoCoMo's
//! own for open models: a system message, one introduction, each session under `DATE:` and
//! `CONVERSATION:` with turns of the form `Name said, "…"`, the question in a fixed wording, replies of
//! at most 50 tokens, of which the first line counts. Category 2 is told to use dates. Category 5 asks
//! for things that were never said, with two choices of which one is `No information available`; which
//! of them is (a) depends on the question's id alone. Scores: see [`super::scores`]; of an answer in
//! category 3 the part before a semicolon counts.
//!
//! Where it differs: the published suite draws with temperature 0.4, top-p 0.9 and top-k 10, here
//! replies are greedy unless told otherwise; where the window is too small it keeps the oldest
//! sessions (and in reverse order), here the oldest turns go; it leaves category 5 out of its tables,
//! here the report sums up both ways; one misspelt word of its introduction is spelt right.

use super::benchmark::Scored;
use super::data::{DataFile, Place};
use super::scores::{first_line, is_declined, locomo_f1, locomo_multi_answer_f1};
use super::task::{Context, Question, Section, Task};
use crate::error::Result;
use std::path::Path;

const FORMAT: &str = "LoCoMo data file";
const NO_INFORMATION: &str = "No information available";
const MAX_NEW_TOKENS: usize = 50;

/// The system message of the protocol.
pub const SYSTEM: &str = "You are a helpful, respectful and honest assistant whose job is to \
    understand the following conversation and answer questions based on the conversation. If you \
    don't know the answer to a question, please don't share false information.";

/// Category 1 to 5 as the report calls it.
pub const CATEGORIES: [&str; 5] =
    ["1 multi-hop", "2 temporal", "3 open-domain", "4 single-hop", "5 adversarial"];

/// The group of the categories 1 to 4, which is what the δ-mem paper reports.
const ANSWERABLE: &str = "1–4";

/// Reads a data file.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Format`] with the place.
pub fn read(path: &Path) -> Result<(Vec<Task>, String)> {
    let file = DataFile::read(path, FORMAT)?;
    let mut tasks: Vec<Task> = Vec::new();
    for record in file.records() {
        let task = task(&record, tasks.len())?;
        if tasks.iter().any(|earlier| earlier.id == task.id) {
            return Err(record.error(format!("`sample_id` {} occurs twice", task.id)));
        }
        tasks.push(task);
    }
    Ok((tasks, file.digest.clone()))
}

fn task(record: &Place<'_>, index: usize) -> Result<Task> {
    let id = match record.get("sample_id") {
        Some(id) => id.as_text()?,
        None => format!("conversation-{}", index + 1),
    };
    let conversation = record.require("conversation")?;
    let names = [conversation.require_text("speaker_a")?, conversation.require_text("speaker_b")?];
    let introduction = format!(
        "Below is a conversation between two people: {} and {}. The conversation takes place over \
         multiple days and the date of each conversation is written at the beginning of the \
         conversation.\n\n",
        names[0], names[1]
    );
    let sections = sections(&conversation)?;
    let mut questions = Vec::new();
    for (index, qa) in record.require("qa")?.elements()?.iter().enumerate() {
        questions.push(question(qa, format!("{id}/{}", index + 1))?);
    }
    Ok(Task { id, context: Context { introduction, sections, separator: "\n" }, questions })
}

/// The sessions in order; empty ones and dates without a session are left out.
fn sections(conversation: &Place<'_>) -> Result<Vec<Section>> {
    let object = conversation.value.as_object();
    let keys = object.ok_or_else(|| conversation.error("not an object"))?.keys();
    let mut numbers: Vec<u32> =
        keys.filter_map(|key| key.strip_prefix("session_")?.parse().ok()).collect();
    numbers.sort_unstable();
    let mut sections = Vec::new();
    for number in numbers {
        let key = format!("session_{number}");
        let Some(session) = conversation.get(&key) else { continue };
        let turns = session.elements()?;
        if turns.is_empty() {
            continue;
        }
        let date = conversation.require_text(&format!("{key}_date_time"))?;
        sections.push(Section {
            header: format!("DATE: {date}\nCONVERSATION:\n"),
            pieces: turns.iter().map(turn).collect::<Result<_>>()?,
        });
    }
    match sections.is_empty() {
        true => Err(conversation.error("there is no `session_…` with turns")),
        false => Ok(sections),
    }
}

fn turn(turn: &Place<'_>) -> Result<String> {
    let (speaker, text) = (turn.require_text("speaker")?, turn.require_text("text")?);
    let shared = match turn.get("blip_caption") {
        Some(caption) => format!(" and shared {}.", caption.text()?),
        None => String::new(),
    };
    Ok(format!("{speaker} said, \"{text}\"{shared}\n"))
}

fn question(qa: &Place<'_>, id: String) -> Result<Question> {
    let text = qa.require_text("question")?.trim().to_string();
    let place = qa.require("category")?;
    let category = place.value.as_u64().filter(|category| (1..=5).contains(category));
    let category = category.ok_or_else(|| place.error("not a number from 1 to 5"))? as usize;
    let (asked, answers, choices) = match category {
        5 => {
            let tempting = qa.get("answer").or_else(|| qa.get("adversarial_answer"));
            let tempting = tempting.map_or_else(|| Ok(NO_INFORMATION.into()), |t| t.as_text())?;
            let mut choices = [NO_INFORMATION.to_string(), tempting];
            if super::data::digest(id.as_bytes())
                .ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])
            {
                choices.reverse();
            }
            let asked = format!(
                "{text} (a) {} (b) {}. Select the correct answer by writing (a) or (b).",
                choices[0], choices[1]
            );
            (asked, vec![NO_INFORMATION.to_string()], Some(choices))
        }
        category => {
            let answer = qa.require("answer")?.as_text()?;
            let hint = match category {
                2 => " Use DATE of CONVERSATION to answer with an approximate date.",
                _ => "",
            };
            (format!("{text}{hint}"), vec![answer], None)
        }
    };
    Ok(Question {
        id,
        category: CATEGORIES[category - 1].into(),
        group: (category != 5).then(|| ANSWERABLE.into()),
        prompt: format!(
            "Based on the above conversations, write a short answer for the following question in a \
             few words. Do not write complete and lengthy sentences. Answer with exact words from \
             the conversations whenever possible.\n\nQuestion: {asked}"
        ),
        text,
        answers,
        choices,
        max_new_tokens: MAX_NEW_TOKENS,
    })
}

/// The context, if any is shown, before the question.
pub fn prompt(context: &str, question: &Question) -> String {
    match context.is_empty() {
        true => question.prompt.clone(),
        false => format!("{}\n\n{}", context.trim_end(), question.prompt),
    }
}

/// Scores a reply: `f1`, which in category 5 is 1 for declining and 0 else.
pub fn score(question: &Question, reply: &str) -> Scored {
    let prediction = prediction(question, reply);
    let answer = question.answers.first().map_or("", String::as_str);
    let f1 = match question.category.as_bytes().first() {
        Some(b'5') => super::scores::as_score(is_declined(&prediction)),
        Some(b'1') => locomo_multi_answer_f1(&prediction, answer),
        Some(b'3') => locomo_f1(&prediction, answer.split(';').next().unwrap_or_default().trim()),
        _ => locomo_f1(&prediction, answer),
    };
    Scored { prediction, scores: vec![("f1", f1)] }
}

/// What counts of a reply: its first line, without what leads to an answer; a choice is replaced by
/// what it stands for.
fn prediction(question: &Question, reply: &str) -> String {
    let reply = reply.replace("\\\"", "'");
    let line = first_line(&reply).to_lowercase();
    if let Some([a, b]) = &question.choices {
        let is_choice = |letter: char| {
            line.contains(&format!("({letter})"))
                || line == letter.to_string()
                || line.starts_with(&format!("{letter})"))
        };
        if is_choice('a') {
            return a.clone();
        }
        if is_choice('b') {
            return b.clone();
        }
        if is_declined(&line) {
            return NO_INFORMATION.into();
        }
    }
    let leads = ["(a)", "(b)", "a)", "b)", "answer:"];
    let line = leads.iter().fold(line, |line, lead| line.replace(lead, ""));
    line.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tasks() -> Vec<Task> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        read(&root.join("tests/benchmarks/locomo.json")).unwrap().0
    }

    fn parse(json: &str) -> Result<Task> {
        let file = DataFile::parse(json.as_bytes(), "x.json".into(), FORMAT)?;
        task(&file.records().next().unwrap(), 0)
    }

    #[test]
    fn conversations_are_read_in_order() {
        let task = &tasks()[0];
        assert_eq!(task.id, "mini-1");
        // session 2 before session 10, the empty one and the date without a session left out
        let shown = task.context.text(0);
        let expected = "Below is a conversation between two people: Ines and Tomas. The \
            conversation takes place over multiple days and the date of each conversation is written \
            at the beginning of the conversation.\n\n\
            DATE: 1:10 pm on 3 March, 2031\nCONVERSATION:\n\
            Ines said, \"I adopted a parrot called Mango.\"\n\
            Tomas said, \"Lovely!\" and shared a photo of a green parrot.\n\n\
            DATE: 9:00 am on 5 April, 2031\nCONVERSATION:\n\
            Tomas said, \"I started pottery and fencing.\"\n";
        assert!(shown.starts_with(expected), "{shown}");
        assert_eq!(task.context.n_pieces(), 5);
        assert_eq!(tasks()[1].id, "conversation-2");
    }

    #[test]
    fn questions_are_worded_by_category() {
        let task = &tasks()[0];
        let by = |n: usize| &task.questions[n - 1];
        let categories: Vec<&str> = task.questions.iter().map(|q| q.category.as_str()).collect();
        assert_eq!(
            categories,
            ["4 single-hop", "1 multi-hop", "2 temporal", "3 open-domain", "5 adversarial"]
        );
        assert!(by(1).prompt.ends_with("\n\nQuestion: What is Ines's parrot called?"));
        assert!(
            by(3)
                .prompt
                .ends_with("? Use DATE of CONVERSATION to answer with an approximate date.")
        );
        // a year is a number in the file
        assert_eq!(by(3).answers, ["2031"]);
        assert_eq!(by(1).group.as_deref(), Some("1–4"));
        assert_eq!(by(5).group, None);
        let choices = by(5).choices.clone().unwrap();
        assert!(choices.contains(&"Mango".into()) && choices.contains(&NO_INFORMATION.into()));
        let asked = format!("(a) {} (b) {}. Select", choices[0], choices[1]);
        assert!(by(5).prompt.contains(&asked), "{}", by(5).prompt);
        assert_eq!(prompt("", by(1)), by(1).prompt);
        assert_eq!(prompt("X\n", by(1)), format!("X\n\n{}", by(1).prompt));
    }

    #[test]
    fn replies_are_scored_by_category() {
        let questions = &tasks()[0].questions;
        let f1 = |n: usize, reply: &str| score(&questions[n - 1], reply).scores[0].1;
        assert_eq!(f1(1, "\nAnswer: Mango\nbecause she said so"), 1.0);
        // pottery is one of two answers
        assert_eq!(f1(2, "Pottery"), 0.5);
        assert_eq!(f1(2, "fencing, pottery"), 1.0);
        assert_eq!(f1(3, "in 2030"), 0.0);
        // "likely yes; she likes birds": only the part before the semicolon
        assert_eq!(f1(4, "Likely yes"), 1.0);
        let [a, _] = questions[4].choices.clone().unwrap();
        let (declines, other) = if a == NO_INFORMATION { ("(a)", "b") } else { ("(b)", "a") };
        assert_eq!(f1(5, declines), 1.0);
        assert_eq!(f1(5, other), 0.0);
        assert_eq!(f1(5, "It is not mentioned."), 1.0);
        assert_eq!(f1(5, "Mango"), 0.0);
        assert_eq!(score(&questions[4], other).prediction, "Mango");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let qa = |qa: &str| {
            parse(&format!(
                r#"{{"conversation": {{"speaker_a": "A", "speaker_b": "B", "session_1_date_time": "now",
                "session_1": [{{"speaker": "A", "text": "x"}}]}}, "qa": [{qa}]}}"#
            ))
        };
        assert_eq!(
            qa(r#"{"question": "?", "answer": 1, "category": 4}"#).unwrap().id,
            "conversation-1"
        );
        let cases = [
            (
                r#"{"question": "?", "answer": 1, "category": 6}"#,
                "`qa` 1, `category`: not a number from 1 to 5",
            ),
            (r#"{"question": "?", "category": 4}"#, "`qa` 1: `answer` is missing"),
            (r#"{"answer": 1, "category": 4}"#, "`qa` 1: `question` is missing"),
        ];
        for (json, expected) in cases {
            let error = qa(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = parse(r#"{"conversation": {"speaker_a": "A", "speaker_b": "B"}, "qa": []}"#);
        assert!(error.unwrap_err().to_string().contains("no `session_…` with turns"));
        let error = parse(r#"{"qa": []}"#).unwrap_err().to_string();
        assert!(error.contains("record 1: `conversation` is missing"), "{error}");
    }
}
