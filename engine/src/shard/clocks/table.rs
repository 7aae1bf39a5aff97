//! The clocks of one table at one shard: one range clock a partition, so that they travel with it,
//! and the workers that are waited for.

use std::collections::BTreeMap;

use windlass_replication::{RangeClock, RangeClockError, RangeClockLimits};
use windlass_wire::{
    Aggregation, ClockLine, Consistency, RowRange, TableSchema, WorkerClock, WorkerRank,
};

use super::{members::Member, published::Published};
use crate::{limits::CLOCK_AHEAD_MAX, shard::arena::Piece};

/// Range clocks, workers and the published line.
#[derive(Debug)]
pub(in crate::shard) struct TableClocks {
    /// By slot of the table's partitions.
    pub(super) clocks: Vec<SlotClock>,
    pub(super) members: BTreeMap<WorkerRank, Member>,
    pub(super) published: Published,
    tau: u64,
    /// Whether records of chains move the clocks: they say who is live, and members are only who was
    /// heard here.
    pub(in crate::shard) chained: bool,
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
    /// Whether it has changed since it was recorded as it is.
    pub(super) unkept: bool,
    /// Of a table in rounds, the last round that is applied.
    pub(super) closed: WorkerClock,
}

impl SlotClock {
    pub(super) fn new() -> Self {
        let range = RangeClock::new(RangeClockLimits::default());
        Self { range, hidden: false, unkept: false, closed: WorkerClock(0) }
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
    /// Clocks of a table without workers, published in `piece`; `chained` where partitions have
    /// replicas.
    pub(in crate::shard) fn new(piece: Piece, schema: &TableSchema, chained: bool) -> Self {
        let mut clocks = Self {
            clocks: Vec::new(),
            members: BTreeMap::new(),
            published: Published::new(piece),
            tau: tau_of(schema.consistency),
            chained,
            in_rounds: schema.aggregation != (Aggregation::Immediate {}),
            is_stale: false,
        };
        clocks.publish();
        clocks
    }

    /// Has a clock for each of `count` partitions; those that came later start where the others are,
    /// unless a chain's copy or its records will say.
    pub(in crate::shard) fn grow(&mut self, count: usize) {
        let closed = self.clocks.iter().map(|slot| slot.closed).max().unwrap_or_default();
        while self.clocks.len() < count {
            let mut clock = SlotClock::new();
            if !self.chained {
                clock.closed = closed;
            }
            let members = self.members.iter().filter(|(_, member)| member.live);
            for (rank, member) in members.filter(|_| !self.chained) {
                // As many workers as another partition's clock has room for.
                let registered = clock.range.revive(*rank, member.finished);
                debug_assert!(registered.is_ok(), "members are bounded");
            }
            self.clocks.push(clock);
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

    /// A worker has finished `clock` on all rows. False when it is no worker of the table.
    pub(in crate::shard) fn advance(&mut self, rank: WorkerRank, clock: WorkerClock) -> bool {
        let Some(member) = self.members.get_mut(&rank).filter(|member| member.live) else {
            return false;
        };
        if clock > member.finished {
            member.finished = clock;
            for slot in &mut self.clocks {
                let advanced = slot.range.advance(rank, clock);
                debug_assert!(advanced.is_ok(), "a member has its entry");
            }
        }
        true
    }

    /// A worker has pushed rows of one partition, at a clock that it has not finished everywhere.
    pub(in crate::shard) fn stamp(
        &mut self,
        rank: WorkerRank,
        slot: usize,
        rows: RowRange,
        clock: WorkerClock,
    ) -> Result<(), RangeClockError> {
        match self.clocks.get_mut(slot) {
            Some(slot) => {
                slot.unkept = true;
                slot.range.tick(rank, rows, clock)
            }
            None => Ok(()),
        }
    }

    /// Whether a push of a worker at `clock` says more than is known of all rows.
    #[inline]
    pub(in crate::shard) fn is_news(&self, rank: WorkerRank, clock: WorkerClock) -> bool {
        self.members.get(&rank).is_some_and(|member| member.live && clock > member.finished)
    }

    /// Whether a clock is further ahead of the slowest worker than any worker can be.
    #[inline]
    pub(in crate::shard) fn is_too_far(&self, clock: WorkerClock) -> bool {
        clock.0 > self.line().minimum.saturating_add(CLOCK_AHEAD_MAX)
    }

    /// Whether some worker is behind `needed` on rows of one partition.
    pub(in crate::shard) fn is_behind(&self, slot: usize, rows: RowRange, needed: u64) -> bool {
        let Some(found) = self.clocks.get(slot) else { return false };
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
        let live = if self.chained {
            // Where no partition can be read nobody has to be missed.
            shown().map(|slot| slot.range.live_count() as u64).min().unwrap_or(u64::MAX)
        } else {
            self.members.values().filter(|member| member.live).count() as u64
        };
        self.published.publish(ClockLine { gains: 0, minimum, tau: self.tau, live })
    }
}

#[cfg(test)]
mod tests;
