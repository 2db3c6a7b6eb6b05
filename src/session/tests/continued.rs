//! Replies that go on in a message that is there, and who may think.

use super::*;
use crate::chat::{ChatTemplate, ToolCall};
use crate::constraint::Constraint;

fn going_on(session: &Session) -> TurnOptions {
    TurnOptions { continue_final_message: true, max_new_tokens: 6, ..options(session) }
}

fn go_on(session: &mut Session, messages: Vec<Message>) -> Result<Turn> {
    let options = going_on(session);
    block_on(session.turn(messages, &options, &mut |_| ControlFlow::Continue(())))
}

#[test]
fn a_reply_goes_on_in_the_last_message() {
    for mode in MODES {
        let mut s = small(mode);
        let begun = "I live in";
        let turn = go_on(&mut s, vec![user("Where?"), assistant(begun)]).unwrap();
        assert_eq!((turn.generated_ids.len(), s.messages().len()), (6, 3));
        assert_eq!(s.messages()[2].content, format!("{begun}{}", turn.answer), "{mode}");
        assert!(!turn.answer.starts_with(begun));
        // the prompt is what the template makes of the message, without its end
        let text = s.render_to(
            &[s.messages()[0].clone(), user("Where?"), assistant(begun)],
            End::Unfinished,
        );
        let (text, tokens) = text.unwrap();
        assert!(text.ends_with(begun), "{text}");
        assert_eq!(turn.prompt.full_tokens, tokens.len());
        // and with it the same as what follows those tokens anywhere
        let mut expected = small(mode);
        let messages = vec![user("Where?"), assistant(begun)];
        expected.talk.messages.extend(messages);
        let ids = expected.write_ids(&tokens).unwrap();
        let wanted = Wanted { logits: crate::engine::WantedLogits::Argmax, ..Wanted::default() };
        let outputs = block_on(expected.ingest(&tokens, ids, true, false, wanted)).unwrap().1;
        assert_eq!(outputs.argmax, Some(turn.generated_ids[0]), "{mode}");
        // what closes the message was fed, and a stateless caller's view of it is recognised
        let n = s.processed_tokens().len();
        let written = s.counters().tokens_written;
        let history = [s.messages(), &[user("Why?")]].concat();
        let next = say_from(&mut s, history);
        assert_eq!((next.prompt.prefix_tokens, next.prompt.rollback), (n, None), "{mode}");
        assert!(s.counters().tokens_written - written < 40);
        for n_messages in [3, 1] {
            assert!(block_on(s.undo_turn()).unwrap());
            assert_eq!(s.messages().len(), n_messages);
        }
        assert_eq!(state(&s).norm(), 0.0);
    }
}

#[test]
fn a_reply_that_was_cut_goes_on_as_if_it_had_not_been() {
    let mut s = small(MODES[0]);
    let whole = TurnOptions { max_new_tokens: 12, ..options(&s) };
    let expected = say_with(&mut s, "Say a lot.", &whole).unwrap();
    let mut s = small(MODES[0]);
    let half = TurnOptions { max_new_tokens: 6, ..options(&s) };
    let first = say_with(&mut s, "Say a lot.", &half).unwrap();
    let turns = s.counters().turns;
    let rest = go_on(&mut s, Vec::new()).unwrap();
    assert_eq!(s.messages().len(), 3);
    assert_eq!(s.counters().turns, turns, "it is the same turn");
    // where text and tokens are one to one; noise need not write words as the tokenizer cuts them
    let text = format!("{}{}", first.answer, expected.answer.strip_prefix(&first.answer).unwrap());
    if s.model.tokenizer.encode(&first.answer).unwrap() == first.generated_ids {
        assert_eq!(s.messages()[2].content, text);
        assert_eq!([first.generated_ids, rest.generated_ids].concat(), expected.generated_ids);
    }
    // the whole turn is one to take back
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!((s.messages().len(), state(&s).norm()), (1, 0.0));
}

#[test]
fn a_history_whose_last_reply_goes_on_is_written_once() {
    let mut s = small(MODES[0]);
    let system = s.messages()[0].clone();
    let mut history = vec![system, user("Say something.")];
    let half = TurnOptions { max_new_tokens: 6, ..options(&s) };
    let first = say_from_with(&mut s, history.clone(), &half).unwrap();
    history.push(assistant(&first.answer));
    let options = going_on(&s);
    let rest = say_from_with(&mut s, history.clone(), &options).unwrap();
    let grown = format!("{}{}", first.answer, rest.answer);
    assert_eq!(s.messages()[2].content, grown);
    // as many tokens are written as one conversation with this reply has
    assert_eq!(s.counters().tokens_written, s.processed_tokens().len() as u64);
    // the caller edits what it got and asks for the rest; then for more than that
    let edited: String = first.answer.chars().take(5).collect();
    history[2] = assistant(&edited);
    let rest = say_from_with(&mut s, history.clone(), &options).unwrap();
    assert_eq!(s.messages()[2].content, format!("{edited}{}", rest.answer));
    assert_eq!(s.counters().tokens_written, s.processed_tokens().len() as u64);
    history[2].content.push_str(&rest.answer);
    history.push(user("And then?"));
    let n = s.processed_tokens().len();
    let next = say_from(&mut s, history);
    assert_eq!((next.prompt.prefix_tokens, next.prompt.rollback), (n, None));
}

/// After a restart the beginning of the reply was read before; only what is added is written.
#[test]
fn a_settled_reply_goes_on_without_being_written_again() {
    let mut s = small(MODES[0]);
    let system = s.messages()[0].clone();
    let held = vec![system, user("Where?"), assistant("I live in")];
    block_on(s.resume(held.clone())).unwrap();
    assert_eq!(s.counters().tokens_written, 0);
    let options_on = going_on(&s);
    let turn = say_from_with(&mut s, held, &options_on).unwrap();
    let n_added = turn.generated_ids.len() as u64;
    let n_written = s.counters().tokens_written;
    assert!(n_written >= n_added && n_written < n_added + 8, "{n_written}");
    // nothing goes back behind it
    let memory = state(&s);
    s.set_enable_thinking(Some(true));
    let read_only = TurnOptions { write_enabled: false, ..options(&s) };
    say_with(&mut s, "And?", &read_only).unwrap();
    assert_eq!(state(&s), memory);
}

#[test]
fn what_cannot_go_on_is_refused() {
    let mut s = small(MODES[0]);
    let before = s.messages().to_vec();
    let mut calling = assistant("I look.");
    let call = ToolCall { name: "now".into(), arguments: Default::default(), id: None };
    calling.tool_calls.push(call);
    for messages in [vec![], vec![user("Where?")], vec![user("Where?"), calling]] {
        assert_eq!(go_on(&mut s, messages).unwrap_err().code(), "messages");
    }
    let options = options(&s);
    let plain = say_from_with(&mut s, vec![user("Where?"), assistant("I")], &options);
    assert_eq!(plain.unwrap_err().code(), "messages");
    assert_eq!(s.messages(), before);
}

/// SmolLM3's template reads flags in the system message, which win over the switch; a constraint leaves
/// room for thoughts exactly where the prompt does.
#[test]
fn flags_in_a_system_message_say_who_may_think() {
    let template = include_str!("../../chat/smollm3_like.jinja");
    for (system, switch, may_think) in [
        ("Be kind.", None, true),
        ("Be kind.", Some(false), false),
        ("Be kind.", Some(true), true),
        ("Be kind. /think", Some(false), true),
        ("Be kind. /no_think", Some(true), false),
        ("Be kind. /no_think /think", None, false),
        ("/system_override /think", Some(false), true),
    ] {
        let mut s = session_with(1024, Some(system));
        s.model.template = ChatTemplate::parse(template, None, None).unwrap();
        s.set_enable_thinking(switch);
        let think = s.model.tokenizer.token_id("<think>").unwrap();
        let constraint = Constraint::Regex("[a-z]+".into());
        let (prompt, _) = {
            s.talk.messages.push(user("Hello."));
            s.render_tokens(true).unwrap()
        };
        assert_eq!(!prompt.ends_with("</think>\n"), may_think, "{system}");
        let mut guide = {
            let vocabulary = s.model.constraint_vocabulary().unwrap();
            let matcher = constraint.matcher(vocabulary).unwrap();
            let splitter = s.think_splitter(&prompt, false, true);
            let may_think = s.may_think(&prompt).unwrap();
            super::super::guide::Guide::new(
                matcher,
                &s.model.tokenizer,
                &prompt,
                splitter,
                may_think,
            )
        };
        let is_allowed = guide.mask().unwrap()[think as usize / 32] >> (think % 32) & 1 == 1;
        assert_eq!(is_allowed, may_think, "{system} {switch:?}");
    }
    // a template without a switch: what the caller says
    let mut s = session();
    s.model.template = ChatTemplate::parse("{{ messages[-1].content }}", None, None).unwrap();
    assert!(s.may_think("x").unwrap());
    s.set_enable_thinking(Some(false));
    assert!(!s.may_think("Be brief.").unwrap());
}

/// A short header, and replies of the length that is asked for.
fn small(mode: &str) -> Session {
    let mut s = session_in(mode, 256, Some("Brief. /system_override"));
    s.model.eos_token_ids.clear();
    s
}
