//! What every member does below the head: take in the predecessor's records, pass them on, pass the
//! committed position back. Also the link to a follower, which head and middle have alike.

use windlass_wire::{Lsn, ServerId};

use crate::chain::{Replica, Role};
use crate::error::ReplicaError;
use crate::inflight::Position;
use crate::input::RecordHeader;
use crate::output::Output;
use crate::time::Time;

/// The link to a successor or to a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) server: ServerId,
    /// Whether its report has been accepted on this link; only then does anything flow.
    pub(crate) accepted: bool,
    /// The last record sent.
    pub(crate) sent: Lsn,
    /// A successor's committed position; a learner's received one.
    pub(crate) acked: Lsn,
    /// The last record it is known to hold.
    pub(crate) held: Lsn,
    /// The last report answered: one that crossed our question is not answered twice.
    pub(crate) attempt: u64,
    /// Whether it holds no prefix of our log.
    pub(crate) rejected: bool,
    /// Where the copy it was told to make starts.
    pub(crate) copy_start: Option<Position>,
}

impl Follower {
    pub(crate) fn new(server: ServerId) -> Self {
        Self {
            server,
            accepted: false,
            sent: Lsn(0),
            acked: Lsn(0),
            held: Lsn(0),
            attempt: 0,
            rejected: false,
            copy_start: None,
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.accepted = false;
        self.attempt = 0;
        self.copy_start = None;
    }
}

impl Replica {
    /// A record from above: the next one is taken in, an older one was resent, a gap means that the
    /// link lost one.
    pub(crate) fn record(
        &mut self,
        now: Time,
        from: ServerId,
        record: RecordHeader<'_>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        self.check_from_above(from)?;
        if !self.catch_up.takes_records() {
            let what = "a record before the report was answered";
            return Err(ReplicaError::NotAwaited { partition: self.partition, what });
        }
        let last = self.log.last();
        if record.lsn <= last {
            return Ok(());
        }
        if record.lsn > last.next() {
            self.attempt += 1;
            self.send_report(outputs);
            return Err(ReplicaError::OutOfOrder {
                partition: self.partition,
                lsn: record.lsn,
                last,
            });
        }
        self.take_in(record, outputs);
        if self.role == Role::Learner {
            self.learner_received(outputs);
            return Ok(());
        }
        self.settle_tail(outputs);
        self.forward(now, outputs);
        self.advance(now, outputs);
        Ok(())
    }

    /// Adds the record to the log and, unless blocks are still being copied in, to memory.
    #[inline]
    pub(crate) fn take_in(&mut self, record: RecordHeader<'_>, outputs: &mut Vec<Output>) {
        self.log.push(record.lsn, record.epoch, record.sync);
        self.sessions.apply(record.lsn, record.covered, record.expired);
        if self.catch_up.holds_records() {
            self.catch_up.remember_expired(record.lsn, record.expired);
        } else {
            Output::Apply { first: record.lsn, last: record.lsn }.push(outputs);
        }
    }

    /// Sends each accepted follower what it has not been sent.
    #[inline]
    pub(crate) fn forward(&mut self, now: Time, outputs: &mut Vec<Output>) {
        if now < self.hold_until {
            return;
        }
        let (epoch, last) = (self.chain.epoch, self.log.last());
        for link in [&mut self.successor, &mut self.learner].into_iter().flatten() {
            if link.accepted && link.sent < last {
                let first = link.sent.next();
                Output::Forward { to: link.server, epoch, first, last }.push(outputs);
                link.sent = last;
            }
        }
    }

    /// A follower says what it holds: stream from there, or have a learner copy first.
    pub(crate) fn report(
        &mut self,
        now: Time,
        from: ServerId,
        position: Option<Position>,
        attempt: u64,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        let epoch = self.chain.epoch;
        let last = self.log.last();
        let streams_from = position.filter(|position| self.log.continues(*position));
        let is_successor = self.successor.is_some_and(|link| link.server == from);
        let links = [&mut self.successor, &mut self.learner].into_iter().flatten();
        let Some(link) = { links }.find(|link| link.server == from) else {
            return Err(self.not_a_neighbour(from));
        };
        if attempt <= link.attempt {
            return Ok(());
        }
        link.attempt = attempt;
        match streams_from {
            Some(position) => {
                link.accepted = true;
                link.sent = position.lsn;
                link.held = position.lsn;
                Output::Welcome { to: from, epoch, last }.push(outputs);
            }
            None if is_successor => {
                // It was a member or had caught up, so its log was a prefix of ours.
                link.accepted = false;
                link.rejected = true;
                Output::Reject { server: from, epoch }.push(outputs);
            }
            None => {
                // The same start as before, if it can be, so that a copy under way goes on.
                let again = link.copy_start.filter(|start| start.lsn.next() >= self.log.first());
                let start = again.unwrap_or(self.log.position());
                link.accepted = true;
                link.copy_start = Some(start);
                link.sent = start.lsn;
                link.held = start.lsn;
                Output::CopyFrom { to: from, epoch, start }.push(outputs);
            }
        }
        self.forward(now, outputs);
        Ok(())
    }

    /// The committed position comes back from the successor.
    pub(crate) fn committed_below(
        &mut self,
        now: Time,
        from: ServerId,
        lsn: Lsn,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        let last = self.log.last();
        let links = [&mut self.successor, &mut self.learner].into_iter().flatten();
        let Some(link) = { links }.find(|link| link.server == from) else {
            return Err(self.not_a_neighbour(from));
        };
        // The word is foreign: a position we do not hold cannot be committed.
        link.acked = link.acked.max(lsn.min(last));
        link.held = link.held.max(link.acked);
        self.advance(now, outputs);
        Ok(())
    }
}
