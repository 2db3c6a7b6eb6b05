use super::*;
use crate::chat::CivilDate;
use crate::tokenizer::tests::byte_tokenizer;

#[test]
fn sentences_split_as_the_regex_does() {
    // Expected values are of Python's re.finditer with the regex of SPEC.md.
    let cases: [(&str, &[&str]); 12] = [
        ("One. Two! Three?", &["One.", " Two!", " Three?"]),
        ("He said \"no.\" Then; left", &["He said \"no.", "\" Then;", " left"]),
        ("a.b c", &["a.b c"]),
        ("x:\ny", &["x:", "\ny"]),
        ("p\n\n\nq\nr", &["p", "\n\n\nq\nr"]),
        ("end.\n\n \nmore", &["end.", "\n\n \nmore"]),
        ("end. \n\nmore", &["end.", " \n\nmore"]),
        ("“hi.”’)]\u{a0}x", &["“hi.", "”’)]\u{a0}x"]),
        ("a.\u{1c}b", &["a.", "\u{1c}b"]),
        ("\n\nstart", &["", "\n\nstart"]),
        ("tail. ", &["tail.", " "]),
        ("", &[""]),
    ];
    for (text, expected) in cases {
        assert_eq!(split_sentences(text), expected, "{text:?}");
        assert_eq!(split_sentences(text).concat(), text);
    }
}

#[test]
fn find_is_the_first_contiguous_run() {
    assert_eq!(find(&[1, 1, 2, 1, 1, 1, 3], &[1, 1, 3]), Some(4));
    assert_eq!(find(&[1, 1, 2, 1, 1, 2], &[1, 2]), Some(1));
    assert_eq!(find(&[1, 2], &[1, 2, 3]), None);
    assert_eq!(find(&[1, 2], &[]), None);
    assert_eq!(find(&[], &[1]), None);
}

const TEMPLATE: &str = "{%- for m in messages -%}<{{ m.role }}>{{ m.content }}\n{%- endfor -%}{%- if add_generation_prompt -%}<assistant>{%- endif -%}";

fn ids_of(template: &str, messages: &[Message], with_sentences: bool) -> Result<WriteIds> {
    let template = ChatTemplate::parse(template, None, None)?;
    let tokenizer = byte_tokenizer();
    let render = RenderOptions::new(CivilDate::new(2025, 1, 1).unwrap());
    let text = template.render(messages, &render.with_generation_prompt(true))?;
    let options = SpanOptions { render: &render, with_sentences };
    let full_ids = tokenizer.encode(&text)?;
    let mut cache = SpanCache::default();
    for count in 0..messages.len() {
        // Partial use of a cache must not change the result.
        let text = template.render(&messages[..count], &render)?;
        let full = tokenizer.encode(&text)?;
        cache.write_ids(&messages[..count], &template, &tokenizer, &full, options)?;
    }
    let ids = write_ids(messages, &template, &tokenizer, &full_ids, options)?;
    let cached = cache.write_ids(messages, &template, &tokenizer, &full_ids, options)?;
    assert_eq!(cached, ids);
    assert_eq!(ids.message_ids.len(), full_ids.len());
    Ok(ids)
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new(Role::System, "S. T."),
        Message::new(Role::User, "a. b"),
        Message::new(Role::Assistant, ""),
        Message::new(Role::User, "c"),
    ]
}

#[test]
fn system_and_generation_prompt_are_not_written() {
    let ids = ids_of(TEMPLATE, &conversation(), true).unwrap();
    let expected = [
        vec![-1; "<system>S. T.".len()],
        vec![0; "<user>a. b".len()],
        vec![1; "<assistant>".len()],
        vec![2; "<user>c".len()],
        vec![-1; "<assistant>".len()],
    ]
    .concat();
    assert_eq!(ids.message_ids, expected);
    let mut expected = vec![-1; expected.len()];
    let user = "<system>S. T.<user>".len();
    expected[user..user + 2].fill(0);
    expected[user + 2..user + 4].fill(1);
    expected["<system>S. T.<user>a. b<assistant><user>".len()] = 2;
    assert_eq!(ids.sentence_ids, expected);
    assert_eq!((ids.next_message_id, ids.next_sentence_id), (3, 3));
    let without = ids_of(TEMPLATE, &conversation(), false).unwrap();
    assert_eq!(without.message_ids, ids.message_ids);
    assert!(without.sentence_ids.iter().all(|&id| id == -1));
    assert_eq!(without.next_sentence_id, 0);
}

#[test]
fn a_changed_end_belongs_to_the_later_message() {
    // The last message ends in `$`, which the next rendering takes back.
    let template = "{%- for m in messages -%}<{{ m.content }}{{ '$' * width if loop.last else '' }}{%- endfor -%}";
    let with_width = |width: usize| template.replace("width", &width.to_string());
    let messages = [Message::new(Role::User, "ab"), Message::new(Role::User, "c")];
    let ids = ids_of(&with_width(3), &messages, false).unwrap();
    assert_eq!(ids.message_ids, [0, 0, 0, 1, 1, 1, 1, 1]);
    assert!(ids_of(&with_width(16), &messages, false).is_ok());
    let error = ids_of(&with_width(17), &messages, false).unwrap_err();
    assert_eq!(error.code(), "messages");
}

#[test]
fn content_that_the_template_changes_has_no_sentences() {
    let template = TEMPLATE.replace("m.content", "m.content|upper");
    let ids = ids_of(&template, &conversation(), true).unwrap();
    assert!(ids.sentence_ids.iter().all(|&id| id == -1));
    assert!(ids.message_ids.contains(&2));
}

#[test]
fn a_long_repetitive_message_is_quick() {
    let messages = [Message::new(Role::User, "a. ".repeat(100_000))];
    let ids = ids_of(TEMPLATE, &messages, true).unwrap();
    assert_eq!(ids.next_sentence_id, 100_001);
}
