//! Texts that go on without a template.

use super::*;
use crate::constraint::Constraint;
use crate::engine::WantedLogits;

#[test]
fn a_text_goes_on_as_it_stands_and_leaves_nothing() {
    for mode in MODES {
        let mut s = session_in(mode, 256, Some("Be brief."));
        s.model.eos_token_ids.clear();
        say(&mut s, "I live in Lisbon.");
        let (memory, counters) = (state(&s), *s.counters());
        assert!(memory.norm() > 0.0);
        let text = "<think>Once upon a time, </think>";
        let long = TurnOptions { max_new_tokens: 8, ..options(&s) };
        let turn = block_on(s.complete(text, &long, &mut |_| ControlFlow::Continue(()))).unwrap();
        assert_eq!((turn.generated_ids.len(), turn.thoughts.as_str()), (8, ""));
        // its prompt is the text, read with the memory and not written
        let tokens = s.model.tokenizer.encode(text).unwrap();
        assert_eq!(turn.prompt.full_tokens, tokens.len());
        assert_eq!(turn.answer, s.model.tokenizer.decode(&turn.generated_ids, true));
        assert_eq!((state(&s), s.counters().tokens_written), (memory, counters.tokens_written));
        assert_eq!((s.messages().len(), s.processed_tokens().len()), (0, 0));
        let wanted = Wanted { logits: WantedLogits::Argmax, ..Wanted::default() };
        let outputs = block_on(s.ingest(&tokens, None, false, false, wanted)).unwrap().1;
        assert_eq!(outputs.argmax, Some(turn.generated_ids[0]), "{mode}");
        // a conversation after it has its template again
        block_on(s.begin(Vec::new(), CivilDate::from_unix_seconds(0))).unwrap();
        let chat = say_from(&mut s, vec![user("Hello.")]);
        assert!(chat.prompt.full_tokens > s.model.tokenizer.encode("Hello.").unwrap().len() + 4);
    }
}

#[test]
fn a_text_that_cannot_go_on_is_refused_and_the_template_is_back() {
    let mut s = session();
    let held = TurnOptions { constraint: Some(Constraint::JsonObject), ..options(&s) };
    let plain = options(&s);
    let on_piece = &mut |_: &ThinkPiece| ControlFlow::Continue(());
    assert_eq!(block_on(s.complete("a", &held, on_piece)).unwrap_err().code(), "unsupported");
    assert_eq!(block_on(s.complete(" ", &plain, on_piece)).unwrap_err().code(), "messages");
    let long = "word ".repeat(2000);
    assert_eq!(block_on(s.complete(&long, &plain, on_piece)).unwrap_err().code(), "context_full");
    assert!(!s.talk.is_plain && s.messages().is_empty());
}
