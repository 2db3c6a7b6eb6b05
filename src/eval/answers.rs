//! Whether a reply has an answer. Owns the comparison: whole words, upper and lower case alike, runs
//! of white space as one space, and an answer's last word in singular or plural.
//!
//! A word is a run of letters and digits, so "Ann" stands in "Ann's dog" and in "It is Ann-Marie",
//! but not in "Anna", and "27" not in "127". "peanut" stands in "You are allergic to peanuts", and
//! "peanuts" in "a peanut allergy"; what is written as a name is never shortened: "Andrews" does not
//! stand in "Andrew".

use std::ops::Range;

/// What a reply says that was asked for something it was never told.
pub const NOT_TOLD: &str = "not told me";

/// Letters that a word must have for a plural: "a" is not "as", nor "do" "does".
const MIN_PLURAL_LETTERS: usize = 3;

/// True if `answer` stands in `reply`.
pub fn stands_in(answer: &str, reply: &str) -> bool {
    !places_of_any(&folded(reply), &forms(answer)).is_empty()
}

/// True if one of `answers` stands in `reply`.
pub fn is_answered(answers: &[String], reply: &str) -> bool {
    answers.iter().any(|answer| stands_in(answer, reply))
}

/// True if one of `answers` stands in `reply` and the value from before a correction does not; where
/// it is part of a longer answer ("York" in "New York") it does not count. Where one is the other's
/// plural, both are looked for as they are written: that is then what was corrected.
pub fn is_corrected(answers: &[String], old: &str, reply: &str) -> bool {
    let reply = folded(reply);
    let old_forms = forms(old);
    let is_form_of_old = |form: &String| old_forms.contains(form);
    let is_exact = answers.iter().any(|answer| forms(answer).iter().any(is_form_of_old));
    let places = |text: &str| match is_exact {
        true => places(&reply, &folded(text)),
        false => places_of_any(&reply, &forms(text)),
    };
    let new: Vec<_> = answers.iter().flat_map(|answer| places(answer)).collect();
    let is_part = |old: &Range<usize>| {
        let mut longer = new.iter().filter(|new| new.len() > old.len());
        longer.any(|new| new.start <= old.start && old.end <= new.end)
    };
    !new.is_empty() && places(old).iter().all(is_part)
}

fn folded(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The answer, folded, as it is and with its last word in plural, and in singular if it may be a
/// plural. Words with anything but letters have no other form, and neither have short ones.
fn forms(answer: &str) -> Vec<String> {
    let text = folded(answer);
    let is_name =
        answer.split_whitespace().last().is_some_and(|word| word.starts_with(char::is_uppercase));
    let at = text.rfind(|c: char| !c.is_alphanumeric()).map_or(0, |at| {
        let separator = text[at..].chars().next().map_or(0, char::len_utf8);
        at + separator
    });
    let (before, word) = (text[..at].to_string(), text[at..].to_string());
    let mut forms = vec![text];
    let n_letters = word.chars().count();
    let is_word = n_letters >= MIN_PLURAL_LETTERS && word.chars().all(char::is_alphabetic);
    if !is_word {
        return forms;
    }
    let mut others = plurals(&word);
    if !is_name {
        others.extend(singulars(&word));
    }
    forms.extend(others.into_iter().map(|word| format!("{before}{word}")));
    forms
}

/// The regular plurals of an English word: bikes; boxes; mangos and mangoes; berries.
fn plurals(word: &str) -> Vec<String> {
    let with = |ending: &str| format!("{word}{ending}");
    if ["s", "x", "z", "ch", "sh"].iter().any(|ending| word.ends_with(ending)) {
        return vec![with("es")];
    }
    if word.ends_with('o') {
        return vec![with("s"), with("es")];
    }
    let is_vowel = |c: char| "aeiou".contains(c);
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(is_vowel) => vec![format!("{stem}ies")],
        _ => vec![with("s")],
    }
}

/// The words whose regular plural this is.
fn singulars(word: &str) -> Vec<String> {
    let stems = ["s", "es"].iter().filter_map(|ending| word.strip_suffix(ending));
    let with_y = word.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let stems = stems.map(str::to_string).chain(with_y);
    let is_singular = |stem: &String| {
        stem.chars().count() >= MIN_PLURAL_LETTERS && plurals(stem).iter().any(|p| p == word)
    };
    stems.filter(is_singular).collect()
}

/// Where any of `forms` stands in `text`.
fn places_of_any(text: &str, forms: &[String]) -> Vec<Range<usize>> {
    forms.iter().flat_map(|form| places(text, form)).collect()
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
    fn an_answer_stands_in_a_reply_in_singular_and_plural() {
        for (answer, reply) in [
            ("peanut", "You are allergic to peanuts."),
            ("Peanut", "You are allergic to PEANUTS."),
            ("peanuts", "You have a peanut allergy."),
            ("strawberry", "strawberries"),
            ("strawberries", "the strawberry"),
            ("a box", "a boxes"),
            ("mango", "mangos"),
            ("mango", "mangoes"),
            ("mangoes", "mango"),
            ("toys", "a toy"),
            ("glass", "glasses"),
            ("science-fiction film", "Science-fiction films, you said."),
            ("dairy products", "any dairy product"),
            ("Robert", "the Roberts"),
        ] {
            assert!(stands_in(answer, reply), "{answer} in {reply}");
        }
        for (answer, reply) in [
            ("27", "127"),
            ("27", "27s"),
            ("bike", "You ride a motorbike."),
            ("bikes", "motorbikes"),
            ("art", "an artist"),
            ("art", "artes"),
            ("box", "boxs"),
            ("berry", "berrys"),
            ("glass", "glas"),
            ("bus", "bu"),
            ("glass films", "glasses film"),
            ("a", "as"),
            ("Andrews", "Andrew"),
            (NOT_TOLD, "not told mes"),
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
    #[test]
    fn a_correction_sees_old_and_new_values_in_plural() {
        let is =
            |answer: &str, old: &str, reply: &str| is_corrected(&[answer.to_string()], old, reply);
        assert!(is("walnut", "peanut", "You are allergic to walnuts."));
        assert!(!is("walnut", "peanut", "You are allergic to walnuts and peanuts."));
        assert!(!is("walnut", "peanut", "You are allergic to peanuts."));
        assert!(is("peanut butter", "peanuts", "It is peanut butter."));
        // a correction from one to the other is about just this letter
        assert!(is("Roberts", "Robert", "Your name is Roberts."));
        assert!(!is("Roberts", "Robert", "Your name is Robert."));
        assert!(is("Robert", "Roberts", "Your name is Robert."));
        assert!(!is("Robert", "Roberts", "Your name is Roberts."));
        assert!(is("two cats", "two cat", "You have two cats."));
        assert!(!is("two cats", "two cat", "You have two cat."));
    }
}
