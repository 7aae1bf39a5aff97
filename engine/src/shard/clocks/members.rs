//! The workers of a table: who is waited for. A worker that leaves, or is silent for too long, is
//! retired, so that nobody waits for it; one that comes back starts where the others are.

use std::time::{Duration, Instant};

use windlass_replication::{RangeClock, RangeClockError};
use windlass_wire::{SessionId, WorkerClock, WorkerRank};

use super::table::TableClocks;

/// A worker of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) session: SessionId,
    pub(super) live: bool,
    /// Since when its session is gone.
    pub(super) silent_since: Option<Instant>,
}

/// Why a session is no worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::shard) enum JoinError {
    /// Two workers of one rank.
    #[error(
        "rank {rank} of the table is another client's, which is connected: give every worker a \
         rank of its own"
    )]
    Taken {
        /// The rank.
        rank: WorkerRank,
    },
    /// No room.
    #[error(transparent)]
    Full(#[from] RangeClockError),
}

impl TableClocks {
    /// A session is gone: its workers are silent from now on. Returns how many they are.
    pub(in crate::shard) fn silence(&mut self, session: SessionId, now: Instant) -> usize {
        let mut count = 0;
        for member in self.members.values_mut() {
            if member.live && member.session == session && member.silent_since.is_none() {
                member.silent_since = Some(now);
                count += 1;
            }
        }
        count
    }

    /// A session is back. Returns how many of its workers were silent.
    pub(in crate::shard) fn hear(&mut self, session: SessionId) -> usize {
        let silent = self.members.values_mut().filter(|member| member.session == session);
        silent.filter_map(|member| member.silent_since.take()).count()
    }

    /// Retires workers; returns how many of them were silent, and who was live.
    pub(in crate::shard) fn retire(
        &mut self,
        leaves: impl Fn(WorkerRank, SessionId) -> bool,
    ) -> (usize, Vec<WorkerRank>) {
        let (mut silent, mut retired) = (0, Vec::new());
        for (rank, member) in &mut self.members {
            if member.live && leaves(*rank, member.session) {
                member.live = false;
                retired.push(*rank);
                silent += usize::from(member.silent_since.take().is_some());
            }
        }
        (silent, retired)
    }

    /// Whether a worker's session is open here: whatever others say of it, it lives.
    pub(in crate::shard) fn is_heard(&self, rank: WorkerRank) -> bool {
        let member = self.members.get(&rank);
        member.is_some_and(|member| member.live && member.silent_since.is_none())
    }

    /// Live workers whose session is gone.
    pub(in crate::shard) fn silent_count(&self) -> usize {
        self.members.values().filter(|member| member.silent_since.is_some()).count()
    }

    /// Workers that were silent for too long.
    pub(in crate::shard) fn silent_for(&self, timeout: Duration, now: Instant) -> Vec<WorkerRank> {
        let is_late = |member: &Member| {
            member.silent_since.is_some_and(|since| now.duration_since(since) >= timeout)
        };
        self.members.iter().filter(|(_, member)| is_late(member)).map(|(rank, _)| *rank).collect()
    }
}

/// The latest clock that any worker, live or not, has finished on all rows.
pub(super) fn latest(clock: &RangeClock) -> Option<WorkerClock> {
    clock.workers().map(|(rank, _)| clock.least_of(rank)).max()
}
