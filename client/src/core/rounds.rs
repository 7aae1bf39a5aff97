//! Tables in rounds. A push is acknowledged when its round closes, so the worker needs room for all pushes of
//! a round, and room for the message that ends it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use windlass_wire::{Aggregation, RequestHeader, RequestKind};

use super::{
    Core, Links, REQUESTS_MAX, RequestId, Requests, TableIndex, Tables, WRITTEN_PART_LEN_MAX,
    message::Message, requests::NOBODY,
};
use crate::{config::PushOptions, error::RequestError};

/// Rounds that a worker may end before the first of them is applied: servers sum a bounded number.
const ROUNDS_AHEAD_MAX: usize = 4;

/// Requests of this client, and messages of each of its links, that pushes leave for what ends a
/// round.
const MESSAGES_LEFT: usize = 24;

/// Bytes of each mailbox that pushes leave for the same.
const BYTES_LEFT: u64 = 8 << 10;

/// Longest values that go inline: the mailbox keeps its messages until the round closes.
const INLINE_LEN_MAX: u64 = 512;

/// A worker that waits for so long says so; then after twice as long, and so on.
const IDLE_FIRST: Duration = Duration::from_millis(10);
/// The longest it is silent while it waits.
const IDLE_EVERY_MAX: Duration = Duration::from_millis(640);

/// What of this worker's rounds is not applied.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// How long this worker waits before it says again that it does, while it waits.
    idle: Option<Idle>,
    /// Pushes of the round it is in.
    pushes: VecDeque<RequestId>,
    /// Ends of earlier rounds.
    ends: VecDeque<RequestId>,
}

/// A worker that waits.
#[derive(Clone, Copy, Debug)]
struct Idle {
    said_at: Instant,
    pause: Duration,
}

/// The worker waits, and has for a while: shards where late pushes wait are told now and then, so
/// that these do not wait for a worker that waits for others itself.
pub(super) fn note_idle(core: &mut Core, now: Instant) {
    if core.session.options.rank.is_none() {
        return;
    }
    let first = Idle { said_at: now, pause: IDLE_FIRST };
    let idle = *core.rounds.idle.get_or_insert(first);
    if now.duration_since(idle.said_at) < idle.pause {
        return;
    }
    let pause = (idle.pause * 2).min(IDLE_EVERY_MAX);
    core.rounds.idle = Some(Idle { said_at: now, pause });
    for table in core.tables.indices() {
        if core.tables[table].clock.is_some() && core.tables.is_in_rounds(table) {
            say_idle(core, table);
        }
    }
}

fn say_idle(core: &mut Core, table: TableIndex) {
    for link in 0..core.links.all.len() {
        if !core.links.all[link].state.made {
            continue;
        }
        let writer = &core.links.all[link].mailbox.writer;
        // It leaves as much room as pushes do.
        if writer.messages_left() > MESSAGES_LEFT && writer.bytes_left() > BYTES_LEFT {
            let options = PushOptions { clock: Some(core.clocks.own), ..PushOptions::default() };
            let header = core.session.header(
                &core.tables,
                &core.clocks,
                &core.cluster,
                RequestKind::Idle,
                table,
                &options,
            );
            let message = Message::bare(header);
            core.links.write_now(
                &mut core.cluster,
                &mut core.session,
                &mut core.pending.memory,
                link,
                &message,
            );
        }
    }
}

impl Tables {
    /// How pushes to a table are combined.
    pub(super) fn aggregation_of(&self, table: TableIndex) -> Aggregation {
        self[table].entry.schema.aggregation
    }

    pub(super) fn is_in_rounds(&self, table: TableIndex) -> bool {
        !self[table].dropped && self.aggregation_of(table) != (Aggregation::Immediate {})
    }

    /// Longest values of a push that go in its message.
    pub(super) fn inline_len_max(&self, links: &Links, table: TableIndex, link: usize) -> u64 {
        let usual = links.by_reference_len(link).min(WRITTEN_PART_LEN_MAX);
        match self.aggregation_of(table) {
            Aggregation::Immediate {} => usual,
            Aggregation::Rounds { .. } => usual.min(INLINE_LEN_MAX),
        }
    }
}

impl Rounds {
    /// A push to a table has begun.
    pub(super) fn note_push(&mut self, tables: &Tables, table: TableIndex, request: RequestId) {
        if let Aggregation::Rounds { .. } = tables.aggregation_of(table) {
            self.idle = None;
            self.pushes.push_back(request);
        }
    }

    /// The push of this round that has to be over before there is room for another request.
    pub(super) fn room_taken_by(&mut self, requests: &Requests) -> Option<RequestId> {
        let room = (REQUESTS_MAX - MESSAGES_LEFT) as u64;
        while let Some(first) = self.pushes.front().copied() {
            if requests.last() + 1 < first + room {
                return None;
            }
            if !requests.is_over(first) {
                return Some(first);
            }
            self.pushes.pop_front();
        }
        None
    }

    /// The end of a round that has to be applied before the worker may end another.
    pub(super) fn oldest_end(&mut self) -> Option<RequestId> {
        if self.ends.len() >= ROUNDS_AHEAD_MAX { self.ends.pop_front() } else { None }
    }

    /// Whether a round that this worker is in has pushes.
    #[inline]
    pub(super) fn has_open_round(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// What a wait for room has failed of, when pushes of this round may have taken it.
    pub(super) fn blame_round(&self, requests: &Requests, error: RequestError) -> RequestError {
        let holds_room = || self.pushes.iter().any(|push| !requests.is_over(*push));
        match error {
            RequestError::Timeout { .. } if holds_room() => RequestError::RoundFull,
            error => error,
        }
    }

    /// Whether a message leaves room in its mailbox for what ends a round, if it is of a round.
    pub(super) fn leaves_room(
        &self,
        links: &Links,
        link: usize,
        header: &RequestHeader,
        len: usize,
    ) -> bool {
        if self.pushes.is_empty() || !header.kind.pushes() {
            return true;
        }
        let writer = &links.all[link].mailbox.writer;
        writer.messages_left() > MESSAGES_LEFT && writer.bytes_left() > len as u64 + BYTES_LEFT
    }

    /// Whether a push finds no room by a link because all that is under way there is of its own round: room
    /// comes when the round is over, and not before.
    pub(super) fn round_fills(
        &self,
        links: &Links,
        link: usize,
        header: &RequestHeader,
        len: usize,
    ) -> bool {
        let Some(first) = self.pushes.front() else { return false };
        if self.leaves_room(links, link, header, len) {
            return false;
        }
        let is_of_round = |of: RequestId| of != NOBODY && of >= *first;
        links.all[link].in_flight.iter().all(|message| is_of_round(message.request))
    }

    /// The worker has ended a round by this request.
    pub(super) fn note_round_end(&mut self, request: RequestId) {
        self.idle = None;
        self.pushes.clear();
        self.ends.push_back(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_leave_room_for_what_ends_their_round() {
        let (mut requests, mut rounds) = (Requests::new(), Rounds::default());
        let room = REQUESTS_MAX - MESSAGES_LEFT;
        for pushed in 0..room {
            assert_eq!(rounds.room_taken_by(&requests), None, "after {pushed} pushes");
            let push = requests.start(false);
            requests.find_mut(push).unwrap().parts_left = 1;
            rounds.pushes.push_back(push);
        }
        assert_eq!(rounds.room_taken_by(&requests), Some(1), "the oldest is in the way");
        requests.find_mut(1).unwrap().parts_left = 0;
        assert_eq!(rounds.room_taken_by(&requests), None);
    }

    #[test]
    fn a_worker_ends_a_bounded_number_of_rounds_ahead() {
        let mut rounds = Rounds::default();
        for end in 1..=4 {
            assert_eq!(rounds.oldest_end(), None, "before the end of round {end}");
            rounds.note_round_end(end);
        }
        assert_eq!((rounds.oldest_end(), rounds.oldest_end()), (Some(1), None));
    }
}
