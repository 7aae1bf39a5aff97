//! One partition's replica as a state machine: dispatch, configuration and the commit rule. What each
//! role does with each message is in `head`, `middle`, `tail` and `catch_up`.

use windlass_wire::{Epoch, Lsn, PartitionId, ServerId};

use crate::catch_up::CatchUp;
use crate::error::ReplicaError;
use crate::idle::IdleNotes;
use crate::inflight::{LogIndex, Position};
use crate::input::Input;
use crate::membership::ChainView;
use crate::middle::Follower;
use crate::output::Output;
use crate::session::SessionTable;
use crate::time::Time;

/// Bounds of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLimits {
    /// Records appended at the head and not yet committed.
    pub inflight_max: u64,
    /// (session, lane) pairs remembered.
    pub sessions_max: usize,
    /// Records a learner may be behind its feeder and still be called caught up.
    pub caught_up_lag_max: u64,
}

impl Default for ReplicaLimits {
    fn default() -> Self {
        Self { inflight_max: 4096, sessions_max: 65_536, caught_up_lag_max: 64 }
    }
}

/// What a replica is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing: not in the chain, or not configured yet.
    Outside,
    /// Copies from the tail; no commit waits for it.
    Learner,
    /// Head of a chain of one: also the tail.
    Single,
    /// Takes pushes, forwards, acknowledges.
    Head,
    /// Forwards.
    Middle,
    /// Commits; serves strong pulls.
    Tail,
}

/// One server's replica of one partition.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) partition: PartitionId,
    pub(crate) me: ServerId,
    pub(crate) chain: ChainView,
    pub(crate) role: Role,
    pub(crate) log: LogIndex,
    pub(crate) sessions: SessionTable,
    /// Pushes that were applied without a record since the last one: see `alone`.
    pub(crate) unrecorded: u64,
    pub(crate) idle: IdleNotes,
    pub(crate) predecessor: Option<ServerId>,
    pub(crate) successor: Option<Follower>,
    pub(crate) learner: Option<Follower>,
    pub(crate) catch_up: CatchUp,
    /// Reports that needed an answer so far.
    pub(crate) attempt: u64,
    /// Until then nothing is forwarded or committed: a removed tail may still be read.
    pub(crate) hold_until: Time,
    pub(crate) limits: ReplicaLimits,
}

impl Replica {
    /// A replica on `me` that holds nothing yet.
    #[must_use]
    pub fn new(partition: PartitionId, me: ServerId, limits: ReplicaLimits) -> Self {
        let sessions = SessionTable::new(limits.sessions_max);
        Self::recover(partition, me, limits, LogIndex::default(), sessions)
    }

    /// A replica that found this log and session table on its disk, or that goes on from them in a new
    /// life of its server. A replica whose `position` is `None` has nothing to go on from: use `new`.
    #[must_use]
    pub fn recover(
        partition: PartitionId,
        me: ServerId,
        limits: ReplicaLimits,
        log: LogIndex,
        sessions: SessionTable,
    ) -> Self {
        Self {
            partition,
            me,
            chain: ChainView::default(),
            role: Role::Outside,
            log,
            sessions,
            unrecorded: 0,
            idle: IdleNotes::default(),
            predecessor: None,
            successor: None,
            learner: None,
            catch_up: CatchUp::Complete,
            attempt: 0,
            hold_until: Time(0),
            limits,
        }
    }

    /// Takes one input and pushes what is to be done onto `outputs`, which the caller drains and
    /// reuses. An error leaves the state as it was (an output may tell the sender).
    pub fn step(
        &mut self,
        now: Time,
        input: Input<'_>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        match input {
            Input::Configure { chain, hold_until } => {
                self.configure(now, chain, hold_until, outputs);
                Ok(())
            }
            Input::Append(record) => self.append(now, record, outputs),
            Input::Record { from, epoch, record } => {
                self.check_epoch(from, epoch, outputs)?;
                self.record(now, from, record, outputs)
            }
            Input::Report { from, epoch, position, attempt } => {
                self.check_epoch(from, epoch, outputs)?;
                self.report(now, from, position, attempt, outputs)
            }
            Input::AskReport { from, epoch } => {
                self.check_epoch(from, epoch, outputs)?;
                self.check_from_above(from)?;
                self.send_report(outputs);
                Ok(())
            }
            Input::Welcome { from, epoch, last } => {
                self.check_epoch(from, epoch, outputs)?;
                self.welcome(from, last, outputs)
            }
            Input::Committed { from, epoch, lsn } => {
                self.check_epoch(from, epoch, outputs)?;
                self.committed_below(now, from, lsn, outputs)
            }
            Input::CopyFrom { from, epoch, start } => {
                self.check_epoch(from, epoch, outputs)?;
                self.copy_from(from, start, outputs)
            }
            Input::CopyFinished { start, through, sessions } => {
                self.copy_finished(start, through, sessions, outputs)
            }
            Input::Durable { lsn } => {
                self.log.set_durable(lsn);
                self.advance(now, outputs);
                Ok(())
            }
            Input::Released { first } => {
                self.log.release(first);
                self.restart_outrun_learner(outputs);
                Ok(())
            }
            Input::Connected { peer } => {
                self.connected(peer, outputs);
                Ok(())
            }
            Input::Tick => {
                self.release_hold(now, outputs);
                Ok(())
            }
        }
    }

    /// This replica's role in the chain epoch it knows.
    #[must_use]
    #[inline]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The chain epoch in force here.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.chain.epoch
    }

    /// The chain as last configured.
    #[must_use]
    pub fn chain(&self) -> &ChainView {
        &self.chain
    }

    /// The log's positions.
    #[must_use]
    #[inline]
    pub fn log(&self) -> &LogIndex {
        &self.log
    }

    /// The replicated session table: what a checkpoint or a copy takes along.
    #[must_use]
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// Whether this replica takes pushes.
    #[must_use]
    #[inline]
    pub fn is_head(&self) -> bool {
        matches!(self.role, Role::Head | Role::Single)
    }

    /// Whether this replica is last on the records' path.
    #[must_use]
    #[inline]
    pub fn is_tail(&self) -> bool {
        matches!(self.role, Role::Tail | Role::Single)
    }

    /// Whether a strong pull may be answered from here, as far as the chain goes: it is the tail,
    /// holds all that was ever committed, and no removed tail may still be read. The server must also
    /// hold leases from all other members: [`crate::lease::Leases::valid_until`].
    #[must_use]
    pub fn is_strong(&self, now: Time) -> bool {
        self.is_tail() && self.is_synchronised() && now >= self.hold_until
    }

    /// Whether the memory is that of some position of the partition's log: false only while blocks are
    /// being copied in. `Any` pulls may be answered when it is true and the role is not `Outside`.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !matches!(self.role, Role::Outside | Role::Learner) && self.catch_up.is_whole()
    }

    /// The first record that must stay in the log: a successor may still need it, or it waits for its
    /// block. A learner that the log leaves behind starts over.
    #[must_use]
    pub fn needed_from(&self) -> Lsn {
        if !self.catch_up.is_whole() {
            return self.log.first();
        }
        let committed = self.log.committed();
        let known = |link: &Follower| link.accepted || link.held > Lsn(0);
        let held = self.successor.filter(known).map_or(committed, |link| link.held);
        committed.min(held).next()
    }

    /// The learner fed from here, and the first record it has not said to hold. Without that it has
    /// to start over, and once it is promoted it would be rejected; a shell that is short of room may
    /// let it go all the same.
    #[must_use]
    pub fn learner_needs(&self) -> Option<(ServerId, Lsn)> {
        let link = self.learner.filter(|link| link.accepted)?;
        Some((link.server, link.held.next()))
    }

    /// The tail that clients of this replica's epoch may still be reading although `next` goes on
    /// without it.
    #[must_use]
    pub fn removed_tail(&self, next: &ChainView) -> Option<ServerId> {
        let tail = self.chain.path.last().copied().filter(|&tail| tail != self.me);
        tail.filter(|tail| !next.path.contains(tail))
    }

    /// The moment at which `Input::Tick` has something to do, if any.
    #[must_use]
    pub fn wakes_at(&self, now: Time) -> Option<Time> {
        (now < self.hold_until).then_some(self.hold_until)
    }

    fn configure(
        &mut self,
        now: Time,
        chain: &ChainView,
        hold_until: Time,
        outputs: &mut Vec<Output>,
    ) {
        if chain.epoch < self.chain.epoch {
            return;
        }
        let same_path = chain.epoch == self.chain.epoch && chain.path == self.chain.path;
        let was_learner = self.role == Role::Learner;
        let was_head = self.is_head();
        self.chain.clone_from(chain);
        self.role = self.role_in(chain);
        if same_path && was_learner == (self.role == Role::Learner) {
            self.configure_learner(outputs);
            return;
        }
        self.hold_until = self.hold_until.max(hold_until);
        if !(was_head && self.is_head()) {
            self.sessions.forget_admitted();
        }
        let place = chain.path.iter().position(|&id| id == self.me);
        self.predecessor = match (place, self.role) {
            (Some(place), _) if place > 0 => Some(chain.path[place - 1]),
            (None, Role::Learner) => chain.path.last().copied(),
            _ => None,
        };
        // A learner that was promoted may be behind what was committed without it.
        let before = [self.successor, self.learner];
        let held_by = |server| {
            let link = before.into_iter().flatten().find(|link| link.server == server);
            link.map_or(Lsn(0), |link| link.held)
        };
        self.successor = place
            .and_then(|place| chain.path.get(place + 1))
            .map(|&server| Follower { held: held_by(server), ..Follower::new(server) });
        self.learner = None;
        self.begin_catch_up();
        self.attempt += 1;
        if let Some(link) = &self.successor {
            Output::AskReport { to: link.server, epoch: chain.epoch }.push(outputs);
        }
        self.send_report(outputs);
        self.configure_learner(outputs);
        self.advance(now, outputs);
    }

    fn role_in(&self, chain: &ChainView) -> Role {
        let path = &chain.path;
        match path.iter().position(|&id| id == self.me) {
            Some(0) if path.len() == 1 => Role::Single,
            Some(0) => Role::Head,
            Some(place) if place + 1 == path.len() => Role::Tail,
            Some(_) => Role::Middle,
            None if chain.learner == Some(self.me) => Role::Learner,
            None => Role::Outside,
        }
    }

    /// Tells the predecessor (a learner: its feeder) what this replica holds and has committed.
    pub(crate) fn send_report(&mut self, outputs: &mut Vec<Output>) {
        let Some(to) = self.predecessor else { return };
        let epoch = self.chain.epoch;
        let position = self.catch_up.position(&self.log);
        let attempt = self.attempt;
        Output::Report { to, epoch, position, attempt }.push(outputs);
    }

    fn connected(&mut self, peer: ServerId, outputs: &mut Vec<Output>) {
        let epoch = self.chain.epoch;
        for link in [&mut self.successor, &mut self.learner].into_iter().flatten() {
            if link.server == peer {
                link.disconnect();
                Output::AskReport { to: peer, epoch }.push(outputs);
            }
        }
        if self.predecessor == Some(peer) {
            self.restart_copy();
            self.attempt += 1;
            self.send_report(outputs);
        }
    }

    /// The commit rule: a record is committed when every replica on the path holds it (and, where it
    /// asks for that, has it on disk), and no removed tail may still be read without it.
    #[inline]
    pub(crate) fn advance(&mut self, now: Time, outputs: &mut Vec<Output>) {
        if now < self.hold_until || !self.catch_up.is_whole() {
            return;
        }
        let target = match self.role {
            Role::Outside | Role::Learner => return,
            Role::Single | Role::Tail => self.log.ready(),
            Role::Head | Role::Middle => {
                let below = self.successor.as_ref().map_or(Lsn(0), |link| link.acked);
                self.log.ready().min(below)
            }
        };
        if target <= self.log.committed() {
            return;
        }
        self.log.commit(target);
        if let Some(to) = self.predecessor {
            Output::ReportCommitted { to, epoch: self.chain.epoch, lsn: target }.push(outputs);
        }
        if self.is_head() {
            Output::Acknowledge { up_to: target }.push(outputs);
        }
    }

    fn release_hold(&mut self, now: Time, outputs: &mut Vec<Output>) {
        if self.hold_until > Time(0) && now >= self.hold_until {
            self.hold_until = Time(0);
            self.forward(now, outputs);
            self.advance(now, outputs);
        }
    }

    #[inline]
    fn check_epoch(
        &self,
        from: ServerId,
        its: Epoch,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        let (partition, own) = (self.partition, self.chain.epoch);
        if its < own {
            Output::Refuse { to: from, epoch: own }.push(outputs);
            return Err(ReplicaError::StaleEpoch { partition, from, its, own });
        }
        if its > own {
            return Err(ReplicaError::BehindEpoch { partition, from, its, own });
        }
        Ok(())
    }

    pub(crate) fn check_from_above(&self, from: ServerId) -> Result<(), ReplicaError> {
        if self.predecessor == Some(from) { Ok(()) } else { Err(self.not_a_neighbour(from)) }
    }

    pub(crate) fn not_a_neighbour(&self, from: ServerId) -> ReplicaError {
        ReplicaError::NotANeighbour { partition: self.partition, from, epoch: self.chain.epoch }
    }

    /// The last record held, if this replica's state is that of a position of the log.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.catch_up.position(&self.log)
    }
}
