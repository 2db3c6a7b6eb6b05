//! MemoryAgentBench (Hu et al., 2025; `ai-hyz/MemoryAgentBench` exported as JSON or JSON lines): long texts
//! with many questions each, of four kinds of work for a memory. Owns the format, the wording and the
//! scores by sub-task (`metadata.source`).
//!
//! The protocol is that of the δ-mem evaluation: one instruction for all sub-tasks, replies as long as
//! each sub-task allows, contexts of more than 120,000 characters cut in the middle (a third of the
//! beginning stays, two thirds of the end) before anything else. The context is written in chunks of
//! whole sentences of at most 4,096 tokens, as the benchmark feeds it. Sentences end as for
//! sentence-wise memories ([`split_sentences`]), not as NLTK finds them.
//!
//! Scores are the benchmark's own (`eval_other_utils.py`): exact match, F1 and substring exact match, each
//! the best over the accepted answers, and of the whole reply and of what stands behind `Answer:`; in
//! `icl_…` only the latter; in `eventqa_…` also whether all answers stand in the reply. `score` is what
//! the benchmark reports for the sub-task: exact match for `icl_…`, that recall for `eventqa_…`, F1 for
//! `infbench_sum…`, substring exact match for the rest. Not here: its judgements by a language model
//! (`longmemeval…`, `infbench_sum…`, for which it publishes both kinds), ROUGE, and the recall of films
//! in `recsys_…`, which needs a table of film names that is no part of the data; like the script
//! without that table, those are scored as text.

use super::benchmark::Scored;
use super::data::{DataFile, Place};
use super::scores::{after_answer_prefix, as_score, is_exact_match, is_substring_match, overlap};
use super::task::{Context, Question, Section, Task};
use crate::error::Result;
use crate::spans::split_sentences;
use std::path::Path;

const FORMAT: &str = "MemoryAgentBench data file";
/// What stands where the middle of a context was.
const CUT: &str = "\n\n[... context truncated ...]\n\n";

/// A sub-task by the beginning of its name.
struct SubTask {
    prefix: &'static str,
    kind: &'static str,
    max_new_tokens: usize,
    main: Metric,
}

#[derive(Clone, Copy, PartialEq)]
enum Metric {
    Substring,
    Exact,
    F1,
    Recall,
}

const RETRIEVAL: &str = "Accurate Retrieval";
const LEARNING: &str = "Test-Time Learning";
const UNDERSTANDING: &str = "Long-Range Understanding";
const FORGETTING: &str = "Selective Forgetting";

const SUB_TASKS: [SubTask; 8] = [
    SubTask { prefix: "ruler_qa", kind: RETRIEVAL, max_new_tokens: 50, main: Metric::Substring },
    SubTask { prefix: "longmemeval", kind: RETRIEVAL, max_new_tokens: 50, main: Metric::Substring },
    SubTask { prefix: "eventqa", kind: RETRIEVAL, max_new_tokens: 40, main: Metric::Recall },
    SubTask { prefix: "icl_", kind: LEARNING, max_new_tokens: 20, main: Metric::Exact },
    SubTask { prefix: "recsys", kind: LEARNING, max_new_tokens: 300, main: Metric::Substring },
    SubTask { prefix: "infbench", kind: UNDERSTANDING, max_new_tokens: 1200, main: Metric::F1 },
    SubTask {
        prefix: "detective_qa",
        kind: UNDERSTANDING,
        max_new_tokens: 2000,
        main: Metric::Substring,
    },
    SubTask {
        prefix: "factconsolidation",
        kind: FORGETTING,
        max_new_tokens: 10,
        main: Metric::Substring,
    },
];

/// A sub-task that has none of the known names.
const OTHER: SubTask =
    SubTask { prefix: "", kind: "other", max_new_tokens: 50, main: Metric::Substring };

fn sub_task(source: &str) -> &'static SubTask {
    SUB_TASKS.iter().find(|sub_task| source.starts_with(sub_task.prefix)).unwrap_or(&OTHER)
}

/// Characters of a context that the protocol keeps.
pub const MAX_CHARACTERS: usize = 120_000;

/// Reads a data file. Of a context at most `max_characters` are kept, 0 = all.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Format`] with the place.
pub fn read(path: &Path, max_characters: usize) -> Result<(Vec<Task>, String)> {
    let file = DataFile::read(path, FORMAT)?;
    let tasks = file.records().enumerate();
    let tasks = tasks.map(|(index, record)| task(&record, index, max_characters));
    Ok((tasks.collect::<Result<_>>()?, file.digest.clone()))
}

fn task(record: &Place<'_>, index: usize, max_characters: usize) -> Result<Task> {
    let source = match record.get("metadata").and_then(|metadata| metadata.get("source")) {
        Some(source) => source.text()?,
        None => "unknown",
    };
    let id = format!("{source}/{}", index + 1);
    let text = clip(record.require_text("context")?, max_characters);
    let pieces: Vec<String> = split_sentences(&text).into_iter().map(String::from).collect();
    let section = Section { header: String::new(), pieces };
    let questions = record.require("questions")?.elements()?;
    let answers = record.require("answers")?.elements()?;
    if questions.len() != answers.len() {
        let (questions, answers) = (questions.len(), answers.len());
        return Err(record.error(format!("{questions} questions, {answers} answers")));
    }
    let sub_task = sub_task(source);
    let question = |(index, (question, answers)): (usize, (&Place<'_>, &Place<'_>))| {
        let text = question.text()?.trim().to_string();
        Ok(Question {
            id: format!("{id}/{}", index + 1),
            category: source.to_string(),
            group: Some(sub_task.kind.into()),
            prompt: text.clone(),
            text,
            answers: accepted(answers)?,
            choices: None,
            max_new_tokens: sub_task.max_new_tokens,
        })
    };
    let questions = questions.iter().zip(&answers).enumerate().map(question);
    let questions = questions.collect::<Result<_>>()?;
    let context = Context { introduction: String::new(), sections: vec![section], separator: "" };
    Ok(Task { id, context, questions })
}

/// One answer, or a list of them, or lists in a list.
fn accepted(answers: &Place<'_>) -> Result<Vec<String>> {
    if !answers.value.is_array() {
        return Ok(vec![answers.as_text()?]);
    }
    let lists = answers.elements()?;
    let lists: Vec<Vec<String>> = lists.iter().map(accepted).collect::<Result<_>>()?;
    let all = lists.concat();
    match all.is_empty() {
        true => Err(answers.error("there is no answer")),
        false => Ok(all),
    }
}

/// The first third and the last two thirds of a text that is too long.
fn clip(text: &str, max_characters: usize) -> String {
    let n = text.chars().count();
    if max_characters == 0 || n <= max_characters {
        return text.to_string();
    }
    let kept = max_characters.saturating_sub(CUT.len());
    let (head, tail) = (kept / 3, kept - kept / 3);
    let head: String = text.chars().take(head).collect();
    let tail: String = text.chars().skip(n - tail).collect();
    format!("{}{CUT}{}", head.trim_end(), tail.trim_start())
}

/// The context, if any is shown, between instruction and question.
pub fn prompt(context: &str, question: &Question) -> String {
    let asked = format!("Question: {}\nAnswer:", question.prompt);
    let form = "Reply with a short entity, phrase, number, or sentence only.\n";
    match context.trim() {
        "" => format!("Answer the question.\n{form}\n{asked}"),
        context => format!(
            "Use only the memory context below to answer the question.\n{form}If the answer is not \
             supported by the context, reply exactly: I don't know.\n\n{context}\n\n{asked}"
        ),
    }
}

/// Scores a reply: `score`, `substring`, `em`, `f1`, and `recall` in `eventqa_…`.
pub fn score(question: &Question, reply: &str) -> Scored {
    let prediction = after_answer_prefix(reply).to_string();
    let source = question.category.as_str();
    // what the sub-task looks at
    let looked_at: Vec<&str> = match source.contains("icl") || source.contains("eventqa") {
        true => vec![&prediction],
        false => vec![reply, &prediction],
    };
    let best = |metric: &dyn Fn(&str, &str) -> f64| {
        let pairs = looked_at
            .iter()
            .flat_map(|text| question.answers.iter().map(move |answer| metric(text, answer)));
        pairs.fold(0.0, f64::max)
    };
    let substring = best(&|text, answer| as_score(is_substring_match(text, answer)));
    let em = best(&|text, answer| as_score(is_exact_match(text, answer)));
    let f1 = best(&|text, answer| overlap(text, answer).f1);
    let lower = reply.to_lowercase();
    let has_all = question.answers.iter().all(|answer| lower.contains(&answer.to_lowercase()));
    let main = match sub_task(source).main {
        Metric::Substring => substring,
        Metric::Exact => em,
        Metric::F1 => f1,
        Metric::Recall => as_score(has_all),
    };
    let mut scores = vec![("score", main), ("substring", substring), ("em", em), ("f1", f1)];
    if source.contains("eventqa") {
        scores.push(("recall", as_score(has_all)));
    }
    Scored { prediction, scores }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tasks() -> Vec<Task> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        read(&root.join("tests/benchmarks/memory_agent.jsonl"), 0).unwrap().0
    }

    fn parse(json: &str) -> Result<Task> {
        let file = DataFile::parse(json.as_bytes(), "x.jsonl".into(), FORMAT)?;
        task(&file.records().next().unwrap(), 0, 0)
    }

    fn scores(task: &Task, question: usize, reply: &str) -> Vec<f64> {
        score(&task.questions[question], reply).scores.iter().map(|score| score.1).collect()
    }

    #[test]
    fn records_become_tasks() {
        let tasks = tasks();
        let ids: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
        assert_eq!(ids, ["factconsolidation_sh_6k/1", "icl_trec_coarse/2", "eventqa_full/3"]);
        assert_eq!(tasks[0].context.sections[0].pieces.len(), 4);
        let text = "0. Lena lives in Arn. 1. Lena lives in Bex.";
        assert_eq!(tasks[0].context.text(0), text);
        let question = &tasks[0].questions[1];
        assert_eq!(question.id, "factconsolidation_sh_6k/1/2");
        assert_eq!(question.group.as_deref(), Some("Selective Forgetting"));
        assert_eq!(question.max_new_tokens, 10);
        assert_eq!(question.answers, ["Bex", "the town of Bex"]);
        assert!(prompt("", question).starts_with("Answer the question.\nReply with"));
        let asked = prompt(" C. ", question);
        assert!(asked.contains("reply exactly: I don't know.\n\nC.\n\nQuestion: Where"), "{asked}");
    }

    #[test]
    fn replies_are_scored_by_sub_task() {
        let tasks = tasks();
        // score, substring, em, f1: "she lives in bex" has 4 tokens, "bex" 1: F1 2·(1/4)/(5/4) = 0.4;
        // against "town of bex" 1 of 4 and of 3: 2·(1/4)(1/3)/(7/12) = 2/7
        assert_eq!(scores(&tasks[0], 1, "She lives in Bex."), [1.0, 1.0, 0.0, 0.4]);
        assert_eq!(scores(&tasks[0], 1, "I see.\nAnswer: Bex"), [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(scores(&tasks[0], 1, "Arn"), [0.0; 4]);
        // only what stands behind "Answer:" counts, and all of it
        assert_eq!(scores(&tasks[1], 0, "label 3? Answer: label 4"), [0.0, 0.0, 0.0, 0.5]);
        assert_eq!(scores(&tasks[1], 0, "Answer: label 3"), [1.0; 4]);
        // all answers have to stand in the reply
        assert_eq!(scores(&tasks[2], 0, "they met AND THEN they sailed off")[4], 1.0);
        let partly = scores(&tasks[2], 0, "They met");
        assert_eq!((partly[0], partly[1], partly[4]), (0.0, 1.0, 0.0));
    }

    #[test]
    fn long_contexts_lose_their_middle() {
        let text: String = ('a'..='z').cycle().take(300).collect();
        let clipped = clip(&text, 130);
        // 99 characters beside the mark, 33 of them from the beginning
        assert_eq!(clipped, format!("{}{CUT}{}", &text[..33], &text[300 - 66..]));
        assert_eq!(clip(&text, 300), text);
        assert_eq!(clip(&text, 0), text);
        assert_eq!(clip("ä".repeat(9).as_str(), 5), CUT);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (r#"{"questions": [], "answers": []}"#, "`context` is missing"),
            (r#"{"context": "x", "questions": ["?"], "answers": []}"#, "1 questions, 0 answers"),
            (
                r#"{"context": "x", "questions": ["?"], "answers": [[]]}"#,
                "`answers` 1: there is no answer",
            ),
            (
                r#"{"context": "x", "questions": [1], "answers": ["x"]}"#,
                "`questions` 1: not a text",
            ),
        ];
        for (json, expected) in cases {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
