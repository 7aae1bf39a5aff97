//! Workers' clocks at a shard: a range clock for each partition of the tables that bound staleness,
//! their slowest worker's clock published for one-sided polls, and the pulls that wait for it.
//! Tables that do not bound staleness have none of this, and pay nothing for it.

mod kept;
mod members;
mod parked;
mod published;
mod recorded;
mod requests;
mod table;
mod waiting;

use std::time::Duration;

use self::waiting::Waiting;
pub(super) use self::{
    kept::apply_record,
    parked::{end_parked_pulls, must_wait, park_pull, release_pulls},
    requests::{advance_clock, expire_workers, give_up_worker, join_clock, retire_workers},
    table::{TableClocks, is_clocked},
};

/// What the clocks of all tables of a shard have in common.
#[derive(Debug)]
pub(super) struct Clocks {
    /// Tables with clocks.
    table_count: usize,
    /// How long a worker may be silent before nobody waits for it.
    worker_timeout: Duration,
    /// Members of tables whose session is gone.
    silent_count: usize,
    /// Whether a clock has moved since waiting pulls were last looked at.
    pub(super) moved: bool,
    /// Whether heads may have to record who was heard, or was not any more.
    pub(super) unrecorded: bool,
    /// Whether rounds may have to be closed because workers came or went.
    pub(super) unclosed: bool,
    /// Whether a record has moved a clock that is not published yet.
    pub(super) is_stale: bool,
    waiting: Waiting,
}

impl Clocks {
    pub(super) fn new(worker_timeout: Duration) -> Self {
        Self {
            table_count: 0,
            worker_timeout,
            silent_count: 0,
            moved: false,
            unrecorded: false,
            unclosed: false,
            is_stale: false,
            waiting: Waiting::default(),
        }
    }

    /// A table with clocks was made.
    pub(super) fn add_table(&mut self) {
        self.table_count += 1;
    }

    /// A table with clocks was dropped: pulls that waited for it are looked at.
    pub(super) fn remove_table(&mut self) {
        self.table_count -= 1;
        self.moved = true;
    }

    /// Pulls of a session that wait, each of which is owed a completion.
    #[inline]
    pub(super) fn waiting_count(&self, slot: usize) -> usize {
        self.waiting.count_of(slot)
    }

    /// Whether any table has clocks.
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.table_count > 0
    }
}
