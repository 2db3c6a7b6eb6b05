//! Full windows, and conversations side by side.

use super::*;

/// A small window with a short header, and a reply that fills it soon.
fn small(mode: &str) -> Session {
    let mut s = session_in(mode, 128, Some("Brief. /system_override"));
    s.model.eos_token_ids.clear();
    s
}

fn evicting(session: &Session) -> TurnOptions {
    TurnOptions { overflow: Overflow::Evict, max_new_tokens: 8, ..options(session) }
}

#[test]
fn a_full_window_lets_the_oldest_exchanges_go_and_the_memory_keeps_them() {
    for mode in MODES {
        let mut s = small(mode);
        let options = evicting(&s);
        let mut n_evicted = 0;
        for n in 0..8 {
            let before = block_on(s.memory(1)).unwrap();
            let parked = block_on(s.park()).unwrap();
            let held = s.messages().to_vec();
            let text = format!("This is number {n}.");
            let turn = say_with(&mut s, &text, &options).unwrap();
            n_evicted += turn.evicted_messages;
            assert_eq!(s.messages().len(), held.len() + 2 - turn.evicted_messages);
            assert_eq!(s.messages()[0], held[0]);
            assert_eq!(turn.evicted_messages % 2, 0);
            assert!(turn.generated_ids.len() == 8, "{:?}", turn.stop_reason);
            assert_eq!(s.processed_tokens().len(), s.model.engine.n_past());
            if turn.evicted_messages == 0 {
                continue;
            }
            assert_eq!(turn.prompt.rollback, None);
            assert!(turn.prompt.prefix_tokens < turn.prompt.prev_tokens);
            assert_eq!(
                turn.prompt.prefix_tokens + turn.prompt.suffix_tokens,
                turn.prompt.full_tokens
            );
            // the same as cutting the context by hand and feeding what remained
            let after = block_on(s.park()).unwrap();
            s.adopt(parked).unwrap();
            let remaining = [&held[..1], &held[1 + turn.evicted_messages..]].concat();
            s.talk.messages = remaining.clone();
            s.cut_cache(turn.prompt.prefix_tokens);
            block_on(s.feed_settled(remaining.len())).unwrap();
            assert_eq!(state(&s), before.state);
            let expected = say_with(&mut s, &text, &options).unwrap();
            assert_eq!((expected.evicted_messages, expected.prompt.rollback), (0, None));
            assert_eq!(expected.generated_ids, turn.generated_ids, "{mode}");
            let memory = state(&s);
            s.adopt(after).unwrap();
            assert!(close(&state(&s), &memory), "{mode}");
            let (after, tokens) = (state(&s), s.processed_tokens().to_vec());
            // the turn can be taken back, and is the same again
            assert!(block_on(s.undo_turn()).unwrap());
            assert_eq!(state(&s), before.state);
            assert_eq!(s.messages(), remaining);
            say_with(&mut s, &text, &options).unwrap();
            assert!(close(&state(&s), &after));
            assert_eq!(s.processed_tokens(), tokens);
        }
        assert!(n_evicted >= 4, "{n_evicted}");
    }
}

#[test]
fn what_has_left_the_window_is_still_recognised_in_a_whole_history() {
    let mut s = small(MODES[0]);
    let options = evicting(&s);
    let mut history = s.messages().to_vec();
    let mut n_evicted = 0;
    for n in 0..8 {
        history.push(user(&format!("This is number {n}.")));
        let n_written = s.counters().tokens_written;
        let turn = say_from_with(&mut s, history.clone(), &options).unwrap();
        history.push(assistant(turn.answer.trim()));
        n_evicted += turn.evicted_messages;
        assert_eq!(turn.prompt.rollback, None);
        assert_eq!(s.messages().len() + n_evicted, history.len());
        // no more than the header, the message and the reply
        let n_new = s.counters().tokens_written - n_written;
        assert!(n_new < 60, "{n_new} tokens were written");
    }
    assert!(n_evicted >= 4);
}

/// A caller who changes what has left the window has another history; what follows it is recognised again.
#[test]
fn a_history_that_was_changed_where_it_had_left_is_read_anew_once() {
    let mut s = small(MODES[0]);
    let options = evicting(&s);
    let mut history = s.messages().to_vec();
    for n in 0..12 {
        if n == 8 {
            assert!(s.talk.left.len() > 2);
            history[1].content = "Something else.".into();
        }
        history.push(user(&format!("This is number {n}.")));
        let n_written = s.counters().tokens_written;
        let turn = say_from_with(&mut s, history.clone(), &options).unwrap();
        history.push(assistant(turn.answer.trim()));
        assert_eq!(s.messages().len() + s.talk.left.len(), history.len());
        let n_new = s.counters().tokens_written - n_written;
        assert!(n == 8 || (turn.prompt.rollback.is_none() && n_new < 60), "{n}: {n_new} tokens");
    }
}

/// However often the last reply is asked for anew, nothing is kept of those that were dropped.
#[test]
fn replies_that_were_dropped_are_not_kept() {
    let mut s = small(MODES[0]);
    let mut history = s.messages().to_vec();
    history.push(user("This is one."));
    for seed in 0..8 {
        let sampling = SamplingOptions { temperature: 1.0, seed, ..SamplingOptions::default() };
        let options = TurnOptions { sampling, ..evicting(&s) };
        let reply = say_from_with(&mut s, history.clone(), &options).unwrap().answer;
        assert_eq!(s.talk.replies.len(), 1, "{reply}");
    }
    let options = evicting(&s);
    say_with(&mut s, "And this?", &options).unwrap();
    assert_eq!(s.talk.replies.len(), 2);
}

#[test]
fn pinned_messages_stay_and_a_prompt_too_long_for_all_is_refused() {
    let mut s = small(MODES[0]);
    append(&mut s, vec![user("One plus one?"), assistant("Two.")]);
    s.pin_messages(3);
    let options = evicting(&s);
    let pinned = s.messages().to_vec();
    let mut n_evicted = 0;
    for n in 0..6 {
        let text = format!("This is number {n}.");
        n_evicted += say_with(&mut s, &text, &options).unwrap().evicted_messages;
        assert!(s.messages().starts_with(&pinned));
    }
    assert!(n_evicted > 0);
    let before = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    let long = "word ".repeat(120);
    assert_eq!(say_with(&mut s, &long, &options).unwrap_err().code(), "context_full");
    let after = (state(&s), s.processed_tokens().to_vec(), s.messages().to_vec(), *s.counters());
    assert_eq!(after, before);

    let n_written = s.counters().tokens_written;
    block_on(s.new_context()).unwrap();
    assert_eq!(s.messages(), pinned);
    let turn = say_with(&mut s, "Hello.", &options).unwrap();
    assert_eq!(turn.prompt.prefix_tokens, 0);
    // what is pinned was written when it was appended
    let n_pinned = s.tokens_of(&pinned, false).unwrap().len();
    assert!(s.talk.written[..n_pinned].iter().all(|written| !written));
    let n_new = (s.processed_tokens().len() - n_pinned) as u64;
    assert_eq!(s.counters().tokens_written - n_written, n_new);
}

#[test]
fn an_eviction_that_is_cancelled_loses_nothing() {
    let mut s = small(MODES[0]);
    let options = evicting(&s);
    while s.processed_tokens().len() < 80 {
        say_with(&mut s, "This is one of many.", &options).unwrap();
    }
    let before = (state(&s), s.messages().to_vec(), *s.counters());
    let mark = block_on(s.mark()).unwrap();
    s.talk.n_kept = s.talk.messages.len();
    s.talk.messages.push(user("And another one of them, rather a long one."));
    s.cancel.cancel();
    let cancelled = block_on(s.fit(End::Prompt, 32, Overflow::Evict, s.talk.n_kept));
    assert_eq!(block_on(s.or_restore(cancelled.map(drop), mark)).unwrap_err().code(), "cancelled");
    assert_eq!((state(&s), s.messages().to_vec(), *s.counters()), before);
    let read_only = TurnOptions { write_enabled: false, ..options };
    say_with(&mut s, "Hello.", &read_only).unwrap();
    assert_eq!(state(&s), before.0);
}

#[test]
fn a_parked_conversation_goes_on_as_if_it_had_never_left() {
    for mode in MODES {
        let start = |text: &str| {
            let mut s = session_in(mode, 1024, Some("Be brief."));
            s.model.eos_token_ids.clear();
            say(&mut s, text);
            s
        };
        let mut alone = [start("I live in Lisbon."), start("I have a cat.")];
        let mut s = start("I live in Lisbon.");
        let empty = block_on(start("x").park()).unwrap();
        assert_eq!(s.adopt(empty).unwrap_err().code(), "setting");
        let first = block_on(s.park()).unwrap();
        block_on(s.new_context()).unwrap();
        block_on(s.forget()).unwrap();
        say(&mut s, "I have a cat.");
        let mut other = first;
        // turn about
        for n in 0..4 {
            let mine = block_on(s.park()).unwrap();
            s.adopt(other).unwrap();
            other = mine;
            let text = format!("This is number {n}.");
            let (found, expected) = (say(&mut s, &text), say(&mut alone[n % 2], &text));
            assert_eq!(found.generated_ids, expected.generated_ids, "{mode}");
            assert_eq!(found.prompt, expected.prompt);
            assert_eq!(state(&s), state(&alone[n % 2]));
            assert_eq!(s.messages(), alone[n % 2].messages());
            assert_eq!(s.counters(), alone[n % 2].counters());
        }
        assert!(block_on(s.undo_turn()).unwrap());
        assert!(block_on(alone[1].undo_turn()).unwrap());
        assert_eq!(state(&s), state(&alone[1]));
    }
}

#[test]
fn a_conversation_without_end_takes_no_more_than_its_window() {
    let mut s = small("\"token\"");
    let options = evicting(&s);
    let window = s.model.engine.context_window();
    let mut most = [0; 2];
    for n in 0..40 {
        let turn = say_with(&mut s, &format!("This is number {n}."), &options).unwrap();
        assert!(s.model.engine.n_past() <= window && s.processed_tokens().len() <= window);
        assert_eq!(s.messages()[0].content, "Brief. /system_override");
        assert_eq!(turn.generated_ids.len(), 8);
        // what is held beside the cache, early and late
        let half = &mut most[usize::from(n >= 20)];
        *half = (*half).max(s.messages().len() + s.talk.checkpoints.len());
    }
    assert!(most[1] <= most[0], "{most:?}");
    assert!(state(&s).values.iter().all(|value| value.is_finite()));
    assert_eq!(s.counters().turns, 40);
}
