//! A simulated server: the real leases and replicas, and the small shell around them that an engine
//! has too.

use std::collections::VecDeque;
use std::rc::Rc;

use windlass_replication::{
    Admission, ClusterMap, Covered, Input, LeaseOutput, LeaseTimings, LeaseWord, Leases, LogIndex,
    Output, Push, RecordHeader, Replica, ReplicaLimits, Time,
};
use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId, ServerId};

use super::memory::{Copying, Part, Waiting, new_clock};
use super::message::{Message, Record};
use super::options::Mutation;
use super::world::{COORDINATOR, Event, Node, World};

pub(super) const TIMINGS: LeaseTimings =
    LeaseTimings { lease_us: 20_000, ping_us: 5_000, suspect_us: 30_000, drift_ppm: 2_000 };
pub(super) const TICK_US: u64 = 2_500;
const TURN_US: u64 = 15;

pub(super) const LIMITS: ReplicaLimits =
    ReplicaLimits { inflight_max: 64, sessions_max: 64, caught_up_lag_max: 2 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Running,
    Paused,
    /// Dead; `visible`: clients still have its last memory mapped.
    Down {
        visible: bool,
    },
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) life: Incarnation,
    pub(super) process: Process,
    /// Whether a map with this life has been seen.
    pub(super) joined: bool,
    pub(super) kept: bool,
    pub(super) map: Rc<ClusterMap>,
    pub(super) leases: Leases,
    pub(super) parts: Vec<Part>,
    pub(super) inbox: VecDeque<Event>,
    /// Cut off or otherwise unfit until then, as far as the fault plan knows.
    pub(super) unfit_until: u64,
    ticks: u64,
}

impl Server {
    pub(super) fn new(index: usize, partitions: usize) -> Self {
        let id = ServerId(u32::try_from(index + 1).expect("few servers"));
        Self {
            id,
            life: Incarnation(1),
            process: Process::Running,
            joined: false,
            kept: true,
            map: Rc::new(ClusterMap::new(1, 1)),
            leases: Leases::new(Time(0), TIMINGS),
            parts: (0..partitions)
                .map(|p| Part::new(Replica::new(partition(p), id, LIMITS)))
                .collect(),
            inbox: VecDeque::new(),
            unfit_until: 0,
            ticks: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.process == Process::Running
    }
}

pub(super) fn partition(index: usize) -> PartitionId {
    PartitionId(u32::try_from(index).expect("few partitions"))
}

/// The place of a server in the cluster.
pub(super) fn place(id: ServerId) -> usize {
    id.0 as usize - 1
}

impl World {
    pub(super) fn server_tick(&mut self, s: usize) {
        let now = self.local(s);
        self.servers[s].ticks += 1;
        if !self.servers[s].joined {
            let (life, kept) = (self.servers[s].life, self.servers[s].kept);
            if self.servers[s].ticks % 2 == 0 {
                self.send(s, COORDINATOR, Message::Join { life, kept });
            }
            return;
        }
        let mut leases = std::mem::take(&mut self.lease_outputs);
        self.servers[s].leases.tick(now, &mut leases);
        for output in leases.drain(..) {
            self.lease_output(s, output);
        }
        self.lease_outputs = leases;
        for p in 0..self.partitions {
            if self.servers[s].parts[p].replica.wakes_at(Time(0)).is_some() {
                self.step(s, p, Input::Tick).expect("a tick is always taken");
            }
            self.publish(s, p);
        }
        if self.servers[s].ticks % 2 == 0 {
            let (life, map_epoch) = (self.servers[s].life, self.servers[s].map.epoch);
            self.send(s, COORDINATOR, Message::Heartbeat { life, map_epoch });
            for p in 0..self.partitions {
                if let Some(output) = self.servers[s].parts[p].replica.pending_report() {
                    self.output(s, p, output);
                }
            }
        }
    }

    fn lease_output(&mut self, s: usize, output: LeaseOutput) {
        match output {
            LeaseOutput::Ping { to, asked_at } => {
                self.send(s, place(to), Message::Ping { asked_at })
            }
            LeaseOutput::Grant { to, asked_at, map_epoch } => {
                self.send(s, place(to), Message::Grant { asked_at, map_epoch });
            }
            LeaseOutput::Suspect { peer } => {
                let life = self.servers[s].life;
                self.send(s, COORDINATOR, Message::Suspect { life, server: peer });
            }
        }
    }

    /// The link to a peer broke with an error.
    pub(super) fn link_failed(&mut self, s: usize, peer: usize) {
        let (now, peer) = (self.local(s), self.servers[peer].id);
        let mut leases = std::mem::take(&mut self.lease_outputs);
        self.servers[s].leases.link_failed(now, peer, &mut leases);
        for output in leases.drain(..) {
            self.lease_output(s, output);
        }
        self.lease_outputs = leases;
    }

    /// There is a new link to a peer.
    pub(super) fn connected(&mut self, s: usize, peer: usize) {
        let peer = self.servers[peer].id;
        for p in 0..self.partitions {
            self.step(s, p, Input::Connected { peer }).expect("a new link is always taken");
        }
    }

    pub(super) fn server_message(&mut self, s: usize, from: Node, message: Message) {
        match message {
            Message::Map(map) => self.adopt(s, &map),
            Message::Fence { life } if life == self.servers[s].life => self.rejoin(s),
            Message::Fence { .. } => {}
            Message::Probe => {
                let (life, map_epoch) = (self.servers[s].life, self.servers[s].map.epoch);
                self.send(s, COORDINATOR, Message::Heartbeat { life, map_epoch });
            }
            _ if !self.servers[s].joined => {}
            Message::Ping { asked_at } => {
                let (now, peer) = (self.local(s), self.servers[from].id);
                let mut leases = std::mem::take(&mut self.lease_outputs);
                self.servers[s].leases.ping(now, peer, asked_at, &mut leases);
                for output in leases.drain(..) {
                    self.lease_output(s, output);
                }
                self.lease_outputs = leases;
            }
            Message::Grant { asked_at, map_epoch } => {
                let (now, peer) = (self.local(s), self.servers[from].id);
                self.servers[s].leases.grant(now, peer, asked_at, map_epoch);
            }
            Message::Records { partition, epoch, records } => {
                self.records(s, partition, from, epoch, &records);
            }
            Message::Chain { partition, output } => self.chain_message(s, partition, from, output),
            Message::Push { partition, epoch, push, index } => {
                self.pushed(s, partition, from, epoch, &push, index);
            }
            other => unreachable!("no server gets {other:?}"),
        }
    }

    fn chain_message(&mut self, s: usize, p: usize, from: usize, output: Output) {
        let from = self.servers[from].id;
        let input = match output {
            Output::ReportCommitted { epoch, lsn, .. } => Input::Committed { from, epoch, lsn },
            Output::Report { epoch, position, attempt, .. } => {
                Input::Report { from, epoch, position, attempt }
            }
            Output::AskReport { epoch, .. } => Input::AskReport { from, epoch },
            Output::Welcome { epoch, last, .. } => Input::Welcome { from, epoch, last },
            Output::CopyFrom { epoch, start, .. } => Input::CopyFrom { from, epoch, start },
            Output::Refuse { .. } => {
                self.send(s, COORDINATOR, Message::WantMap);
                return;
            }
            other => unreachable!("{other:?} is no message"),
        };
        if let Err(windlass_replication::ReplicaError::BehindEpoch { .. }) = self.step(s, p, input)
        {
            self.send(s, COORDINATOR, Message::WantMap);
        }
    }

    fn records(&mut self, s: usize, p: usize, from: usize, epoch: Epoch, records: &[Rc<Record>]) {
        let from = self.servers[from].id;
        for record in records {
            let part = &mut self.servers[s].parts[p];
            // The record lies in the mailbox; it joins the log if the replica takes it in, and the
            // outputs of that very step may already name it.
            let last = part.replica.log().last();
            if record.lsn == last.next() {
                part.store(Rc::clone(record));
            }
            let input = Input::Record { from, epoch, record: header(record) };
            let taken = self.step(s, p, input);
            let part = &mut self.servers[s].parts[p];
            if taken.is_err() && record.lsn == last.next() {
                part.log.pop();
            }
        }
    }

    fn pushed(&mut self, s: usize, p: usize, from: Node, epoch: Epoch, push: &Push, index: u32) {
        let mutation = self.options.mutation;
        let client = from - self.client_base();
        let part = &mut self.servers[s].parts[p];
        if !part.replica.is_head() || part.replica.epoch() != epoch {
            self.send(s, from, Message::Refused);
            return;
        }
        let sequence = push.sequence;
        match part.replica.admit(push) {
            Err(_) | Ok(Admission::Gap { .. } | Admission::Full | Admission::Expired) => {
                self.send(s, from, Message::Refused);
            }
            Ok(Admission::StaleIncarnation) => unreachable!("clients have one life"),
            Ok(Admission::Duplicate { .. }) if mutation == Some(Mutation::SkipDuplicates) => {
                part.turn.push((index, *push));
                self.end_turn_soon(s, p);
            }
            Ok(Admission::Duplicate { lsn }) => {
                if lsn <= part.replica.log().committed() {
                    self.send(s, from, Message::Acknowledged { partition: p, sequence });
                } else {
                    part.waiting.push(Waiting { lsn, client, sequence });
                }
            }
            Ok(Admission::Pending) => {}
            Ok(Admission::Apply) => {
                part.turn.push((index, *push));
                self.end_turn_soon(s, p);
            }
        }
    }

    fn end_turn_soon(&mut self, s: usize, p: usize) {
        let life = self.servers[s].life;
        if !std::mem::replace(&mut self.servers[s].parts[p].turn_due, true) {
            self.schedule(TURN_US, Event::Turn { server: s, life, partition: p });
        }
    }

    /// Sums what the turn's pushes bring into one record.
    pub(super) fn turn(&mut self, s: usize, p: usize) {
        let part = &mut self.servers[s].parts[p];
        part.turn_due = false;
        let turn = std::mem::take(&mut part.turn);
        if turn.is_empty() || !part.replica.is_head() {
            return;
        }
        let mut covered: Vec<Covered> = Vec::new();
        for (_, push) in &turn {
            let one = Covered {
                session: push.session,
                incarnation: push.incarnation,
                lane: push.lane,
                sequence: push.sequence,
            };
            match covered.iter_mut().find(|known| known.session == one.session) {
                Some(known) => known.sequence = known.sequence.max(one.sequence),
                None => covered.push(one),
            }
        }
        let lsn = part.replica.log().last().next();
        let record = Rc::new(Record {
            lsn,
            epoch: part.replica.epoch(),
            sync: self.sync,
            covered,
            pushes: turn.iter().map(|(index, _)| *index).collect(),
        });
        part.store(Rc::clone(&record));
        let waits = turn.iter().map(|(index, push)| Waiting {
            lsn,
            client: self.pushes[*index as usize].client,
            sequence: push.sequence,
        });
        part.waiting.extend(waits);
        self.step(s, p, Input::Append(header(&record))).expect("the head admitted these pushes");
        if self.options.mutation == Some(Mutation::AcknowledgeBeforeTail) {
            self.acknowledge(s, p, lsn);
        }
    }

    /// Gives one input to a replica and does what it says.
    pub(super) fn step(
        &mut self,
        s: usize,
        p: usize,
        input: Input<'_>,
    ) -> Result<(), windlass_replication::ReplicaError> {
        let now = self.local(s);
        self.steps += 1;
        let mut outputs = std::mem::take(&mut self.outputs);
        let result = self.servers[s].parts[p].replica.step(now, input, &mut outputs);
        if self.options.trace && !matches!(input, Input::Tick) {
            let (at, id) = (self.now, self.servers[s].id);
            eprintln!("{at:>7} server {id} partition {p}: {input:?} -> {result:?} {outputs:?}");
        }
        for output in outputs.drain(..) {
            self.output(s, p, output);
        }
        self.outputs = outputs;
        self.check_committed(s, p);
        self.publish(s, p);
        result
    }

    pub(super) fn output(&mut self, s: usize, p: usize, output: Output) {
        let life = self.servers[s].life;
        match output {
            Output::Apply { first, last } => self.apply(s, p, first, last),
            Output::Forward { to, epoch, first, last } => {
                let part = &self.servers[s].parts[p];
                let records = (first.0..=last.0).map(|lsn| {
                    Rc::clone(part.record(Lsn(lsn)).expect("what is forwarded is held"))
                });
                let records = records.collect();
                self.send(s, place(to), Message::Records { partition: p, epoch, records });
            }
            Output::Acknowledge { up_to } => self.acknowledge(s, p, up_to),
            Output::StartCopy { from, start } => self.start_copy(s, p, place(from), start),
            Output::CaughtUp { epoch } => {
                let part = &mut self.servers[s].parts[p];
                if part.snapshot.lsn.next() < part.replica.log().first() {
                    part.checkpoint();
                }
                self.send(s, COORDINATOR, Message::CaughtUp { life, partition: p, epoch });
            }
            Output::Synchronised { epoch } => {
                self.send(s, COORDINATOR, Message::Synchronised { life, partition: p, epoch });
            }
            Output::Reject { server, epoch } => {
                let message = Message::Rejected { life, partition: p, epoch, server };
                self.send(s, COORDINATOR, message);
            }
            Output::ReportCommitted { to, .. }
            | Output::Report { to, .. }
            | Output::AskReport { to, .. }
            | Output::Welcome { to, .. }
            | Output::CopyFrom { to, .. }
            | Output::Refuse { to, .. } => {
                self.send(s, place(to), Message::Chain { partition: p, output });
            }
        }
    }

    fn apply(&mut self, s: usize, p: usize, first: Lsn, last: Lsn) {
        let twice = self.options.mutation == Some(Mutation::CopyAppliesTwice);
        let diverges = self.options.mutation == Some(Mutation::DivergentApply) && s == 1;
        for lsn in (first.0..=last.0).map(Lsn) {
            let part = &mut self.servers[s].parts[p];
            let record = Rc::clone(part.record(lsn).expect("what is applied is held"));
            part.apply(&record, &self.pushes, twice);
            if diverges && lsn.0 == 3 {
                part.blocks[0].hash ^= 1;
            }
            if part.blocks.iter().all(|block| block.lsn == lsn) {
                let hash = part.hash();
                self.check_state(p, lsn, record.epoch, hash);
            }
        }
        let delay = self.random.between(30, 600);
        let life = self.servers[s].life;
        self.schedule(delay, Event::Durable { server: s, life, partition: p, lsn: last });
    }

    fn acknowledge(&mut self, s: usize, p: usize, up_to: Lsn) {
        let base = self.client_base();
        let waiting = std::mem::take(&mut self.servers[s].parts[p].waiting);
        let (due, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|wait| wait.lsn <= up_to);
        self.servers[s].parts[p].waiting = rest;
        for wait in due {
            let sequence = wait.sequence;
            self.send(s, base + wait.client, Message::Acknowledged { partition: p, sequence });
        }
    }

    fn start_copy(&mut self, s: usize, p: usize, feeder: usize, start: Lsn) {
        let number = self.number();
        let mutated = self.options.mutation == Some(Mutation::PromoteEarly);
        let part = &mut self.servers[s].parts[p];
        part.log.clear();
        part.checked = start;
        part.disk = Lsn(0);
        part.snapshot.lsn = Lsn(0);
        part.clock = new_clock();
        part.blocks.iter_mut().for_each(|block| *block = Default::default());
        part.copying = Some(Copying { feeder, start, next: 0, through: start, number });
        if mutated {
            let sessions = self.servers[feeder].parts[p].replica.sessions().clone();
            let early = Input::CopyFinished { start, through: start, sessions: &sessions };
            self.step(s, p, early).expect("a mutation");
            return;
        }
        self.copy_soon(s, p, number, feeder);
    }

    fn copy_soon(&mut self, s: usize, p: usize, number: u64, feeder: usize) {
        let delay = self.random.between(20, 1_500);
        let generation = self.generation(s, feeder);
        let life = self.servers[s].life;
        self.schedule(
            delay,
            Event::CopyBlock { server: s, life, partition: p, number, generation },
        );
    }

    /// Reads one block, or at last the session table, of the feeder's memory.
    pub(super) fn copy_block(&mut self, s: usize, p: usize, number: u64, generation: u32) {
        let part = &self.servers[s].parts[p];
        let Some(mut copying) = part.copying.clone().filter(|copying| copying.number == number)
        else {
            return;
        };
        let feeder = copying.feeder;
        if !self.is_reachable(s, feeder) || self.generation(s, feeder) != generation {
            return;
        }
        let from = &self.servers[feeder].parts[p];
        if let Some(block) = from.blocks.get(copying.next) {
            copying.through = copying.through.max(block.lsn);
            let block = block.clone();
            self.servers[s].parts[p].blocks[copying.next] = block;
            copying.next += 1;
            self.servers[s].parts[p].copying = Some(copying);
            self.copy_soon(s, p, number, feeder);
            return;
        }
        let mutated = self.options.mutation == Some(Mutation::CopyWithoutSessions);
        let through = copying.through.max(from.replica.log().last());
        let sessions = if mutated {
            windlass_replication::SessionTable::new(64)
        } else {
            from.replica.sessions().clone()
        };
        let clock = from.clock.clone();
        let start = copying.start;
        self.servers[s].parts[p].copying = None;
        self.servers[s].parts[p].clock.merge(&clock).expect("few workers");
        let finished = Input::CopyFinished { start, through, sessions: &sessions };
        // Refused when the copy was started over meanwhile.
        let _ = self.step(s, p, finished);
    }

    /// Shows or withdraws the word by which clients trust this tail, and lets go of old records.
    pub(super) fn publish(&mut self, s: usize, p: usize) {
        let now = self.local(s);
        let server = &mut self.servers[s];
        let part = &mut server.parts[p];
        let chain = part.replica.chain();
        let others = chain.path.iter().copied().filter(|&id| id != server.id);
        let valid = server.leases.valid_until(chain.epoch, others);
        if !part.replica.is_strong(now) || valid <= now {
            part.word.epoch = Epoch(0);
        } else {
            part.word.epoch = chain.epoch;
            let valid = valid.min(now.after(TIMINGS.lease_us));
            if valid.0 > part.word_until {
                part.word_until = valid.0;
                let mutated = self.options.mutation == Some(Mutation::TrustStoppedTail);
                let holds_us = if mutated { 1_000_000 } else { valid.since(now) };
                part.word =
                    LeaseWord { epoch: chain.epoch, renewals: part.word.renewals + 1, holds_us };
            }
        }
        self.release(s, p);
    }

    fn release(&mut self, s: usize, p: usize) {
        let keep = self.log_records;
        let part = &mut self.servers[s].parts[p];
        let log = part.replica.log();
        if part.log.len() as u64 <= keep || part.replica.position().is_none() {
            return;
        }
        let first = part.replica.needed_from().min(Lsn(log.last().0.saturating_sub(keep).max(1)));
        if part.log.first().is_none_or(|record| record.lsn >= first) {
            return;
        }
        part.checkpoint();
        part.log.retain(|record| record.lsn >= first);
        let released = Input::Released { first };
        let mut outputs = Vec::new();
        part.replica.step(Time(0), released, &mut outputs).expect("releasing is always taken");
        for output in outputs {
            self.output(s, p, output);
        }
    }

    fn adopt(&mut self, s: usize, map: &Rc<ClusterMap>) {
        let server = &self.servers[s];
        let admitted = map.admits(server.id, server.life);
        if map.epoch <= server.map.epoch {
            return;
        }
        if !admitted {
            if server.joined {
                self.rejoin(s);
            }
            return;
        }
        let now = self.local(s);
        let me = server.id;
        let mut peers: Vec<ServerId> = Vec::new();
        for entry in map.partitions.iter().filter(|entry| entry.involves(me)) {
            let joining = entry.joining.map(|joining| joining.server);
            peers.extend(entry.members.iter().copied().chain(joining).filter(|&id| id != me));
        }
        peers.sort_unstable();
        peers.dedup();
        let server = &mut self.servers[s];
        server.joined = true;
        server.map = Rc::clone(map);
        server.leases.adopt(now, map.epoch, peers);
        for p in 0..self.partitions {
            let view = map.partitions[p].view();
            let server = &self.servers[s];
            let removed = server.parts[p].replica.removed_tail(&view);
            let mut hold_until = server.leases.hold_until(removed);
            if self.options.mutation == Some(Mutation::SkipHold) {
                hold_until = Time(0);
            }
            let configure = Input::Configure { chain: &view, hold_until };
            self.step(s, p, configure).expect("a map is always taken");
            let part = &mut self.servers[s].parts[p];
            if !part.replica.is_head() {
                part.turn.clear();
                part.waiting.clear();
            }
            if part.replica.role() != windlass_replication::Role::Learner {
                part.copying = None;
            }
        }
    }

    /// This life is fenced: all links go, and a new life asks to be taken in with what it holds.
    pub(super) fn rejoin(&mut self, s: usize) {
        if self.options.mutation == Some(Mutation::ReuseIncarnation) {
            return;
        }
        let server = &mut self.servers[s];
        server.life = Incarnation(server.life.0 + 1);
        server.joined = false;
        server.kept = true;
        let id = server.id;
        for (p, part) in server.parts.iter_mut().enumerate() {
            let whole = part.replica.position().is_some();
            if whole {
                let (log, sessions) = (part.replica.log().clone(), part.replica.sessions().clone());
                part.replica = Replica::recover(partition(p), id, LIMITS, log, sessions);
            } else {
                *part = Part::new(Replica::new(partition(p), id, LIMITS));
            }
            part.word.epoch = Epoch(0);
            part.turn.clear();
            part.turn_due = false;
            part.waiting.clear();
            part.copying = None;
        }
        // The disk goes on with what it was given.
        let life = server.life;
        for p in 0..self.partitions {
            let lsn = self.servers[s].parts[p].replica.log().last();
            self.schedule(300, Event::Durable { server: s, life, partition: p, lsn });
        }
        self.renew_links(s);
    }

    /// The process starts again, with nothing or with what its disk holds.
    pub(super) fn restart(&mut self, s: usize, kept: bool) {
        let now = self.local(s);
        let sync = self.sync;
        let server = &mut self.servers[s];
        if self.options.mutation != Some(Mutation::ReuseIncarnation) {
            server.life = Incarnation(server.life.0 + 1);
        }
        server.map = Rc::new(ClusterMap::new(1, 1));
        server.process = Process::Running;
        server.joined = false;
        server.leases = Leases::new(now, TIMINGS);
        server.inbox.clear();
        let mut all = true;
        for (p, part) in server.parts.iter_mut().enumerate() {
            let old =
                std::mem::replace(part, Part::new(Replica::new(partition(p), server.id, LIMITS)));
            part.word.renewals = old.word.renewals + 1;
            let gap = old.log.first().is_some_and(|record| record.lsn > old.snapshot.lsn.next());
            if !kept || old.replica.position().is_none() || gap {
                continue;
            }
            let index = old.replica.log().clone();
            let durable = old.disk.max(old.snapshot.lsn);
            all &= sync || durable == index.last();
            part.blocks = old.snapshot.blocks.clone();
            part.clock = old.snapshot.clock.clone();
            let mut sessions = old.snapshot.sessions.clone();
            part.log = old.log.iter().filter(|record| record.lsn <= durable).cloned().collect();
            let replayed = part.log.clone();
            for record in replayed.iter().filter(|record| record.lsn > old.snapshot.lsn) {
                part.apply(record, &self.pushes, false);
                sessions.apply(record.lsn, &record.covered, &[]);
            }
            let epochs: Vec<_> = index.epochs().filter(|at| at.lsn <= durable).collect();
            let log = LogIndex::recovered(index.first().min(durable.next()), durable, &epochs);
            part.snapshot = old.snapshot;
            part.replica = Replica::recover(partition(p), server.id, LIMITS, log, sessions);
            part.checked = durable;
            part.disk = durable;
        }
        server.kept = kept && all;
        self.renew_links(s);
    }
}

pub(super) fn header(record: &Record) -> RecordHeader<'_> {
    RecordHeader {
        lsn: record.lsn,
        epoch: record.epoch,
        sync: record.sync,
        covered: &record.covered,
        expired: &[],
    }
}
