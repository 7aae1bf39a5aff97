//! Tables in rounds: what a worker pushes is acknowledged when its round closes, so it has to find
//! room until then, and room has to be left to say that the round is over.

use std::collections::VecDeque;

use windlass_wire::{Aggregation, RequestHeader};

use super::{Core, REQUESTS_MAX, RequestId, TableIndex};
use crate::error::RequestError;

/// Rounds that a worker may end before the first of them is applied: servers sum a bounded number.
const ROUNDS_AHEAD_MAX: usize = 4;

/// Requests of this client, and messages of each of its links, that pushes leave for what ends a
/// round.
const MESSAGES_LEFT: usize = 24;

/// Bytes of each mailbox that pushes leave for the same.
const BYTES_LEFT: u64 = 8 << 10;

/// Longest values that go inline: the mailbox keeps its messages until the round closes.
const INLINE_LEN_MAX: u64 = 512;

/// What of this worker's rounds is not applied.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Pushes of the round it is in.
    pushes: VecDeque<RequestId>,
    /// Ends of earlier rounds.
    ends: VecDeque<RequestId>,
}

impl Core {
    /// How pushes to a table are combined.
    pub(super) fn aggregation_of(&self, table: TableIndex) -> Aggregation {
        self.tables[table.0].entry.schema.aggregation
    }

    /// A push to a table has begun.
    pub(super) fn note_push(&mut self, table: TableIndex, request: RequestId) {
        if let Aggregation::Rounds { .. } = self.aggregation_of(table) {
            self.rounds.pushes.push_back(request);
        }
    }

    /// Whether a round that this worker is in has pushes.
    #[inline]
    pub(super) fn has_open_round(&self) -> bool {
        !self.rounds.pushes.is_empty()
    }

    /// Refuses a request for which there would be no room before the round is over.
    pub(super) fn check_round(&mut self) -> Result<(), RequestError> {
        let room = (REQUESTS_MAX - MESSAGES_LEFT) as u64;
        while let Some(first) = self.rounds.pushes.front().copied() {
            if self.requests.last() + 1 < first + room {
                return Ok(());
            }
            if !self.requests.is_over(first) {
                self.progress();
                if !self.requests.is_over(first) {
                    return Err(RequestError::RoundFull);
                }
            }
            self.rounds.pushes.pop_front();
        }
        Ok(())
    }

    /// What a wait for room has failed of, when pushes of this round may have taken it.
    pub(super) fn blame_round(&self, error: RequestError) -> RequestError {
        let holds_room = || self.rounds.pushes.iter().any(|push| !self.requests.is_over(*push));
        match error {
            RequestError::Timeout { .. } if holds_room() => RequestError::RoundFull,
            error => error,
        }
    }

    /// Whether a message leaves room in its mailbox for what ends a round, if it is of a round.
    pub(super) fn leaves_room(&self, link: usize, header: &RequestHeader, len: usize) -> bool {
        if self.rounds.pushes.is_empty() || !header.kind.pushes() {
            return true;
        }
        let writer = &self.links[link].writer;
        writer.messages_left() > MESSAGES_LEFT && writer.bytes_left() > len as u64 + BYTES_LEFT
    }

    /// Longest values of a push that go in its message.
    pub(super) fn inline_len_max(&self, table: TableIndex, link: usize) -> u64 {
        let usual = self.by_reference_len(link);
        match self.aggregation_of(table) {
            Aggregation::Immediate {} => usual,
            Aggregation::Rounds { .. } => usual.min(INLINE_LEN_MAX),
        }
    }

    /// Waits until the worker may be in one more round than those it has ended; returns whether any
    /// of its tables is in rounds.
    pub(super) fn await_rounds(&mut self) -> Result<bool, RequestError> {
        let in_rounds = (0..self.tables.len()).map(TableIndex).any(|table| {
            !self.tables[table.0].dropped
                && self.aggregation_of(table) != (Aggregation::Immediate {})
        });
        while in_rounds && self.rounds.ends.len() >= ROUNDS_AHEAD_MAX {
            if let Some(oldest) = self.rounds.ends.pop_front() {
                self.wait_for(oldest)?;
            }
        }
        Ok(in_rounds)
    }

    /// The worker has ended a round by this request.
    pub(super) fn note_round_end(&mut self, request: RequestId) {
        self.rounds.pushes.clear();
        self.rounds.ends.push_back(request);
    }
}
