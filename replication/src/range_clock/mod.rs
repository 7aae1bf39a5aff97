//! Range clocks: for every row, the vector clock of the workers whose pushes it includes, kept per
//! worker as a step function over rows (OSDI'14 parameter server, section 4.3). A push touches at most
//! the two steps at its ends; equal neighbours merge. Clocks count from 1: 0 means "nothing yet".
//! Bounded: past `steps_max` neighbours merge to the lower clock, which delays a waiting pull until the
//! worker's next `advance` but never claims a push that is not there.

mod codec;
mod stamp;
mod steps;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use windlass_wire::{RowRange, WorkerClock, WorkerRank};

pub use stamp::Stamp;
use steps::Steps;

/// Every row a range clock knows: `0..u64::MAX`. The key `u64::MAX` itself is no row.
pub const ALL_ROWS: RowRange = RowRange { start: 0, end: u64::MAX };

/// Bounds of one range clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeClockLimits {
    /// Workers with an entry, live or retired.
    pub workers_max: usize,
    /// Steps per worker; above it neighbours are merged to the lower clock.
    pub steps_max: usize,
}

impl Default for RangeClockLimits {
    fn default() -> Self {
        Self { workers_max: 4096, steps_max: 1024 }
    }
}

/// Why a range clock refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeClockError {
    /// No room for another worker.
    #[error(
        "the range clock holds {bound} live workers, its bound: retire one or raise workers_max"
    )]
    TooManyWorkers {
        /// The bound in force.
        bound: usize,
    },
}

/// The vector clocks of all rows of one table (or of one partition of it).
#[derive(Clone, Debug)]
pub struct RangeClock {
    workers: BTreeMap<WorkerRank, Worker>,
    /// (least clock over all rows, worker) of live workers: the whole minimum in O(log m).
    minima: BTreeSet<(u64, WorkerRank)>,
    limits: RangeClockLimits,
}

#[derive(Clone, Debug)]
struct Worker {
    steps: Steps,
    live: bool,
}

impl RangeClock {
    /// No worker has pushed anything.
    #[must_use]
    pub fn new(limits: RangeClockLimits) -> Self {
        assert!(limits.workers_max > 0, "a range clock needs room for a worker");
        assert!(limits.steps_max >= 4, "a range clock needs at least 4 steps per worker");
        Self { workers: BTreeMap::new(), minima: BTreeSet::new(), limits }
    }

    /// Records a push of `worker` at `clock` over `rows`: raises its entry there to at least `clock`.
    /// Registers a worker not seen before.
    pub fn tick(
        &mut self,
        worker: WorkerRank,
        rows: RowRange,
        clock: WorkerClock,
    ) -> Result<(), RangeClockError> {
        self.change(worker, |steps| steps.raise(rows.start, rows.end, clock.0))
    }

    /// Sets the entry of `worker` over `rows` to exactly `clock`, also downwards: for restoring what
    /// was recorded elsewhere.
    pub fn set(
        &mut self,
        worker: WorkerRank,
        rows: RowRange,
        clock: WorkerClock,
    ) -> Result<(), RangeClockError> {
        self.change(worker, |steps| steps.set(rows.start, rows.end, clock.0))
    }

    /// Records that `worker` has finished `clock` on every row: an empty push over the whole table.
    pub fn advance(
        &mut self,
        worker: WorkerRank,
        clock: WorkerClock,
    ) -> Result<(), RangeClockError> {
        self.tick(worker, ALL_ROWS, clock)
    }

    /// Stops counting `worker` in minima, so that nobody waits for it. Its stamps stay, until room is
    /// needed for another worker.
    pub fn retire(&mut self, worker: WorkerRank) {
        if let Some(entry) = self.workers.get_mut(&worker)
            && entry.live
        {
            entry.live = false;
            self.minima.remove(&(entry.steps.minimum(), worker));
        }
    }

    /// Counts `worker` again (or for the first time), as having finished `clock` everywhere: a worker
    /// that joins late starts at the job's clock, or everybody would wait for it.
    pub fn revive(
        &mut self,
        worker: WorkerRank,
        clock: WorkerClock,
    ) -> Result<(), RangeClockError> {
        if let Some(entry) = self.workers.get_mut(&worker)
            && !entry.live
        {
            entry.live = true;
            self.minima.insert((entry.steps.minimum(), worker));
        }
        self.advance(worker, clock)
    }

    /// Whether `worker` is counted in minima.
    #[must_use]
    pub fn is_live(&self, worker: WorkerRank) -> bool {
        self.workers.get(&worker).is_some_and(|entry| entry.live)
    }

    /// Workers counted in minima.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.minima.len()
    }

    /// The clock of `worker` at `row`; 0 for a worker never seen.
    #[must_use]
    pub fn at(&self, worker: WorkerRank, row: u64) -> WorkerClock {
        WorkerClock(self.workers.get(&worker).map_or(0, |entry| entry.steps.at(row)))
    }

    /// The clock that `worker`, live or not, has finished on every row; 0 for one never seen.
    #[must_use]
    pub fn least_of(&self, worker: WorkerRank) -> WorkerClock {
        WorkerClock(self.workers.get(&worker).map_or(0, |entry| entry.steps.minimum()))
    }

    /// The clock of the slowest live worker over all rows: what a shard publishes. `None` when no
    /// worker is live, so that nobody has anybody to wait for.
    #[must_use]
    pub fn minimum(&self) -> Option<WorkerClock> {
        self.minima.first().map(|least| WorkerClock(least.0))
    }

    /// The clock of the slowest live worker over `rows`; `None` when no worker is live or no row named.
    #[must_use]
    pub fn minimum_in(&self, rows: RowRange) -> Option<WorkerClock> {
        if rows.is_empty() {
            return None;
        }
        self.workers
            .values()
            .filter(|entry| entry.live)
            .map(|entry| WorkerClock(entry.steps.minimum_in(rows.start, rows.end)))
            .min()
    }

    /// Raises every entry to at least what `other` has: the stamps of both.
    pub fn merge(&mut self, other: &Self) -> Result<(), RangeClockError> {
        for (&worker, entry) in &other.workers {
            let sorted = entry.steps.to_sorted();
            for (at, &(start, clock)) in sorted.iter().enumerate() {
                let end = sorted.get(at + 1).map_or(u64::MAX, |next| next.0);
                self.tick(worker, RowRange { start, end }, WorkerClock(clock))?;
            }
            if !entry.live && !self.workers.get(&worker).is_some_and(|own| own.live) {
                self.retire(worker);
            }
        }
        Ok(())
    }

    /// How this clock stands to `other` as a vector clock over all rows: `Less` when it includes no
    /// push that the other lacks, `None` when each has one the other lacks. Who is live plays no part.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        let nothing = Steps::new(0);
        let (mut below, mut above) = (false, false);
        let ranks: BTreeSet<_> = self.workers.keys().chain(other.workers.keys()).collect();
        for rank in ranks {
            let own = self.workers.get(rank).map_or(&nothing, |entry| &entry.steps);
            let its = other.workers.get(rank).map_or(&nothing, |entry| &entry.steps);
            let mut visit = |row: u64| {
                below |= own.at(row) < its.at(row);
                above |= own.at(row) > its.at(row);
            };
            own.each(&mut |row, _| visit(row));
            its.each(&mut |row, _| visit(row));
        }
        match (below, above) {
            (false, false) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Less),
            (false, true) => Some(Ordering::Greater),
            (true, true) => None,
        }
    }

    /// The coalesced entries: row ranges in order, each with the vector clock of its rows (workers
    /// with clock 0 left out). Neighbours differ.
    #[must_use]
    pub fn entries(&self) -> Vec<(RowRange, Vec<(WorkerRank, WorkerClock)>)> {
        let mut starts = BTreeSet::from([0]);
        for entry in self.workers.values() {
            entry.steps.each(&mut |start, _| {
                starts.insert(start);
            });
        }
        let starts: Vec<u64> = starts.into_iter().collect();
        let mut entries = Vec::with_capacity(starts.len());
        for (at, &start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(u64::MAX);
            let clocks = self
                .workers
                .iter()
                .map(|(&rank, entry)| (rank, WorkerClock(entry.steps.at(start))))
                .filter(|(_, clock)| clock.0 > 0)
                .collect();
            entries.push((RowRange { start, end }, clocks));
        }
        entries
    }

    /// Steps held, over all workers: what bounds the memory.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.workers.values().map(|entry| entry.steps.count()).sum()
    }

    /// Workers with an entry, in order of rank, and whether each is live.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerRank, bool)> + '_ {
        self.workers.iter().map(|(&rank, entry)| (rank, entry.live))
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> RangeClockLimits {
        self.limits
    }

    fn change(
        &mut self,
        worker: WorkerRank,
        change: impl FnOnce(&mut Steps),
    ) -> Result<(), RangeClockError> {
        if !self.workers.contains_key(&worker) {
            self.make_room()?;
            self.workers.insert(worker, Worker { steps: Steps::new(0), live: true });
            self.minima.insert((0, worker));
        }
        let steps_max = self.limits.steps_max;
        let entry = self.workers.get_mut(&worker).expect("registered above");
        let before = entry.steps.minimum();
        change(&mut entry.steps);
        if entry.steps.count() > steps_max {
            // A quarter of the room is freed, so that coarsening costs O(log n) per change.
            entry.steps.coarsen(steps_max - steps_max / 4);
        }
        let after = entry.steps.minimum();
        if entry.live && before != after {
            self.minima.remove(&(before, worker));
            self.minima.insert((after, worker));
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), RangeClockError> {
        if self.workers.len() < self.limits.workers_max {
            return Ok(());
        }
        let retired = self.workers.iter().find(|(_, entry)| !entry.live).map(|(&rank, _)| rank);
        let retired =
            retired.ok_or(RangeClockError::TooManyWorkers { bound: self.limits.workers_max })?;
        self.workers.remove(&retired);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
