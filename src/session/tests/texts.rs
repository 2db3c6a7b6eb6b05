//! Text for the memory alone.

use super::*;
use crate::chat::ChatTemplate;

const FACT: &str = "Ada lives in Lisbon. She has a cat called Byron! Does he like fish? He does.";

fn write(session: &mut Session, text: &str) -> u64 {
    block_on(session.write_text(text)).unwrap()
}

#[test]
fn a_text_is_written_and_the_context_stays() {
    for mode in MODES {
        let mut s = session_in(mode, 1024, Some("Be brief."));
        say(&mut s, "Hello.");
        let (tokens, messages) = (s.processed_tokens().to_vec(), s.messages().to_vec());
        let (memory, counters) = (state(&s), *s.counters());
        let n_text = s.model.tokenizer.encode(FACT).unwrap().len() as u64;
        let n_written = write(&mut s, FACT);
        assert!((n_text..n_text + 16).contains(&n_written), "{mode}: {n_written} of {n_text}");
        assert_ne!(state(&s), memory);
        let n_writes = s.counters().writes - counters.writes;
        assert_eq!(
            n_writes,
            match mode {
                "\"message_mean\"" => 1,
                "\"sentence_mean\"" => 4,
                _ => n_written,
            },
            "{mode}"
        );
        assert_eq!((s.processed_tokens(), s.messages()), (&tokens[..], &messages[..]));
        assert_eq!(s.model.engine.n_past(), tokens.len());

        // the context is whole: another session with this memory and these messages agrees
        let mut other = session_in(mode, 1024, Some("Be brief."));
        let memory = block_on(s.memory(1)).unwrap();
        block_on(other.set_memory(&memory)).unwrap();
        block_on(other.resume(messages)).unwrap();
        // keys and values are those that were made with the memory of before
        assert_eq!(other.processed_tokens(), s.processed_tokens());
        let turn = say(&mut s, "Where does she live?");
        assert_eq!((turn.prompt.prefix_tokens, turn.prompt.rollback), (tokens.len(), None));
        assert!(block_on(s.undo_turn()).unwrap());
        assert_eq!(state(&s), memory.state);
        assert!(!block_on(s.undo_turn()).unwrap(), "what the memory was before came back");
    }
}

#[test]
fn a_written_text_survives_a_history_that_changes_and_is_not_written_twice() {
    for mode in MODES {
        let mut s = session_in(mode, 1024, Some("Be brief."));
        say(&mut s, "Hello.");
        write(&mut s, FACT);
        let (memory, counters) = (state(&s), *s.counters());
        s.set_enable_thinking(Some(true));
        let turn = say(&mut s, "Where?");
        assert_eq!(turn.prompt.rollback.unwrap().memory, RollbackMemory::Restored);
        // only the new message, its reply and the tags around them
        let n_new = s.counters().tokens_written - counters.tokens_written;
        assert!((5..32).contains(&n_new), "{mode}: {n_new} tokens were written");
        assert!(block_on(s.undo_turn()).unwrap());
        assert_eq!(state(&s), memory, "{mode}");
    }
}

/// As Qwen3's: thoughts are shown in the last message only.
const FORGETFUL: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn what_a_template_shows_otherwise_later_is_not_written_twice() {
    let mut s = session();
    s.model.template = ChatTemplate::parse(FORGETFUL, None, None).unwrap();
    let thoughts = format!("<think>{}</think>Tea.", "What does she want? ".repeat(8));
    append(&mut s, vec![user("What do I want?"), assistant(&thoughts)]);
    write(&mut s, FACT);
    let (memory, counters) = (state(&s), *s.counters());
    let turn = say(&mut s, "Yes, tea.");
    assert!(turn.prompt.rollback.unwrap().dropped_tokens > crate::spans::MAX_ROLLBACK);
    let unwritten = s.talk.written.iter().rposition(|written| !written).unwrap();
    let n_new = s.counters().tokens_written - counters.tokens_written;
    assert_eq!(n_new as usize, s.processed_tokens().len() - unwritten - 1);
    assert!((8..28).contains(&n_new), "{n_new} tokens were written");
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!(state(&s), memory);
}

#[test]
fn a_text_before_the_first_turn_leaves_the_context_empty() {
    let mut s = session();
    write(&mut s, FACT);
    assert_eq!((s.processed_tokens().len(), s.messages().len()), (0, 1));
    let memory = state(&s);
    let turn = say(&mut s, "Hello.");
    assert_eq!(turn.prompt.prefix_tokens, 0);
    // the header was not written with the text, so it is now
    assert!(s.talk.written.iter().all(|written| *written));
    assert!(block_on(s.undo_turn()).unwrap());
    assert_eq!(state(&s), memory);
}

#[test]
fn a_long_text_is_written_in_pieces_and_the_context_comes_back() {
    for mode in MODES {
        let mut s = session_in(mode, 192, Some("Brief. /system_override"));
        say(&mut s, "Hello.");
        let tokens = s.processed_tokens().to_vec();
        let text = FACT.repeat(8) + &"long".repeat(200);
        let n_text = s.model.tokenizer.encode(&text).unwrap().len();
        assert!(n_text > 2 * 192);
        let n_written = write(&mut s, &text);
        assert!(n_written as usize >= n_text, "{mode}: {n_written} of {n_text}");
        assert_eq!(s.processed_tokens(), tokens);
        let memory = block_on(s.memory(1)).unwrap();
        let turn = say(&mut s, "Go on.");
        assert_eq!((turn.prompt.prefix_tokens, turn.prompt.rollback), (tokens.len(), None));
        // all but the header was read again, with the memory as it is now
        let mut other = session_in(mode, 192, Some("Brief. /system_override"));
        say(&mut other, "Hello.");
        block_on(other.set_memory(&memory)).unwrap();
        let header = other.tokens_of(&s.messages()[..1], false).unwrap().len();
        other.cut_cache(header);
        block_on(other.feed_settled(3)).unwrap();
        assert_eq!(say(&mut other, "Go on.").generated_ids, turn.generated_ids, "{mode}");
    }
}

#[test]
fn a_text_that_cannot_be_written_changes_nothing() {
    let long = format!("{} /system_override", "word ".repeat(40));
    let s = session_with(512, Some(&long));
    let n_tokens = s.tokens_of(s.messages(), false).unwrap().len();
    let mut s = session_with(n_tokens + 20, Some(&long));
    let refused = |s: &mut Session, text: &str| block_on(s.write_text(text)).unwrap_err().code();
    assert_eq!(refused(&mut s, " \n"), "messages");
    assert_eq!(refused(&mut s, &"word ".repeat(100)), "context_full");
    s.set_write_paused(true);
    assert_eq!(refused(&mut s, FACT), "setting");
    assert_eq!((state(&s).norm(), s.processed_tokens().len()), (0.0, 0));

    // cancelled between two pieces
    let mut s = session();
    say(&mut s, "Hello.");
    let before = (state(&s), s.processed_tokens().to_vec(), *s.counters());
    let mark = block_on(s.mark()).unwrap();
    block_on(s.write_pieces(FACT)).unwrap();
    s.cancel.cancel();
    let cancelled = block_on(s.write_pieces(&"word ".repeat(200)));
    assert_eq!(block_on(s.or_restore(cancelled, mark)).unwrap_err().code(), "cancelled");
    assert_eq!((state(&s), s.processed_tokens().to_vec(), *s.counters()), before);
    write(&mut s, FACT);
    assert_ne!(state(&s), before.0);
}
