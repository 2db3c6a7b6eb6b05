//! HotpotQA in the distractor setting (Yang et al., 2018, `hotpot_dev_distractor_v1.json`): a question and
//! ten paragraphs, of which two are needed. Owns the format, the wording and the scores.
//!
//! The protocol is that of the δ-mem evaluation: the paragraphs as numbered passages, the instruction
//! to reply with a short span or yes/no, greedy replies of at most 32 tokens, of which the first line
//! counts. Scores are those of `hotpot_evaluate_v1.py` (answers only, no supporting facts): exact match,
//! F1, precision and recall, with its rule for *yes*, *no* and *noanswer*. The δ-mem evaluation scores
//! without that rule and with punctuation replaced by spaces, so its F1 can differ by a little.
//! Where no passage is shown the question is asked without naming passages.
//!
//! Both forms of the data set are read: the authors' (`_id`, context as pairs) and Hugging Face's (`id`,
//! context as two lists).

use super::benchmark::Scored;
use super::data::{DataFile, Place};
use super::scores::{as_score, first_line, is_exact_match, overlap};
use super::task::{Context, Question, Section, Task};
use crate::error::Result;
use std::collections::HashSet;
use std::path::Path;

const FORMAT: &str = "HotpotQA data file";
const MAX_NEW_TOKENS: usize = 32;

/// Reads a data file.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Format`] with the place.
pub fn read(path: &Path) -> Result<(Vec<Task>, String)> {
    let file = DataFile::read(path, FORMAT)?;
    let mut ids = HashSet::new();
    let mut tasks = Vec::new();
    for record in file.records() {
        let task = task(&record)?;
        if !ids.insert(task.id.clone()) {
            return Err(record.error(format!("the id {} occurs twice", task.id)));
        }
        tasks.push(task);
    }
    Ok((tasks, file.digest.clone()))
}

fn task(record: &Place<'_>) -> Result<Task> {
    let id = match record.get("_id") {
        Some(id) => id.text()?,
        None => record.require_text("id")?,
    };
    let text = record.require_text("question")?.trim().to_string();
    let category = match record.get("type") {
        Some(category) => category.text()?,
        None => "all",
    };
    let question = Question {
        id: id.to_string(),
        category: category.to_string(),
        group: None,
        prompt: text.clone(),
        text,
        answers: vec![record.require_text("answer")?.trim().to_string()],
        choices: None,
        max_new_tokens: MAX_NEW_TOKENS,
    };
    let sections = sections(&record.require("context")?)?;
    let context = Context { introduction: String::new(), sections, separator: "\n" };
    Ok(Task { id: id.to_string(), context, questions: vec![question] })
}

fn sections(context: &Place<'_>) -> Result<Vec<Section>> {
    let paragraphs: Vec<(Place<'_>, Place<'_>)> = if context.value.is_object() {
        let titles = context.require("title")?.elements()?;
        let sentences = context.require("sentences")?.elements()?;
        if titles.len() != sentences.len() {
            let (titles, texts) = (titles.len(), sentences.len());
            return Err(context.error(format!("{titles} titles for {texts} paragraphs")));
        }
        titles.into_iter().zip(sentences).collect()
    } else {
        context.elements()?.iter().map(pair).collect::<Result<_>>()?
    };
    let mut sections = Vec::new();
    for (index, (title, sentences)) in paragraphs.iter().enumerate() {
        let sentences = sentences.elements()?;
        let sentences: Vec<&str> = sentences.iter().map(Place::text).collect::<Result<_>>()?;
        let sentences = sentences.iter().map(|sentence| sentence.trim());
        let text = sentences.filter(|sentence| !sentence.is_empty()).collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            let header = format!("Passage {} - {}:\n", index + 1, title.text()?);
            sections.push(Section { header, pieces: vec![format!("{text}\n")] });
        }
    }
    match sections.is_empty() {
        true => Err(context.error("there is no paragraph")),
        false => Ok(sections),
    }
}

/// A title and sentences.
fn pair<'a>(paragraph: &Place<'a>) -> Result<(Place<'a>, Place<'a>)> {
    match <[Place<'a>; 2]>::try_from(paragraph.elements()?) {
        Ok([title, sentences]) => Ok((title, sentences)),
        Err(_) => Err(paragraph.error("not a pair of a title and sentences")),
    }
}

/// The passages, if any are shown, between instruction and question.
pub fn prompt(context: &str, question: &Question) -> String {
    let (given, passages) = match context.trim() {
        "" => (".", String::new()),
        passages => (" using only the passages below.", format!("{passages}\n\n")),
    };
    format!(
        "Answer the question{given}\nReply with a short span or yes/no only.\n\n\
         {passages}Question: {}\nAnswer:",
        question.prompt
    )
}

/// Scores a reply: `f1`, `em`, `precision`, `recall`.
pub fn score(question: &Question, reply: &str) -> Scored {
    let prediction = first_line(reply).to_string();
    let answer = question.answers.first().map_or("", String::as_str);
    let overlap = overlap(&prediction, answer);
    let em = as_score(is_exact_match(&prediction, answer));
    let scores = vec![
        ("f1", overlap.f1),
        ("em", em),
        ("precision", overlap.precision),
        ("recall", overlap.recall),
    ];
    Scored { prediction, scores }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tasks() -> Vec<Task> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        read(&root.join("tests/benchmarks/hotpotqa.json")).unwrap().0
    }

    fn parse(json: &str) -> Result<Task> {
        let file = DataFile::parse(json.as_bytes(), "x.json".into(), FORMAT)?;
        task(&file.records().next().unwrap())
    }

    #[test]
    fn both_forms_are_read() {
        let tasks = tasks();
        assert_eq!(tasks.len(), 2);
        assert_eq!((tasks[0].id.as_str(), tasks[1].id.as_str()), ("mini-a", "mini-b"));
        let expected = "Passage 1 - Red Mill:\nThe Red Mill stands in Orvale. It was built in 1790.\n\n\
            Passage 3 - Orvale:\nOrvale is a village on the river Tiss.\n";
        assert_eq!(tasks[0].context.text(0), expected);
        // without the first passage, in a prompt and without any
        let question = &tasks[0].questions[0];
        assert_eq!(
            prompt(&tasks[0].context.text(1), question),
            "Answer the question using only the passages below.\nReply with a short span or yes/no \
             only.\n\nPassage 3 - Orvale:\nOrvale is a village on the river Tiss.\n\nQuestion: On \
             which river is the village of the Red Mill?\nAnswer:"
        );
        assert_eq!(
            prompt("", question),
            "Answer the question.\nReply with a short span or yes/no only.\n\nQuestion: On which \
             river is the village of the Red Mill?\nAnswer:"
        );
        let text = tasks[1].context.text(0);
        assert_eq!(text, "Passage 1 - A:\nA is a cat.\n\nPassage 2 - B:\nB is a cat.\n");
        assert_eq!(tasks[1].questions[0].category, "comparison");
    }

    #[test]
    fn replies_are_scored_as_published() {
        let tasks = tasks();
        let scores = |task: usize, reply: &str| {
            score(&tasks[task].questions[0], reply).scores.iter().map(|s| s.1).collect::<Vec<_>>()
        };
        assert_eq!(scores(0, "\nThe Tiss.\nIt is a river."), [1.0, 1.0, 1.0, 1.0]);
        // river tiss against tiss: precision 1/2, recall 1, F1 2/3
        assert_eq!(scores(0, "the river Tiss"), [2.0 / 3.0, 0.0, 0.5, 1.0]);
        assert_eq!(scores(1, "yes"), [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(scores(1, "yes, both"), [0.0; 4]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (r#"{"question": "?", "answer": "x", "context": []}"#, "record 1: `id` is missing"),
            (
                r#"{"id": "1", "question": "?", "answer": "x", "context": []}"#,
                "`context`: there is no paragraph",
            ),
            (
                r#"{"id": "1", "question": "?", "answer": "x", "context": [["T"]]}"#,
                "`context` 1: not a pair",
            ),
            (
                r#"{"id": "1", "question": "?", "answer": "x", "context": [["T", [1]]]}"#,
                "`context` 1 2 1: not a text",
            ),
            (
                r#"{"id": "1", "question": "?", "answer": "x", "context": {"title": ["T"], "sentences": []}}"#,
                "1 titles for 0",
            ),
            (r#"{"id": "1", "question": "?", "context": [["T", ["x"]]]}"#, "`answer` is missing"),
        ];
        for (json, expected) in cases {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
