//! Whether a reply has an answer. Owns the comparison: whole words, upper and lower case alike, runs
//! of white space as one space.
//!
//! A word is a run of letters and digits, so "Ann" stands in "Ann's dog" and in "It is Ann-Marie",
//! but not in "Anna", and "3" not in "34".

use std::ops::Range;

/// What a reply says that was asked for something it was never told.
pub const NOT_TOLD: &str = "not told me";

/// True if `answer` stands in `reply`.
pub fn stands_in(answer: &str, reply: &str) -> bool {
    !places(&folded(reply), &folded(answer)).is_empty()
}

/// True if one of `answers` stands in `reply`.
pub fn is_answered(answers: &[String], reply: &str) -> bool {
    answers.iter().any(|answer| stands_in(answer, reply))
}

/// True if one of `answers` stands in `reply` and the value from before a correction does not; where
/// it is part of a longer answer ("York" in "New York") it does not count.
pub fn is_corrected(answers: &[String], old: &str, reply: &str) -> bool {
    let reply = folded(reply);
    let new: Vec<_> = answers.iter().flat_map(|answer| places(&reply, &folded(answer))).collect();
    let is_part = |old: &Range<usize>| {
        let mut longer = new.iter().filter(|new| new.len() > old.len());
        longer.any(|new| new.start <= old.start && old.end <= new.end)
    };
    !new.is_empty() && places(&reply, &folded(old)).iter().all(is_part)
}

fn folded(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where `words` stand in `text` as whole words, in bytes; both are folded.
fn places(text: &str, words: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let (Some(first), Some(last)) = (words.chars().next(), words.chars().next_back()) else {
        return places;
    };
    let goes_on = |inside: char, outside: Option<char>| {
        inside.is_alphanumeric() && outside.is_some_and(char::is_alphanumeric)
    };
    let mut from = 0;
    while let Some(at) = text[from..].find(words) {
        let (start, end) = (from + at, from + at + words.len());
        let begins_inside = goes_on(first, text[..start].chars().next_back());
        if !begins_inside && !goes_on(last, text[end..].chars().next()) {
            places.push(start..end);
        }
        from = start + first.len_utf8();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_stands_in_a_reply_as_whole_words() {
        for (answer, reply) in [
            ("Lisbon", "You live in LISBON."),
            ("Ann", "Her name is ann."),
            ("Ann", "That is Ann's dog."),
            ("Ann", "Anna and Ann"),
            ("new york", "In New\n York!"),
            ("34", "34"),
            ("C++", "You like C++ best."),
            ("Łódź", "You live in łódź."),
            ("a a", "xa a a"),
            ("not told me", "You have not told me where you live."),
        ] {
            assert!(stands_in(answer, reply), "{answer} in {reply}");
        }
        for (answer, reply) in [
            ("Ann", "Her name is Anna."),
            ("Ann", "Joann"),
            ("3", "You are 34."),
            ("red", "bored"),
            ("New York", "New, York"),
            ("", "anything"),
            ("Lisbon", ""),
            ("é", "éa"),
        ] {
            assert!(!stands_in(answer, reply), "{answer} in {reply}");
        }
    }

    #[test]
    fn any_accepted_answer_will_do() {
        let answers = ["bike".to_string(), "bicycle".to_string()];
        assert!(is_answered(&answers, "You ride a bicycle."));
        assert!(!is_answered(&answers, "You ride a motorbike."));
        assert!(!is_answered(&[], "You ride a bike."));
    }

    #[test]
    fn a_correction_needs_the_new_value_and_bears_no_old_one() {
        let is = |answers: &[&str], old: &str, reply: &str| {
            let answers: Vec<String> = answers.iter().map(|text| text.to_string()).collect();
            is_corrected(&answers, old, reply)
        };
        assert!(is(&["Porto"], "Lisbon", "You live in Porto."));
        assert!(!is(&["Porto"], "Lisbon", "You live in porto, not in LISBON."));
        assert!(!is(&["Porto"], "Lisbon", "You live in Lisbon."));
        assert!(!is(&["Porto"], "Lisbon", "You have not told me."));
        assert!(is(&["Anna"], "Ann", "Her name is Anna."));
        assert!(is(&["New York"], "York", "You live in New York. New York!"));
        assert!(!is(&["New York"], "York", "You moved from York to New York."));
        assert!(!is(&["York"], "New York", "You live in New York."));
    }
}
