//! Which workers are connected to this server; the coordinator takes that as their sign of life.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use windlass_wire::{Incarnation, WorkerClock, WorkerRank, coordination::WorkerPulse};

/// Connections by worker.
#[derive(Debug, Default)]
pub(super) struct Presence {
    connections: Mutex<BTreeMap<(WorkerRank, Incarnation), usize>>,
}

impl Presence {
    /// A worker has connected.
    pub(super) fn enter(&self, rank: WorkerRank, incarnation: Incarnation) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        *connections.entry((rank, incarnation)).or_default() += 1;
    }

    /// One of its connections has ended.
    pub(super) fn leave(&self, rank: WorkerRank, incarnation: Incarnation) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&(rank, incarnation)) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&(rank, incarnation));
            }
        }
    }

    /// Who is connected. Their clocks travel with their pushes.
    pub(super) fn pulses(&self) -> Vec<WorkerPulse> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = connections.keys().map(|&(rank, incarnation)| WorkerPulse {
            rank,
            incarnation,
            clock: WorkerClock(0),
        });
        workers.collect()
    }
}
