//! Beginnings that conversations share.

use super::*;
use crate::engine::{Call, WantedLogits};

pub(super) const SYSTEM: &str = "Be brief. The person lives in Lisbon, keeps bees behind the house, plays \
                      the violin on Sundays, and has a cat called Luna who sleeps on the piano. \
                      Answer in one short sentence, and never speak of the weather.";

/// Begins another conversation with a memory, and answers.
pub(super) fn begin(
    s: &mut Session,
    memory: &MemoryState,
    system: &str,
    text: &str,
    write: bool,
) -> Turn {
    let mut file = block_on(s.memory(0)).unwrap();
    file.state = memory.clone();
    block_on(s.set_memory(&file)).unwrap();
    block_on(s.begin(Vec::new(), CivilDate::from_unix_seconds(0))).unwrap();
    let history = vec![Message::new(Role::System, system), user(text)];
    let options = TurnOptions { write_enabled: write, ..options(s) };
    say_from_with(s, history, &options).unwrap()
}

/// The logits of one more token, bit by bit.
pub(super) fn logits(s: &mut Session) -> Vec<u32> {
    let call = Call { tokens: &[5], message_ids: None, sentence_ids: None, write_enabled: false };
    let wanted = Wanted { logits: WantedLogits::Last, ..Wanted::default() };
    let outputs = block_on(s.model.engine.forward(&call, wanted)).unwrap();
    outputs.logits.iter().map(|x| x.to_bits()).collect()
}

pub(super) fn bits(state: &MemoryState) -> Vec<u32> {
    state.values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_kept_beginning_gives_the_very_numbers_of_reading_it() {
    for mode in MODES {
        let mut plain = session_in(mode, 1024, None);
        let mut keeping = session_in(mode, 1024, None);
        keeping.keep_prefixes(2);
        let empty = state(&plain);
        for (text, is_written) in
            [("Hello there.", true), ("Who plays?", true), ("And now?", false), ("Who?", false)]
        {
            let expected = begin(&mut plain, &empty, SYSTEM, text, is_written);
            let found = begin(&mut keeping, &empty, SYSTEM, text, is_written);
            // groups are written as a whole, so only what is read is kept of them
            let is_kept = !is_written || mode.starts_with("\"token");
            let is_second = matches!(text, "Who plays?" | "Who?");
            assert_eq!(found.prompt.prefix_tokens > 0, is_kept && is_second, "{mode} {text}");
            assert_eq!(expected.prompt.prefix_tokens, 0);
            assert_eq!(found.generated_ids, expected.generated_ids, "{mode} {text}");
            assert_eq!(keeping.counters(), plain.counters(), "{mode} {text}");
            assert_eq!(bits(&state(&keeping)), bits(&state(&plain)), "{mode} {text}");
            assert!(logits(&mut keeping) == logits(&mut plain), "{mode} {text}");
        }
    }
}

#[test]
fn nothing_is_reused_under_another_memory_text_or_writing() {
    let mut s = session_with(1024, None);
    s.keep_prefixes(8);
    let empty = state(&s);
    let n = |turn: Turn| turn.prompt.prefix_tokens;
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)), 0);
    let written = state(&s);
    assert_eq!(n(begin(&mut s, &written, SYSTEM, "Hello.", true)), 0);
    let mut close = empty.clone();
    close.values[0] = f32::from_bits(1);
    assert_eq!(n(begin(&mut s, &close, SYSTEM, "Hello.", true)), 0);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", false)), 0);
    let other = SYSTEM.replace("Lisbon", "Oslo");
    assert_eq!(n(begin(&mut s, &empty, &other, "Hello.", true)), 0);
    // a beginning that is shorter than a piece is not worth it
    assert_eq!(n(begin(&mut s, &empty, "Be brief.", "Hello.", true)), 0);
    assert_eq!(n(begin(&mut s, &empty, "Be brief.", "Hello.", true)), 0);
    // all of those are there
    let kept = [
        (&empty, SYSTEM, true),
        (&written, SYSTEM, true),
        (&empty, &*other, true),
        (&empty, SYSTEM, false),
    ];
    for (memory, system, write) in kept {
        assert!(n(begin(&mut s, memory, system, "Hello.", write)) >= TOKENS_BETWEEN_LOOKS);
    }
    // as many as are wanted, those used last
    s.keep_prefixes(1);
    assert!(n(begin(&mut s, &empty, SYSTEM, "Hello.", false)) > 0);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)), 0);
    assert!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)) > 0);
    s.keep_prefixes(0);
    assert_eq!(n(begin(&mut s, &empty, SYSTEM, "Hello.", true)), 0);
}
