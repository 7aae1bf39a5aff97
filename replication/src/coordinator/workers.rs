//! The registry of training workers: ranks, heartbeats, leaving, dying, rejoining. What it retires,
//! every shard retires from its range clocks, so that nobody waits for a dead worker.

use std::collections::BTreeMap;

use thiserror::Error;
use windlass_wire::{Incarnation, WorkerClock, WorkerRank};

use crate::time::Time;
use windlass_wire::codec::{DecodeError, Reader, encode_len};

/// Timings and bounds of the worker registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerTimings {
    /// A worker silent for this long is retired, in microseconds.
    pub heartbeat_timeout_us: u64,
    /// Two looks further apart than this, in microseconds: the coordinator itself stood still.
    pub look_gap_max_us: u64,
    /// Workers with a rank at a time, live or retired.
    pub workers_max: usize,
}

impl Default for WorkerTimings {
    fn default() -> Self {
        Self { heartbeat_timeout_us: 5_000_000, look_gap_max_us: 1_000_000, workers_max: 4096 }
    }
}

/// What a worker is told when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its rank.
    pub rank: WorkerRank,
    /// The clock to start from: every shard revives its entry there.
    pub clock: WorkerClock,
}

/// Why a worker was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WorkerError {
    /// All ranks are taken.
    #[error("{bound} workers are registered, the bound: let one leave first")]
    Full {
        /// The bound in force.
        bound: usize,
    },
    /// A newer life of the worker is registered.
    #[error("rank {rank} belongs to a newer incarnation {own}: this process was replaced, stop it")]
    Replaced {
        /// The rank.
        rank: WorkerRank,
        /// The incarnation known.
        own: Incarnation,
    },
    /// The worker is not registered, or was retired.
    #[error("rank {rank} is not live: register again, and start from the clock given")]
    NotLive {
        /// The rank.
        rank: WorkerRank,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Worker {
    incarnation: Incarnation,
    clock: WorkerClock,
    live: bool,
    heard_at: Time,
}

/// The registry.
#[derive(Clone, Debug)]
pub struct Workers {
    workers: BTreeMap<WorkerRank, Worker>,
    timings: WorkerTimings,
    /// When it was last looked who is silent.
    looked_at: Option<Time>,
}

const WORKER_BYTES: usize = 21;

impl Workers {
    /// Nobody is registered.
    #[must_use]
    pub fn new(timings: WorkerTimings) -> Self {
        Self { workers: BTreeMap::new(), timings, looked_at: None }
    }

    /// Registers a worker: with the `rank` it had, or the lowest free one. A worker that rejoins
    /// starts from its own last clock or the slowest live one, whichever is later.
    pub fn register(
        &mut self,
        now: Time,
        rank: Option<WorkerRank>,
        incarnation: Incarnation,
    ) -> Result<Registered, WorkerError> {
        let rank = match rank {
            Some(rank) => rank,
            None => self.free_rank()?,
        };
        let known = self.workers.get(&rank).copied();
        if let Some(known) = known.filter(|known| known.incarnation > incarnation) {
            return Err(WorkerError::Replaced { rank, own: known.incarnation });
        }
        if known.is_none() && self.workers.len() >= self.timings.workers_max {
            return Err(WorkerError::Full { bound: self.timings.workers_max });
        }
        let slowest = self.slowest().unwrap_or_default();
        let clock = known.map_or(slowest, |known| known.clock.max(slowest));
        self.workers.insert(rank, Worker { incarnation, clock, live: true, heard_at: now });
        Ok(Registered { rank, clock })
    }

    /// A worker is alive and has finished `clock`.
    pub fn heartbeat(
        &mut self,
        now: Time,
        rank: WorkerRank,
        incarnation: Incarnation,
        clock: WorkerClock,
    ) -> Result<(), WorkerError> {
        let worker = self.workers.get_mut(&rank).ok_or(WorkerError::NotLive { rank })?;
        if worker.incarnation > incarnation {
            return Err(WorkerError::Replaced { rank, own: worker.incarnation });
        }
        if !worker.live || worker.incarnation != incarnation {
            return Err(WorkerError::NotLive { rank });
        }
        worker.heard_at = now;
        worker.clock = worker.clock.max(clock);
        Ok(())
    }

    /// A server has an open connection of a worker, which has finished `clock`. One with a rank that never
    /// registered is taken in: its rank is its own choice. One that was retired though it lived is live again.
    /// Returns whether more than a clock has changed.
    pub fn hear(
        &mut self,
        now: Time,
        rank: WorkerRank,
        incarnation: Incarnation,
        clock: WorkerClock,
    ) -> bool {
        self.heartbeat(now, rank, incarnation, clock).is_err()
            && self.register(now, Some(rank), incarnation).is_ok()
    }

    /// A worker leaves for good; its rank is free again.
    pub fn leave(&mut self, rank: WorkerRank, incarnation: Incarnation) -> bool {
        let leaves = self.workers.get(&rank).is_some_and(|known| known.incarnation == incarnation);
        if leaves {
            self.workers.remove(&rank);
        }
        leaves
    }

    /// Retires workers that have been silent for too long, and names them. They keep their ranks.
    ///
    /// Workers are heard through servers: while not all servers are (`servers_heard`), and where this
    /// coordinator itself stood still since the last call, silence says nothing of the workers, and
    /// everybody has the whole timeout again.
    pub fn retire_silent(&mut self, now: Time, servers_heard: bool) -> Vec<WorkerRank> {
        let timeout = self.timings.heartbeat_timeout_us;
        let last = self.looked_at.replace(now);
        let stood_still = last.is_some_and(|last| now.since(last) > self.timings.look_gap_max_us);
        if !servers_heard || stood_still {
            self.all_heard(now);
            return Vec::new();
        }
        let silent =
            self.workers.iter_mut().filter(|(_, w)| w.live && now.since(w.heard_at) >= timeout);
        silent
            .map(|(&rank, worker)| {
                worker.live = false;
                rank
            })
            .collect()
    }

    /// Gives every live worker the whole timeout again.
    fn all_heard(&mut self, now: Time) {
        self.workers.values_mut().for_each(|worker| worker.heard_at = now);
    }

    /// The clock of the slowest live worker.
    #[must_use]
    pub fn slowest(&self) -> Option<WorkerClock> {
        self.workers.values().filter(|worker| worker.live).map(|worker| worker.clock).min()
    }

    /// Ranks in order, each with whether it is live and its clock.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerRank, bool, WorkerClock)> + '_ {
        self.workers.iter().map(|(&rank, worker)| (rank, worker.live, worker.clock))
    }

    /// Appends `count u32`, then per worker `rank u32 | incarnation u64 | clock u64 | live u8`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_len(self.workers.len(), out);
        for (rank, worker) in &self.workers {
            out.extend_from_slice(&rank.0.to_le_bytes());
            out.extend_from_slice(&worker.incarnation.0.to_le_bytes());
            out.extend_from_slice(&worker.clock.0.to_le_bytes());
            out.push(u8::from(worker.live));
        }
    }

    /// Reads a registry from all of `bytes`; everybody counts as heard at `now`, which counts as a look.
    pub fn decode(bytes: &[u8], timings: WorkerTimings, now: Time) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("a registry's workers", timings.workers_max, WORKER_BYTES)?;
        let mut registry = Self { looked_at: Some(now), ..Self::new(timings) };
        for _ in 0..count {
            let rank = WorkerRank(reader.read()?);
            let incarnation = Incarnation(reader.read()?);
            let clock = WorkerClock(reader.read()?);
            let live = reader.read::<u8>()?;
            if live > 1 || registry.workers.last_key_value().is_some_and(|(at, _)| *at >= rank) {
                return Err(DecodeError::Malformed {
                    field: "a worker's entry",
                    value: u64::from(rank.0),
                });
            }
            let worker = Worker { incarnation, clock, live: live == 1, heard_at: now };
            registry.workers.insert(rank, worker);
        }
        reader.finish()?;
        Ok(registry)
    }

    fn free_rank(&self) -> Result<WorkerRank, WorkerError> {
        let bound = self.timings.workers_max;
        (0..u32::try_from(bound).unwrap_or(u32::MAX))
            .map(WorkerRank)
            .find(|rank| !self.workers.contains_key(rank))
            .ok_or(WorkerError::Full { bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_worker_is_retired_and_rejoins_at_the_jobs_clock() {
        let timings =
            WorkerTimings { heartbeat_timeout_us: 100, look_gap_max_us: 1_000, workers_max: 2 };
        let mut workers = Workers::new(timings);
        let (one, two) = (Incarnation(1), Incarnation(2));
        let a = workers.register(Time(0), None, one).unwrap();
        let b = workers.register(Time(0), None, one).unwrap();
        assert_eq!((a.rank, b.rank), (WorkerRank(0), WorkerRank(1)));
        assert_eq!(workers.register(Time(0), None, one), Err(WorkerError::Full { bound: 2 }));
        workers.heartbeat(Time(90), a.rank, one, WorkerClock(7)).unwrap();
        assert_eq!(workers.slowest(), Some(WorkerClock(0)));
        assert_eq!(workers.retire_silent(Time(120), true), [b.rank]);
        assert_eq!(workers.slowest(), Some(WorkerClock(7)));
        workers.heartbeat(Time(121), b.rank, one, WorkerClock(1)).unwrap_err();
        let again = workers.register(Time(130), Some(b.rank), two).unwrap();
        assert_eq!(again, Registered { rank: b.rank, clock: WorkerClock(7) });
        let refused = workers.register(Time(131), Some(b.rank), one).unwrap_err();
        assert_eq!(refused, WorkerError::Replaced { rank: b.rank, own: two });
        let mut bytes = Vec::new();
        workers.encode(&mut bytes);
        let back = Workers::decode(&bytes, timings, Time(0)).unwrap();
        assert!(back.iter().eq(workers.iter()));
        assert!(workers.leave(b.rank, two) && !workers.leave(b.rank, two));
        assert_eq!(workers.register(Time(140), None, one).unwrap().rank, WorkerRank(1));
    }

    #[test]
    fn a_worker_that_is_heard_lives_again_where_the_job_is() {
        let timings =
            WorkerTimings { heartbeat_timeout_us: 100, look_gap_max_us: 1_000, workers_max: 2 };
        let mut workers = Workers::new(timings);
        let (old, new) = (Incarnation(1), Incarnation(2));
        let (slow, fast) = (WorkerRank(3), WorkerRank(8));
        assert!(workers.hear(Time(0), slow, new, WorkerClock(0)), "it is taken in");
        assert!(workers.hear(Time(0), fast, new, WorkerClock(0)));
        assert!(!workers.hear(Time(0), WorkerRank(9), new, WorkerClock(0)), "there is no room");
        assert!(!workers.hear(Time(90), fast, new, WorkerClock(7)), "only its clock has moved");
        assert_eq!(workers.retire_silent(Time(120), true), [slow]);
        assert!(!workers.hear(Time(130), slow, old, WorkerClock(1)), "its older life is over");
        assert!(workers.hear(Time(140), slow, new, WorkerClock(1)));
        let all: Vec<_> = workers.iter().collect();
        assert_eq!(all, [(slow, true, WorkerClock(7)), (fast, true, WorkerClock(7))]);
    }

    #[test]
    fn silence_says_nothing_while_servers_are_not_heard_or_the_coordinator_stood_still() {
        let timings =
            WorkerTimings { heartbeat_timeout_us: 100, look_gap_max_us: 50, workers_max: 2 };
        let mut workers = Workers::new(timings);
        let rank = workers.register(Time(0), None, Incarnation(1)).unwrap().rank;
        assert_eq!(workers.retire_silent(Time(40), true), []);
        // A server is cut off, and the worker's heartbeats with it.
        for now in (80..400).step_by(40) {
            assert_eq!(workers.retire_silent(Time(now), false), []);
        }
        assert_eq!(workers.retire_silent(Time(420), true), []);
        // The process was stopped.
        assert_eq!(workers.retire_silent(Time(900), true), []);
        for now in (920..1000).step_by(20) {
            assert_eq!(workers.retire_silent(Time(now), true), []);
        }
        assert_eq!(workers.retire_silent(Time(1000), true), [rank]);
    }
}
