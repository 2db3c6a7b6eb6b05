//! How a reply is scored against accepted answers. Owns normalisation and the overlap of tokens, each
//! as the script that a benchmark's authors published does it:
//!
//! * SQuAD, and with it HotpotQA (`hotpot_evaluate_v1.py`) and MemoryAgentBench
//!   (`eval_other_utils.py`): lower case, ASCII punctuation and articles away, white space collapsed.
//!   An answer of *yes*, *no* or *noanswer* is right or wrong, nothing between.
//! * LoCoMo (`task_eval/evaluation.py`): the same with *and* as another article, and overlap counted
//!   on stems ([`super::porter`]); questions with several answers compare them one by one.

use super::porter::stem;
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Overlap of a reply with an answer, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overlap {
    pub f1: f64,
    /// Of the reply's tokens, those in the answer.
    pub precision: f64,
    /// Of the answer's tokens, those in the reply.
    pub recall: f64,
}

/// SQuAD's normalisation.
pub fn normalise(text: &str) -> String {
    static ARTICLES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("a valid pattern"));
    plain(text, &ARTICLES)
}

/// LoCoMo's normalisation.
pub fn normalise_locomo(text: &str) -> String {
    static ARTICLES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(a|an|the|and)\b").expect("a valid pattern"));
    plain(text, &ARTICLES)
}

fn plain(text: &str, articles: &Regex) -> String {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = articles.replace_all(&text, " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether both are the same after normalisation.
pub fn is_exact_match(reply: &str, answer: &str) -> bool {
    normalise(reply) == normalise(answer)
}

/// Whether the answer stands in the reply after normalisation; letters decide, not words.
pub fn is_substring_match(reply: &str, answer: &str) -> bool {
    normalise(reply).contains(&normalise(answer))
}

/// Overlap of tokens after SQuAD's normalisation, with HotpotQA's rule for *yes*, *no* and
/// *noanswer*.
pub fn overlap(reply: &str, answer: &str) -> Overlap {
    let (reply, answer) = (normalise(reply), normalise(answer));
    let is_closed = |text: &str| matches!(text, "yes" | "no" | "noanswer");
    if (is_closed(&reply) || is_closed(&answer)) && reply != answer {
        return Overlap::default();
    }
    let tokens = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    token_overlap(&tokens(&reply), &tokens(&answer))
}

/// LoCoMo's F1 against one answer.
pub fn locomo_f1(reply: &str, answer: &str) -> f64 {
    let tokens =
        |text: &str| normalise_locomo(text).split_whitespace().map(stem).collect::<Vec<String>>();
    token_overlap(&tokens(reply), &tokens(answer)).f1
}

/// LoCoMo's F1 against several answers, separated by commas as the parts of the reply are: the mean
/// over the answers of the best part of the reply for each.
pub fn locomo_multi_answer_f1(reply: &str, answers: &str) -> f64 {
    let parts = |text: &str| -> Vec<String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(String::from).collect()
    };
    let (replies, answers) = (parts(reply), parts(answers));
    let best =
        |answer: &String| replies.iter().map(|reply| locomo_f1(reply, answer)).fold(0.0, f64::max);
    mean(answers.iter().map(best))
}

/// LoCoMo's rule for questions whose answer was never said.
pub fn is_declined(reply: &str) -> bool {
    let reply = reply.to_lowercase();
    reply.contains("no information available") || reply.contains("not mentioned")
}

/// The first line that is not empty, trimmed.
pub fn first_line(reply: &str) -> &str {
    reply.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

/// What stands behind the first `Answer:` to the end of its line, else the first line; without
/// another `Answer:` in front.
pub fn after_answer_prefix(reply: &str) -> &str {
    const PREFIX: &str = "answer:";
    let starts = |text: &str| {
        text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
    };
    let found = reply.char_indices().map(|(at, _)| at).find(|&at| starts(&reply[at..]));
    let rest = found.map_or(reply, |at| &reply[at + PREFIX.len()..]);
    let line = rest.split('\n').next().unwrap_or_default().trim();
    if starts(line) { line[PREFIX.len()..].trim() } else { line }
}

/// The mean, 0 of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for value in values {
        sum += value;
        n += 1;
    }
    if n == 0 { 0.0 } else { sum / f64::from(n) }
}

/// 1 or 0.
pub fn as_score(is_right: bool) -> f64 {
    f64::from(u8::from(is_right))
}

/// Overlap as multisets.
fn token_overlap(reply: &[String], answer: &[String]) -> Overlap {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for token in answer {
        *left.entry(token).or_default() += 1;
    }
    let mut n_same = 0;
    for token in reply {
        if let Some(n) = left.get_mut(token.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            n_same += 1;
        }
    }
    if n_same == 0 {
        return Overlap::default();
    }
    let (precision, recall) =
        (f64::from(n_same) / reply.len() as f64, f64::from(n_same) / answer.len() as f64);
    Overlap { f1: 2.0 * precision * recall / (precision + recall), precision, recall }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn squad_normalisation() {
        assert_eq!(normalise("  The Cat, an  Owl\nand A dog! "), "cat owl and dog");
        // punctuation goes without a space, articles leave one
        assert_eq!(normalise("U.S.A. self-made"), "usa selfmade");
        // only whole words are articles
        assert_eq!(normalise("Theatre banana An"), "theatre banana");
        assert_eq!(normalise("the"), "");
        // punctuation beyond ASCII stays, as in the scripts
        assert_eq!(normalise("“Où”"), "“où”");
    }

    #[test]
    fn locomo_normalisation_drops_and_too() {
        assert_eq!(normalise_locomo("The cat, and a dog"), "cat dog");
    }

    #[test]
    fn overlap_counts_tokens_as_often_as_they_occur() {
        // reply: new york new york (4); answer: new york city (3); common: new, york (2)
        // precision 2/4, recall 2/3, F1 = 2·(1/2)(2/3)/(7/6) = 4/7
        let found = overlap("New York, New York", "the New York City");
        assert_close(found.precision, 0.5);
        assert_close(found.recall, 2.0 / 3.0);
        assert_close(found.f1, 4.0 / 7.0);
        assert_eq!(overlap("", "x"), Overlap::default());
        assert_eq!(overlap("x", "the"), Overlap::default());
    }

    #[test]
    fn yes_and_no_are_right_or_wrong() {
        assert_eq!(overlap("yes", "Yes."), Overlap { f1: 1.0, precision: 1.0, recall: 1.0 });
        // without the rule recall were 1 and F1 2/3
        assert_eq!(overlap("yes it is", "yes"), Overlap::default());
        assert_eq!(overlap("no", "no man"), Overlap::default());
        assert_eq!(overlap("noanswer", "Paris"), Overlap::default());
    }

    #[test]
    fn exact_and_substring_matches() {
        assert!(is_exact_match("The Eiffel Tower!", "eiffel tower"));
        assert!(!is_exact_match("Eiffel Towers", "Eiffel Tower"));
        assert!(is_substring_match("I think it is the Eiffel Tower.", "Eiffel Tower"));
        // letters decide: "art" is in "party"
        assert!(is_substring_match("a party", "art"));
        assert!(!is_substring_match("tower", "Eiffel Tower"));
    }

    #[test]
    fn locomo_f1_compares_stems() {
        // paint, sunset against paint, sunset: all the same as stems
        assert_close(locomo_f1("painting sunsets", "painted a sunset"), 1.0);
        // reply: 7 may 2023 (3), answer: 7 may 2023 at noon, 5 tokens; F1 = 2·1·0.6/1.6 = 0.75
        assert_close(locomo_f1("7 May, 2023", "7 May 2023 at noon"), 0.75);
        // no rule for yes and no here: precision 1/3, recall 1, F1 1/2
        assert_close(locomo_f1("yes it is", "yes"), 0.5);
        assert_close(locomo_f1("", "yes"), 0.0);
    }

    #[test]
    fn several_answers_take_the_best_part_of_the_reply_each() {
        // "pottery": 1 with the first part; "camping trip": the second part has one of its two
        // tokens and nothing else, F1 = 2·1·(1/2)/(3/2) = 2/3; mean (1 + 2/3)/2 = 5/6
        assert_close(
            locomo_multi_answer_f1("pottery, camping", "Pottery, camping trip"),
            5.0 / 6.0,
        );
        // one part for both: pottery and camping (2 tokens without "and"); "pottery": p 1/2, r 1,
        // F1 2/3; "swimming": 0; mean 1/3
        assert_close(locomo_multi_answer_f1("pottery and camping", "pottery, swimming"), 1.0 / 3.0);
        assert_close(locomo_multi_answer_f1("", "pottery"), 0.0);
        assert_close(locomo_multi_answer_f1("pottery", " , "), 0.0);
    }

    #[test]
    fn what_was_never_said_is_declined() {
        assert!(is_declined("That is Not Mentioned."));
        assert!(is_declined("No information available"));
        assert!(!is_declined("I do not know"));
    }

    #[test]
    fn the_answer_is_cut_out_of_a_reply() {
        assert_eq!(first_line("\n  \n Paris \nbecause"), "Paris");
        assert_eq!(first_line(""), "");
        assert_eq!(after_answer_prefix("I see.\nanswer:  Answer: label 7 \nmore"), "label 7");
        assert_eq!(after_answer_prefix("Paris\nAnswer of sorts"), "Paris");
        assert_eq!(after_answer_prefix("İ Answer: x"), "x");
        assert_eq!(after_answer_prefix(""), "");
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_close(mean([].into_iter()), 0.0);
        assert_close(mean([1.0, 0.0].into_iter()), 0.5);
    }
}
