//! Clients that go by the order of their connections, as those of the library do: a push names none before
//! it. So nothing new goes to a partition before everything older is answered, or its link is gone and it is
//! sent again first. The steps are those of `client/src/core/recover.rs`; both ends keep
//! [`windlass_wire::request::order`].

use std::collections::VecDeque;
use std::rc::Rc;

use windlass_replication::{Admission, Membership, Push};
use windlass_wire::request::order::{Gate, Resumption};
use windlass_wire::{Epoch, Sequence, ServerId};

use super::client::Outstanding;
use super::memory::Waiting;
use super::message::Message;
use super::options::Mutation;
use super::server::place;
use super::world::{COORDINATOR, Node, World};

/// Silence of a server after which it is asked whether the map has changed.
const SILENCE_US: u64 = 12_000;
/// How long answers to what was sent under the old map are waited for, before links are cut.
const SETTLE_MAX_US: u64 = 100_000;
/// Maps are asked for so often.
const ASK_US: u64 = 2_000;

/// What a client knows of its links, and of what went by them.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// By server.
    links: Vec<ClientLink>,
    /// What has to be sent again, or could not be sent.
    backlog: Vec<Outstanding>,
    phase: Phase,
    asked_at: u64,
}

#[derive(Debug, Default)]
struct ClientLink {
    /// The connection it was made as.
    generation: u32,
    failed: bool,
    order: Resumption,
    in_flight: VecDeque<Outstanding>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Calm,
    /// The map is to be learned.
    Learn,
    /// This map is to be installed once everything in flight that it concerns is settled.
    Settle { map: Rc<Membership>, since: u64 },
}

impl Settling {
    pub(super) fn new(servers: usize) -> Self {
        let links = (0..servers).map(|_| ClientLink::default()).collect();
        Self { links, ..Self::default() }
    }

    /// Pushes without an answer.
    pub(super) fn count(&self) -> usize {
        self.backlog.len() + self.links.iter().map(|link| link.in_flight.len()).sum::<usize>()
    }

    fn is_open(&self, server: usize) -> bool {
        !self.links[server].failed && !self.links[server].order.is_refused()
    }

    fn start_trouble(&mut self) {
        if matches!(self.phase, Phase::Calm) {
            self.phase = Phase::Learn;
        }
    }

    fn take(&mut self, server: usize, partition: usize, sequence: Sequence) -> Option<Outstanding> {
        let flight = &mut self.links[server].in_flight;
        let its = |one: &Outstanding| one.push.sequence == sequence && one.partition == partition;
        let at = flight.iter().position(its)?;
        flight.remove(at)
    }

    fn fail(&mut self, server: usize) {
        let link = &mut self.links[server];
        link.failed = true;
        link.order = Resumption::default();
        self.backlog.extend(link.in_flight.drain(..));
        self.start_trouble();
    }
}

impl World {
    /// One step of a client: what its links show, and out of trouble.
    pub(super) fn settle_tick(&mut self, c: usize) {
        let node = self.client_base() + c;
        self.notice_broken(c);
        let (now, settling) = (self.now, self.clients[c].settling());
        let is_late = |link: &ClientLink| {
            let oldest = link.in_flight.iter().map(|one| one.sent_at).min();
            oldest.is_some_and(|sent_at| now - sent_at >= SILENCE_US)
        };
        let asks = match settling.phase {
            Phase::Learn => true,
            Phase::Calm | Phase::Settle { .. } => settling.links.iter().any(is_late),
        };
        if asks && settling.asked_at + ASK_US <= now {
            settling.asked_at = now;
            self.send(node, COORDINATOR, Message::WantMap);
        }
        self.go_on(c);
    }

    /// A link that is broken carries nothing more, though its server may be reached by another.
    fn notice_broken(&mut self, c: usize) {
        let node = self.client_base() + c;
        for server in 0..self.servers.len() {
            let generation = self.generation(server, node);
            let settling = self.clients[c].settling();
            if !settling.links[server].failed && settling.links[server].generation != generation {
                settling.fail(server);
            }
        }
    }

    /// A map has come, asked for or not.
    pub(super) fn settle_map(&mut self, c: usize, map: &Rc<Membership>) {
        let (now, own) = (self.now, self.clients[c].map().epoch);
        let settling = self.clients[c].settling();
        match &mut settling.phase {
            _ if map.epoch < own => return,
            Phase::Calm if map.epoch == own => return,
            Phase::Settle { map: known, .. } if map.epoch <= known.epoch => return,
            Phase::Settle { map: known, .. } => *known = Rc::clone(map),
            Phase::Calm | Phase::Learn => {
                settling.phase = Phase::Settle { map: Rc::clone(map), since: now };
            }
        }
        self.go_on(c);
    }

    fn go_on(&mut self, c: usize) {
        self.notice_broken(c);
        let Phase::Settle { map, since } = &self.clients[c].settling().phase else { return };
        let (map, since) = (Rc::clone(map), *since);
        if self.are_answered(c, &map, since) {
            self.install(c, map);
            self.send_again(c);
        }
    }

    /// Whether everything in flight that the new map concerns is answered, or its link is gone.
    fn are_answered(&mut self, c: usize, map: &Membership, since: u64) -> bool {
        let node = self.client_base() + c;
        let changes = map.epoch != self.clients[c].map().epoch;
        let patience_is_over = self.now - since >= SETTLE_MAX_US;
        let mut settled = true;
        for server in 0..self.servers.len() {
            let id = self.servers[server].id;
            let is_replaced = life_in(map, id) != life_in(self.clients[c].map(), id);
            let settling = self.clients[c].settling();
            let link = &settling.links[server];
            if link.failed || link.in_flight.is_empty() {
                continue;
            }
            let concerned = changes || link.order.is_refused();
            if is_replaced || concerned && patience_is_over {
                settling.fail(server);
                self.break_link(server, node);
            } else {
                settled &= !concerned || self.options.mutation == Some(Mutation::SettleNothing);
            }
        }
        settled
    }

    /// Goes by a map from now on, and makes the links anew that are gone.
    fn install(&mut self, c: usize, map: Rc<Membership>) {
        let node = self.client_base() + c;
        self.clients[c].set_map(map);
        for server in 0..self.servers.len() {
            let (generation, is_there) =
                (self.generation(server, node), self.is_connected_to(node, server));
            let link = &mut self.clients[c].settling().links[server];
            link.order.settled();
            if link.failed && is_there {
                *link = ClientLink { generation, ..ClientLink::default() };
            }
        }
    }

    /// Sends what was kept, in the order of its sequences; what has nowhere to go stays.
    fn send_again(&mut self, c: usize) {
        let mut waiting = std::mem::take(&mut self.clients[c].settling().backlog);
        waiting.sort_by_key(|one| one.push.sequence);
        self.clients[c].settling().phase = Phase::Calm;
        for one in waiting {
            self.send_settled(c, one);
        }
        let settling = self.clients[c].settling();
        if !settling.backlog.is_empty() {
            settling.start_trouble();
        }
    }

    /// Sends a push by the link of its partition's head, or keeps it.
    pub(super) fn send_settled(&mut self, c: usize, mut one: Outstanding) {
        let (now, node) = (self.now, self.client_base() + c);
        let map = self.clients[c].map();
        let (head, epoch) = (map.partitions[one.partition].head().map(place), map.epoch);
        let settling = self.clients[c].settling();
        let is_settling = matches!(settling.phase, Phase::Settle { .. });
        let Some(head) = head.filter(|head| !is_settling && settling.is_open(*head)) else {
            settling.backlog.push(one);
            settling.start_trouble();
            return;
        };
        let link = &mut settling.links[head];
        let resumes = link.order.resumes();
        link.order.sent();
        one.sent_at = now;
        link.in_flight.push_back(one);
        let Outstanding { partition, push, index, .. } = one;
        self.send(node, head, Message::PushInOrder { partition, epoch, push, index, resumes });
    }

    /// A push is done.
    pub(super) fn settled(&mut self, c: usize, from: Node, partition: usize, sequence: Sequence) {
        let now = self.now;
        if let Some(one) = self.clients[c].settling().take(from, partition, sequence) {
            self.pushes[one.index as usize].acknowledged_at = Some(now);
            self.go_on(c);
        }
    }

    /// A push has to be sent again.
    pub(super) fn sent_back(&mut self, c: usize, from: Node, partition: usize, sequence: Sequence) {
        let settling = self.clients[c].settling();
        if let Some(one) = settling.take(from, partition, sequence) {
            settling.links[from].order.refused();
            settling.backlog.push(one);
            settling.start_trouble();
            self.go_on(c);
        }
    }

    fn is_connected_to(&self, node: Node, server: usize) -> bool {
        self.servers[server].is_running() && self.is_reachable(node, server)
    }

    // ---- the server's end ----

    /// A push that names none before it.
    pub(super) fn pushed_in_order(
        &mut self,
        s: usize,
        (p, epoch): (usize, Epoch),
        from: Node,
        (push, index): (&Push, u32),
        resumes: bool,
    ) {
        let (client, sequence) = (from - self.client_base(), push.sequence);
        let generation = self.generation(s, from);
        let never_closed = self.options.mutation == Some(Mutation::ForgetRefusal);
        let server = &mut self.servers[s];
        let gate = server.gates.entry(client).or_default();
        if gate.0 != generation {
            *gate = (generation, Gate::default());
        }
        let part = &mut server.parts[p];
        let is_by_this =
            server.joined && epoch <= server.map.epoch && part.replica.epoch() <= epoch;
        let is_taken = gate.1.admits(resumes) && is_by_this && part.replica.is_head();
        let admission = if is_taken { part.replica.admit(push).ok() } else { None };
        match admission {
            Some(Admission::Apply) => {
                part.turn.push((index, *push));
                self.end_turn_soon(s, p);
            }
            Some(Admission::Duplicate { lsn }) if lsn <= part.replica.log().committed() => {
                self.send(s, from, Message::Acknowledged { partition: p, sequence });
            }
            Some(Admission::Duplicate { lsn }) => {
                part.waiting.push(Waiting { lsn, client, sequence });
            }
            Some(Admission::Pending) => {
                let lsn = part.replica.log().last().next();
                part.waiting.push(Waiting { lsn, client, sequence });
            }
            Some(Admission::Gap { .. } | Admission::StaleIncarnation) => {
                unreachable!("clients have one life, and pushes name none before them")
            }
            Some(Admission::Full) | None => {
                if !never_closed {
                    gate.1.close();
                }
                self.send(s, from, Message::SendAgain { partition: p, sequence });
            }
        }
    }

    /// This replica can say no more what becomes of the pushes it took: their clients ask the chain.
    pub(super) fn give_up_waiting(&mut self, s: usize, p: usize) {
        let part = &mut self.servers[s].parts[p];
        let (turn, waiting) = (std::mem::take(&mut part.turn), std::mem::take(&mut part.waiting));
        if !self.options.settles {
            return;
        }
        for (index, push) in turn {
            let client = self.pushes[index as usize].client;
            if let Some((_, gate)) = self.servers[s].gates.get_mut(&client) {
                gate.close();
            }
            let again = Message::SendAgain { partition: p, sequence: push.sequence };
            self.send(s, self.client_base() + client, again);
        }
        for Waiting { client, sequence, .. } in waiting {
            let again = Message::SendAgain { partition: p, sequence };
            self.send(s, self.client_base() + client, again);
        }
    }
}

/// The life of a server in force.
fn life_in(map: &Membership, id: ServerId) -> Option<windlass_wire::Incarnation> {
    map.servers.get(&id).filter(|_| map.is_in_force(id)).map(|entry| entry.incarnation)
}
