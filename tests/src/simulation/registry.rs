//! The coordinator's registry of workers, as it runs in production: servers say with their heartbeats which workers
//! they have connections of, and are told who is gone. A head gives up nobody who is connected to it.

use std::collections::BTreeMap;

use windlass_replication::Time;
use windlass_replication::coordinator::{WorkerTimings, Workers};
use windlass_replication::rounds::{Late, Quorum};
use windlass_wire::{Epoch, Incarnation, WorkerClock, WorkerRank};

use super::message::Message;
use super::options::Mutation;
use super::rounds::rank;
use super::schedule::HEAL_US;
use super::server::Process;
use super::worker::CLOCKS_AHEAD;
use super::world::{COORDINATOR, World};

/// More than servers may be silent for.
const TIMEOUT_US: u64 = 60_000;
/// Looks further apart say that the coordinator stood still.
const LOOK_GAP_MAX_US: u64 = 30_000;
/// How much later than it looks the coordinator reads what came while it stood still, at most.
const BACKLOG_US_MAX: u64 = 4_000;
const LIFE: Incarnation = Incarnation(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Registry {
    workers: Workers,
    /// What each server was told: who is alive.
    told: Vec<BTreeMap<WorkerRank, bool>>,
    /// Whether each worker is connected to a server in force, and since when.
    connections: Vec<(bool, u64)>,
    /// Where each worker last joined each partition.
    joined: BTreeMap<(usize, usize), Joined>,
    looked_at: u64,
    /// Since when no look was disturbed.
    heard_since: u64,
    /// The coordinators' processes stand still.
    stalled_until: u64,
    reads_at: u64,
}

/// The session by which a worker has joined a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Joined {
    server: usize,
    generation: u32,
    epoch: Epoch,
}

impl Registry {
    pub(super) fn new(servers: usize, clients: usize) -> Self {
        Self {
            workers: Workers::new(timings(None)),
            told: vec![BTreeMap::new(); servers],
            connections: vec![(false, 0); clients],
            joined: BTreeMap::new(),
            looked_at: 0,
            heard_since: 0,
            stalled_until: 0,
            reads_at: 0,
        }
    }
}

fn timings(mutation: Option<Mutation>) -> WorkerTimings {
    let forgets = is_it(mutation, Mutation::RetireThroughStalls);
    let look_gap_max_us = if forgets { u64::MAX } else { LOOK_GAP_MAX_US };
    WorkerTimings { heartbeat_timeout_us: TIMEOUT_US, look_gap_max_us, workers_max: 16 }
}

/// Whether a deliberate fault of workers is put in, alone or with the others.
fn is_it(mutation: Option<Mutation>, one: Mutation) -> bool {
    mutation == Some(one) || mutation == Some(Mutation::GiveUpSilent)
}

impl World {
    fn looks_at_reads_alone(&self) -> bool {
        self.options.mutation == Some(Mutation::GiveUpSilent)
    }

    /// Whether a server that is in force has a connection of a worker.
    fn has_session(&self, s: usize, c: usize) -> bool {
        let server = &self.servers[s];
        let is_open = self.is_reachable(self.client_base() + c, s);
        let is_there = server.process == Process::Running && server.joined;
        is_open && is_there && !self.clients[c].worker().left
    }

    fn connected_to(&self, s: usize) -> Vec<WorkerRank> {
        (0..self.clients.len()).filter(|c| self.has_session(s, *c)).map(rank).collect()
    }

    /// What a server says of workers with a heartbeat.
    pub(super) fn tell_workers(&mut self, s: usize) {
        if self.options.has_registry() && self.servers[s].joined {
            self.note_connections();
            let life = self.servers[s].life;
            let ranks = self.connected_to(s);
            self.send(s, COORDINATOR, Message::Connected { life, ranks });
        }
    }

    /// The coordinator hears of workers, and says who is alive.
    pub(super) fn hear_workers(&mut self, from: usize, ranks: &[WorkerRank]) {
        let now = Time(self.now);
        let forgets = is_it(self.options.mutation, Mutation::ForgetForEver);
        let workers = &mut self.registry.workers;
        for &rank in ranks {
            let is_retired = workers.iter().any(|(known, is_live, _)| known == rank && !is_live);
            if !(is_retired && forgets) {
                workers.hear(now, rank, LIFE, WorkerClock(0));
            }
        }
        let alive = workers.iter().map(|(rank, is_live, _)| (rank, is_live)).collect();
        self.send(COORDINATOR, from, Message::Alive { workers: alive });
    }

    pub(super) fn told_of_workers(&mut self, s: usize, workers: BTreeMap<WorkerRank, bool>) {
        self.registry.told[s] = workers;
    }

    /// The leader looks who is silent.
    pub(super) fn look_for_silent_workers(&mut self, coordinator: usize) {
        if !self.options.has_registry() || self.leader != Some(coordinator) {
            return;
        }
        let now = Time(self.now);
        let is_heard = self.coordinators[coordinator].hears_everybody(now);
        let gap = self.now - std::mem::replace(&mut self.registry.looked_at, self.now);
        if !is_heard || gap > LOOK_GAP_MAX_US {
            self.registry.heard_since = self.now;
        }
        let forgets = is_it(self.options.mutation, Mutation::RetireThroughStalls);
        for rank in self.registry.workers.retire_silent(now, forgets || is_heard) {
            let (is_connected, since) = self.registry.connections[place_of(rank)];
            let is_wrong = is_connected && self.now >= since + TIMEOUT_US;
            if is_wrong && !self.looks_at_reads_alone() {
                self.outcome.stale += 1;
                self.found(|| format!("worker {rank} is retired, and was connected all the time"));
            }
        }
        self.check_registry();
    }

    /// Whether each worker is connected to a server in force, and since when it is or is not.
    pub(super) fn note_connections(&mut self) {
        for c in 0..self.clients.len() {
            let in_force = |s: &usize| self.store.is_in_force(self.servers[*s].id);
            let is_connected =
                (0..self.servers.len()).filter(in_force).any(|s| self.has_session(s, c));
            if self.registry.connections[c].0 != is_connected {
                self.registry.connections[c] = (is_connected, self.now);
            }
        }
    }

    /// Where servers are heard, who is connected is live before long, and who is gone is retired.
    fn check_registry(&mut self) {
        let mut wrong = None;
        for (rank, is_live, _) in self.registry.workers.iter() {
            let (is_connected, since) = self.registry.connections[place_of(rank)];
            let is_due = self.now >= since.max(self.registry.heard_since) + 2 * TIMEOUT_US;
            if is_due && is_live != is_connected {
                wrong = Some((rank, is_connected, since));
            }
        }
        if let Some((rank, is_connected, since)) = wrong.filter(|_| !self.looks_at_reads_alone()) {
            self.outcome.stuck += 1;
            let what = if is_connected { "connected and retired" } else { "gone and not retired" };
            self.found(|| format!("worker {rank} is {what}, since {since} us"));
        }
    }

    /// A worker has joined a partition, by the session that it has with a head.
    pub(super) fn note_joined(&mut self, c: usize, server: usize, partition: usize) {
        let generation = self.generation(server, self.client_base() + c);
        let epoch = self.servers[server].parts[partition].replica.epoch();
        let joined = Joined { server, generation, epoch };
        self.registry.joined.insert((c, partition), joined);
    }

    /// No round closes without a worker whose session with its head never broke since it has joined.
    pub(super) fn check_waited_for(&mut self, s: usize, p: usize, clock: WorkerClock) {
        if !self.options.has_registry() || self.looks_at_reads_alone() {
            return;
        }
        let part = &self.servers[s].parts[p];
        let epoch = part.replica.epoch();
        let is_left_out = |c: &usize| {
            let joined = self.registry.joined.get(&(*c, p));
            let generation = self.generation(s, self.client_base() + c);
            let is_his = joined == Some(&Joined { server: s, generation, epoch });
            is_his && self.has_session(s, *c) && !part.members.is_live(rank(*c))
        };
        if let Some(c) = (0..self.clients.len()).find(is_left_out) {
            self.outcome.stale += 1;
            self.found(|| format!("round {clock} closes without worker {c}, who is connected"));
        }
    }

    /// What a worker reads at a clock lacks no more than its bound allows: of those that are connected all the time
    /// since they have joined, none is further behind. Rounds that fold late pushes may close while all wait.
    pub(super) fn check_bound(&mut self, c: usize, clock: WorkerClock) {
        let is_bound = matches!((self.rule.quorum, self.rule.late), (Quorum::All, Late::Drop));
        if !self.options.has_registry() || !is_bound {
            return;
        }
        let is_behind = |other: &usize| {
            let worker = self.clients[*other].worker();
            let (is_connected, since) = self.registry.connections[*other];
            let is_at_work = worker.clock > WorkerClock(0) && !worker.left;
            let is_waited_for = is_at_work && is_connected && since <= worker.joined_at;
            *other != c && is_waited_for && worker.clock.0 + CLOCKS_AHEAD <= clock.0
        };
        if let Some(other) = (0..self.clients.len()).find(is_behind) {
            let behind = self.clients[other].worker().clock;
            self.outcome.stale += 1;
            self.found(|| {
                format!("worker {c} is at clock {clock}, and worker {other} at {behind}")
            });
        }
    }

    /// The coordinators' processes stand still.
    pub(super) fn stall_coordinator(&mut self, us: u64) {
        let until = self.now + us.min(HEAL_US.saturating_sub(self.now));
        // It may look who is silent before it reads what has come meanwhile.
        let reads_at = until + self.random.below(BACKLOG_US_MAX);
        let registry = &mut self.registry;
        registry.stalled_until = registry.stalled_until.max(until);
        registry.reads_at = registry.reads_at.max(reads_at);
    }

    /// Until when the coordinators' processes stand still, if they do.
    pub(super) fn stall_ends_at(&self) -> Option<u64> {
        Some(self.registry.stalled_until).filter(|at| *at > self.now)
    }

    /// When the coordinator reads what comes to it now, if it does not at once.
    pub(super) fn read_after_stall(&self) -> Option<u64> {
        Some(self.registry.reads_at).filter(|at| *at > self.now)
    }

    /// A new leader takes the registry from the store: everybody has the whole timeout again.
    pub(super) fn restore_workers(&mut self) {
        let mut bytes = Vec::new();
        self.registry.workers.encode(&mut bytes);
        let timings = timings(self.options.mutation);
        let restored = Workers::decode(&bytes, timings, Time(self.now));
        self.registry.workers = restored.expect("what was encoded");
        self.registry.heard_since = self.now;
        self.registry.looked_at = self.now;
    }

    /// Whether a head gives up a worker, by what its server was told.
    pub(super) fn is_given_up(&self, s: usize, c: usize) -> bool {
        let ignores = is_it(self.options.mutation, Mutation::GiveUpConnected);
        let is_gone = self.registry.told[s].get(&rank(c)) == Some(&false);
        is_gone && (ignores || !self.has_session(s, c))
    }
}

fn place_of(rank: WorkerRank) -> usize {
    usize::try_from(rank.0).expect("few workers")
}
