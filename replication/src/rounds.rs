//! The `rounds` aggregation mode: pushes of one clock are summed until all live workers, or m of
//! them, have finished it; then the sum is applied once. Decides which round a push belongs to, when
//! a round closes and what becomes of late pushes; the sums themselves are the engine's.
//!
//! # Why nobody waits for ever
//!
//! A worker pushes and finishes its clocks one by one, in every partition; what it waits for then, an
//! acknowledgement or a pull, is of clocks it has finished. Let some wait for ever, all others be done
//! or retired.
//!
//! - A push waits somewhere for a round beyond its clock: it came late, or behind one that its session
//!   pushed in another life of its worker. Whoever has not finished the partition's next round waits
//!   too, elsewhere, and so says again and again that it is idle ([`Rounds::idle`]); once all have, that
//!   round closes, and in the end the one that is waited for.
//! - Otherwise let `t` be the lowest clock that one of them has finished. All have finished the rounds
//!   up to `t`, so those close in every partition: all that this worker pushed is applied, and no pull
//!   of it has to wait for a slower one.
//!
//! Only the first needs `idle`. It has to be said again, as a round it was said in may close by those
//! who finished it, and because a new head has heard nothing. No rule for one partition can do without:
//! there, a worker that computes and one that waits for another partition look the same.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{WorkerClock, WorkerRank};

/// How many workers close a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quorum {
    /// Every live worker.
    All,
    /// This many live workers (all of them, if fewer are live).
    AtLeast(u32),
}

/// How to treat a push for a round that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Late {
    /// It is acknowledged and forgotten.
    Drop,
    /// It counts in the oldest open round.
    Fold,
}

/// Where a push goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Sum it into the round of this clock.
    Into(WorkerClock),
    /// Drop it; acknowledge it with the next record, which covers its sequence.
    Dropped,
    /// Its clock is further ahead than rounds are summed.
    TooEarly,
}

/// A round that has just closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its clock.
    pub clock: WorkerClock,
    /// The workers that had finished it.
    pub finished: BTreeSet<WorkerRank>,
}

/// The open rounds of one table in one partition.
#[derive(Clone, Debug)]
pub struct Rounds {
    quorum: Quorum,
    late: Late,
    /// The last closed clock; the next to close is the one after.
    closed: WorkerClock,
    /// Finished workers per open clock.
    open: BTreeMap<WorkerClock, BTreeSet<WorkerRank>>,
    /// The last round in which a push counts that was made at an earlier clock.
    late_until: WorkerClock,
    /// Workers that have finished an earlier clock, or said that they are idle, since the next round
    /// is the next.
    idle: BTreeSet<WorkerRank>,
    live: BTreeSet<WorkerRank>,
    /// Open rounds at a time: each costs the engine a sum.
    open_max: u64,
}

impl Rounds {
    /// Rounds after `closed`, of which at most `open_max` are summed at a time.
    #[must_use]
    pub fn new(quorum: Quorum, late: Late, closed: WorkerClock, open_max: u64) -> Self {
        assert!(open_max > 0, "a table in rounds needs an open round");
        assert!(quorum != Quorum::AtLeast(0), "a round of no worker would close by itself");
        let (open, idle, live) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { quorum, late, closed, open, late_until: closed, idle, live, open_max }
    }

    /// Where a push of clock `clock` goes. A worker may push several times within a clock.
    #[must_use]
    pub fn place(&self, clock: WorkerClock) -> Placed {
        if clock <= self.closed {
            return match self.late {
                Late::Drop => Placed::Dropped,
                Late::Fold => Placed::Into(self.next()),
            };
        }
        if clock.0 - self.closed.0 > self.open_max {
            return Placed::TooEarly;
        }
        Placed::Into(clock)
    }

    /// `worker` has finished `clock` (and every one before it): it pushes no more for it. Returns
    /// whether rounds may now close: ask [`Rounds::close`].
    pub fn finish(&mut self, worker: WorkerRank, clock: WorkerClock) -> bool {
        let first = self.next();
        if clock < first {
            return self.idle(worker, clock);
        }
        let last = WorkerClock(clock.0.min(self.closed.0.saturating_add(self.open_max)));
        let mut at = first;
        while at <= last {
            self.open.entry(at).or_default().insert(worker);
            at = WorkerClock(at.0 + 1);
        }
        self.is_complete(first)
    }

    /// A push was summed into the round of `clock`, beyond its own, and is acknowledged with it: rounds
    /// up to this one do not wait for workers that wait for something like it. Ask [`Rounds::close`].
    pub fn fold(&mut self, clock: WorkerClock) {
        self.late_until = self.late_until.max(clock);
    }

    /// `worker`, which has finished `clock`, waits and will say so again until it goes on: a round
    /// beyond its clock does not wait for it if pushes in that round, or in a later one, were made at
    /// an earlier clock. Returns whether rounds may now close: ask [`Rounds::close`].
    pub fn idle(&mut self, worker: WorkerRank, clock: WorkerClock) -> bool {
        if clock <= self.closed && self.live.contains(&worker) {
            self.idle.insert(worker);
        }
        self.is_complete(self.next())
    }

    /// Worker membership: a live worker is waited for, a retired one is not. What a retired one had
    /// finished is forgotten, or another life of its rank would be taken to have finished it.
    pub fn set_live(&mut self, worker: WorkerRank, live: bool) {
        if live {
            self.live.insert(worker);
        } else {
            self.live.remove(&worker);
            self.idle.remove(&worker);
            for finished in self.open.values_mut() {
                finished.remove(&worker);
            }
        }
    }

    /// Closes the oldest round if enough workers have finished it: apply its sum once, in one record.
    /// To be asked until it returns `None`, after every `finish` and every change of the workers.
    pub fn close(&mut self) -> Option<Closed> {
        let clock = self.next();
        if !self.is_complete(clock) {
            return None;
        }
        let finished = self.open.remove(&clock).unwrap_or_default();
        self.idle.clear();
        self.closed = clock;
        Some(Closed { clock, finished })
    }

    /// The last closed clock.
    #[must_use]
    pub fn closed(&self) -> WorkerClock {
        self.closed
    }

    fn next(&self) -> WorkerClock {
        WorkerClock(self.closed.0 + 1)
    }

    fn is_complete(&self, clock: WorkerClock) -> bool {
        let none = BTreeSet::new();
        let finished = self.open.get(&clock).unwrap_or(&none);
        let is_through = |rank: &WorkerRank| finished.contains(rank) || self.idle.contains(rank);
        if clock <= self.late_until && !self.live.is_empty() && self.live.iter().all(is_through) {
            return true;
        }
        let of_live = finished.iter().filter(|rank| self.live.contains(rank)).count();
        match self.quorum {
            Quorum::All => of_live == self.live.len() && of_live > 0,
            Quorum::AtLeast(count) => of_live > 0 && of_live >= self.live.len().min(count as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rounds(quorum: Quorum, late: Late, workers: u32) -> Rounds {
        let mut rounds = Rounds::new(quorum, late, WorkerClock(0), 4);
        (0..workers).for_each(|rank| rounds.set_live(WorkerRank(rank), true));
        rounds
    }

    fn close(rounds: &mut Rounds) -> Option<u64> {
        rounds.close().map(|closed| closed.clock.0)
    }

    #[test]
    fn all_waits_for_every_live_worker() {
        let mut rounds = rounds(Quorum::All, Late::Drop, 3);
        assert!(!rounds.finish(WorkerRank(0), WorkerClock(1)));
        assert!(!rounds.finish(WorkerRank(1), WorkerClock(2)));
        assert_eq!(close(&mut rounds), None);
        rounds.set_live(WorkerRank(2), false);
        assert_eq!(close(&mut rounds), Some(1), "a dead worker is not waited for");
        assert_eq!(close(&mut rounds), None);
        assert_eq!(rounds.place(WorkerClock(1)), Placed::Dropped);
        assert_eq!(rounds.place(WorkerClock(5)), Placed::Into(WorkerClock(5)));
        assert_eq!(rounds.place(WorkerClock(6)), Placed::TooEarly);
    }

    #[test]
    fn m_of_n_folds_the_straggler_into_the_next() {
        let mut rounds = rounds(Quorum::AtLeast(2), Late::Fold, 3);
        rounds.finish(WorkerRank(0), WorkerClock(1));
        rounds.finish(WorkerRank(1), WorkerClock(1));
        assert_eq!(close(&mut rounds), Some(1));
        assert_eq!(rounds.place(WorkerClock(1)), Placed::Into(WorkerClock(2)));
        assert!(!rounds.finish(WorkerRank(2), WorkerClock(1)), "nothing to close");
    }

    #[test]
    fn who_waits_is_not_waited_for_where_a_late_push_waits() {
        let mut rounds = rounds(Quorum::AtLeast(2), Late::Fold, 4);
        for worker in [0, 1] {
            rounds.finish(WorkerRank(worker), WorkerClock(1));
        }
        assert_eq!(close(&mut rounds), Some(1));
        assert_eq!(rounds.place(WorkerClock(1)), Placed::Into(WorkerClock(2)));
        rounds.fold(WorkerClock(2));
        rounds.finish(WorkerRank(2), WorkerClock(1));
        rounds.finish(WorkerRank(0), WorkerClock(2));
        rounds.idle(WorkerRank(3), WorkerClock(1));
        assert_eq!(close(&mut rounds), None, "worker 1 is on its way");
        assert!(rounds.idle(WorkerRank(1), WorkerClock(1)), "it waits for another partition");
        assert_eq!(close(&mut rounds), Some(2));
        rounds.fold(WorkerClock(3));
        for worker in 0..4 {
            assert_eq!(close(&mut rounds), None, "all have to say it again");
            rounds.idle(WorkerRank(worker), WorkerClock(2));
        }
        assert_eq!(close(&mut rounds), Some(3));
    }

    #[test]
    fn nobody_is_idle_where_no_late_push_waits() {
        for (quorum, late) in [
            (Quorum::All, Late::Fold),
            (Quorum::AtLeast(2), Late::Fold),
            (Quorum::AtLeast(2), Late::Drop),
        ] {
            let mut rounds = rounds(quorum, late, 3);
            for worker in 0..3 {
                rounds.finish(WorkerRank(worker), WorkerClock(1));
            }
            assert_eq!(close(&mut rounds), Some(1));
            rounds.finish(WorkerRank(0), WorkerClock(2));
            for worker in 0..3 {
                rounds.idle(WorkerRank(worker), WorkerClock(1));
            }
            assert_eq!(close(&mut rounds), None);
        }
    }

    #[test]
    fn an_idle_worker_has_not_finished_the_round_it_lets_close() {
        let mut rounds = rounds(Quorum::AtLeast(1), Late::Fold, 2);
        rounds.finish(WorkerRank(0), WorkerClock(1));
        assert_eq!(close(&mut rounds), Some(1));
        rounds.fold(WorkerClock(2));
        rounds.idle(WorkerRank(0), WorkerClock(1));
        rounds.finish(WorkerRank(1), WorkerClock(1));
        let closed = Closed { clock: WorkerClock(2), finished: BTreeSet::new() };
        assert_eq!(rounds.close(), Some(closed));
    }

    #[test]
    fn a_new_life_of_a_rank_has_finished_nothing() {
        let mut rounds = rounds(Quorum::All, Late::Drop, 2);
        rounds.finish(WorkerRank(1), WorkerClock(2));
        rounds.set_live(WorkerRank(1), false);
        rounds.set_live(WorkerRank(1), true);
        rounds.finish(WorkerRank(0), WorkerClock(1));
        assert_eq!(close(&mut rounds), None);
        rounds.finish(WorkerRank(1), WorkerClock(1));
        let finished = [WorkerRank(0), WorkerRank(1)].into();
        assert_eq!(rounds.close(), Some(Closed { clock: WorkerClock(1), finished }));
    }

    #[test]
    fn a_round_of_nobody_never_closes() {
        let mut rounds = rounds(Quorum::All, Late::Drop, 0);
        assert_eq!(close(&mut rounds), None);
        rounds.finish(WorkerRank(0), WorkerClock(1));
        assert_eq!(close(&mut rounds), None);
    }

    proptest! {
        #[test]
        fn every_round_closes_once_in_order_and_state_is_bounded(
            steps in prop::collection::vec((0..4_u32, 1..12_u64, 0..10_u8), 0..200)
        ) {
            let mut rounds = rounds(Quorum::AtLeast(3), Late::Fold, 4);
            let mut last = 0;
            for (rank, clock, kind) in steps {
                if kind == 0 {
                    rounds.set_live(WorkerRank(rank), clock % 2 == 0);
                } else if kind == 1 {
                    rounds.fold(WorkerClock(rounds.closed().0 + clock % 4 + 1));
                } else if kind == 2 {
                    rounds.idle(WorkerRank(rank), WorkerClock(clock));
                } else {
                    rounds.finish(WorkerRank(rank), WorkerClock(clock));
                }
                while let Some(closed) = rounds.close() {
                    prop_assert_eq!(closed.clock.0, last + 1);
                    last = closed.clock.0;
                }
                prop_assert!(rounds.open.len() <= 4);
                if let Placed::Into(clock) = rounds.place(WorkerClock(clock)) {
                    prop_assert!(clock > rounds.closed() && clock.0 <= rounds.closed().0 + 4);
                }
            }
        }
    }
}
