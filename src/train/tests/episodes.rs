//! Conversations as calls: how they are cut, what is learnt, which files are refused.

use super::*;
use crate::chat::{ChatTemplate, CivilDate, Message, Role};
use crate::config::WriteGranularity;
use crate::model_folder::ModelFolder;
use crate::replay::StepKind;

fn chat(parts: &[(Role, &str)]) -> Vec<Message> {
    parts.iter().map(|&(role, text)| Message::new(role, text)).collect()
}

fn reader(name: &str, granularity: WriteGranularity) -> EpisodeReader {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let folder = ModelFolder::open(folder).unwrap();
    let date = CivilDate::new(2025, 1, 1).unwrap();
    EpisodeReader::new(&folder, granularity, date).unwrap()
}

#[test]
fn a_conversation_becomes_a_context_a_question_and_an_answer() {
    let messages = chat(&[
        (Role::System, "be brief"),
        (Role::User, "i live in Lima"),
        (Role::Assistant, "good"),
        (Role::User, "where?"),
        (Role::Assistant, "Lima"),
    ]);
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::MessageMean);
    let episode = reader.episode(&messages).unwrap();
    let text = |call: &EpisodeCall| reader.tokenizer.decode(&call.tokens, false);
    let [context, reply, closing, question, answer] = &episode.calls[..] else {
        panic!("{episode:?}")
    };
    assert!(text(context).contains("Lima") && !text(context).contains("good"));
    assert_eq!((text(reply), text(closing)), ("good".into(), "<|im_end|>\n".into()));
    assert!(text(question).contains("be brief") && text(question).contains("where?"));
    assert!(!text(question).contains("Lima") && answer.continues && !question.continues);
    // The question's last token and all of the answer's have a successor; the end is never fed.
    let learnt: Vec<u32> =
        episode.calls.iter().flat_map(|c| &c.targets).flatten().copied().collect();
    assert_eq!(reader.tokenizer.decode(&learnt, false), "Lima<|im_end|>");
    assert_eq!(text(answer), "Lima");
    // The system's tokens and the answer's header are not written, the messages are.
    let ids = context.message_ids.as_deref().unwrap();
    assert_eq!((ids[0], *ids.iter().max().unwrap(), *ids.last().unwrap()), (-1, 0, -1));
    assert_eq!((&closing.message_ids, &answer.message_ids), (&Some(vec![1, 1]), &None));

    let alone = reader.episode(&messages[3..]).unwrap();
    assert!(alone.calls.len() == 3 && alone.calls[0].tokens.is_empty());
    let error = reader.episode(&messages[..4]).unwrap_err();
    assert_eq!(error.code(), "messages");
}

/// The calls that a session made, `s0` of the first turn to the last closing one.
fn recorded_calls(fixture: &Fixture) -> Vec<EpisodeCall> {
    let steps = fixture.case.steps.iter();
    let calls = steps.enumerate().map(|(index, step)| {
        let is_prefill = step.kind == StepKind::Prefill;
        let ids = step.message_ids.clone().filter(|_| is_prefill);
        call(step.input_ids.clone(), ids, index > 0)
    });
    calls.collect()
}

#[test]
fn a_context_is_cut_as_a_session_feeds_it() {
    let fixture = fixture("s2_session_ssw_smollm3");
    let recorded = recorded_calls(&fixture);
    let turns = &fixture.case.session.as_ref().unwrap().turns;
    let mut messages = Vec::new();
    for turn in turns {
        messages.push(Message::new(Role::User, &turn.user));
        messages.push(Message::new(Role::Assistant, &turn.assistant));
    }
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::MessageMean);
    let last_turn = chat(&[(Role::User, "where?"), (Role::Assistant, "Lima")]);
    let episode = reader.episode(&[&messages[..], &last_turn].concat()).unwrap();
    let context = episode.stretches().next().unwrap();
    assert_eq!(context, recorded);
    assert_eq!(episode.stretches().count(), 2);
}

#[test]
fn a_template_that_rewrites_answers_gives_one_call() {
    let messages = chat(&[
        (Role::User, "a"),
        (Role::Assistant, "b"),
        (Role::User, "c"),
        (Role::Assistant, "d"),
    ]);
    let mut reader = reader("s2_session_ssw_smollm3", WriteGranularity::MessageMean);
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}\
                    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}";
    reader.template = ChatTemplate::parse(template, None, None).unwrap();
    let episode = reader.episode(&messages).unwrap();
    assert_eq!(episode.stretches().map(<[EpisodeCall]>::len).collect::<Vec<_>>(), [1, 2]);
    let ids = episode.calls[0].message_ids.as_deref().unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (0, 1));
}

#[test]
fn token_writes_need_no_call_of_their_own_for_the_answer() {
    let messages = chat(&[(Role::User, "hi"), (Role::Assistant, "yes")]);
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::Token);
    let episode = reader.episode(&messages).unwrap();
    assert_eq!(episode.calls.len(), 2);
    assert_eq!((episode.n_targets(), episode.calls[1].message_ids.as_ref()), (4, None));
}

#[test]
fn data_files_are_read_line_by_line_and_refused_by_line() {
    let reader = reader("s2_session_ssw_smollm3", WriteGranularity::Token);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    std::fs::write(&path, format!("{good}\n\n{good}")).unwrap();
    assert_eq!(reader.read(&path).unwrap().len(), 2);
    for bad in ["[]", r#"{"messages": []}"#, "{"] {
        std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
        let error = reader.read(&path).unwrap_err();
        assert!(error.code() == "format" && error.to_string().contains("line 2"), "{error}");
    }
    std::fs::write(&path, "\n").unwrap();
    assert_eq!(reader.read(&path).unwrap_err().code(), "format");
}
