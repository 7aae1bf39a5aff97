//! Every order of events of small clusters: the real replicas, all interleavings of deliveries, one
//! death, one reconfiguration and one replacement, explored to the end with equal states visited
//! once. Simulation samples large clusters; this leaves nothing out of small ones.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::Hasher;

use windlass_replication::{
    Admission, ChainView, Covered, Input, Lane, Output, Push, RecordHeader, Replica, ReplicaLimits,
    SessionTable, Time,
};
use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId, Sequence, ServerId, SessionId};

/// One record: where, of which epoch, which push.
type Record = (u64, u64, u64);

#[derive(Clone, Debug)]
enum Message {
    Configure(ChainView),
    Records(Epoch, Vec<Record>),
    Chain(Output),
    CaughtUp(Epoch),
    Synchronised(Epoch),
}

/// Server 0 is the coordinator (and the client's address).
type Link = (u32, u32);

#[derive(Clone, Debug)]
struct State {
    replicas: BTreeMap<u32, Replica>,
    logs: BTreeMap<u32, Vec<Record>>,
    copies: BTreeMap<u32, (u32, Lsn)>,
    links: BTreeMap<Link, VecDeque<Message>>,
    chain: ChainView,
    sent: u64,
    acknowledged: u64,
    deaths_left: u32,
    joins_left: u32,
    /// A dead server that the coordinator has not taken out yet.
    dead: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    pushes: u64,
    /// The log of a feeder that has this many records no longer starts at the first.
    copies: bool,
}

impl State {
    fn new(path: &[u32], deaths_left: u32, joins_left: u32) -> Self {
        let path: Vec<ServerId> = path.iter().map(|&id| ServerId(id)).collect();
        let chain = ChainView { epoch: Epoch(1), path, tail_synchronised: true, learner: None };
        let mut state = Self {
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            copies: BTreeMap::new(),
            links: BTreeMap::new(),
            chain,
            sent: 0,
            acknowledged: 0,
            deaths_left,
            joins_left,
            dead: None,
        };
        let spare = (joins_left > 0).then_some(4);
        let ids: Vec<u32> = state.chain.path.iter().map(|id| id.0).chain(spare).collect();
        for &id in &ids {
            let replica = Replica::new(PartitionId(0), ServerId(id), ReplicaLimits::default());
            state.replicas.insert(id, replica);
            state.logs.insert(id, Vec::new());
        }
        // The first map is in force everywhere.
        let chain = state.chain.clone();
        for &id in &ids {
            state.step(id, Input::Configure { chain: &chain, hold_until: Time(0) });
        }
        state.run();
        state
    }

    /// Delivers everything, in one order.
    fn run(&mut self) {
        while let Some(&link) = self.links.keys().next() {
            self.deliver(link);
        }
    }

    fn key(&self) -> u64 {
        struct Sink(DefaultHasher);
        impl std::fmt::Write for Sink {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut sink = Sink(DefaultHasher::new());
        write!(sink, "{self:?}").unwrap();
        sink.0.finish()
    }

    fn publish(&mut self, chain: ChainView) {
        self.chain = chain;
        for id in self.replicas.keys() {
            let link = self.links.entry((0, *id)).or_default();
            link.push_back(Message::Configure(self.chain.clone()));
        }
    }

    fn step(&mut self, at: u32, input: Input<'_>) -> bool {
        let mut outputs = Vec::new();
        let Some(replica) = self.replicas.get_mut(&at) else { return false };
        let taken = replica.step(Time(0), input, &mut outputs).is_ok();
        for output in outputs {
            self.output(at, output);
        }
        taken
    }

    fn output(&mut self, at: u32, output: Output) {
        let (to, message) = match output {
            Output::Apply { .. } => return,
            Output::Acknowledge { up_to } => {
                let log = &self.logs[&at];
                let covered = log.iter().filter(|r| r.0 <= up_to.0).map(|r| r.2).max();
                self.acknowledged = self.acknowledged.max(covered.unwrap_or(0));
                return;
            }
            Output::StartCopy { from, start } => {
                self.copies.insert(at, (from.0, start));
                return;
            }
            Output::Forward { to, epoch, first, last } => {
                let range = first.0..=last.0;
                let records = self.logs[&at].iter().filter(|r| range.contains(&r.0)).copied();
                (to.0, Message::Records(epoch, records.collect()))
            }
            Output::CaughtUp { epoch } => (0, Message::CaughtUp(epoch)),
            Output::Synchronised { epoch } => (0, Message::Synchronised(epoch)),
            Output::Reject { .. } => panic!("nobody loses its data here"),
            Output::Report { to, .. }
            | Output::ReportCommitted { to, .. }
            | Output::AskReport { to, .. }
            | Output::Welcome { to, .. }
            | Output::CopyFrom { to, .. }
            | Output::Refuse { to, .. } => (to.0, Message::Chain(output)),
        };
        if to == 0 || self.replicas.contains_key(&to) {
            self.links.entry((at, to)).or_default().push_back(message);
        }
    }

    fn deliver(&mut self, link: Link) {
        let queue = self.links.get_mut(&link).unwrap();
        let message = queue.pop_front().unwrap();
        if queue.is_empty() {
            self.links.remove(&link);
        }
        let (from, at) = (ServerId(link.0), link.1);
        match message {
            Message::Configure(chain) => {
                self.step(at, Input::Configure { chain: &chain, hold_until: Time(0) });
            }
            Message::Records(epoch, records) => {
                for record in records {
                    let next = self.replicas[&at].log().last().next();
                    let log = self.logs.get_mut(&at).unwrap();
                    if next == Lsn(record.0) {
                        log.truncate(usize::try_from(record.0).unwrap() - 1);
                        log.push(record);
                    }
                    let covered = [covered(record.2)];
                    let record = header(record, &covered);
                    self.step(at, Input::Record { from, epoch, record });
                }
            }
            Message::Chain(output) => {
                let input = match output {
                    Output::Report { epoch, position, attempt, .. } => {
                        Input::Report { from, epoch, position, attempt }
                    }
                    Output::ReportCommitted { epoch, lsn, .. } => {
                        Input::Committed { from, epoch, lsn }
                    }
                    Output::AskReport { epoch, .. } => Input::AskReport { from, epoch },
                    Output::Welcome { epoch, last, .. } => Input::Welcome { from, epoch, last },
                    Output::CopyFrom { epoch, start, .. } => Input::CopyFrom { from, epoch, start },
                    _ => return,
                };
                self.step(at, input);
            }
            Message::CaughtUp(epoch) => {
                if epoch == self.chain.epoch && self.chain.learner == Some(from) {
                    let mut next = self.chain.clone();
                    next.epoch = Epoch(epoch.0 + 1);
                    next.path.push(from);
                    next.learner = None;
                    next.tail_synchronised = false;
                    self.publish(next);
                }
            }
            Message::Synchronised(epoch) => {
                if epoch == self.chain.epoch && self.chain.path.last() == Some(&from) {
                    let next = ChainView { tail_synchronised: true, ..self.chain.clone() };
                    self.publish(next);
                }
            }
        }
    }

    /// Every state one event away.
    fn next(&self, bounds: Bounds) -> Vec<Self> {
        let mut states = Vec::new();
        for &link in self.links.keys() {
            let mut state = self.clone();
            state.deliver(link);
            states.push(state);
        }
        if let Some(head) = self.push_goes_to(bounds) {
            let mut state = self.clone();
            state.push(head);
            states.push(state);
        }
        if let Some(push) = self.retry_finds() {
            let mut state = self.clone();
            state.acknowledged = push;
            states.push(state);
        }
        let members = self.chain.path.len() - usize::from(!self.chain.tail_synchronised);
        if self.deaths_left > 0 && self.dead.is_none() {
            for id in self.chain.path.iter().map(|id| id.0) {
                let is_member = self.chain.path[..members].contains(&ServerId(id));
                if !is_member || members > 1 {
                    states.push(self.killed(id));
                }
            }
        }
        if let Some(dead) = self.dead {
            let mut state = self.clone();
            state.dead = None;
            let mut chain = state.chain.clone();
            chain.epoch = chain.epoch.next();
            // A dead unsettled tail goes with its mark.
            chain.tail_synchronised |= chain.path.last() == Some(&ServerId(dead));
            chain.path.retain(|id| id.0 != dead);
            state.publish(chain);
            states.push(state);
        }
        let whole = self.chain.tail_synchronised && self.chain.learner.is_none();
        if self.joins_left > 0 && whole && self.dead.is_none() {
            let mut state = self.clone();
            state.joins_left -= 1;
            let mut chain = state.chain.clone();
            chain.learner = Some(ServerId(4));
            if bounds.copies {
                let tail = chain.path.last().unwrap().0;
                let first = state.replicas[&tail].log().last().next();
                state.step(tail, Input::Released { first });
            }
            state.publish(chain);
            states.push(state);
        }
        for &learner in self.copies.keys() {
            let mut state = self.clone();
            state.finish_copy(learner);
            states.push(state);
        }
        states
    }

    /// The head to send the next push (or, after a change, an unacknowledged one) to.
    fn push_goes_to(&self, bounds: Bounds) -> Option<u32> {
        let head = self.chain.path[0].0;
        let replica = self.replicas.get(&head).filter(|r| r.is_head())?;
        let known = replica.sessions().applied(SessionId(1), Lane(0)).map_or(0, |a| a.1.0);
        (known < bounds.pushes && replica.epoch() == self.chain.epoch).then_some(head)
    }

    /// A retry of an unacknowledged push that the head knows as a committed duplicate.
    fn retry_finds(&self) -> Option<u64> {
        let replica = self.replicas.get(&self.chain.path[0].0).filter(|r| r.is_head())?;
        let committed = replica.log().committed().0;
        let log = &self.logs[&self.chain.path[0].0];
        let known = log.iter().filter(|r| r.0 <= committed).map(|r| r.2).max()?;
        (replica.epoch() == self.chain.epoch && known > self.acknowledged).then_some(known)
    }

    fn push(&mut self, head: u32) {
        let replica = self.replicas.get_mut(&head).unwrap();
        let known = replica.sessions().applied(SessionId(1), Lane(0)).map_or(0, |a| a.1.0);
        assert!(known >= self.acknowledged, "an acknowledged push is unknown to the head");
        let sequence = Sequence(known + 1);
        let (session, incarnation) = (SessionId(1), Incarnation(1));
        let previous = Some(Sequence(known));
        let push = Push { session, incarnation, lane: Lane(0), sequence, previous };
        assert_eq!(replica.admit(&push), Ok(Admission::Apply));
        let record = (replica.log().last().0 + 1, replica.epoch().0, sequence.0);
        self.logs.get_mut(&head).unwrap().truncate(usize::try_from(record.0).unwrap() - 1);
        self.logs.get_mut(&head).unwrap().push(record);
        self.sent = self.sent.max(sequence.0);
        let covered = [covered(sequence.0)];
        assert!(self.step(head, Input::Append(header(record, &covered))));
    }

    fn killed(&self, id: u32) -> Self {
        let mut state = self.clone();
        state.deaths_left -= 1;
        state.dead = Some(id);
        state.replicas.remove(&id);
        state.links.retain(|link, _| link.1 != id);
        state.copies.retain(|learner, (feeder, _)| *learner != id && *feeder != id);
        // What it sent may still arrive, in any order with all else.
        state
    }

    fn finish_copy(&mut self, learner: u32) {
        let (feeder, start) = self.copies.remove(&learner).unwrap();
        let Some(from) = self.replicas.get(&feeder) else { return };
        let (through, sessions): (Lsn, SessionTable) = (from.log().last(), from.sessions().clone());
        let copied = self.logs[&feeder].iter().filter(|r| r.0 <= start.0).copied();
        let mut log: Vec<Record> = copied.collect();
        let own = self.logs[&learner].iter().filter(|r| r.0 > start.0).copied();
        log.extend(own);
        self.logs.insert(learner, log);
        self.step(learner, Input::CopyFinished { start, through, sessions: &sessions });
    }

    fn check(&self) {
        let members = self.chain.path.len() - usize::from(!self.chain.tail_synchronised);
        for id in self.chain.path[..members].iter().map(|id| id.0) {
            let Some(replica) = self.replicas.get(&id) else { continue };
            let last = usize::try_from(replica.log().last().0).unwrap();
            let log = &self.logs[&id][..last.min(self.logs[&id].len())];
            for push in 1..=self.acknowledged {
                let times = log.iter().filter(|record| record.2 == push).count();
                assert_eq!(
                    times, 1,
                    "server {id} has acknowledged push {push} {times} times: {self:#?}"
                );
            }
        }
    }

    /// Nothing more can happen: all members agree and everything sent is acknowledged.
    fn check_end(&self, bounds: Bounds) {
        let path: Vec<u32> = self.chain.path.iter().map(|id| id.0).collect();
        for id in &path {
            assert_eq!(self.logs[id], self.logs[&path[0]], "members differ at the end: {self:#?}");
            assert!(self.replicas[id].is_synchronised(), "{id} never synchronised: {self:#?}");
        }
        assert_eq!(self.acknowledged, bounds.pushes, "a push hangs: {self:#?}");
        assert!(self.chain.learner.is_none(), "the learner hangs: {self:#?}");
    }
}

fn covered(push: u64) -> Covered {
    Covered {
        session: SessionId(1),
        incarnation: Incarnation(1),
        lane: Lane(0),
        sequence: Sequence(push),
    }
}

fn header(record: Record, covered: &[Covered]) -> RecordHeader<'_> {
    let (lsn, epoch) = (Lsn(record.0), Epoch(record.1));
    RecordHeader { lsn, epoch, sync: false, covered, expired: &[] }
}

/// Visits every reachable state; returns how many there are.
fn explore(start: State, bounds: Bounds, states_max: usize) -> usize {
    let mut seen = HashSet::from([start.key()]);
    let mut left = vec![start];
    while let Some(state) = left.pop() {
        state.check();
        let next = state.next(bounds);
        if next.is_empty() {
            state.check_end(bounds);
        }
        for state in next {
            if seen.insert(state.key()) {
                left.push(state);
            }
        }
        assert!(seen.len() <= states_max, "more states than this test was made for");
    }
    seen.len()
}

#[test]
fn any_member_dies_at_any_moment() {
    let states = explore(State::new(&[1, 2, 3], 1, 0), Bounds { pushes: 2, copies: false }, 20_000);
    assert!(states > 500, "{states}");
}

#[test]
fn a_server_joins_while_a_push_goes_on() {
    for copies in [false, true] {
        let states = explore(State::new(&[1], 0, 1), Bounds { pushes: 2, copies }, 60_000);
        assert!(states > 500, "{states}");
    }
}

#[test]
fn a_server_joins_and_any_member_dies_at_any_moment() {
    for copies in [false, true] {
        let mut state = State::new(&[1, 2], 1, 1);
        state.push(1);
        state.run();
        let states = explore(state, Bounds { pushes: 1, copies }, 60_000);
        assert!(states > 500, "{states}");
    }
}
