//! A simulated server: the real leases and replicas, and the small shell around them that an engine
//! has too.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use windlass_replication::{
    Input, LeaseOutput, LeaseTimings, Leases, Membership, Output, RecordHeader, Replica,
    ReplicaLimits, Time,
};
use windlass_wire::request::order::Gate;
use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId, ServerId, coordination::Kept};

use super::memory::Part;
use super::message::{Message, Record};
use super::options::Mutation;
use super::strong_reads::LeaseWord;
use super::world::{COORDINATOR, Event, Node, World};

pub(super) const TIMINGS: LeaseTimings = LeaseTimings {
    lease_us: 20_000,
    ping_us: 5_000,
    suspect_us: 30_000,
    lateness_us: 300_000,
    link_us: 30_000,
    drift_ppm: 2_000,
};
pub(super) const TICK_US: u64 = 2_500;
pub(super) const TURN_US: u64 = 15;

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
    /// What it holds of what it acknowledged.
    pub(super) kept: Kept,
    pub(super) map: Rc<Membership>,
    pub(super) leases: Leases,
    pub(super) parts: Vec<Part>,
    pub(super) inbox: VecDeque<Event>,
    /// By client: the connection, and whether it takes pushes.
    pub(super) gates: BTreeMap<usize, (u32, Gate)>,
    /// Cut off or otherwise unfit until then, as far as the fault plan knows.
    pub(super) unfit_until: u64,
    /// For how long its clock stood still.
    pub(super) clock_behind_us: u64,
    /// When its machine began to stand still, while it does.
    pub(super) frozen_at: Option<u64>,
    /// The newest probe that has reached it.
    probe: Time,
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
            kept: Kept::Whole {},
            map: Rc::new(Membership::new(1, 1)),
            leases: Leases::new(Time(0), TIMINGS),
            parts: (0..partitions)
                .map(|p| Part::new(Replica::new(partition(p), id, LIMITS)))
                .collect(),
            inbox: VecDeque::new(),
            gates: BTreeMap::new(),
            unfit_until: 0,
            clock_behind_us: 0,
            frozen_at: None,
            probe: Time(0),
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
            if self.servers[s].ticks.is_multiple_of(2) {
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
            self.expire_sessions(s, p);
            self.tick_rounds(s, p);
            self.publish(s, p);
        }
        if self.servers[s].ticks.is_multiple_of(2) {
            self.beat(s);
            self.tell_what_lacks_room(s);
            for p in 0..self.partitions {
                if let Some(output) = self.servers[s].parts[p].replica.pending_report() {
                    self.output(s, p, output);
                }
            }
        }
    }

    fn beat(&mut self, s: usize) {
        let now = self.local(s);
        let server = &self.servers[s];
        let (life, map_epoch) = (server.life, server.map.epoch);
        let (probe, late) = (server.probe, server.leases.late_peers(now).collect());
        self.send(s, COORDINATOR, Message::Hearing { life, probe, late });
        self.send(s, COORDINATOR, Message::Heartbeat { life, map_epoch });
        self.tell_workers(s);
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
            Message::Probe { sent_at } => {
                self.servers[s].probe = sent_at;
                self.beat(s);
            }
            Message::Alive { workers } => self.told_of_workers(s, workers),
            // The others hear nothing; a client is told at once that its server takes part in no chain.
            _ if !self.servers[s].joined && !matches!(message, Message::PushInOrder { .. }) => {}
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
            Message::PushInOrder { partition, epoch, push, index, resumes } => {
                self.pushed_in_order(s, (partition, epoch), from, (&push, index), resumes);
            }
            Message::Finish { partition, epoch, clock, sequence, after } => {
                self.finished(s, partition, from, (epoch, clock, sequence), after);
            }
            Message::Idle { partition, epoch, clock } => {
                self.is_idle(s, partition, from, (epoch, clock));
            }
            Message::JoinRounds { partition, epoch } => self.joins(s, partition, from, epoch),
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
            let mut record_header = header(record);
            if self.options.mutation == Some(Mutation::ExpireAtHeadOnly) {
                record_header.expired = &[];
            }
            let input = Input::Record { from, epoch, record: record_header };
            let taken = self.step(s, p, input);
            let part = &mut self.servers[s].parts[p];
            if taken.is_err() && record.lsn == last.next() {
                part.log.pop();
            }
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
            if part.blocks.iter().all(|block| block.lsn == lsn) && part.members.lsn == lsn {
                let hash = part.hash();
                self.check_state(p, lsn, record.epoch, hash);
            }
        }
        self.check_sessions(s, p, last);
        let delay = self.random.between(30, 600);
        let life = self.servers[s].life;
        self.schedule(delay, Event::Durable { server: s, life, partition: p, lsn: last });
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
}

pub(super) fn header(record: &Record) -> RecordHeader<'_> {
    RecordHeader {
        lsn: record.lsn,
        epoch: record.epoch,
        sync: record.sync,
        covered: &record.covered,
        expired: &record.expired,
    }
}
