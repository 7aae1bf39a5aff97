//! Clients that are away for long, and heads that forget them.
//!
//! A client is connected to a server unless the link between them is cut. It decides whether a push is
//! young enough to be sent again, and may then stand still for longer than sessions live before what it
//! decided leaves it: by the connection it had, if that still stands.

use std::rc::Rc;

use windlass_replication::mix::mix2;
use windlass_replication::{Input, Replica};
use windlass_wire::{Lsn, Sequence, SessionId};

use super::memory::session;
use super::message::{Message, Record};
use super::options::{Mode, Mutation};
use super::schedule::HEAL_US;
use super::server::{LIMITS, header};
use super::world::{Event, Node, World};

/// After how long sessions expire.
pub(super) const EXPIRY_MS: u32 = 60;
const EXPIRY_US: u64 = EXPIRY_MS as u64 * 1_000;

impl World {
    /// One in how many ticks a client begins to push.
    pub(super) fn pace(&self) -> u64 {
        if self.options.mode == Mode::Sessions { 12 } else { 2 }
    }

    /// Whether the client is away; now and then it goes, or comes to stand still.
    pub(super) fn is_elsewhere(&mut self, c: usize) -> bool {
        let (node, now) = (self.client_base() + c, self.now);
        if self.link(node, node).cuts > 0 {
            return true;
        }
        let (often, long) = match self.options.is_in_rounds() {
            true => (100, 2 * EXPIRY_US),
            false => (25, 4 * EXPIRY_US),
        };
        if now < HEAL_US && self.random.one_in(often) {
            let us = self.random.between(1_000, long);
            for other in 0..=node {
                if other < self.client_base() || other == node {
                    self.cut(other, node, us);
                }
            }
            return true;
        }
        if now < HEAL_US && self.random.one_in(often) {
            let us = self.random.between(1_000, long).min(HEAL_US - now);
            let until = self.clients[c].stands_until();
            *until = (*until).max(now + us);
        }
        false
    }

    /// A client has decided to send something: it leaves once the client runs.
    pub(super) fn write(&mut self, client: usize, server: Node, message: Message) {
        let after = self.clients[client].stands_until().saturating_sub(self.now);
        let generation = self.generation(server, self.client_base() + client);
        let event = Event::Written { client, server, generation, message };
        self.schedule(after, event);
    }

    /// It leaves, if the connection it was decided for stands.
    pub(super) fn written(&mut self, c: usize, server: Node, generation: u32, message: Message) {
        let node = self.client_base() + c;
        if self.generation(server, node) == generation {
            self.send(node, server, message);
        }
    }

    /// The push before one, as far as it has no answer.
    pub(super) fn previous_of(
        &self,
        c: usize,
        partition: usize,
        sent: Sequence,
    ) -> Option<Sequence> {
        match self.options.mode {
            Mode::Pushes
            | Mode::Gray
            | Mode::Overlap
            | Mode::Mixed
            | Mode::Frozen
            | Mode::Store => Some(sent),
            _ => self.clients[c].last_outstanding(partition),
        }
    }

    /// Gives up what servers may have forgotten, by a clock that is slow, right or fast.
    pub(super) fn give_up_old(&mut self, c: usize, partition: usize) {
        if self.options.mode != Mode::Sessions {
            return;
        }
        let patience = match c % 3 {
            _ if self.options.mutation == Some(Mutation::RetryForEver) => u64::MAX,
            0 => EXPIRY_US / 2,
            1 => EXPIRY_US * 9 / 10,
            _ => EXPIRY_US / 3,
        };
        let now = self.now;
        for index in self.clients[c].give_up(partition, now, patience) {
            self.pushes[index as usize].given_up = true;
            self.outcome.given_up += 1;
        }
    }

    /// The head's look at who is idle and not connected.
    pub(super) fn expire_sessions(&mut self, s: usize, p: usize) {
        if self.options.mode != Mode::Sessions {
            return;
        }
        let now = self.local(s);
        let idle = |replica: &mut Replica| replica.idle_sessions(now, EXPIRY_US).collect();
        let mut expired: Vec<SessionId> = idle(&mut self.servers[s].parts[p].replica);
        if self.options.mutation != Some(Mutation::ExpireConnected) {
            expired.retain(|id| !self.is_connected(s, *id));
        }
        let part = &mut self.servers[s].parts[p];
        if expired.is_empty() || part.replica.inflight_count() >= LIMITS.inflight_max {
            return;
        }
        self.outcome.expired += expired.len() as u64;
        let record = Rc::new(Record {
            lsn: part.replica.log().last().next(),
            epoch: part.replica.epoch(),
            sync: self.sync,
            covered: Vec::new(),
            pushes: Vec::new(),
            expired,
            turned: super::rounds::Turned::default(),
        });
        part.store(Rc::clone(&record));
        self.step(s, p, Input::Append(header(&record))).expect("the head has room");
    }

    /// Replicas at one record remember the same of the same sessions.
    pub(super) fn check_sessions(&mut self, s: usize, p: usize, last: Lsn) {
        let replica = &self.servers[s].parts[p].replica;
        let at = replica.position().filter(|at| at.lsn == last);
        let Some(at) = at.filter(|_| self.options.mode == Mode::Sessions) else { return };
        let mut bytes = Vec::new();
        replica.sessions().encode(&mut bytes);
        let hash = bytes.iter().fold(0, |hash, byte| mix2(hash, u64::from(*byte)));
        let known = *self.sessions_at.entry((p, last, at.epoch)).or_insert(hash);
        if known != hash {
            self.outcome.divergent += 1;
            self.found(|| format!("partition {p}: sessions differ at record {last}"));
        }
    }

    fn is_connected(&mut self, s: usize, id: SessionId) -> bool {
        let client = (0..self.clients.len()).find(|client| session(*client).0 == id);
        let node = self.client_base() + client.expect("a client's session");
        self.link(s, node).cuts == 0
    }
}
