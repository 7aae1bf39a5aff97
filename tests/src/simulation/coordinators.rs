//! Two coordinators, of which one leads, and the store whose compare-and-swap decides between them.

use std::rc::Rc;

use windlass_replication::coordinator::{CoordinatorInput, CoordinatorOptions, CoordinatorOutput};
use windlass_replication::{LatenessTimings, Membership, Time};
use windlass_wire::{Epoch, PartitionId};

use super::message::Message;
use super::options::Mutation;
use super::server::place;
use super::world::{COORDINATOR, Event, World};

/// The coordinators' timings, in a world that runs about twenty times faster.
pub(super) fn coordinator_options(servers: usize) -> CoordinatorOptions {
    CoordinatorOptions {
        heartbeat_timeout_us: 40_000,
        probe_timeout_us: 8_000,
        late_max_us: 60_000,
        answers: LatenessTimings { after_us: 15_000, window_us: 300_000 },
        probe_interval_us: 5_000,
        absence_min_us: 20_000,
        absence_max_us: 80_000,
        absence_forgotten_us: 100_000,
        tick_gap_max_us: 30_000,
        disk_wait_us: super::overlap::DISK_WAIT_US,
        servers_at_creation: servers,
        copies_per_server_max: 2,
        disconnect_timeout_us: 8_000,
        election_grace_us: 0,
        rebalance: true,
    }
}

impl World {
    pub(super) fn coordinator_message(&mut self, from: usize, message: Message) {
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
            Message::Connected { life, ranks } => {
                if self.store.admits(server, life) {
                    self.hear_workers(from, &ranks);
                }
                return;
            }
            Message::Hearing { .. } if self.believes_accusers() => return,
            Message::Hearing { life, probe, late } => {
                CoordinatorInput::Hearing { server, incarnation: life, probe, late }
            }
            Message::Suspect { life, server: suspect } => {
                self.accuse(server, suspect);
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
            Message::CannotHold { life, partition, epoch } => CoordinatorInput::CannotHold {
                server,
                incarnation: life,
                partition: partition_id(partition),
                epoch,
            },
            Message::WantMap => {
                let map = Rc::new(self.coordinators[leader].map().clone());
                self.send(COORDINATOR, from, Message::Map(map));
                return;
            }
            other => unreachable!("no coordinator gets {other:?}"),
        };
        self.coordinate(leader, input);
    }

    pub(super) fn coordinator_tick(&mut self, coordinator: usize) {
        if self.options.has_registry() {
            self.note_connections();
        }
        if self.stall_ends_at().is_some() {
            return;
        }
        self.coordinate(coordinator, CoordinatorInput::Tick);
        self.look_for_silent_workers(coordinator);
        if self.believes_accusers() {
            self.believe(coordinator);
        }
    }

    pub(super) fn coordinate(&mut self, coordinator: usize, input: CoordinatorInput) {
        let mut outputs = Vec::new();
        let told = self.options.trace.then(|| format!("{input:?}"));
        self.coordinators[coordinator].step(Time(self.now), input, &mut outputs);
        if let Some(told) = told.filter(|told| told != "Tick" || !outputs.is_empty()) {
            eprintln!("{:>7} coordinator {coordinator}: {told} -> {outputs:?}", self.now);
        }
        let mut resigns = false;
        for output in outputs {
            match output {
                CoordinatorOutput::Store { .. } => {
                    let draft = self.coordinators[coordinator].draft().expect("what is stored");
                    let epoch = draft.epoch;
                    let delay = self.store_us();
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
                CoordinatorOutput::Probe { server, sent_at } => {
                    self.send(COORDINATOR, place(server), Message::Probe { sent_at });
                }
                CoordinatorOutput::SendMap { to } => {
                    let map = Rc::new(self.coordinators[coordinator].map().clone());
                    self.send(COORDINATOR, place(to), Message::Map(map));
                }
                CoordinatorOutput::Resign => resigns = self.leader == Some(coordinator),
                CoordinatorOutput::Refuse { .. } | CoordinatorOutput::Removes { .. } => {}
                CoordinatorOutput::Outdated { server, epoch } => {
                    // Another one, which did not know that it no longer leads, has stored it.
                    assert!(epoch <= self.store.epoch, "{server} acts by {epoch}: never stored");
                    if self.leader == Some(coordinator) {
                        self.schedule(500, Event::Elect { coordinator });
                    }
                }
            }
        }
        if resigns {
            self.hand_over(coordinator, false, 500);
        }
    }

    /// One coordinator no longer leads, unless it goes on, and so much later the other one does.
    pub(super) fn hand_over(&mut self, from: usize, goes_on: bool, us: u64) {
        self.leader = None;
        if !goes_on {
            self.coordinate(from, CoordinatorInput::Deposed);
        }
        self.next_leader = 1 - from;
        self.schedule(us, Event::Elect { coordinator: self.next_leader });
    }

    pub(super) fn compare_and_swap(&mut self, coordinator: usize, epoch: Epoch) {
        let Some(draft) = self.coordinators[coordinator].draft() else { return };
        if draft.epoch != epoch {
            return;
        }
        let draft = draft.clone();
        if self.is_off_store(coordinator) {
            self.write_cut_off(coordinator, draft);
            return;
        }
        if self.takes(&draft) {
            let base = self.coordinators[coordinator].map();
            assert!(*base == self.store, "each map descends from the one before");
            if let Some(mutated) = self.lost_with_joiner(&draft) {
                self.put(mutated);
                self.elect(coordinator);
                return;
            }
            self.put(draft);
            self.coordinate(coordinator, CoordinatorInput::Stored { epoch });
            return;
        }
        self.coordinate(coordinator, CoordinatorInput::Deposed);
        if self.leader == Some(coordinator) {
            self.schedule(500, Event::Elect { coordinator });
        }
    }

    /// Whether a write finds the map that it was made for.
    fn takes(&self, draft: &Membership) -> bool {
        let overwrites = self.options.mutation == Some(Mutation::OverwriteStore);
        self.store.epoch.next() == draft.epoch || overwrites
    }

    /// A write arrives late.
    pub(super) fn land(&mut self, draft: &Membership) {
        if self.takes(draft) {
            self.put(draft.clone());
        }
    }

    fn put(&mut self, draft: Membership) {
        assert!(draft.epoch > self.store.epoch, "stored epochs ascend");
        let head = |map: &Membership, p: usize| map.partitions.get(p).and_then(|at| at.head());
        let is_moved = |p: &usize| {
            let before = head(&self.store, *p);
            before.is_some() && before != head(&draft, *p)
        };
        self.outcome.moved += (0..self.partitions).filter(is_moved).count() as u64;
        self.note_map(&draft);
        self.store = draft;
        if self.options.trace {
            eprintln!("{:>7} MAP {}: {:?}", self.now, self.store.epoch, self.store.partitions);
        }
    }

    pub(super) fn elect(&mut self, coordinator: usize) {
        if let Some(at) = self.stall_ends_at() {
            self.schedule_at(at, Event::Elect { coordinator });
            return;
        }
        // Who does not reach the store is not elected by it.
        let coordinator = match self.is_off_store(coordinator) {
            true => 1 - coordinator,
            false => coordinator,
        };
        self.leader = Some(coordinator);
        self.restore_workers();
        let map = self.store.clone();
        self.coordinate(coordinator, CoordinatorInput::Elected { map });
    }
}
