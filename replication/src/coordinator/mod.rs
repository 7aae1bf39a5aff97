//! The coordinator's decisions as a state machine: who is in force, which chains change, who copies
//! what. It alone changes the map, one epoch at a time, each by a compare-and-swap that its shell
//! performs on a store; nothing is published before it is stored. The data path never waits for it.

mod absence;
mod draft;
mod health;
mod hearing;
mod options;
mod output;
mod plan;
mod returning;
mod trouble;
mod verdict;
mod workers;

use windlass_wire::{Epoch, Incarnation, PartitionId, ServerId, coordination::Kept};

use crate::membership::{Change, JoiningPhase, Membership, PartitionEntry};
use crate::time::Time;
use absence::Out;
use health::{Findings, Health};
pub use options::CoordinatorOptions;
pub use output::{Cause, CoordinatorOutput};
use plan::Planner;
use returning::Returning;
pub use workers::{Registered, WorkerError, WorkerTimings, Workers};

/// What happens to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorInput {
    /// This coordinator now leads; the store held this map.
    Elected {
        /// The map in force.
        map: Membership,
    },
    /// Another one leads.
    Deposed,
    /// A server asks to be taken in.
    Join {
        /// The server.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// Its address.
        address: String,
        /// Its shards.
        shards: u16,
        /// What it holds of what it had acknowledged.
        kept: Kept,
    },
    /// A server is alive (a heartbeat, or the answer to a probe).
    Heartbeat {
        /// The server.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// The map it acts by.
        map_epoch: Epoch,
    },
    /// The control connection to a server broke.
    Disconnected {
        /// The server.
        server: ServerId,
    },
    /// A server says which peers it hears late.
    Hearing {
        /// The server.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// When the newest probe that has reached it was sent, by the coordinator's clock.
        probe: Time,
        /// The peers, and the microseconds by which they were late lately.
        late: Vec<(ServerId, u64)>,
    },
    /// A server reports that a neighbour is dead or unreachable.
    Suspect {
        /// Who reports.
        by: ServerId,
        /// The reporter's life.
        incarnation: Incarnation,
        /// Whom.
        server: ServerId,
    },
    /// A learner has caught up.
    CaughtUp {
        /// The learner.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// The partition.
        partition: PartitionId,
        /// The chain epoch in which it did.
        epoch: Epoch,
    },
    /// A new tail holds all that was committed.
    Synchronised {
        /// The tail.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// The partition.
        partition: PartitionId,
        /// The chain epoch in which it does.
        epoch: Epoch,
    },
    /// A member reports that the server next in the chain holds no prefix of its log.
    Rejected {
        /// Who reports.
        by: ServerId,
        /// The reporter's life.
        incarnation: Incarnation,
        /// The partition.
        partition: PartitionId,
        /// The chain epoch in which it found that.
        epoch: Epoch,
        /// The server rejected.
        server: ServerId,
    },
    /// A server has no memory for a partition that it holds or is to copy, or its replica lacks some change.
    CannotHold {
        /// The server.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// The partition.
        partition: PartitionId,
        /// The chain epoch in which it found that.
        epoch: Epoch,
    },
    /// An operator's change: `Drain`, `Undrain`, `Forget`, `AcceptLoss`, `Fail`.
    Operator(Change),
    /// An operator wants the placement worked out anew.
    Rebalance,
    /// The compare-and-swap of the draft succeeded.
    Stored {
        /// The draft's epoch.
        epoch: Epoch,
    },
    /// Time passed.
    Tick,
}

/// The coordinator.
#[derive(Clone, Debug)]
pub struct Coordinator {
    options: CoordinatorOptions,
    leads: bool,
    map: Membership,
    draft: Option<Membership>,
    wanted: Vec<Change>,
    health: Health,
    planner: Planner,
    returning: Returning,
    out: Out,
}

impl Coordinator {
    /// A standby; it leads once `Elected`.
    #[must_use]
    pub fn new(options: CoordinatorOptions) -> Self {
        Self {
            options,
            leads: false,
            map: Membership::new(1, 1),
            draft: None,
            wanted: Vec::new(),
            health: Health::default(),
            planner: Planner::default(),
            returning: Returning::default(),
            out: Out::default(),
        }
    }

    /// The map in force: stored, and published.
    #[must_use]
    pub fn map(&self) -> &Membership {
        &self.map
    }

    /// The map being stored.
    #[must_use]
    pub fn draft(&self) -> Option<&Membership> {
        self.draft.as_ref()
    }

    /// Whether every server in force was heard lately: less than the time ago after which it would be
    /// failed.
    #[must_use]
    pub fn hears_everybody(&self, now: Time) -> bool {
        self.health.hears_everybody(now, &self.map, self.options.heartbeat_timeout_us)
    }

    /// Servers that get no copies for a while, since they were not heard in time.
    pub fn resting(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.out.servers.all_out()
    }

    /// Pairs that share no chain for a while, since their link is bad; the lesser number first.
    pub fn separated(&self) -> impl Iterator<Item = (ServerId, ServerId)> + '_ {
        self.out.pairs.all_out()
    }

    /// Whether this coordinator leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// A server is in the coordinator's own process: that it is heard says nothing about the network.
    pub fn lives_with(&mut self, server: ServerId) {
        self.health.lives_with(server);
    }

    /// Takes one input and pushes what is to be done onto `outputs`.
    pub fn step(
        &mut self,
        now: Time,
        input: CoordinatorInput,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        match input {
            CoordinatorInput::Elected { map } => self.elected(now, map),
            CoordinatorInput::Deposed => self.step_down(),
            _ if !self.leads => {}
            CoordinatorInput::Join { server, incarnation, address, shards, kept } => {
                self.join(now, server, incarnation, address, shards, kept, outputs);
            }
            CoordinatorInput::Heartbeat { server, incarnation, map_epoch } => {
                self.heartbeat(now, server, incarnation, map_epoch, outputs);
            }
            CoordinatorInput::Disconnected { server } => {
                self.health.disconnected(now, server);
            }
            CoordinatorInput::Hearing { server, incarnation, probe, late } => {
                if self.map.admits(server, incarnation) {
                    self.health.hearing().reported(now, server, probe, &late, &self.options);
                }
            }
            CoordinatorInput::Suspect { by, incarnation, server } => {
                if self.map.admits(by, incarnation) && self.map.is_in_force(server) {
                    self.health.suspect(now, by, server, &self.map, outputs);
                }
            }
            CoordinatorInput::CaughtUp { server, incarnation, partition, epoch } => {
                if self.joins(server, incarnation, partition, epoch, JoiningPhase::Copying) {
                    self.want(Change::Promote { partition });
                }
            }
            CoordinatorInput::Synchronised { server, incarnation, partition, epoch } => {
                if self.joins(server, incarnation, partition, epoch, JoiningPhase::Tail) {
                    self.want(Change::Settle { partition });
                }
            }
            CoordinatorInput::Rejected { by, incarnation, partition, epoch, server } => {
                if self.map.admits(by, incarnation) {
                    self.rejected(partition, epoch, server);
                }
            }
            CoordinatorInput::CannotHold { server, incarnation, partition, epoch } => {
                if self.map.admits(server, incarnation) {
                    self.cannot_hold(server, partition, epoch);
                }
            }
            CoordinatorInput::Operator(change) => self.want(change),
            CoordinatorInput::Rebalance => self.planner.replan(),
            CoordinatorInput::Stored { epoch } => self.stored(now, epoch, outputs),
            CoordinatorInput::Tick => self.tick(now, outputs),
        }
        self.take_back(now);
        if self.leads && self.draft.is_none() {
            self.write_draft(outputs);
        }
    }

    fn step_down(&mut self) {
        self.leads = false;
        self.draft = None;
        self.wanted.clear();
        self.returning.clear();
    }

    fn tick(&mut self, now: Time, outputs: &mut Vec<CoordinatorOutput>) {
        let reached = self.returning.is_open();
        let Self { health, map, options, out, .. } = self;
        health.hearing().probe_doubtful(now, map, options, outputs);
        let Findings { dead, apart } = health.look(now, map, options, reached, out, outputs);
        for dead in dead {
            let server = dead.server;
            let fail = Change::Fail { server };
            let is_failing = self.draft.as_ref().is_some_and(|draft| !draft.is_in_force(server));
            if is_failing || self.wanted.contains(&fail) {
                continue;
            }
            if !dead.is_gone() {
                self.out.servers.begin(now, server, &self.options);
            }
            self.want(fail);
            outputs.push(CoordinatorOutput::Removes { server, cause: dead.cause });
        }
        if let Some((server, from, cause)) = apart.filter(|_| self.draft.is_none()) {
            let pair = (server.min(from), server.max(from));
            self.out.pairs.begin(now, pair, &self.options);
            let both = |entry: &PartitionEntry| entry.involves(server) && entry.involves(from);
            if self.map.partitions.iter().any(both) {
                self.want(Change::Separate { server, from });
                outputs.push(CoordinatorOutput::Removes { server, cause });
            }
        }
        let Self { out, health, options, map, .. } = self;
        let hearing = health.hearing();
        let goes_on = |pair| hearing.is_bad_link(now, pair, options);
        out.pairs.extend(now, goes_on, u64::MAX, options);
        let goes_on = |id| !map.is_in_force(id) || hearing.is_ill(now, id, options);
        out.servers.extend(now, goes_on, options.absence_max_us, options);
        if self.out.end(now) {
            self.planner.look_again();
        }
        if self.leads && self.health.wants_to_resign(now, &self.options) {
            outputs.push(CoordinatorOutput::Resign);
        }
    }

    fn elected(&mut self, now: Time, map: Membership) {
        self.leads = true;
        self.map = map;
        self.draft = None;
        self.wanted.clear();
        self.returning.clear();
        // Whoever is silent has until the timeout to find this coordinator.
        let heard_at = now.after(self.options.election_grace_us);
        self.health = self.health.all_heard(heard_at, &self.map);
        self.out.clear();
        self.planner.replan();
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one input")]
    fn join(
        &mut self,
        now: Time,
        server: ServerId,
        incarnation: Incarnation,
        address: String,
        shards: u16,
        kept: Kept,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        if self.map.admits(server, incarnation) {
            // It asks again because it has not seen the map that took it in.
            self.health.heard(now, server, &self.options);
            outputs.push(CoordinatorOutput::SendMap { to: server });
            return;
        }
        if self.map.servers.get(&server).is_some_and(|entry| incarnation <= entry.incarnation) {
            // It was failed before it saw the map that took it in: it needs yet another life.
            outputs.push(CoordinatorOutput::Fence { server, incarnation });
            return;
        }
        let change = Change::Join { server, incarnation, address, shards, kept };
        let holds_all = kept == (Kept::Whole {}) && !self.map.is_in_force(server);
        if kept != (Kept::Nothing {}) && !holds_all {
            // Whether others go on without it, or hold more, is to be seen first.
            for peer in self.returning.insert(now, server, change, &self.map, &self.options) {
                self.health.hearing().probe(now, peer, outputs);
            }
            return;
        }
        self.returning.forget(server);
        self.want(change);
    }

    /// Takes servers back that came in new lives, once it is known who went on without them.
    fn take_back(&mut self, now: Time) {
        let Self { returning, draft, map, health, wanted, options, .. } = self;
        if draft.is_some() || !returning.is_decided(map, health, wanted) {
            return;
        }
        for change in returning.take(now, map, wanted, options) {
            self.want(change);
        }
    }

    fn heartbeat(
        &mut self,
        now: Time,
        server: ServerId,
        incarnation: Incarnation,
        map_epoch: Epoch,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        // Maps are published once they are stored, so no server is ever ahead of the store.
        if map_epoch > self.map.epoch {
            self.step_down();
            outputs.push(CoordinatorOutput::Outdated { server, epoch: map_epoch });
            return;
        }
        if !self.map.admits(server, incarnation) {
            if self.map.servers.get(&server).is_some_and(|entry| incarnation <= entry.incarnation) {
                outputs.push(CoordinatorOutput::Fence { server, incarnation });
            }
            self.returning.heard(now, server, incarnation, &self.options);
            return;
        }
        self.health.heard(now, server, &self.options);
        let epoch = self.map.epoch;
        if map_epoch < epoch && self.health.wants_map(now, server, epoch, &self.options) {
            outputs.push(CoordinatorOutput::SendMap { to: server });
        }
    }

    fn rejected(&mut self, partition: PartitionId, epoch: Epoch, server: ServerId) {
        let entry = self.map.partition(partition).filter(|entry| entry.epoch == epoch);
        let Some(entry) = entry else { return };
        if entry.joining.is_some_and(|joining| joining.server == server) {
            self.want(Change::Abandon { partition });
        } else if entry.members.contains(&server) {
            self.want(Change::Fail { server });
        }
    }

    fn joins(
        &self,
        server: ServerId,
        incarnation: Incarnation,
        partition: PartitionId,
        epoch: Epoch,
        phase: JoiningPhase,
    ) -> bool {
        let entry = self.map.partition(partition).filter(|entry| entry.epoch == epoch);
        let joining = entry.and_then(|entry| entry.joining);
        self.map.admits(server, incarnation)
            && joining.is_some_and(|joining| joining.server == server && joining.phase == phase)
    }

    fn want(&mut self, change: Change) {
        if !self.wanted.contains(&change) {
            self.wanted.push(change);
        }
    }
}

#[cfg(test)]
mod tests;
