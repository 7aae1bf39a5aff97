//! The clocks of one table at one shard: one range clock a partition, so that they travel with it,
//! and the workers that are waited for.

use std::collections::BTreeMap;

use windlass_replication::{RangeClock, RangeClockError, RangeClockLimits};
use windlass_wire::{
    Aggregation, ClockLine, Consistency, RowRange, TableSchema, WorkerClock, WorkerRank,
};

use super::{members::Member, published::Published};
use crate::shard::arena::Piece;

/// Range clocks, workers and the published line.
#[derive(Debug)]
pub(in crate::shard) struct TableClocks {
    /// By slot of the table's partitions.
    pub(super) clocks: Vec<RangeClock>,
    pub(super) members: BTreeMap<WorkerRank, Member>,
    published: Published,
    tau: u64,
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
    pub(in crate::shard) fn new(piece: Piece, consistency: Consistency) -> Self {
        let mut clocks = Self {
            clocks: Vec::new(),
            members: BTreeMap::new(),
            published: Published::new(piece),
            tau: tau_of(consistency),
        };
        clocks.publish();
        clocks
    }

    /// Has a clock for each of `count` partitions; those that came later start where the others are.
    pub(in crate::shard) fn grow(&mut self, count: usize) {
        while self.clocks.len() < count {
            let mut clock = RangeClock::new(RangeClockLimits::default());
            for (rank, member) in self.members.iter().filter(|(_, member)| member.live) {
                // As many workers as another partition's clock has room for.
                let registered = clock.revive(*rank, member.finished);
                debug_assert!(registered.is_ok(), "members are bounded");
            }
            self.clocks.push(clock);
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
            for range_clock in &mut self.clocks {
                let advanced = range_clock.advance(rank, clock);
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
            Some(range_clock) => range_clock.tick(rank, rows, clock),
            None => Ok(()),
        }
    }

    /// Whether a push of a worker at `clock` says more than is known of all rows.
    #[inline]
    pub(in crate::shard) fn is_news(&self, rank: WorkerRank, clock: WorkerClock) -> bool {
        self.members.get(&rank).is_some_and(|member| member.live && clock > member.finished)
    }

    /// Whether some worker is behind `needed` on rows of one partition.
    pub(in crate::shard) fn is_behind(&self, slot: usize, rows: RowRange, needed: u64) -> bool {
        let Some(clock) = self.clocks.get(slot) else { return false };
        // The row without a number of its own has the whole partition's clock.
        let minimum = if rows.is_empty() { clock.minimum() } else { clock.minimum_in(rows) };
        minimum.is_some_and(|minimum| minimum.0 < needed)
    }

    /// Publishes where the workers are; returns whether they were elsewhere before.
    pub(in crate::shard) fn publish(&mut self) -> bool {
        let minimum = self.clocks.iter().filter_map(RangeClock::minimum).min();
        let live = self.members.values().filter(|member| member.live).count() as u64;
        let minimum = minimum.map_or(u64::MAX, |minimum| minimum.0);
        self.published.publish(ClockLine { minimum, tau: self.tau, live })
    }
}

#[cfg(test)]
mod tests;
