//! Requests in flight. Each holds a slot until it is done and has been claimed or dropped.

use std::time::{Duration, Instant};

use windlass_transport::chunks::Chunk;
use windlass_wire::{PartitionId, RowRange, ServerId, Status, WorkerClock};

use super::{
    Counters, Memory, Pending, REQUESTS_MAX, Reads, age::coarse_ms, message::Replica,
    readers::Readers, refused::Refused,
};
use crate::error::RequestError;

/// A request of this client, from 1. The timestamp users see.
pub(crate) type RequestId = u64;

/// The request of a message that no user waits for.
pub(super) const NOBODY: RequestId = RequestId::MAX;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused {
        server: ServerId,
        status: Status,
    },
    Gone {
        server: ServerId,
    },
    NotCurrent {
        server: ServerId,
    },
    /// No server took it for as long as the client tries.
    Unavailable {
        partition: PartitionId,
    },
    /// Its server came back without the table's rows.
    RowsLost,
    /// It is so old that servers may have applied and forgotten it.
    Expired {
        expiry: Duration,
    },
}

/// How the rows of a finished pull get to whoever claims them.
#[derive(Debug, Default)]
pub(crate) enum Reply {
    /// A push: nothing.
    #[default]
    None,
    /// Staged in this chunk, one row after the other; `positions` says which row of the request
    /// each is, and is empty when they are in order.
    Staged { chunk: Chunk, row_count: u32, positions: Vec<u32> },
    /// Blocks as they lie at the server, staged by reads.
    Blocks { rows: RowRange, reading: Reading },
    /// To be read when claimed: a copy out of memory on this host, or too large to stage.
    Lazy { rows: RowRange, reading: Reading },
}

/// How rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) replica: Replica,
    pub(crate) relaxed: bool,
    /// Slower workers are waited for first, as a pull at this clock has to.
    pub(crate) clock: WorkerClock,
    /// What was known of rows that shards get when the workers were last found not to be slower.
    pub(crate) gains: u64,
}

/// One request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) parts_left: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) reply: Reply,
    /// Nobody will claim the reply.
    pub(crate) forgotten: bool,
    /// Somebody still may.
    pub(crate) claimable: bool,
    /// Microseconds a server kept it waiting for slower workers.
    pub(crate) waited_us: u32,
    /// Its reads found their server gone: whoever claims it reads again.
    pub(crate) reads_again: bool,
    /// Its reads met pushes too often: whoever claims it has the rows' servers send them.
    pub(crate) asks_servers: bool,
    /// When it was made, on the clock of [`super::age`]: before anything of it was sent.
    pub(crate) begun_ms: u64,
    /// When it first had to be sent again.
    pub(crate) kept_since: Option<Instant>,
}

impl Request {
    pub(crate) fn is_done(&self) -> bool {
        self.parts_left == 0
    }
}

/// The slots.
#[derive(Debug)]
pub(super) struct Requests {
    slots: Vec<Request>,
    next: RequestId,
    /// Position buffers to use again.
    spare_positions: Vec<Vec<u32>>,
}

impl Requests {
    pub(super) fn new() -> Self {
        let slots = (0..REQUESTS_MAX).map(|_| Request::default()).collect();
        Self { slots, next: 1, spare_positions: Vec::new() }
    }

    /// The slot the next request will take, if it is free: neither under way nor waiting to be
    /// claimed.
    pub(super) fn next_is_free(&self) -> bool {
        let slot = &self.slots[slot_of(self.next)];
        slot.is_done() && !slot.claimable
    }

    /// Starts a request. Panics unless its slot is free.
    pub(super) fn start(&mut self, claimable: bool) -> RequestId {
        assert!(self.next_is_free(), "the slot of request {} is taken", self.next);
        let id = self.next;
        self.next += 1;
        let slot = &mut self.slots[slot_of(id)];
        *slot = Request { id, claimable, begun_ms: coarse_ms(), ..Request::default() };
        id
    }

    /// A request that is still known.
    pub(super) fn find(&self, id: RequestId) -> Option<&Request> {
        let slot = &self.slots[slot_of(id)];
        (slot.id == id).then_some(slot)
    }

    /// A request that is still known.
    pub(super) fn find_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        let slot = &mut self.slots[slot_of(id)];
        (slot.id == id).then_some(slot)
    }

    /// Whether a request was made and is over, known or not.
    pub(super) fn is_over(&self, id: RequestId) -> bool {
        id < self.next && self.find(id).is_none_or(Request::is_done)
    }

    /// Whether a request was ever made.
    pub(super) fn was_made(&self, id: RequestId) -> bool {
        id > 0 && id < self.next
    }

    /// The last request made.
    pub(super) fn last(&self) -> RequestId {
        self.next - 1
    }

    pub(super) fn take_positions(&mut self) -> Vec<u32> {
        self.spare_positions.pop().unwrap_or_default()
    }

    pub(super) fn give_positions(&mut self, mut positions: Vec<u32>) {
        if positions.capacity() > 0 && self.spare_positions.len() < 64 {
            positions.clear();
            self.spare_positions.push(positions);
        }
    }
}

impl Pending {
    /// Nothing yet; the staging area is made at its first use.
    pub(super) fn new(staging_len: usize) -> Self {
        Self {
            requests: Requests::new(),
            refused: Refused::default(),
            memory: Memory::new(staging_len),
            readers: Readers::default(),
            reads: Reads::default(),
            counters: Counters::default(),
        }
    }

    /// One part of a request is over.
    #[inline]
    pub(super) fn end_part(&mut self, id: RequestId, failure: Option<Failure>) {
        let Some(request) = self.requests.find_mut(id) else { return };
        request.parts_left -= 1;
        request.failure = request.failure.or(failure);
        if request.is_done() && request.forgotten {
            let reply = std::mem::take(&mut request.reply);
            request.claimable = false;
            self.drop_reply(id, reply);
        }
    }

    /// Nobody will claim the reply of a request: its memory is free once it is done.
    pub(crate) fn forget(&mut self, id: RequestId) {
        let Some(request) = self.requests.find_mut(id) else { return };
        request.forgotten = true;
        if request.is_done() {
            let reply = std::mem::take(&mut request.reply);
            request.claimable = false;
            self.drop_reply(id, reply);
        }
    }

    pub(super) fn drop_reply(&mut self, id: RequestId, reply: Reply) {
        match reply {
            Reply::Staged { chunk, positions, .. } => {
                self.memory.release(chunk);
                self.requests.give_positions(positions);
            }
            Reply::Blocks { .. } => self.reads.drop_reads(&mut self.memory, id),
            Reply::None | Reply::Lazy { .. } => {}
        }
    }

    /// All messages of a request are sent.
    pub(super) fn end_sending(&mut self, request: RequestId) {
        self.end_part(request, None);
    }

    /// Idle time is what waiting for slower workers has cost.
    pub(super) fn count_idle(&mut self, time: Duration) {
        self.counters.clock_waits += 1;
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counters.clock_wait_us = self.counters.clock_wait_us.saturating_add(time);
    }

    pub(super) fn count_push(&mut self, len: u64) {
        self.counters.pushes += 1;
        self.counters.bytes_pushed += len;
    }

    pub(super) fn count_pull(&mut self, len: u64) {
        self.counters.pulls += 1;
        self.counters.bytes_pulled += len;
    }

    /// A request that could not be started is nobody's to claim.
    pub(super) fn or_forget(
        &mut self,
        request: RequestId,
        started: Result<(), RequestError>,
    ) -> Result<RequestId, RequestError> {
        if started.is_err() {
            self.forget(request);
        }
        started.map(|()| request)
    }

    #[inline]
    pub(super) fn count_reads(&mut self, reads: u64, len: u64) {
        self.counters.reads += reads;
        self.counters.bytes_read += len;
    }
}

fn slot_of(id: RequestId) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below REQUESTS_MAX")]
    let slot = (id % REQUESTS_MAX as u64) as usize;
    slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_forgotten_pull_is_free_once_its_last_part_is_over() {
        let mut pending = Pending::new(4096);
        pending.memory.staging().unwrap();
        let chunk = pending.memory.allocate(4096).unwrap();
        let id = pending.requests.start(true);
        let request = pending.requests.find_mut(id).unwrap();
        request.parts_left = 2;
        request.reply = Reply::Staged { chunk, row_count: 1, positions: Vec::new() };
        pending.forget(id);
        pending.end_part(id, Some(Failure::RowsLost));
        assert!(pending.memory.allocate(64).is_none(), "a server may still write there");
        pending.end_part(id, Some(Failure::Gone { server: ServerId(1) }));
        assert_eq!(
            pending.requests.find(id).unwrap().failure,
            Some(Failure::RowsLost),
            "the first"
        );
        assert!(pending.memory.allocate(4096).is_some());
    }
}
