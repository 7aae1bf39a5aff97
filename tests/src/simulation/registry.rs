//! The coordinator's registry of workers, as it runs in production: servers say with their heartbeats which workers
//! they have connections of, and are told who is gone. A head gives up nobody who is connected to it.

use std::collections::BTreeMap;

use windlass_replication::{Time, WorkerTimings, Workers};
use windlass_wire::{Incarnation, WorkerClock, WorkerRank};

use super::message::Message;
use super::options::{Mode, Mutation};
use super::rounds::rank;
use super::server::Process;
use super::world::{COORDINATOR, World};

/// More than servers may be silent for.
const TIMEOUT_US: u64 = 60_000;
const LIFE: Incarnation = Incarnation(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Registry {
    workers: Workers,
    /// What each server was told: who is alive.
    told: Vec<BTreeMap<WorkerRank, bool>>,
    /// Since when each worker has been connected to a server in force.
    connected_since: Vec<Option<u64>>,
}

impl Registry {
    pub(super) fn new(servers: usize, clients: usize) -> Self {
        Self {
            workers: Workers::new(timings(None)),
            told: vec![BTreeMap::new(); servers],
            connected_since: vec![None; clients],
        }
    }
}

fn timings(mutation: Option<Mutation>) -> WorkerTimings {
    let look_gap_max_us =
        if mutation == Some(Mutation::RetireThroughStalls) { u64::MAX } else { 30_000 };
    WorkerTimings { heartbeat_timeout_us: TIMEOUT_US, look_gap_max_us, workers_max: 16 }
}

impl World {
    fn has_registry(&self) -> bool {
        self.options.mode == Mode::Workers
    }

    /// Whether a server that is in force has a connection of a worker.
    fn is_connected(&self, s: usize, c: usize) -> bool {
        let server = &self.servers[s];
        let is_open = self.is_reachable(self.client_base() + c, s);
        let is_there = server.process == Process::Running && server.joined;
        is_open && is_there && !self.clients[c].worker().left
    }

    fn connected_to(&self, s: usize) -> Vec<WorkerRank> {
        (0..self.clients.len()).filter(|c| self.is_connected(s, *c)).map(rank).collect()
    }

    /// What a server says of workers with a heartbeat.
    pub(super) fn tell_workers(&mut self, s: usize) {
        if self.has_registry() && self.servers[s].joined {
            let life = self.servers[s].life;
            let ranks = self.connected_to(s);
            self.send(s, COORDINATOR, Message::Connected { life, ranks });
        }
    }

    /// The coordinator hears of workers, and says who is alive.
    pub(super) fn hear_workers(&mut self, from: usize, ranks: &[WorkerRank]) {
        let now = Time(self.now);
        let workers = &mut self.registry.workers;
        for &rank in ranks {
            if workers.heartbeat(now, rank, LIFE, WorkerClock(0)).is_err() {
                let registered = workers.register(now, Some(rank), LIFE);
                assert!(registered.is_ok(), "{rank} is taken in: {registered:?}");
            }
        }
        let alive = workers.iter().map(|(rank, is_live, _)| (rank, is_live)).collect();
        self.send(COORDINATOR, from, Message::Alive { workers: alive });
    }

    pub(super) fn told_of_workers(&mut self, s: usize, workers: BTreeMap<WorkerRank, bool>) {
        self.registry.told[s] = workers;
    }

    /// The leader looks who is silent. Nobody is who was connected all the time to a server in force.
    pub(super) fn look_for_silent_workers(&mut self, coordinator: usize) {
        if !self.has_registry() || self.leader != Some(coordinator) {
            return;
        }
        for c in 0..self.clients.len() {
            let in_force = |s: &usize| self.store.is_in_force(self.servers[*s].id);
            let is_connected =
                (0..self.servers.len()).filter(in_force).any(|s| self.is_connected(s, c));
            let since = self.registry.connected_since[c].unwrap_or(self.now);
            self.registry.connected_since[c] = is_connected.then_some(since);
        }
        let now = Time(self.now);
        let forgets = self.options.mutation == Some(Mutation::RetireThroughStalls);
        let servers_heard = forgets || self.coordinators[coordinator].hears_everybody(now);
        for rank in self.registry.workers.retire_silent(now, servers_heard) {
            let since = self.registry.connected_since[rank.0 as usize];
            if since.is_some_and(|since| self.now >= since + TIMEOUT_US) {
                self.outcome.stuck += 1;
                self.found(|| format!("worker {rank} is retired, and was connected all the time"));
            }
        }
    }

    /// A new leader takes the registry from the store: everybody has the whole timeout again.
    pub(super) fn restore_workers(&mut self) {
        let mut bytes = Vec::new();
        self.registry.workers.encode(&mut bytes);
        let timings = timings(self.options.mutation);
        let restored = Workers::decode(&bytes, timings, Time(self.now));
        self.registry.workers = restored.expect("what was encoded");
    }

    /// Whether a head gives up a worker, by what its server was told.
    pub(super) fn is_given_up(&self, s: usize, c: usize) -> bool {
        self.registry.told[s].get(&rank(c)) == Some(&false) && !self.is_connected(s, c)
    }
}
