//! Tokens of a reply that the engine chooses by itself, some steps ahead of what the reply has taken.
//! Owns when that is done, and that the engine ends exactly where the reply does: a reply that is cut
//! by a stop string or its caller takes back what was fed in vain.

use super::Session;
use super::generate::{State, TurnOptions, penalised};
use crate::engine::{BATCH_TIME, Call, Decoding, Wanted};
use crate::error::Result;
use crate::memory_file::MemoryCounters;
use crate::sampler::SamplingOptions;
use std::collections::VecDeque;

/// Decisions left to the host before every token is: it is then a distribution of many small
/// probabilities, and each costs a step that is made twice.
const MAX_UNDECIDED: usize = 4;
/// One more for each so many tokens.
const TOKENS_PER_UNDECIDED: usize = 8;

/// What the engine is ahead.
pub(super) struct Ahead {
    /// False where the host has to choose every token.
    is_possible: bool,
    is_decoding: bool,
    /// Chosen and not taken yet.
    tokens: VecDeque<u32>,
    /// Of the tokens fed since decoding began, those that the reply has.
    n_taken: usize,
    n_taken_in_all: usize,
    n_undecided: usize,
    /// The books before the last token that was taken.
    counters_before: MemoryCounters,
}

impl Ahead {
    /// For one reply; with a guide the host chooses.
    pub fn new(sampling: &SamplingOptions, is_guided: bool) -> Ahead {
        Ahead {
            is_possible: !is_guided && Decoding::can_choose(sampling),
            is_decoding: false,
            tokens: VecDeque::new(),
            n_taken: 0,
            n_taken_in_all: 0,
            n_undecided: 0,
            counters_before: MemoryCounters::default(),
        }
    }
}

impl Session {
    /// Feeds `token` and hands back the one that follows; `None`, without feeding it, if the host has
    /// to choose that. At most `at_most` tokens are fed beyond those that were taken.
    pub(super) async fn next_ahead(
        &mut self,
        token: u32,
        state: &mut State,
        options: &TurnOptions,
        write_enabled: bool,
        at_most: usize,
    ) -> Result<Option<u32>> {
        if !state.ahead.is_possible {
            return Ok(None);
        }
        if !state.ahead.is_decoding {
            let penalised = penalised(&options.sampling, &self.talk.processed, None);
            let decoding = Decoding {
                first: token,
                ids: state.next_ids,
                write_enabled,
                sampling: &options.sampling,
                penalised: &penalised,
                stop_ids: &self.model.eos_token_ids,
                batch_time: BATCH_TIME,
            };
            self.model.engine.begin_decoding(&decoding).await?;
            state.ahead.is_decoding = true;
            state.ahead.n_taken = 0;
        }
        if state.ahead.tokens.is_empty() {
            let decoded = self.model.engine.decode(at_most, &mut state.sampler).await?;
            state.ahead.tokens.extend(decoded.tokens);
        }
        let Some(next) = state.ahead.tokens.pop_front() else {
            self.end_ahead(&mut state.ahead, 0)?;
            let ahead = &mut state.ahead;
            ahead.n_undecided += 1;
            let most = MAX_UNDECIDED + ahead.n_taken_in_all / TOKENS_PER_UNDECIDED;
            ahead.is_possible = ahead.n_undecided < most;
            return Ok(None);
        };
        state.ahead.counters_before = self.talk.counters;
        let ids = state.next_ids.map(|(message, sentence)| ([message], [sentence]));
        self.book(&Call {
            tokens: &[token],
            message_ids: ids.as_ref().map(|ids| &ids.0[..]),
            sentence_ids: ids.as_ref().map(|ids| &ids.1[..]),
            write_enabled,
        });
        state.ahead.n_taken += 1;
        state.ahead.n_taken_in_all += 1;
        Ok(Some(next))
    }

    /// Ends the engine's decoding with the tokens that were taken, but for the last `n_back`.
    pub(super) fn end_ahead(&mut self, ahead: &mut Ahead, n_back: usize) -> Result<()> {
        ahead.tokens.clear();
        if std::mem::take(&mut ahead.is_decoding) {
            self.model.engine.end_decoding(ahead.n_taken - n_back)?;
        }
        Ok(())
    }

    /// Ends it with the reply. With gauges wanted, the last token is fed once more: the engine looks at
    /// none while it decodes.
    pub(super) async fn end_decoding(
        &mut self,
        state: &mut State,
        options: &TurnOptions,
        write_enabled: bool,
    ) -> Result<()> {
        let has_last = state.ahead.is_decoding && state.ahead.n_taken > 0;
        let last = self.talk.processed.last().copied();
        let Some(last) = last.filter(|_| has_last && options.gauges) else {
            return self.end_ahead(&mut state.ahead, 0);
        };
        self.end_ahead(&mut state.ahead, 1)?;
        let talk = &mut self.talk;
        talk.processed.pop();
        talk.written.pop();
        talk.counters = state.ahead.counters_before;
        let wanted = Wanted { gauges: true, ..Wanted::default() };
        self.feed_next(last, state.next_ids, write_enabled, wanted).await.map(drop)
    }
}
