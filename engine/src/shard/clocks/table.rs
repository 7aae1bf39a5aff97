//! The clocks of one table at one shard: one range clock a partition, so that they travel with it,
//! and the workers that are waited for.

use std::collections::BTreeMap;

use windlass_replication::{RangeClock, RangeClockLimits};
use windlass_wire::{
    Aggregation, ClockLine, Consistency, RowRange, TableSchema, WorkerClock, WorkerRank,
};

use super::{members::Member, published::Published};
use crate::{limits::CLOCK_AHEAD_MAX, shard::arena::Piece};

/// Range clocks, which records move, whoever was heard here, and the published line.
#[derive(Debug)]
pub(in crate::shard) struct TableClocks {
    /// By slot of the table's partitions.
    pub(super) clocks: Vec<SlotClock>,
    pub(super) members: BTreeMap<WorkerRank, Member>,
    pub(super) published: Published,
    tau: u64,
    /// Whether pushes count by rounds.
    pub(in crate::shard) in_rounds: bool,
    /// Whether the line has to be published again.
    pub(in crate::shard) is_stale: bool,
}

/// The clock of one partition.
#[derive(Debug)]
pub(in crate::shard) struct SlotClock {
    pub(in crate::shard) range: RangeClock,
    /// Whether its rows are not current: nobody reads them, and nobody waits for their clock.
    pub(super) hidden: bool,
    /// The last applied round, of a table in rounds.
    pub(super) closed: WorkerClock,
}

impl SlotClock {
    pub(super) fn new() -> Self {
        let range = RangeClock::new(RangeClockLimits::default());
        Self { range, hidden: false, closed: WorkerClock(0) }
    }

    /// The clock that pulls of any row may count on; `None` when nobody is waited for.
    pub(super) fn minimum(&self, in_rounds: bool) -> Option<WorkerClock> {
        let slowest = self.range.minimum();
        // Rows change when rounds close, whoever has not finished them.
        if in_rounds { slowest.map(|_| self.closed) } else { slowest }
    }
}

/// Whether a table's workers have clocks.
pub(in crate::shard) fn is_clocked(schema: &TableSchema) -> bool {
    schema.consistency != (Consistency::Eventual {})
        || schema.aggregation != (Aggregation::Immediate {})
}

/// Rounds a worker may be ahead of the slowest.
const fn tau_of(consistency: Consistency) -> u64 {
    match consistency {
        Consistency::Sequential {} => 0,
        Consistency::Bounded { tau } => tau,
        Consistency::Eventual {} => u64::MAX,
    }
}

impl TableClocks {
    /// Clocks of a table without workers, published in `piece`.
    pub(in crate::shard) fn new(piece: Piece, schema: &TableSchema) -> Self {
        let mut clocks = Self {
            clocks: Vec::new(),
            members: BTreeMap::new(),
            published: Published::new(piece),
            tau: tau_of(schema.consistency),
            in_rounds: schema.aggregation != (Aggregation::Immediate {}),
            is_stale: false,
        };
        clocks.publish();
        clocks
    }

    /// Has a clock for each of `count` partitions; a copy or records say how far those are that came later.
    pub(in crate::shard) fn grow(&mut self, count: usize) {
        if self.clocks.len() < count {
            self.clocks.resize_with(count, SlotClock::new);
            self.is_stale = true;
        }
    }

    /// The partition in this slot is kept elsewhere; the last one takes its slot.
    pub(in crate::shard) fn remove(&mut self, slot: usize) {
        self.clocks.swap_remove(slot);
        self.publish();
    }

    /// What readers see.
    #[inline]
    pub(in crate::shard) fn line(&self) -> ClockLine {
        self.published.line()
    }

    /// Where they see it: the arena's region, and the offset in it.
    pub(in crate::shard) fn place(&self) -> (usize, u64) {
        self.published.place()
    }

    /// Workers may be this far apart from now on; returns whether that is new.
    pub(in crate::shard) fn set_consistency(&mut self, consistency: Consistency) -> bool {
        self.tau = tau_of(consistency);
        self.publish()
    }

    /// Nobody waits for a table that goes away.
    pub(in crate::shard) fn open(&mut self) {
        self.published.publish(ClockLine::OPEN);
    }

    /// Whether a clock is further ahead of the slowest worker than any worker can be.
    #[inline]
    pub(in crate::shard) fn is_too_far(&self, clock: WorkerClock) -> bool {
        clock.0 > self.line().minimum.saturating_add(CLOCK_AHEAD_MAX)
    }

    /// Whether some worker is behind `needed` on rows of one partition.
    pub(in crate::shard) fn is_behind(&self, slot: usize, rows: RowRange, needed: u64) -> bool {
        let found = &self.clocks[slot];
        if self.in_rounds {
            return found.minimum(true).is_some_and(|minimum| minimum.0 < needed);
        }
        let clock = &found.range;
        // The row without a number of its own has the whole partition's clock.
        let minimum = if rows.is_empty() { clock.minimum() } else { clock.minimum_in(rows) };
        minimum.is_some_and(|minimum| minimum.0 < needed)
    }

    /// Publishes where the workers are; returns whether they were elsewhere before.
    pub(in crate::shard) fn publish(&mut self) -> bool {
        self.is_stale = false;
        let shown = || self.clocks.iter().filter(|slot| !slot.hidden);
        let minimum = shown().filter_map(|slot| slot.minimum(self.in_rounds)).min();
        let minimum = minimum.map_or(u64::MAX, |minimum| minimum.0);
        // Where no partition can be read nobody has to be missed.
        let live = shown().map(|slot| slot.range.live_count() as u64).min().unwrap_or(u64::MAX);
        self.published.publish(ClockLine { gains: 0, minimum, tau: self.tau, live })
    }
}

#[cfg(test)]
mod tests;
