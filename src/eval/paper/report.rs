//! What a run came to: means by mode and category, as Markdown for people and JSON for programs. Owns
//! what is summed up how; scores are 0 to 1 in JSON and percent in Markdown.

use super::answers::Answer;
use super::scores::mean;
use super::task::Mode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A finished or unfinished run, summed up.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    benchmark: &'static str,
    settings: Value,
    score_names: &'static [&'static str],
    rows: Vec<Row>,
    memories: Vec<Memory>,
}

/// The questions of a category, of a group of categories, or all, in one mode.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    mode: Mode,
    category: String,
    n: usize,
    /// Means; a score that no question of the row has is missing.
    scores: BTreeMap<&'static str, f64>,
    /// Of all questions together.
    seconds: f64,
    /// Means.
    prompt_tokens: f64,
    fed_tokens: f64,
    generated_tokens: f64,
    /// Questions whose context did not fit whole.
    n_cut: usize,
    /// Mean over those, as a share of the pieces.
    cut_share: f64,
}

/// What was written into the memory in one mode.
#[derive(Debug, Clone, PartialEq)]
struct Memory {
    mode: Mode,
    n_contexts: usize,
    tokens: u64,
    seconds: f64,
}

impl Report {
    /// Sums up answers.
    pub fn new(
        benchmark: &'static str,
        settings: &Value,
        score_names: &'static [&'static str],
        answers: &[Answer],
    ) -> Report {
        let (mut rows, mut memories) = (Vec::new(), Vec::new());
        for mode in Mode::ALL {
            let of_mode: Vec<&Answer> = answers.iter().filter(|a| a.mode == mode).collect();
            if of_mode.is_empty() {
                continue;
            }
            let mut categories: BTreeMap<&str, Vec<&Answer>> = BTreeMap::new();
            let mut groups: BTreeMap<&str, Vec<&Answer>> = BTreeMap::new();
            for answer in &of_mode {
                categories.entry(&answer.category).or_default().push(answer);
                if let Some(group) = &answer.group {
                    groups.entry(group).or_default().push(answer);
                }
            }
            for (category, answers) in categories.into_iter().chain(groups) {
                rows.push(Row::new(mode, category, &answers, score_names));
            }
            rows.push(Row::new(mode, "all", &of_mode, score_names));
            memories.extend(Memory::new(mode, &of_mode));
        }
        Report { benchmark, settings: settings.clone(), score_names, rows, memories }
    }

    /// Everything as one object.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let scores = row.scores.iter().map(|(name, score)| ((*name).into(), json!(score)));
            json!({
                "mode": row.mode,
                "category": row.category,
                "n": row.n,
                "scores": scores.collect::<Map<String, Value>>(),
                "seconds": row.seconds,
                "prompt_tokens": row.prompt_tokens,
                "fed_tokens": row.fed_tokens,
                "generated_tokens": row.generated_tokens,
                "cut": { "questions": row.n_cut, "share": row.cut_share },
            })
        });
        let memories = self.memories.iter().map(|memory| {
            json!({
                "mode": memory.mode,
                "contexts": memory.n_contexts,
                "tokens": memory.tokens,
                "seconds": memory.seconds,
            })
        });
        json!({
            "benchmark": self.benchmark,
            "settings": self.settings,
            "rows": rows.collect::<Vec<Value>>(),
            "memory": memories.collect::<Vec<Value>>(),
        })
    }

    /// Tables for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.benchmark);
        let mut head = vec!["mode", "category", "n"];
        head.extend(self.score_names);
        head.extend(["context cut", "prompt tokens", "reply tokens", "seconds"]);
        let rows = self.rows.iter().map(|row| {
            let mut cells =
                vec![row.mode.name().to_string(), row.category.clone(), row.n.to_string()];
            cells.extend(self.score_names.iter().map(|name| match row.scores.get(name) {
                Some(score) => format!("{:.1}", 100.0 * score),
                None => "–".into(),
            }));
            cells.push(match row.n_cut {
                0 => "–".into(),
                n => format!("{n} × {:.0} %", 100.0 * row.cut_share),
            });
            cells.push(format!("{:.0}", row.prompt_tokens));
            cells.push(format!("{:.1}", row.generated_tokens));
            cells.push(format!("{:.1}", row.seconds));
            cells
        });
        table(&mut text, &head, rows);
        text.push_str(
            "\nScores in percent. Tokens are means a question, seconds are of all of them. *Context \
             cut*: how many questions did not have all of their context before them for want of \
             room, and how much of it was missing.\n",
        );
        if !self.memories.is_empty() {
            text.push_str("\nWritten into the memory:\n\n");
            let rows = self.memories.iter().map(|memory| {
                vec![
                    memory.mode.name().to_string(),
                    memory.n_contexts.to_string(),
                    memory.tokens.to_string(),
                    format!("{:.1}", memory.seconds),
                ]
            });
            table(&mut text, &["mode", "contexts", "tokens", "seconds"], rows);
        }
        let _ = write!(text, "\nSettings:\n\n```json\n{:#}\n```\n", self.settings);
        text
    }
}

impl Row {
    fn new(mode: Mode, category: &str, answers: &[&Answer], names: &[&'static str]) -> Row {
        let average = |value: &dyn Fn(&Answer) -> usize| {
            mean(answers.iter().map(|answer| value(answer) as f64))
        };
        let score = |name: &&'static str| {
            let found: Vec<f64> =
                answers.iter().filter_map(|answer| answer.scores.get(*name).copied()).collect();
            (!found.is_empty()).then(|| (*name, mean(found.into_iter())))
        };
        let is_cut = |answer: &&&Answer| answer.cut_pieces > 0;
        let share = |answer: &&Answer| {
            answer.cut_pieces as f64 / (answer.cut_pieces + answer.shown_pieces) as f64
        };
        Row {
            mode,
            category: category.into(),
            n: answers.len(),
            scores: names.iter().filter_map(score).collect(),
            seconds: answers.iter().map(|answer| answer.seconds).sum(),
            prompt_tokens: average(&|answer| answer.prompt_tokens),
            fed_tokens: average(&|answer| answer.fed_tokens),
            generated_tokens: average(&|answer| answer.generated_tokens),
            n_cut: answers.iter().filter(is_cut).count(),
            cut_share: mean(answers.iter().filter(is_cut).map(share)),
        }
    }
}

impl Memory {
    /// None if the mode writes nothing. In `replay` each question writes its context anew, within its
    /// own seconds.
    fn new(mode: Mode, answers: &[&Answer]) -> Option<Memory> {
        if !mode.needs_adapter() {
            return None;
        }
        let written: BTreeMap<&str, (u64, f64)> = answers
            .iter()
            .map(|answer| (answer.context.as_str(), (answer.memory_tokens, answer.memory_seconds)))
            .collect();
        let tokens = match mode.has_memory() {
            true => written.values().map(|(tokens, _)| tokens).sum(),
            false => answers.iter().map(|answer| answer.memory_tokens).sum(),
        };
        let seconds = written.values().map(|(_, seconds)| seconds).sum();
        Some(Memory { mode, n_contexts: written.len(), tokens, seconds })
    }
}

fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut line = |cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        // writing to a String cannot fail
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(head.iter().map(ToString::to_string).collect());
    line(head.iter().map(|_| "---".into()).collect());
    rows.for_each(line);
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::answer;
    use super::*;

    fn report() -> Report {
        let mut cut = answer(Mode::Full, "c", "c/1", "b", 0.0);
        (cut.cut_pieces, cut.memory_tokens, cut.memory_seconds) = (1, 0, 0.0);
        cut.scores.clear();
        let answers = [
            answer(Mode::On, "c", "c/1", "a", 1.0),
            answer(Mode::On, "c", "c/2", "a", 0.0),
            answer(Mode::On, "d", "d/1", "b|", 1.0),
            cut,
        ];
        Report::new("test", &json!({ "seed": 1 }), &["f1"], &answers)
    }

    #[test]
    fn categories_groups_and_all_are_summed_up() {
        let json = report().json();
        let rows: Vec<(String, String, u64, f64)> = json["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap().to_string();
                let score = row["scores"]["f1"].as_f64().unwrap_or(-1.0);
                (text("mode"), text("category"), row["n"].as_u64().unwrap(), score)
            })
            .collect();
        let expected = [
            ("on", "a", 2, 0.5),
            ("on", "b|", 1, 1.0),
            ("on", "g", 2, 0.5),
            ("on", "all", 3, 2.0 / 3.0),
            ("full", "b", 1, -1.0),
            ("full", "all", 1, -1.0),
        ];
        let expected = expected.map(|(m, c, n, s)| (m.to_string(), c.to_string(), n, s));
        assert_eq!(rows, expected);
        let all = &json["rows"][3];
        assert_eq!(all["seconds"], 1.5);
        assert_eq!(all["prompt_tokens"], 10.0);
        assert_eq!(json["rows"][4]["cut"], json!({ "questions": 1, "share": 0.25 }));
        // two contexts of seven tokens each, however many questions they have
        let memory = json!([{ "mode": "on", "contexts": 2, "tokens": 14, "seconds": 3.0 }]);
        assert_eq!(json["memory"], memory);
        assert_eq!(json["settings"]["seed"], 1);
    }

    #[test]
    fn markdown_has_a_line_for_each() {
        let text = report().markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "# test");
        assert!(lines.contains(&"| on | a | 2 | 50.0 | – | 10 | 2.0 | 1.0 |"), "{text}");
        assert!(lines.contains(&"| on | b\\| | 1 | 100.0 | – | 10 | 2.0 | 0.5 |"), "{text}");
        assert!(lines.contains(&"| full | b | 1 | – | 1 × 25 % | 10 | 2.0 | 0.5 |"), "{text}");
        assert!(lines.contains(&"| on | 2 | 14 | 3.0 |"), "{text}");
    }
}
