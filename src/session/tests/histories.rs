//! Whole histories, appended messages, tools.

use super::*;
use crate::chat::{ChatTemplate, ToolCall};
use serde_json::json;

#[test]
fn a_second_whole_history_feeds_only_what_is_new() {
    // with a template that prefills an empty thought, and one that leaves thinking to the reply
    for thinking in [false, true] {
        let mut s = session();
        s.set_enable_thinking(Some(thinking));
        let system = Message::new(Role::System, "Be brief.");
        let first = say_from(&mut s, vec![system.clone(), user("Hello.")]);
        assert_eq!(first.prompt.prefix_tokens, 0);
        let n = s.processed_tokens().len();
        let held = s.messages().to_vec();
        let answer = format!("{}  \n", first.answer.trim());
        let history = vec![system, user("Hello."), assistant(&answer), user("Go on.")];
        let second = say_from(&mut s, history);
        assert_eq!(second.prompt.prefix_tokens, n, "thinking {thinking}");
        assert_eq!(second.prompt.rollback, None);
        assert!(s.messages().starts_with(&held));

        // the same as asking twice
        let mut asked = session();
        asked.set_enable_thinking(Some(thinking));
        say(&mut asked, "Hello.");
        assert_eq!(say(&mut asked, "Go on.").generated_ids, second.generated_ids);
        assert_eq!(state(&asked), state(&s));
        assert_eq!(asked.counters(), s.counters());
    }
}

#[test]
fn an_answer_is_recognised_without_its_thoughts() {
    let mut s = session();
    s.set_enable_thinking(Some(true));
    let reply = "<think>\nWhat does Ada want?\n</think>\n\nTea, I suppose. ";
    append(&mut s, vec![user("What do I want?"), assistant(reply)]);
    let n = s.processed_tokens().len();
    let system = s.messages()[0].clone();
    let given = vec![system, user("What do I want?"), assistant("Tea, I suppose."), user("Yes.")];
    let turn = say_from(&mut s, given.clone());
    assert_eq!((turn.prompt.prefix_tokens, turn.prompt.rollback), (n, None));
    assert_eq!(s.messages()[2].content, reply);

    // another answer is another history
    block_on(s.undo_turn()).unwrap();
    let mut other = given;
    other[2] = assistant("Coffee.");
    let turn = say_from(&mut s, other);
    assert_eq!(turn.prompt.rollback.unwrap().memory, RollbackMemory::Restored);
    assert_eq!(s.messages()[2].content, "Coffee.");
}

#[test]
fn a_conversation_begun_with_settled_messages_writes_only_what_is_new() {
    for mode in MODES {
        let mut s = session_in(mode, 1024, Some("Be brief."));
        let first = say(&mut s, "I live in Lisbon.");
        let memory = block_on(s.memory(1)).unwrap();
        let system = s.messages()[0].clone();
        let settled = vec![system, user("I live in Lisbon."), assistant(&first.answer)];
        let history = [settled.clone(), vec![user("Where?")]].concat();

        // after a restart: nothing is fed before the turn, and no day of another conversation stays
        let mut later = session_in(mode, 1024, None);
        block_on(later.set_memory(&memory)).unwrap();
        block_on(later.begin(settled.clone(), CivilDate::from_unix_seconds(0))).unwrap();
        assert_eq!((later.processed_tokens().len(), later.messages().len()), (0, 3));
        assert_eq!(state(&later), memory.state);
        let turn = say_from(&mut later, history.clone());
        assert_eq!((turn.prompt.prefix_tokens, turn.prompt.rollback), (0, None));
        let n_settled = later.tokens_of(&settled, false).unwrap().len();
        let n_new = (later.processed_tokens().len() - n_settled) as u64;
        let n_written = later.counters().tokens_written - memory.header.counters.tokens_written;
        assert!(n_written > 0 && n_written <= n_new, "{mode}: {n_written} of {n_new}");
        // and it can be taken back
        assert!(block_on(later.undo_turn()).unwrap());
        assert_eq!((state(&later), later.messages().len()), (memory.state.clone(), 3));

        // without settling, the same history is written once more
        let mut other = session_in(mode, 1024, None);
        block_on(other.set_memory(&memory)).unwrap();
        block_on(other.begin(Vec::new(), CivilDate::from_unix_seconds(0))).unwrap();
        say_from(&mut other, history);
        let n_again = other.counters().tokens_written - memory.header.counters.tokens_written;
        assert!(n_again > n_written, "{mode}: {n_again}, {n_written}");
    }
}

#[test]
fn a_settled_history_may_be_longer_than_the_window() {
    let mut s = session_with(256, None);
    let settled: Vec<Message> = (0..30)
        .flat_map(|n| [user(&format!("Number {n} is a number.")), assistant("It is.")])
        .collect();
    let history = [settled.clone(), vec![user("Is it?")]].concat();
    block_on(s.begin(settled, CivilDate::from_unix_seconds(0))).unwrap();
    let evict = TurnOptions { overflow: Overflow::Evict, ..options(&s) };
    let turn = say_from_with(&mut s, history, &evict).unwrap();
    assert!(turn.evicted_messages > 0);
    // the new message with its header, the reply and what closes it, but none of the rest
    let n_new = s.tokens_of(&[user("Is it?")], true).unwrap().len() + turn.generated_ids.len() + 8;
    let n_written = s.counters().tokens_written as usize;
    assert!(n_written > 0 && n_written <= n_new, "{n_written} of {n_new}");
}

#[test]
fn a_history_without_its_last_answer_is_answered_anew() {
    let mut s = session();
    let first = say(&mut s, "Hello.");
    let (memory, counters) = (state(&s), *s.counters());
    let history = s.messages()[..2].to_vec();
    let again = say_from(&mut s, history.clone());
    assert_eq!(again.generated_ids, first.generated_ids);
    assert!(close(&state(&s), &memory));
    assert_eq!(*s.counters(), counters);
    assert_eq!(s.messages().len(), 3);
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!((state(&s).norm(), s.messages().len()), (0.0, 1));

    // nothing is written by a read-only turn, whatever it has to feed again
    say(&mut s, "Hello.");
    let memory = state(&s);
    let read_only = TurnOptions { write_enabled: false, ..options(&s) };
    let turn = say_from_with(&mut s, history, &read_only).unwrap();
    assert_eq!(turn.prompt.suffix_tokens, 1);
    assert_eq!(state(&s), memory);
}

#[test]
fn a_changed_history_is_written_from_where_it_changed() {
    let mut s = session();
    say(&mut s, "I live in Lisbon.");
    say(&mut s, "I have a cat.");
    let mut history = s.messages().to_vec();
    history.truncate(3);
    history.push(user("I have a dog."));
    let turn = say_from(&mut s, history.clone());
    assert_eq!(turn.prompt.rollback.unwrap().memory, RollbackMemory::Restored);
    let mut fresh = session();
    say(&mut fresh, "I live in Lisbon.");
    say(&mut fresh, "I have a dog.");
    assert!(close(&state(&s), &state(&fresh)));
    assert_eq!(s.messages(), fresh.messages());
    assert_eq!(s.counters(), fresh.counters());
}

#[test]
fn a_history_that_cannot_be_answered_changes_nothing() {
    let mut s = session();
    say(&mut s, "Hello.");
    let before = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    let options = options(&s);
    let ends_with_answer = s.messages().to_vec();
    for history in [vec![], ends_with_answer, vec![user(" ")]] {
        let refused = say_from_with(&mut s, history, &options);
        assert_eq!(refused.unwrap_err().code(), "messages");
    }
    assert_eq!(block_on(s.append(vec![], &options)).unwrap_err().code(), "messages");
    let long = vec![user("Another start."), assistant("Yes."), user(&"word ".repeat(2000))];
    let refused = say_from_with(&mut s, long, &options);
    assert_eq!(refused.unwrap_err().code(), "context_full");
    let after = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    assert_eq!(after, before);
}

#[test]
fn a_turn_that_is_cancelled_after_going_back_loses_nothing() {
    for mode in MODES {
        let mut s = session_in(mode, 1024, Some("Be brief."));
        say(&mut s, "I live in Lisbon.");
        say(&mut s, "I have a cat.");
        let (memory_before, counters) = (state(&s), *s.counters());
        let messages = s.messages().to_vec();
        // a turn with another history, cancelled as soon as it has gone back
        let mark = block_on(s.mark()).unwrap();
        s.talk.messages.truncate(1);
        s.talk.messages.push(user(&"Something else. ".repeat(40)));
        (s.talk.n_kept, s.talk.n_settled) = (1, 0);
        let full = s.render_tokens(true).unwrap().1;
        let ids = s.write_ids(&full).unwrap();
        s.cancel.cancel();
        let cancelled = block_on(s.ingest(&full, ids, true, true, Wanted::default()));
        let error = block_on(s.or_restore(cancelled, mark)).unwrap_err();
        assert_eq!(error.code(), "cancelled");
        assert_eq!(state(&s), memory_before, "{mode}");
        assert_eq!(*s.counters(), counters);
        assert_eq!(s.messages(), messages);

        // what has to be read again is not written again
        let stored = block_on(s.memory(1)).unwrap();
        let turn = say(&mut s, "Go on.");
        assert_eq!(turn.prompt.rollback, None);
        let mut other = session_in(mode, 1024, Some("Be brief."));
        block_on(other.set_memory(&stored)).unwrap();
        block_on(other.resume(messages)).unwrap();
        say(&mut other, "Go on.");
        assert!(block_on(s.undo_turn()).unwrap());
        assert_eq!(state(&s), memory_before, "{mode}");
        say(&mut s, "Go on.");
        let n_written = |s: &Session| s.counters().tokens_written;
        assert_eq!(n_written(&s), n_written(&other), "{mode}");
    }
}

#[test]
fn appended_messages_are_read_and_written_and_taken_back() {
    let mut s = session();
    say(&mut s, "Hello.");
    let before = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    let appended = append(&mut s, vec![user("I live in Lisbon."), assistant("Nice.")]);
    assert_eq!(appended.ingest.prefix_tokens, before.1.len());
    assert_eq!(appended.ingest.suffix_tokens, s.processed_tokens().len() - before.1.len());
    assert_eq!(appended.evicted_messages, 0);
    assert_ne!(state(&s), before.0);
    let (between, n) = (state(&s), s.processed_tokens().len());
    let turn = say(&mut s, "Where do I live?");
    assert_eq!(turn.prompt.prefix_tokens, n);
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!((state(&s), s.messages().len()), (between, 5));
    assert!(block_on(s.undo_turn()).unwrap());
    let after = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    assert_eq!(after, before);

    s.set_write_paused(true);
    append(&mut s, vec![user("Unwritten.")]);
    assert_eq!(state(&s), before.0);
}

#[test]
fn tools_and_their_results_reach_the_template() {
    let mut s = session();
    let template = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    s.model.template = ChatTemplate::parse(template, None, None).unwrap();
    s.set_tools(vec![json!({"name": "weather"})]).unwrap();
    assert!(s.render_tokens(false).unwrap().0.starts_with("weather;<|im_start|>"));
    assert_eq!(s.set_tools(vec![json!({})]).unwrap_err().code(), "setting");

    let call = ToolCall {
        name: "weather".into(),
        arguments: json!({"city": "Lisbon"}).as_object().unwrap().clone(),
        id: Some("1".into()),
    };
    let mut calling = assistant("");
    calling.tool_calls = vec![call];
    append(&mut s, vec![user("What is the weather?"), calling.clone()]);
    let n = s.processed_tokens().len();
    let result = Message { tool_call_id: Some("1".into()), ..Message::new(Role::Tool, "rain") };
    let mut history = s.messages().to_vec();
    // callers may number calls otherwise
    history[2].tool_calls[0].id = Some("other".into());
    history.push(result.clone());
    let turn = say_from(&mut s, history);
    assert_eq!((turn.prompt.prefix_tokens, turn.prompt.rollback), (n, None));
    assert!(
        s.render_tokens(false)
            .unwrap()
            .0
            .contains(r#"{"name": "weather", "arguments": {"city": "Lisbon"}}"#)
    );
    block_on(s.undo_turn()).unwrap();
    let options = options(&s);
    block_on(s.turn(vec![result], &options, &mut |_| ControlFlow::Continue(()))).unwrap();

    // a reply that was reported as a call is recognised as that call
    let mut replies = super::super::history::Replies::default();
    let raw = assistant("I look. <tool_call>…</tool_call>");
    replies.insert(&raw.content, "I look. ", &calling.tool_calls);
    assert!(replies.is_same(&raw, &calling));
    assert!(replies.is_same(&raw, &Message { content: "I look.".into(), ..calling.clone() }));
    assert!(!replies.is_same(&raw, &Message { content: "You look.".into(), ..calling.clone() }));
    assert!(!replies.is_same(&raw, &assistant("I look.")));
    calling.tool_calls[0].arguments.clear();
    assert!(!replies.is_same(&raw, &calling));
}

/// The date, the format of tools and variables belong to a conversation, and go where it goes.
#[test]
fn what_a_template_is_told_is_parked_with_a_conversation() {
    let mut s = session();
    let template = include_str!("../../chat/smollm3_like.jinja");
    s.model.template = ChatTemplate::parse(template, None, None).unwrap();
    let day = |n: i64| CivilDate::from_unix_seconds(n * 86_400);
    block_on(s.begin(Vec::new(), day(1))).unwrap();
    s.set_tools(vec![json!({ "name": "weather" })]).unwrap();
    s.set_tool_format(ToolFormat::Python);
    let header = |s: &Session| s.render_tokens(false).unwrap().0;

    // the template passes over calls, and is shown them as the model writes them
    let arguments = json!({ "city": "Lisbon" }).as_object().unwrap().clone();
    let mut calling = assistant("");
    calling.tool_calls = vec![ToolCall { name: "weather".into(), arguments, id: None }];
    let turn = say_from(&mut s, vec![user("Rain?"), calling, Message::new(Role::Tool, "It does.")]);
    let text = header(&s);
    let code = "<code>\nweather(city='Lisbon')\n</code><|im_end|>\n<|im_start|>user\nIt does.";
    assert!(text.contains("Today Date: 02 January 1970") && text.contains(code), "{text}");
    assert!(text.contains("⟦5⟧\n{'name': 'weather'}\n⟦6⟧"), "{text}");
    let read = s.model.tokenizer.decode(s.processed_tokens(), false);
    assert!(read.contains(code) && turn.prompt.rollback.is_none(), "{read}");

    let parked = block_on(s.park()).unwrap();
    block_on(s.begin(Vec::new(), day(2))).unwrap();
    s.set_tools(Vec::new()).unwrap();
    s.set_tool_format(ToolFormat::Template);
    let variables = json!({ "custom_instructions": "Be kind." });
    s.set_template_variables(variables.as_object().unwrap().clone()).unwrap();
    say(&mut s, "Hello.");
    let other = header(&s);
    assert!(other.contains("03 January 1970") && other.contains("Be kind."), "{other}");
    assert_eq!(s.date(), day(2));
    let taken = json!({ "messages": [] }).as_object().unwrap().clone();
    assert_eq!(s.set_template_variables(taken).unwrap_err().code(), "setting");
    s.adopt(parked).unwrap();
    assert_eq!((header(&s), s.date(), s.tool_format()), (text, day(1), ToolFormat::Python));
    assert_eq!(say(&mut s, "So?").prompt.rollback, None);
}
