//! A simulated client: pushes exactly once by retrying until acknowledged, and reads one-sidedly.

use std::collections::VecDeque;
use std::rc::Rc;

use windlass_replication::{Lane, Membership, Push, Time};
use windlass_wire::{Epoch, Sequence, WorkerClock};

use super::memory::{BLOCKS, Pushed, Seen, clock_of, session};
use super::message::Message;
use super::options::Mutation;
use super::rounds::Worker;
use super::server::{TIMINGS, place};
use super::settling::Settling;
use super::strong_reads::{LeaseWord, StrongReads};
use super::world::{COORDINATOR, Event, Node, World};

const TICK_US: u64 = 2_000;
const RETRY_US: u64 = 12_000;
const WINDOW: usize = 6;
/// Looks at the lease word after a read before it is given up.
const LOOKS_MAX: u32 = 10;
const LOOK_EVERY_US: u64 = 1_500;

#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    pub(super) index: u32,
    pub(super) partition: usize,
    pub(super) push: Push,
    pub(super) sent_at: u64,
    /// When it was sent first.
    pub(super) begun_at: u64,
    /// Of a worker: the clock it belongs to.
    pub(super) clock: WorkerClock,
    /// It is no push but the end of that clock.
    pub(super) ends: Option<WorkerClock>,
}

/// What one access to a server's memory brought.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Word(LeaseWord),
    Data { count: usize, hash: u64 },
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    Data,
    After { looks: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Read {
    number: u64,
    partition: usize,
    block: usize,
    server: usize,
    epoch: Epoch,
    stage: Stage,
    access_began: Time,
    data_began: Time,
    data_ended: Time,
    seen: Seen,
}

#[derive(Debug)]
pub(super) struct Client {
    map: Rc<Membership>,
    next: Sequence,
    /// Per partition: the last sequence sent.
    previous: Vec<Sequence>,
    outstanding: VecDeque<Outstanding>,
    to_push: u32,
    clocks: Vec<u64>,
    read: Option<Read>,
    /// Per (server, partition): whether it is trusted, and over which life of the link.
    trusted: Vec<(u32, StrongReads)>,
    wanted_map_at: u64,
    /// Until then nothing it decides to send leaves it.
    stands_until: u64,
    worker: Worker,
    settling: Settling,
}

impl Client {
    pub(super) fn new(partitions: usize, servers: usize, pushes: u32) -> Self {
        Self {
            map: Rc::new(Membership::new(1, 1)),
            next: Sequence(1),
            previous: vec![Sequence(0); partitions],
            outstanding: VecDeque::new(),
            to_push: pushes,
            clocks: vec![0; partitions * BLOCKS],
            read: None,
            trusted: vec![(0, StrongReads::default()); servers * partitions],
            wanted_map_at: 0,
            stands_until: 0,
            worker: Worker::default(),
            settling: Settling::new(servers),
        }
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(super) fn worker_mut(&mut self) -> &mut Worker {
        &mut self.worker
    }

    pub(super) fn settling(&mut self) -> &mut Settling {
        &mut self.settling
    }

    pub(super) fn map(&self) -> &Membership {
        &self.map
    }

    pub(super) fn set_map(&mut self, map: Rc<Membership>) {
        self.map = map;
    }

    pub(super) fn next_sequence(&mut self) -> Sequence {
        let sequence = self.next;
        self.next = sequence.next();
        sequence
    }

    pub(super) fn add(&mut self, one: Outstanding) {
        self.outstanding.push_back(one);
    }

    /// The last push to a partition before another one that has no answer.
    pub(super) fn last_before(&self, partition: usize, sequence: Sequence) -> Option<Sequence> {
        let of_it = self.outstanding.iter().filter(|one| one.partition == partition);
        let pushes = of_it.filter(|one| one.ends.is_none() && one.push.sequence < sequence);
        pushes.map(|one| one.push.sequence).max()
    }

    /// The oldest clock of which something has no answer.
    pub(super) fn oldest_clock(&self) -> Option<WorkerClock> {
        self.outstanding.iter().map(|one| one.clock).min()
    }

    /// Clocks still to be worked at.
    pub(super) fn clocks_left(&self) -> u32 {
        self.to_push
    }

    pub(super) fn end_clock(&mut self) {
        self.to_push -= 1;
    }

    /// Gives up all that has no answer; the numbers of its pushes, and others.
    pub(super) fn abandon(&mut self) -> Vec<u32> {
        self.outstanding.drain(..).map(|one| one.index).collect()
    }

    pub(super) fn stands_until(&mut self) -> &mut u64 {
        &mut self.stands_until
    }

    /// Takes out what was sent first more than `us` ago, and mends the order of what is left.
    pub(super) fn give_up(&mut self, partition: usize, now: u64, us: u64) -> Vec<u32> {
        let is_old = |one: &Outstanding| one.partition == partition && now - one.begun_at >= us;
        let over = self.outstanding.iter().filter(|one| is_old(one)).map(|one| one.index).collect();
        self.outstanding.retain(|one| !is_old(one));
        self.mend_order(partition);
        over
    }

    /// Each push names the one before it that has no answer; what was answered is known everywhere.
    pub(super) fn mend_order(&mut self, partition: usize) {
        let mut previous = None;
        let pushes = |one: &&mut Outstanding| one.partition == partition && one.ends.is_none();
        for one in self.outstanding.iter_mut().filter(pushes) {
            one.push.previous = previous;
            previous = Some(one.push.sequence);
        }
    }

    /// The last push to a partition that has no answer.
    pub(super) fn last_outstanding(&self, partition: usize) -> Option<Sequence> {
        let pushes = |one: &&Outstanding| one.partition == partition && one.ends.is_none();
        let mut of_it = self.outstanding.iter().rev().filter(pushes);
        of_it.next().map(|one| one.push.sequence)
    }

    pub(super) fn is_done(&self) -> bool {
        self.unacknowledged() == 0
    }

    fn without_answer(&self) -> usize {
        self.outstanding.len() + self.settling.count()
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.without_answer() + self.to_push as usize
    }
}

impl World {
    fn client_local(&self, client: usize) -> Time {
        // Clients drift as much as servers may.
        let drift = self.now / 1_000 * (client as u64 % 3) / 3;
        Time(self.now + drift + 77_000)
    }

    pub(super) fn client_tick(&mut self, c: usize) {
        self.schedule(TICK_US, Event::ClientTick { client: c });
        if self.clients[c].map.epoch == Epoch(0) {
            self.want_map(c);
            return;
        }
        if self.options.clients_go_away() && self.is_elsewhere(c) {
            return;
        }
        if self.options.settles {
            self.settle_tick(c);
        }
        if self.is_in_rounds() {
            self.worker_tick(c);
        }
        let pace = self.random.one_in(self.pace()) && !self.is_in_rounds();
        if pace && self.clients[c].to_push > 0 && self.clients[c].without_answer() < WINDOW {
            let partition = self.random.index(self.partitions);
            let burst = 1 + self.random.below(3);
            for _ in 0..burst.min(u64::from(self.clients[c].to_push)) {
                self.new_push(c, partition);
            }
        }
        let now = self.now;
        let client = &self.clients[c];
        let overdue: Vec<bool> = (0..self.partitions)
            .map(|p| {
                let mut of_it = client.outstanding.iter().filter(|one| one.partition == p);
                of_it.any(|one| now - one.sent_at >= RETRY_US)
            })
            .collect();
        if overdue.iter().any(|&overdue| overdue) {
            self.want_map(c);
        }
        for (p, _) in overdue.into_iter().enumerate().filter(|(_, overdue)| *overdue) {
            self.resend(c, p);
        }
        if self.clients[c].read.is_none() && self.random.one_in(3) {
            self.begin_read(c);
        }
    }

    fn new_push(&mut self, c: usize, partition: usize) {
        let block = self.random.index(BLOCKS);
        let client = &mut self.clients[c];
        let count = &mut client.clocks[partition * BLOCKS + block];
        *count += 1;
        let clock = clock_of(*count);
        let sequence = client.next;
        client.next = sequence.next();
        client.to_push -= 1;
        let (session, incarnation) = session(c);
        let previous = std::mem::replace(&mut client.previous[partition], sequence);
        let mutated = self.options.mutation == Some(Mutation::SkipGaps);
        let previous = self.previous_of(c, partition, previous);
        let previous = previous.filter(|_| !mutated && !self.options.settles);
        let push = Push { session, incarnation, lane: Lane(0), sequence, previous };
        let index = u32::try_from(self.pushes.len()).expect("few pushes");
        self.pushes.push(Pushed { client: c, partition, block, clock, ..Pushed::default() });
        let now = self.now;
        let one =
            Outstanding { index, partition, push, sent_at: now, begun_at: now, clock, ends: None };
        if self.options.settles {
            self.send_settled(c, one);
            return;
        }
        self.clients[c].outstanding.push_back(one);
        self.send_push(c, index, partition, push);
    }

    pub(super) fn send_push(&mut self, c: usize, index: u32, partition: usize, push: Push) {
        let entry = &self.clients[c].map.partitions[partition];
        let (Some(head), epoch) = (entry.head(), entry.epoch) else { return };
        let from = self.client_base() + c;
        let message = Message::Push { partition, epoch, push, index };
        if self.options.clients_go_away() {
            self.write(c, place(head), message);
            return;
        }
        self.send(from, place(head), message);
    }

    /// Sends again, in order, everything of a partition that is not acknowledged.
    fn resend(&mut self, c: usize, partition: usize) {
        self.give_up_old(c, partition);
        if self.is_in_rounds() {
            self.clients[c].mend_order(partition);
        }
        let now = self.now;
        let mut again = Vec::new();
        for one in self.clients[c].outstanding.iter_mut().filter(|one| one.partition == partition) {
            one.sent_at = now;
            again.push(*one);
        }
        for one in again {
            self.send_one(c, &one);
        }
    }

    pub(super) fn want_map(&mut self, c: usize) {
        if self.clients[c].wanted_map_at + 2_000 <= self.now {
            self.clients[c].wanted_map_at = self.now;
            self.send(self.client_base() + c, COORDINATOR, Message::WantMap);
        }
    }

    pub(super) fn client_message(&mut self, c: usize, from: Node, message: Message) {
        match message {
            Message::Map(map) if self.options.settles && self.clients[c].map.epoch > Epoch(0) => {
                self.settle_map(c, &map);
            }
            Message::Map(map) => {
                if map.epoch <= self.clients[c].map.epoch {
                    return;
                }
                let old = std::mem::replace(&mut self.clients[c].map, map);
                for p in 0..self.partitions {
                    let new = self.clients[c].map.partitions[p].epoch;
                    if old.partitions.get(p).is_none_or(|entry| entry.epoch != new) {
                        self.resend(c, p);
                    }
                }
            }
            Message::Acknowledged { partition, sequence } if self.options.settles => {
                self.settled(c, from, partition, sequence);
            }
            Message::SendAgain { partition, sequence } => {
                self.sent_back(c, from, partition, sequence);
            }
            Message::Acknowledged { partition, sequence } => {
                let now = self.now;
                let client = &mut self.clients[c];
                let found = client
                    .outstanding
                    .iter()
                    .position(|one| one.push.sequence == sequence && one.partition == partition);
                if let Some(place) = found {
                    let one = client.outstanding.remove(place).expect("found");
                    if one.ends.is_none() {
                        self.pushes[one.index as usize].acknowledged_at = Some(now);
                    }
                }
            }
            Message::Refused => self.want_map(c),
            Message::NoRank => self.worker_lost_rank(c, from),
            Message::Joined { partition, clock } => {
                self.note_joined(c, from, partition);
                self.worker_joined(c, partition, clock);
            }
            other => unreachable!("no client gets {other:?}"),
        }
    }

    // ---- one-sided reads ----

    fn begin_read(&mut self, c: usize) {
        let partition = self.random.index(self.partitions);
        let block = self.random.index(BLOCKS);
        if self.random.one_in(4) && !self.is_in_rounds() {
            self.any_read(c, partition, block);
            return;
        }
        let entry = &self.clients[c].map.partitions[partition];
        let (Some(tail), epoch) = (entry.tail(), entry.epoch) else { return };
        let number = self.number();
        let seen = Seen { partition, block, began_at: self.now, ended_at: 0, count: 0, hash: 0 };
        self.clients[c].read = Some(Read {
            number,
            partition,
            block,
            server: place(tail),
            epoch,
            stage: Stage::Before,
            access_began: Time(0),
            data_began: Time(0),
            data_ended: Time(0),
            seen,
        });
        self.start_access(c, 0);
    }

    fn start_access(&mut self, c: usize, after: u64) {
        let began = Time(self.client_local(c).0 + after);
        let Some(read) = &mut self.clients[c].read else { return };
        read.access_began = began;
        let (number, server) = (read.number, read.server);
        let generation = self.generation(self.client_base() + c, server);
        let latency = after + self.latency() + self.stall(self.client_base() + c, server);
        self.schedule(latency, Event::Access { client: c, number, generation });
    }

    /// The network card of the server serves the access, whatever its process does.
    pub(super) fn access(&mut self, c: usize, number: u64, generation: u32) {
        let Some(read) = self.clients[c].read.filter(|read| read.number == number) else { return };
        let node = self.client_base() + c;
        let server = read.server;
        let works = self.is_reachable(node, server) && self.generation(node, server) == generation;
        let part = &self.servers[server].parts[read.partition];
        let look = match read.stage {
            _ if !works => Look::Failed,
            Stage::Data => {
                let block = &part.blocks[read.block];
                Look::Data { count: block.list.len(), hash: block.hash }
            }
            Stage::Before | Stage::After { .. } => Look::Word(part.word),
        };
        let latency = self.latency() + self.stall(server, node);
        self.schedule(latency, Event::Arrive { client: c, number, look });
    }

    pub(super) fn arrive(&mut self, c: usize, number: u64, look: Look) {
        let now = self.client_local(c);
        let Some(mut read) = self.clients[c].read.filter(|read| read.number == number) else {
            return;
        };
        let generation = self.generation(self.client_base() + c, read.server);
        let place = read.server * self.partitions + read.partition;
        let trusted = &mut self.clients[c].trusted[place];
        if trusted.0 != generation {
            *trusted = (generation, StrongReads::default());
        }
        match (look, read.stage) {
            (Look::Failed, _) => {
                self.clients[c].read = None;
                return;
            }
            (Look::Word(word), stage) => {
                trusted.1.look(read.access_began, now, word, TIMINGS.drift_ppm);
                let current = trusted.1.is_current(read.epoch, read.data_began, read.data_ended);
                match stage {
                    Stage::After { .. } if current => {
                        self.clients[c].read = None;
                        read.seen.ended_at = self.now;
                        self.seen.push(read.seen);
                        return;
                    }
                    Stage::After { looks } if looks >= LOOKS_MAX || word.epoch != read.epoch => {
                        self.clients[c].read = None;
                        return;
                    }
                    Stage::After { looks } => read.stage = Stage::After { looks: looks + 1 },
                    Stage::Before => read.stage = Stage::Data,
                    Stage::Data => unreachable!("a word comes for a word"),
                }
            }
            (Look::Data { count, hash }, _) => {
                read.seen.count = count;
                read.seen.hash = hash;
                read.data_began = read.access_began;
                read.data_ended = now;
                read.stage = Stage::After { looks: 0 };
            }
        }
        let after = match read.stage {
            Stage::After { looks } if looks > 0 => LOOK_EVERY_US,
            _ => 0,
        };
        self.clients[c].read = Some(read);
        self.start_access(c, after);
    }

    /// A pull from any replica: what its stamp claims must be there.
    fn any_read(&mut self, c: usize, partition: usize, block: usize) {
        let entry = &self.clients[c].map.partitions[partition];
        let path: Vec<usize> = entry.path().map(place).collect();
        if path.is_empty() {
            return;
        }
        let server = path[self.random.index(path.len())];
        let part = &self.servers[server].parts[partition];
        if !self.servers[server].is_running() || !part.replica.is_readable() {
            return;
        }
        self.check_claims(server, partition, block);
    }
}
