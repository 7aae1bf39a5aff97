//! Training workers: their ranks, and which of them are alive.

use windlass_replication::Workers;
use windlass_wire::{
    Incarnation, WorkerRank,
    control::{ClientReply, RefusalKind},
    coordination::{Instruction, WorkerEntry, WorkerPulse},
};

use super::machine::Machine;
use crate::{refusal::Refusal, shard::chain};

impl Machine {
    /// Takes the registry back from the catalogue; everybody has the whole timeout again.
    pub(super) fn restore_workers(&mut self) {
        let timings = self.config.worker_timings();
        let now = self.now();
        let decoded = Workers::decode(&self.catalogue.workers, timings, now);
        // An empty catalogue has no registry; a damaged one was refused as a whole.
        self.workers = decoded.unwrap_or_else(|_| Workers::new(timings));
    }

    pub(super) fn register_worker(
        &mut self,
        rank: Option<WorkerRank>,
        incarnation: Incarnation,
    ) -> Result<ClientReply, Refusal> {
        let now = self.now();
        let registered = self
            .workers
            .register(now, rank, incarnation)
            .map_err(|error| Refusal::new(RefusalKind::Full {}, chain(&error)))?;
        self.workers_changed();
        Ok(ClientReply::WorkerRegistered { rank: registered.rank, clock: registered.clock })
    }

    pub(super) fn leave_worker(
        &mut self,
        rank: WorkerRank,
        incarnation: Incarnation,
    ) -> ClientReply {
        if self.workers.leave(rank, incarnation) {
            self.workers_changed();
        }
        ClientReply::Done {}
    }

    /// Workers that a server has connections of.
    pub(super) fn hear_workers(&mut self, pulses: &[WorkerPulse]) {
        let now = self.now();
        let mut is_changed = false;
        for &WorkerPulse { rank, incarnation, clock } in pulses {
            is_changed |= self.workers.hear(now, rank, incarnation, clock);
        }
        if is_changed {
            self.workers_changed();
        }
    }

    pub(super) fn retire_workers(&mut self) {
        let now = self.now();
        let servers_heard = self.members.iter().any(|(_, member)| member.is_joined)
            && self.coordinator.hears_everybody(now);
        let retired = self.workers.retire_silent(now, servers_heard);
        for rank in &retired {
            tracing::warn!(%rank, "a worker is gone: nobody waits for it any more");
        }
        if !retired.is_empty() {
            self.workers_changed();
        }
    }

    pub(super) fn worker_entries(&self) -> Vec<WorkerEntry> {
        let entries = self.workers.iter();
        entries.map(|(rank, live, clock)| WorkerEntry { rank, live, clock }).collect()
    }

    fn workers_changed(&mut self) {
        self.catalogue.workers.clear();
        self.workers.encode(&mut self.catalogue.workers);
        self.store_catalogue();
        let workers = self.worker_entries();
        self.members.tell_all(Instruction::SetWorkers { workers });
    }
}
