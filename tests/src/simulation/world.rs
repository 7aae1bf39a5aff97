//! The simulated world: virtual time, the network, the store, the coordinators, and what the
//! schedule does to them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use windlass_replication::coordinator::Coordinator;
use windlass_replication::{LeaseOutput, Membership, Output, Time};
use windlass_wire::{Epoch, Incarnation, Lsn};

use super::client::Client;
use super::coordinators::coordinator_options;
use super::gray::{Gray, Grays};
use super::memory::{Pushed, Seen};
use super::message::Message;
use super::mixed::Mixed;
use super::options::{Mode, Options};
use super::random::Random;
use super::registry::Registry;
use super::rounds::RoundsRule;
use super::schedule::{END_US, Fault, HEAL_US, Schedule};
use super::server::{Process, Server, TICK_US};

/// A machine: the coordinators' address, a server, or a client. Servers come first.
pub(super) type Node = usize;
/// The address at which whoever leads is found.
pub(super) const COORDINATOR: Node = usize::MAX;

const COORDINATOR_TICK_US: u64 = 5_000;
/// After the heal, with everything acknowledged: time for replicas to become equal.
const SETTLE_US: u64 = 150_000;
/// After the heal: time until each partition has a head that lives.
const HEADS_US: u64 = 300_000;
/// After the heal of gray networks: time until each partition has all its copies again, since who is well comes
/// back. What was lost last is sent again up to 310 ms later.
const COPIES_US: u64 = 700_000;

#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver {
        from: Node,
        to: Node,
        generation: u32,
        message: Message,
    },
    Connected {
        a: usize,
        b: usize,
        generation: u32,
    },
    LinkFailed {
        server: usize,
        peer: usize,
        generation: u32,
    },
    ServerTick {
        server: usize,
    },
    Turn {
        server: usize,
        life: Incarnation,
        partition: usize,
    },
    Durable {
        server: usize,
        life: Incarnation,
        partition: usize,
        lsn: Lsn,
    },
    CopyBlock {
        server: usize,
        life: Incarnation,
        partition: usize,
        number: u64,
        generation: u32,
    },
    CoordinatorTick {
        coordinator: usize,
    },
    Stored {
        coordinator: usize,
        epoch: Epoch,
    },
    Elect {
        coordinator: usize,
    },
    ClientTick {
        client: usize,
    },
    Access {
        client: usize,
        number: u64,
        generation: u32,
    },
    Arrive {
        client: usize,
        number: u64,
        look: super::client::Look,
    },
    Fault {
        index: usize,
    },
    Restart {
        server: usize,
        kept: bool,
    },
    Resume {
        server: usize,
    },
    GrayOver {
        gray: Gray,
    },
    /// A coordinator's lead has not been renewed for as long as it lasts.
    LeaseOver {
        coordinator: usize,
    },
    /// A write arrives whose writer has long given up waiting for the answer.
    Lands {
        draft: Rc<Membership>,
    },
    /// A machine that stood still for so long goes on.
    Thaw {
        server: usize,
        us: u64,
    },
    /// All was healed so long ago that every partition has to have a head that lives.
    HeadsDue,
    /// Networks are well for so long that every partition has to have all its copies.
    CopiesDue,
    Mend {
        a: Node,
        b: Node,
    },
    /// What a client has decided to send is sent now that it runs again.
    Written {
        client: usize,
        server: usize,
        generation: u32,
        message: Message,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) generation: u32,
    pub(super) last_delivery: u64,
    pub(super) cuts: u32,
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
    /// Sessions forgotten, by partition.
    pub expired: u64,
    /// Pushes that clients gave up because they may be forgotten.
    pub given_up: u64,
    /// Rounds closed at heads.
    pub rounds: u64,
    /// Pushes that came too late for their round.
    pub late: u64,
    /// Times a partition got another head.
    pub moved: u64,
    /// Pushes that were lost as they may be.
    pub excused: u64,
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
    /// What replicas remember of sessions, by partition and record.
    pub(super) sessions_at: BTreeMap<(usize, Lsn, Epoch), u64>,
    /// Of tables in rounds.
    pub(super) rule: RoundsRule,
    pub(super) drift_ppm: Vec<i64>,
    pub(super) coordinators: [Coordinator; 2],
    pub(super) leader: Option<usize>,
    pub(super) next_leader: usize,
    /// Until when each coordinator does not reach the store.
    pub(super) off_store_until: [u64; 2],
    /// How many partitions each server has memory for, in [`Mode::Store`].
    pub(super) rooms: Vec<usize>,
    /// What the store holds.
    pub(super) store: Membership,
    pub(super) links: Vec<Link>,
    pub(super) nodes: usize,
    pub(super) heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    pub(super) events: Vec<Option<Event>>,
    pub(super) free: Vec<usize>,
    pub(super) numbers: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) quiet_since: Option<u64>,
    pub(super) power_lost_at: Option<u64>,
    pub(super) grays: Grays,
    pub(super) registry: Registry,
    pub(super) mixed: Mixed,
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
        let coordinator = coordinator_options(schedule.servers);
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
            sessions_at: BTreeMap::new(),
            rule: RoundsRule::of(seed),
            drift_ppm: schedule.drift_ppm.clone(),
            coordinators: [Coordinator::new(coordinator), Coordinator::new(coordinator)],
            leader: None,
            next_leader: 0,
            off_store_until: [0; 2],
            rooms: Vec::new(),
            store: Membership::new(schedule.partitions, schedule.replicas),
            links: vec![Link::default(); nodes * nodes],
            nodes,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            numbers: 0,
            faults: schedule.faults.clone(),
            quiet_since: None,
            power_lost_at: None,
            grays: Grays::default(),
            registry: Registry::new(schedule.servers, schedule.clients),
            mixed: Mixed::new(schedule.servers, partitions),
        };
        world.options.settles |= options.mode == Mode::Mixed;
        if options.mode == Mode::Sessions {
            world.store.session_expiry_ms = super::sessions::EXPIRY_MS;
        }
        if options.mode == Mode::Store {
            let room = |_| 1 + world.random.index(partitions);
            world.rooms = (0..schedule.servers).map(room).collect();
        }
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
        self.schedule(HEAL_US + HEADS_US, Event::HeadsDue);
        if self.options.mode == Mode::Gray {
            self.schedule(HEAL_US + COPIES_US, Event::CopiesDue);
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
            && (self.options.mode != Mode::Gray || self.lacking_copies().is_none())
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
                self.coordinator_tick(coordinator);
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
            Event::GrayOver { gray } => self.end_gray(gray),
            Event::LeaseOver { coordinator } => self.lease_over(coordinator),
            Event::Lands { draft } => self.land(&draft),
            Event::Thaw { server, us } => self.thaw(server, us),
            Event::HeadsDue => self.check_heads(),
            Event::CopiesDue => self.check_copies(),
            Event::Written { client, server, generation, message } => {
                self.written(client, server, generation, message);
            }
        }
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(super) fn schedule_at(&mut self, at: u64, event: Event) {
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
        let passed = self.now - self.servers[server].clock_behind_us;
        Time((passed + 1_000_000 * (server as u64 + 1)).saturating_add_signed(drift))
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
