//! Workers' clocks: tables that bound staleness publish their slowest worker's clock at every shard,
//! and a pull that has to wait polls it there, one-sidedly, before it reads.

mod fetch;
mod join;
mod member;
mod wait;

pub(super) use self::{
    join::{rejoin_clocks, settle_clocks},
    member::join_clock,
    wait::{is_counted_in, may_pull, wait_for_workers_at},
};
pub(crate) use self::{member::advance_clock, wait::wait_for_workers};

use windlass_transport::{RemoteAddress, RemoteKey, WorkId, fabric::PeerBytes};
use windlass_wire::{
    Aggregation, ClockLine, Consistency, TableSchema, WorkerClock, control::ClockPlace,
};

use super::{Links, TableIndex, Tables};

/// Work ids with this bit are polls of a clock.
pub(super) const CLOCK_READ: u64 = 1 << 62;

/// A line that was not looked at: every pull that may have to wait looks.
const UNSEEN: ClockLine = ClockLine { gains: 0, minimum: 0, tau: 0, live: 0 };

/// Rounds for which a line that is not in view is gone by without looking: meanwhile the bound may have been
/// made narrower, while the slowest worker only goes on.
const TRUSTED_ROUNDS: u64 = 8;

/// Bytes of a line, as a chunk of the staging area.
const LINE_LEN: u64 = ClockLine::LEN as u64;

/// A table's clocks, by link.
#[derive(Debug)]
pub(super) struct TableClock {
    /// `None` where it has to be asked for again.
    lines: Vec<Option<Line>>,
    /// Shards that knew less of this worker have to be told its clock, behind what it pushed.
    owes: bool,
}

/// Where one shard publishes a clock.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: RemoteAddress,
    /// The published line, when it lies in this host's memory.
    view: Option<PeerBytes>,
    /// The line as it was last read.
    seen: ClockLine,
    /// The clock of this worker then.
    seen_at: u64,
}

/// The clock of this worker, and what it knows of the clocks that shards publish.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// Rounds that this worker has ended.
    pub(crate) own: WorkerClock,
    pub(super) poll: Poll,
    /// Times a shard was found to have acquired rows since it was looked at before.
    pub(super) gains_seen: u64,
}

/// A poll under way; there is one at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Poll {
    /// Counts polls, so that an answer to one given up is not taken for the next one's.
    number: u64,
    link: usize,
    /// Whether it succeeded, once it has completed.
    completed: Option<bool>,
}

/// Whether a table's workers keep clocks.
pub(super) fn is_clocked(schema: &TableSchema) -> bool {
    schema.consistency != (Consistency::Eventual {})
        || schema.aggregation != (Aggregation::Immediate {})
}

impl Tables {
    /// What is known of a table's clock at a link.
    fn line(&self, table: TableIndex, link: usize) -> Option<Line> {
        self[table].clock.as_ref()?.lines.get(link).copied().flatten()
    }

    /// Clocks at a link are not in view any more.
    pub(super) fn forget_lines(&mut self, link: usize) {
        for clock in self.iter_mut().filter_map(|table| table.clock.as_mut()) {
            if let Some(line) = clock.lines.get_mut(link) {
                *line = None;
            }
        }
    }

    /// Clocks in one region at a link are not in view any more.
    pub(super) fn forget_lines_in(&mut self, link: usize, key: RemoteKey) {
        for clock in self.iter_mut().filter_map(|table| table.clock.as_mut()) {
            if let Some(line) = clock.lines.get_mut(link) {
                line.take_if(|line| line.at.key == key);
            }
        }
    }

    /// Clocks have to be looked at again: those of rows that have come to a server may be behind those
    /// that it had.
    pub(super) fn look_again(&mut self) {
        let clocks = self.iter_mut().filter_map(|table| table.clock.as_mut());
        for line in clocks.flat_map(|clock| clock.lines.iter_mut().flatten()) {
            line.seen = ClockLine { gains: line.seen.gains, ..UNSEEN };
        }
    }
}

impl Links {
    fn line_at(&mut self, link: usize, place: &ClockPlace) -> Option<Line> {
        let end = place.offset.checked_add(LINE_LEN)?;
        if end > place.region.len || !place.offset.is_multiple_of(8) {
            return None;
        }
        let address = place.region.address.wrapping_add(place.offset);
        let at = RemoteAddress { key: RemoteKey(place.region.key), address };
        let link = &self.all[link];
        let view = self.transports[link.transport].view(link.queue_pair, at, LINE_LEN);
        Some(Line { at, view, seen: UNSEEN, seen_at: 0 })
    }
}

impl Clocks {
    /// A poll has completed.
    pub(super) fn end_clock_read(&mut self, work_id: WorkId, succeeded: bool) {
        if work_id.0 == CLOCK_READ | self.poll.number {
            self.poll.completed = Some(succeeded);
        }
    }

    /// A poll at a link that is gone is over.
    pub(super) fn fail_clock_read(&mut self, link: usize) {
        if self.poll.link == link {
            self.poll.completed.get_or_insert(false);
        }
    }
}
