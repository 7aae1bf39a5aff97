//! The simulated world: virtual time, the network, the store, the coordinators, and what the
//! schedule does to them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::rc::Rc;

use windlass_replication::coordinator::{
    Coordinator, CoordinatorInput, CoordinatorOptions, CoordinatorOutput,
};
use windlass_replication::{Change, ClusterMap, LeaseOutput, Output, Time};
use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId};

use super::client::Client;
use super::memory::{Pushed, Seen};
use super::message::Message;
use super::options::Options;
use super::random::Random;
use super::schedule::{END_US, Fault, FaultKind, HEAL_US, Schedule};
use super::server::{Process, Server, TICK_US, place};

/// A machine: the coordinators' address, a server, or a client. Servers come first.
pub(super) type Node = usize;
/// The address at which whoever leads is found.
pub(super) const COORDINATOR: Node = usize::MAX;

const COORDINATOR_TICK_US: u64 = 5_000;
/// After the heal, with everything acknowledged: time for replicas to become equal.
const SETTLE_US: u64 = 150_000;

#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver { from: Node, to: Node, generation: u32, message: Message },
    Connected { a: usize, b: usize, generation: u32 },
    LinkFailed { server: usize, peer: usize, generation: u32 },
    ServerTick { server: usize },
    Turn { server: usize, life: Incarnation, partition: usize },
    Durable { server: usize, life: Incarnation, partition: usize, lsn: Lsn },
    CopyBlock { server: usize, life: Incarnation, partition: usize, number: u64, generation: u32 },
    CoordinatorTick { coordinator: usize },
    Stored { coordinator: usize, epoch: Epoch },
    Elect { coordinator: usize },
    ClientTick { client: usize },
    Access { client: usize, number: u64, generation: u32 },
    Arrive { client: usize, number: u64, look: super::client::Look },
    Fault { index: usize },
    Restart { server: usize, kept: bool },
    Resume { server: usize },
    Mend { a: Node, b: Node },
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    generation: u32,
    last_delivery: u64,
    cuts: u32,
}

/// What a run found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Inputs given to replicas, and messages delivered.
    pub steps: u64,
    /// Acknowledged pushes that are not in the final state.
    pub lost: u64,
    /// Pushes that are in it more than once.
    pub doubled: u64,
    /// Reads that missed what they had to see, or saw what never was.
    pub stale: u64,
    /// Replicas that differ.
    pub divergent: u64,
    /// Pushes never acknowledged although all was healed.
    pub stuck: u64,
    /// Whether an assertion failed.
    pub panicked: u64,
    /// Strong reads that were answered.
    pub reads: u64,
    /// What was found first.
    pub note: Option<String>,
}

impl Outcome {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.stale + self.divergent + self.stuck + self.panicked == 0
    }
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) options: Options,
    pub(super) servers: Vec<Server>,
    pub(super) clients: Vec<Client>,
    pub(super) partitions: usize,
    pub(super) sync: bool,
    pub(super) log_records: u64,
    pub(super) pushes: Vec<Pushed>,
    pub(super) seen: Vec<Seen>,
    pub(super) any_seen: u64,
    pub(super) outcome: Outcome,
    pub(super) steps: u64,
    pub(super) outputs: Vec<Output>,
    pub(super) lease_outputs: Vec<LeaseOutput>,
    /// Per partition: the committed record at each position, and the state after it.
    pub(super) committed: Vec<Vec<(Epoch, u64)>>,
    pub(super) states: Vec<BTreeMap<(Lsn, Epoch), u64>>,
    drift_ppm: Vec<i64>,
    coordinators: [Coordinator; 2],
    leader: Option<usize>,
    next_leader: usize,
    /// What the store holds.
    pub(super) store: ClusterMap,
    links: Vec<Link>,
    nodes: usize,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    numbers: u64,
    faults: Vec<Fault>,
    quiet_since: Option<u64>,
    pub(super) power_lost_at: Option<u64>,
}

impl World {
    pub(super) fn new(seed: u64, schedule: &Schedule, options: &Options) -> Self {
        let partitions = schedule.partitions as usize;
        let servers: Vec<Server> =
            (0..schedule.servers).map(|index| Server::new(index, partitions)).collect();
        let clients: Vec<Client> = (0..schedule.clients)
            .map(|_| Client::new(partitions, schedule.servers, options.pushes))
            .collect();
        let nodes = servers.len() + clients.len();
        let coordinator = CoordinatorOptions {
            heartbeat_timeout_us: 40_000,
            probe_timeout_us: 8_000,
            accuse_timeout_us: 90_000,
            tick_gap_max_us: 30_000,
            servers_at_creation: schedule.servers,
            copies_per_server_max: 2,
            rebalance: true,
        };
        let mut world = Self {
            now: 0,
            random: Random::new(seed),
            options: *options,
            servers,
            clients,
            partitions,
            sync: schedule.sync,
            log_records: schedule.log_records,
            pushes: Vec::new(),
            seen: Vec::new(),
            any_seen: 0,
            outcome: Outcome::default(),
            steps: 0,
            outputs: Vec::new(),
            lease_outputs: Vec::new(),
            committed: vec![Vec::new(); partitions],
            states: vec![BTreeMap::new(); partitions],
            drift_ppm: schedule.drift_ppm.clone(),
            coordinators: [Coordinator::new(coordinator), Coordinator::new(coordinator)],
            leader: None,
            next_leader: 0,
            store: ClusterMap::new(schedule.partitions, schedule.replicas),
            links: vec![Link::default(); nodes * nodes],
            nodes,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            numbers: 0,
            faults: schedule.faults.clone(),
            quiet_since: None,
            power_lost_at: None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.schedule(0, Event::Elect { coordinator: 0 });
        for coordinator in 0..2 {
            self.schedule(COORDINATOR_TICK_US, Event::CoordinatorTick { coordinator });
        }
        for server in 0..self.servers.len() {
            let at = 100 + self.random.below(TICK_US);
            self.schedule(at, Event::ServerTick { server });
        }
        for client in 0..self.clients.len() {
            let at = 15_000 + self.random.below(2_000);
            self.schedule(at, Event::ClientTick { client });
        }
        for (index, fault) in self.faults.clone().into_iter().enumerate() {
            self.schedule(fault.at_us, Event::Fault { index });
        }
    }

    /// Runs to the end and says what was found.
    pub(super) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, _, slot))) = self.heap.pop() {
            self.now = at;
            let event = self.events[slot].take().expect("an event happens once");
            self.free.push(slot);
            self.steps += 1;
            self.handle(event);
            if !self.outcome.is_clean() || self.is_done() || self.now > END_US {
                break;
            }
        }
        self.final_checks();
        self.outcome.steps = self.steps;
        self.outcome
    }

    fn is_done(&mut self) -> bool {
        if self.now < HEAL_US || !self.clients.iter().all(Client::is_done) {
            return false;
        }
        let since = *self.quiet_since.get_or_insert(self.now);
        self.now > since + SETTLE_US && self.is_settled()
    }

    fn is_settled(&self) -> bool {
        let settled = |entry: &windlass_replication::membership::PartitionEntry| {
            entry.joining.is_none() && entry.members.iter().all(|&id| self.store.is_in_force(id))
        };
        self.store.partitions.iter().all(settled)
            && self
                .servers
                .iter()
                .all(|server| !server.joined || server.map.epoch == self.store.epoch)
    }

    fn handle(&mut self, event: Event) {
        if let Some(server) = event.runs_on(self.servers.len()) {
            match self.servers[server].process {
                Process::Running => {}
                Process::Paused => {
                    self.servers[server].inbox.push_back(event);
                    return;
                }
                Process::Down { .. } => {
                    if let Event::ServerTick { .. } = event {
                        self.schedule(TICK_US, event);
                    }
                    return;
                }
            }
        }
        match event {
            Event::Deliver { from, to, generation, message } => {
                self.deliver(from, to, generation, message);
            }
            Event::Connected { a, b, generation } => {
                if self.generation(a, b) == generation {
                    self.connected(a, b);
                }
            }
            Event::LinkFailed { server, peer, generation } => {
                if self.generation(server, peer) == generation {
                    self.link_failed(server, peer);
                }
            }
            Event::ServerTick { server } => {
                self.server_tick(server);
                self.schedule(TICK_US, event);
            }
            Event::Turn { server, life, partition } => {
                if self.servers[server].life == life {
                    self.turn(server, partition);
                }
            }
            Event::Durable { server, life, partition, lsn } => {
                if self.servers[server].life == life {
                    let part = &mut self.servers[server].parts[partition];
                    part.disk = part.disk.max(lsn.min(part.replica.log().last()));
                    let durable = windlass_replication::Input::Durable { lsn };
                    self.step(server, partition, durable).expect("a disk is always heard");
                }
            }
            Event::CopyBlock { server, life, partition, number, generation } => {
                if self.servers[server].life == life {
                    self.copy_block(server, partition, number, generation);
                }
            }
            Event::CoordinatorTick { coordinator } => {
                self.coordinate(coordinator, CoordinatorInput::Tick);
                self.schedule(COORDINATOR_TICK_US, event);
            }
            Event::Stored { coordinator, epoch } => self.compare_and_swap(coordinator, epoch),
            Event::Elect { coordinator } => self.elect(coordinator),
            Event::ClientTick { client } => self.client_tick(client),
            Event::Access { client, number, generation } => self.access(client, number, generation),
            Event::Arrive { client, number, look } => self.arrive(client, number, look),
            Event::Fault { index } => self.fault(self.faults[index].kind),
            Event::Restart { server, kept } => self.restart(server, kept),
            Event::Resume { server } => self.resume(server),
            Event::Mend { a, b } => self.mend(a, b),
        }
    }

    // ---- time and chance ----

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: u64, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        let number = self.number();
        self.heap.push(Reverse((at, number, slot)));
    }

    /// A number never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A server's own clock: an origin and a rate of its own.
    pub(super) fn local(&self, server: usize) -> Time {
        let ppm = self.drift_ppm[server];
        let drift = i64::try_from(self.now).unwrap_or(i64::MAX) / 1_000 * ppm / 1_000;
        Time((self.now + 1_000_000 * (server as u64 + 1)).saturating_add_signed(drift))
    }

    // ---- the network ----

    pub(super) fn client_base(&self) -> usize {
        self.servers.len()
    }

    fn link(&mut self, from: Node, to: Node) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// The life of the link between two machines.
    pub(super) fn generation(&self, a: Node, b: Node) -> u32 {
        let (low, high) = (a.min(b), a.max(b));
        self.links[low * self.nodes + high].generation
    }

    /// Whether `from` can read the memory of `server` now.
    pub(super) fn is_reachable(&self, from: Node, server: usize) -> bool {
        let (low, high) = (from.min(server), from.max(server));
        let cut = self.links[low * self.nodes + high].cuts > 0;
        !cut && match self.servers[server].process {
            Process::Running | Process::Paused => true,
            Process::Down { visible } => visible,
        }
    }

    pub(super) fn latency(&mut self) -> u64 {
        if self.random.one_in(60) {
            return self.random.between(500, 8_000);
        }
        self.random.between(4, 40)
    }

    pub(super) fn send(&mut self, from: Node, to: Node, message: Message) {
        let latency = self.latency();
        if to == COORDINATOR || from == COORDINATOR {
            let other = if to == COORDINATOR { from } else { to };
            // The control connection: its link is that of the server with itself.
            if self.link(other, other).cuts > 0 {
                return;
            }
            let generation = self.link(other, other).generation;
            self.schedule(latency, Event::Deliver { from, to, generation, message });
            return;
        }
        if self.links[from.min(to) * self.nodes + from.max(to)].cuts > 0 {
            return;
        }
        let generation = self.generation(from, to);
        let now = self.now;
        let link = self.link(from, to);
        let at = (link.last_delivery + 1).max(now + latency);
        link.last_delivery = at;
        self.schedule_at(at, Event::Deliver { from, to, generation, message });
    }

    fn deliver(&mut self, from: Node, to: Node, generation: u32, message: Message) {
        if to == COORDINATOR {
            if self.link(from, from).generation == generation {
                self.coordinator_message(from, message);
            }
            return;
        }
        let current = if from == COORDINATOR {
            self.link(to, to).generation
        } else {
            self.generation(from, to)
        };
        if current != generation {
            return;
        }
        if to < self.client_base() {
            self.server_message(to, from, message);
        } else {
            self.client_message(to - self.client_base(), from, message);
        }
    }

    /// Breaks the link between two machines: what is under way is lost.
    fn break_link(&mut self, a: Node, b: Node) {
        let (low, high) = (a.min(b), a.max(b));
        self.link(low, high).generation += 1;
    }

    fn reconnect_soon(&mut self, a: usize, b: usize) {
        let delay = self.random.between(50, 2_000);
        let generation = self.generation(a, b);
        for (a, b) in [(a, b), (b, a)] {
            self.schedule(delay, Event::Connected { a, b, generation });
        }
    }

    /// All links of a server are made anew: it is another life.
    pub(super) fn renew_links(&mut self, server: usize) {
        self.break_link(server, server);
        for node in (0..self.nodes).filter(|&node| node != server) {
            self.break_link(server, node);
            if node < self.client_base() {
                self.reconnect_soon(server, node);
            }
        }
    }

    fn cut(&mut self, a: Node, b: Node, us: u64) {
        let (low, high) = (a.min(b), a.max(b));
        self.break_link(a, b);
        self.link(low, high).cuts += 1;
        let us = us.min(HEAL_US.saturating_sub(self.now));
        self.schedule(us, Event::Mend { a, b });
        if a != b && high < self.client_base() && self.random.one_in(2) {
            self.report_failed(a, b);
        }
    }

    fn report_failed(&mut self, a: usize, b: usize) {
        let generation = self.generation(a, b);
        self.schedule(1_000, Event::LinkFailed { server: a, peer: b, generation });
        self.schedule(1_000, Event::LinkFailed { server: b, peer: a, generation });
    }

    fn mend(&mut self, a: Node, b: Node) {
        let (low, high) = (a.min(b), a.max(b));
        self.link(low, high).cuts -= 1;
        self.break_link(a, b);
        if a != b && high < self.client_base() {
            self.reconnect_soon(a, b);
        }
    }

    // ---- the coordinators and their store ----

    fn coordinator_message(&mut self, from: usize, message: Message) {
        let Some(leader) = self.leader else { return };
        if from >= self.client_base() {
            let map = Rc::new(self.coordinators[leader].map().clone());
            self.send(COORDINATOR, from, Message::Map(map));
            return;
        }
        let server = self.servers[from].id;
        let partition_id = |p: usize| PartitionId(u32::try_from(p).expect("few partitions"));
        let input = match message {
            Message::Join { life, kept } => CoordinatorInput::Join {
                server,
                incarnation: life,
                address: String::new(),
                shards: 1,
                kept,
            },
            Message::Heartbeat { life, map_epoch } => {
                CoordinatorInput::Heartbeat { server, incarnation: life, map_epoch }
            }
            Message::Suspect { life, server: suspect } => {
                CoordinatorInput::Suspect { by: server, incarnation: life, server: suspect }
            }
            Message::CaughtUp { life, partition, epoch } => CoordinatorInput::CaughtUp {
                server,
                incarnation: life,
                partition: partition_id(partition),
                epoch,
            },
            Message::Synchronised { life, partition, epoch } => CoordinatorInput::Synchronised {
                server,
                incarnation: life,
                partition: partition_id(partition),
                epoch,
            },
            Message::Rejected { life, partition, epoch, server: rejected } => {
                CoordinatorInput::Rejected {
                    by: server,
                    incarnation: life,
                    partition: partition_id(partition),
                    epoch,
                    server: rejected,
                }
            }
            Message::WantMap => {
                let map = Rc::new(self.coordinators[leader].map().clone());
                self.send(COORDINATOR, from, Message::Map(map));
                return;
            }
            other => unreachable!("no coordinator gets {other:?}"),
        };
        self.coordinate(leader, input);
    }

    fn coordinate(&mut self, coordinator: usize, input: CoordinatorInput) {
        let mut outputs = Vec::new();
        self.coordinators[coordinator].step(Time(self.now), input, &mut outputs);
        for output in outputs {
            match output {
                CoordinatorOutput::Store { .. } => {
                    let draft = self.coordinators[coordinator].draft().expect("what is stored");
                    let epoch = draft.epoch;
                    let delay = self.random.between(50, 1_500);
                    self.schedule(delay, Event::Stored { coordinator, epoch });
                }
                CoordinatorOutput::Publish { .. } => {
                    let map = Rc::new(self.coordinators[coordinator].map().clone());
                    for node in 0..self.nodes {
                        if !self.random.one_in(12) {
                            self.send(COORDINATOR, node, Message::Map(Rc::clone(&map)));
                        }
                    }
                }
                CoordinatorOutput::Fence { server, incarnation } => {
                    self.send(COORDINATOR, place(server), Message::Fence { life: incarnation });
                }
                CoordinatorOutput::Probe { server } => {
                    self.send(COORDINATOR, place(server), Message::Probe);
                }
                CoordinatorOutput::SendMap { to } => {
                    let map = Rc::new(self.coordinators[coordinator].map().clone());
                    self.send(COORDINATOR, place(to), Message::Map(map));
                }
                CoordinatorOutput::Refuse { .. } => {}
            }
        }
    }

    fn compare_and_swap(&mut self, coordinator: usize, epoch: Epoch) {
        let Some(draft) = self.coordinators[coordinator].draft() else { return };
        if draft.epoch != epoch {
            return;
        }
        if self.store.epoch.next() == epoch {
            self.store = draft.clone();
            if self.options.trace {
                eprintln!("{:>7} MAP {epoch}: {:?}", self.now, self.store.partitions);
            }
            self.coordinate(coordinator, CoordinatorInput::Stored { epoch });
            return;
        }
        self.coordinate(coordinator, CoordinatorInput::Deposed);
        if self.leader == Some(coordinator) {
            self.schedule(500, Event::Elect { coordinator });
        }
    }

    fn elect(&mut self, coordinator: usize) {
        self.leader = Some(coordinator);
        let map = self.store.clone();
        self.coordinate(coordinator, CoordinatorInput::Elected { map });
    }

    // ---- faults ----

    fn fault(&mut self, kind: FaultKind) {
        if self.options.trace {
            eprintln!("{:>7} FAULT {kind:?}", self.now);
        }
        match kind {
            FaultKind::Crash { server, kept, visible, restart_us } => {
                if self.may_fail(server) {
                    self.crash(server, kept, visible, restart_us);
                }
            }
            FaultKind::Pause { server, us } => {
                if self.may_fail(server) && self.servers[server].is_running() {
                    self.servers[server].process = Process::Paused;
                    self.unfit(server, us);
                    self.schedule(us, Event::Resume { server });
                }
            }
            FaultKind::Isolate { server, us, clients } => {
                if self.may_fail(server) {
                    self.unfit(server, us);
                    let until = if clients { self.nodes } else { self.client_base() };
                    for node in 0..until {
                        self.cut(server, node, us);
                    }
                }
            }
            FaultKind::LoseControl { server, us } => {
                if self.may_fail(server) {
                    self.unfit(server, us);
                    self.cut(server, server, us);
                }
            }
            FaultKind::Cut { a, b, us } => {
                if self.may_fail(a) && self.may_fail(b) {
                    self.unfit(a, us);
                    self.unfit(b, us);
                    self.cut(a, b, us);
                }
            }
            FaultKind::Reconnect { a, b } => {
                self.break_link(a, b);
                self.reconnect_soon(a, b);
            }
            FaultKind::ClientReconnect { client, server } => {
                if client < self.clients.len() {
                    self.break_link(server, self.client_base() + client);
                }
            }
            FaultKind::Takeover { both, us } => {
                let Some(old) = self.leader.take() else { return };
                if !both {
                    self.coordinate(old, CoordinatorInput::Deposed);
                }
                self.next_leader = 1 - old;
                self.schedule(us, Event::Elect { coordinator: self.next_leader });
            }
            FaultKind::Drain { server } => {
                let drain = Change::Drain { server: self.servers[server].id };
                if let Some(leader) = self.leader {
                    self.coordinate(leader, CoordinatorInput::Operator(drain));
                }
            }
            FaultKind::PowerLoss { restart_us } => {
                let fit = self.servers.iter().all(|server| server.is_running() && server.joined);
                if self.sync && fit {
                    self.power_lost_at = Some(self.now);
                    for server in 0..self.servers.len() {
                        self.crash(server, true, false, restart_us + server as u64 * 300);
                    }
                }
            }
        }
    }

    fn crash(&mut self, server: usize, kept: bool, visible: bool, restart_us: u64) {
        if matches!(self.servers[server].process, Process::Down { .. }) {
            return;
        }
        self.servers[server].process = Process::Down { visible };
        self.unfit(server, restart_us);
        self.break_link(server, server);
        for node in (0..self.nodes).filter(|&node| node != server) {
            if !(visible && node >= self.client_base()) {
                self.break_link(server, node);
            }
            if node < self.client_base() && !self.random.one_in(4) {
                self.report_failed(server, node);
            }
        }
        self.schedule(restart_us, Event::Restart { server, kept });
    }

    fn resume(&mut self, server: usize) {
        if self.servers[server].process != Process::Paused {
            return;
        }
        self.servers[server].process = Process::Running;
        let inbox: VecDeque<Event> = std::mem::take(&mut self.servers[server].inbox);
        for event in inbox {
            self.schedule(1, event);
        }
    }

    fn unfit(&mut self, server: usize, us: u64) {
        let until = self.now + us + 60_000;
        self.servers[server].unfit_until = self.servers[server].unfit_until.max(until);
    }

    /// Whether the guarantees allow `server` to fail now: every partition it is a member of, in the
    /// stored map and in any draft, has another full member that is well.
    fn may_fail(&self, server: usize) -> bool {
        let id = self.servers[server].id;
        let drafts = self.coordinators.iter().filter_map(Coordinator::draft);
        let mut maps = drafts.chain([&self.store]);
        let well = |map: &ClusterMap, other: usize| {
            let other = &self.servers[other];
            other.is_running()
                && other.unfit_until <= self.now
                && other.joined
                && map.admits(other.id, other.life)
        };
        maps.all(|map| {
            map.partitions.iter().filter(|entry| entry.members.contains(&id)).all(|entry| {
                let mut others = entry.members.iter().filter(|&&other| other != id);
                others.any(|&other| well(map, place(other)))
            })
        })
    }
}

impl Event {
    /// The server whose process handles the event.
    fn runs_on(&self, servers: usize) -> Option<usize> {
        match *self {
            Self::Deliver { to, .. } => (to < servers).then_some(to),
            Self::Connected { a: server, .. }
            | Self::LinkFailed { server, .. }
            | Self::ServerTick { server }
            | Self::Turn { server, .. }
            | Self::CopyBlock { server, .. }
            | Self::Durable { server, .. } => Some(server),
            _ => None,
        }
    }
}
