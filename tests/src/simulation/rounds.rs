//! Tables in rounds: workers push by clocks, heads sum and close rounds, records carry who had finished.
//! The same shell as `engine/src/shard/rounds`, around the same state machine: nothing of an open round
//! is replicated, and clients send pushes and the ends of their clocks again, in order, to whoever leads.

use std::collections::BTreeMap;
use std::rc::Rc;

use windlass_replication::rounds::{Closed, Late, Placed, Quorum};
use windlass_replication::{Admission, Covered, Input, Lane, Push, Rounds};
use windlass_wire::{Epoch, Lsn, Sequence, SessionId, WorkerClock, WorkerRank};

use super::memory::{Waiting, session};
use super::message::{Message, Record};
use super::options::Mutation;
use super::random::Random;
use super::server::{LIMITS, header};
use super::world::{Node, World};

/// Rounds summed at a time.
const OPEN_MAX: u64 = 4;
/// The lane of the one table.
pub(super) const LANE: Lane = Lane(1);
/// A worker that is silent for so long is given up.
const WORKER_TIMEOUT_US: u64 = 40_000;

/// What a seed's tables do.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundsRule {
    pub(super) quorum: Quorum,
    pub(super) late: Late,
}

impl RoundsRule {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0020_0D5A);
        let quorum = if random.one_in(2) { Quorum::All } else { Quorum::AtLeast(2) };
        Self { quorum, late: if random.one_in(2) { Late::Fold } else { Late::Drop } }
    }
}

/// What records say of one partition's workers: the same on every replica at one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// The last record that is in it.
    pub(super) lsn: Lsn,
    pub(super) closed: WorkerClock,
    /// The clock each worker has finished, and whether it is waited for.
    pub(super) workers: BTreeMap<WorkerRank, (WorkerClock, bool)>,
}

/// What a record does to a partition's workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Turned {
    /// It closes this round; all below have finished it.
    pub(super) closes: Option<WorkerClock>,
    pub(super) finished: Vec<(WorkerRank, WorkerClock)>,
    pub(super) live: Vec<(WorkerRank, bool)>,
}

impl Members {
    pub(super) fn apply(&mut self, lsn: Lsn, turned: &Turned) {
        if lsn <= self.lsn {
            return;
        }
        self.lsn = lsn;
        if let Some(clock) = turned.closes {
            assert_eq!(clock.0, self.closed.0 + 1, "rounds close one by one");
            self.closed = clock;
        }
        for &(rank, clock) in &turned.finished {
            let worker = self.workers.entry(rank).or_default();
            worker.0 = worker.0.max(clock);
        }
        for &(rank, is_live) in &turned.live {
            let closed = self.closed;
            let worker = self.workers.entry(rank).or_default();
            worker.1 = is_live;
            worker.0 = worker.0.max(closed);
        }
    }

    pub(super) fn is_live(&self, rank: WorkerRank) -> bool {
        self.workers.get(&rank).is_some_and(|worker| worker.1)
    }

    fn note_in(&self, rounds: &mut Rounds) {
        self.workers.iter().for_each(|(&rank, &(_, is_live))| rounds.set_live(rank, is_live));
    }
}

/// The open rounds of a partition, at its head alone.
#[derive(Debug)]
pub(super) struct OpenRounds {
    rounds: Rounds,
    sums: BTreeMap<WorkerClock, Vec<(u32, Push)>>,
    /// Who waits for a clock's round: client and sequence.
    waiting: Vec<(WorkerClock, usize, Sequence)>,
}

impl OpenRounds {
    fn round_with(&self, push: &Push) -> Option<WorkerClock> {
        let has = |sum: &&Vec<(u32, Push)>| {
            sum.iter().any(|(_, one)| one.session == push.session && one.sequence >= push.sequence)
        };
        self.sums.iter().find(|(_, sum)| has(sum)).map(|(clock, _)| *clock)
    }

    fn has(&self, id: SessionId, sequence: Sequence) -> bool {
        let mut sums = self.sums.values().flatten();
        sums.any(|(_, one)| one.session == id && one.sequence >= sequence)
    }

    fn last_of(&self, push: &Push) -> Option<WorkerClock> {
        let mut sums = self.sums.iter().rev();
        let of_it = |sum: &Vec<(u32, Push)>| sum.iter().any(|(_, one)| one.session == push.session);
        sums.find(|(_, sum)| of_it(sum)).map(|(clock, _)| *clock)
    }

    fn wait(&mut self, clock: WorkerClock, client: usize, sequence: Sequence) {
        if !self.waiting.iter().any(|(_, c, s)| (*c, *s) == (client, sequence)) {
            self.waiting.push((clock, client, sequence));
        }
    }
}

/// A worker, as clients see themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Worker {
    /// The clock it works at; 0 before it has joined.
    pub(super) clock: WorkerClock,
    /// Where its partitions were when it joined.
    pub(super) joined: BTreeMap<usize, WorkerClock>,
    pub(super) asked_at: u64,
    /// When it was waited for everywhere.
    pub(super) joined_at: u64,
    /// When it was last heard of, for the coordinator.
    pub(super) heard_at: u64,
    /// It has joined again.
    pub(super) has_lost: bool,
    /// It has left for good.
    pub(super) left: bool,
}

pub(super) fn rank(client: usize) -> WorkerRank {
    WorkerRank(u32::try_from(client).expect("few clients"))
}

impl World {
    pub(super) fn is_in_rounds(&self) -> bool {
        self.options.is_in_rounds()
    }

    // ---- the head ----

    fn open_rounds(&mut self, s: usize, p: usize) -> &mut OpenRounds {
        let rule = self.rule;
        let part = &mut self.servers[s].parts[p];
        let members = &part.members;
        let open = part.rounds.get_or_insert_with(|| OpenRounds {
            rounds: Rounds::new(rule.quorum, rule.late, members.closed, OPEN_MAX),
            sums: BTreeMap::new(),
            waiting: Vec::new(),
        });
        members.note_in(&mut open.rounds);
        open
    }

    fn leads(&self, s: usize, p: usize, epoch: Epoch) -> bool {
        let replica = &self.servers[s].parts[p].replica;
        replica.is_head() && replica.epoch() == epoch
    }

    /// A push to a table in rounds.
    pub(super) fn pushed_into_round(
        &mut self,
        s: usize,
        p: usize,
        from: Node,
        push: &Push,
        index: u32,
    ) {
        let client = from - self.client_base();
        let sequence = push.sequence;
        let acknowledged = Message::Acknowledged { partition: p, sequence };
        let members = &self.servers[s].parts[p].members;
        if !members.is_live(rank(client)) {
            self.send(s, from, Message::NoRank);
            return;
        }
        let clock = self.pushes[index as usize].clock;
        let open = self.open_rounds(s, p);
        if let Some(clock) = open.round_with(push) {
            open.wait(clock, client, sequence);
            return;
        }
        let last = open.last_of(push).unwrap_or_default();
        let placed = open.rounds.place(clock.max(last));
        if placed == Placed::TooEarly {
            self.send(s, from, Message::NoRank);
            return;
        }
        let replica = &mut self.servers[s].parts[p].replica;
        let applied = replica.sessions().applied(push.session, push.lane);
        if placed == Placed::Dropped && applied < Some((push.incarnation, sequence)) {
            self.outcome.late += u64::from(!self.pushes[index as usize].dropped);
            self.pushes[index as usize].dropped = true;
            self.send(s, from, acknowledged);
            return;
        }
        match replica.admit(push) {
            Ok(Admission::Apply) => {}
            Ok(Admission::Duplicate { lsn }) if lsn > replica.log().committed() => {
                self.servers[s].parts[p].waiting.push(Waiting { lsn, client, sequence });
                return;
            }
            Ok(Admission::Duplicate { .. } | Admission::Pending) => {
                self.send(s, from, acknowledged);
                return;
            }
            _ => {
                self.send(s, from, Message::Refused);
                return;
            }
        }
        let Placed::Into(clock) = placed else { return };
        self.outcome.late += u64::from(clock > self.pushes[index as usize].clock);
        let pushed_at = self.pushes[index as usize].clock;
        let open = self.open_rounds(s, p);
        open.sums.entry(clock).or_default().push((index, *push));
        open.wait(clock, client, sequence);
        if pushed_at < clock {
            open.rounds.fold(clock);
            self.close_rounds(s, p);
        }
    }

    /// A worker has finished a clock.
    pub(super) fn finished(
        &mut self,
        s: usize,
        p: usize,
        from: Node,
        (epoch, clock, sequence): (Epoch, WorkerClock, Sequence),
        after: Option<Sequence>,
    ) {
        if !self.leads(s, p, epoch) {
            self.send(s, from, Message::Refused);
            return;
        }
        let client = from - self.client_base();
        let worker = rank(client);
        let members = &self.servers[s].parts[p].members;
        let is_news = members.workers.get(&worker).is_some_and(|known| known.0 < clock);
        if !members.is_live(worker) {
            self.send(s, from, Message::NoRank);
            return;
        }
        // A push before it may have been refused, or lost with its connection.
        let (id, incarnation) = session(client);
        let sessions = self.servers[s].parts[p].replica.sessions();
        let applied = sessions.applied(id, LANE);
        let open = self.open_rounds(s, p);
        if after.is_some_and(|after| applied < Some((incarnation, after)) && !open.has(id, after)) {
            self.send(s, from, Message::Refused);
            return;
        }
        if open.rounds.place(clock) == Placed::TooEarly {
            self.send(s, from, Message::NoRank);
            return;
        }
        if clock > open.rounds.closed() {
            open.rounds.finish(worker, clock);
            open.wait(clock, client, sequence);
            self.close_rounds(s, p);
            return;
        }
        if is_news {
            let turned = Turned { finished: vec![(worker, clock)], ..Turned::default() };
            if !self.append_turned(s, p, turned, Vec::new()) {
                self.send(s, from, Message::Refused);
                return;
            }
        }
        self.open_rounds(s, p).rounds.finish(worker, clock);
        let log = self.servers[s].parts[p].replica.log();
        let lsn = log.last();
        if lsn <= log.committed() {
            self.send(s, from, Message::Acknowledged { partition: p, sequence });
        } else {
            self.servers[s].parts[p].waiting.push(Waiting { lsn, client, sequence });
        }
        self.close_rounds(s, p);
    }

    /// A worker that has finished a clock waits for something.
    pub(super) fn is_idle(
        &mut self,
        s: usize,
        p: usize,
        from: Node,
        (epoch, clock): (Epoch, WorkerClock),
    ) {
        if self.leads(s, p, epoch) && self.options.mutation != Some(Mutation::NeverIdle) {
            let worker = rank(from - self.client_base());
            self.open_rounds(s, p).rounds.idle(worker, clock);
            self.close_rounds(s, p);
        }
    }

    /// Closes what may be closed.
    pub(super) fn close_rounds(&mut self, s: usize, p: usize) {
        loop {
            let part = &mut self.servers[s].parts[p];
            let is_full = part.replica.inflight_count() >= LIMITS.inflight_max;
            if !part.replica.is_head() || part.rounds.is_none() || is_full {
                return;
            }
            let open = self.open_rounds(s, p);
            let Some(Closed { clock, finished }) = open.rounds.close() else { return };
            let sum = open.sums.remove(&clock).unwrap_or_default();
            let (over, left) = open.waiting.drain(..).partition(|(at, ..)| *at <= clock);
            open.waiting = left;
            let over: Vec<(WorkerClock, usize, Sequence)> = over;
            for (index, _) in &sum {
                let pushed = self.pushes[*index as usize];
                // Nor does a push overtake what its worker has pushed before it lost its rank.
                let is_late = clock > pushed.clock
                    && (self.rule.late == Late::Fold
                        || self.clients[pushed.client].worker().has_lost);
                assert!(clock == pushed.clock || is_late, "{pushed:?} counts in round {clock}");
            }
            self.outcome.rounds += 1;
            self.check_waited_for(s, p, clock);
            let finished = finished.into_iter().map(|worker| (worker, clock)).collect();
            let turned = Turned { closes: Some(clock), finished, live: Vec::new() };
            let lsn = self.servers[s].parts[p].replica.log().last().next();
            let waits =
                over.into_iter().map(|(_, client, sequence)| Waiting { lsn, client, sequence });
            self.servers[s].parts[p].waiting.extend(waits);
            assert!(self.append_turned(s, p, turned, sum), "there was room");
        }
    }

    /// A record without which replicas would not know what has become of workers and rounds.
    fn append_turned(&mut self, s: usize, p: usize, turned: Turned, sum: Vec<(u32, Push)>) -> bool {
        let part = &mut self.servers[s].parts[p];
        if part.replica.inflight_count() >= LIMITS.inflight_max {
            return false;
        }
        let mut covered: Vec<Covered> = Vec::new();
        let forgets = self.options.mutation == Some(Mutation::RoundForgetsWho);
        for (_, push) in sum.iter().filter(|_| !forgets) {
            let Push { session, incarnation, lane, sequence, .. } = *push;
            match covered.iter_mut().find(|known| known.session == session) {
                Some(known) => known.sequence = known.sequence.max(sequence),
                None => covered.push(Covered { session, incarnation, lane, sequence }),
            }
        }
        let record = Rc::new(Record {
            lsn: part.replica.log().last().next(),
            epoch: part.replica.epoch(),
            sync: self.sync,
            covered,
            pushes: sum.iter().map(|(index, _)| *index).collect(),
            expired: Vec::new(),
            turned,
        });
        part.store(Rc::clone(&record));
        self.step(s, p, Input::Append(header(&record))).expect("the head has room");
        true
    }

    /// What rounds wait for, for a seed in which they do for ever.
    pub(super) fn rounds_note(&self) -> String {
        if !self.is_in_rounds() {
            return String::new();
        }
        let workers = self.clients.iter().map(|client| {
            let clocks = (client.oldest_clock(), client.clocks_left());
            format!("\n{:?}, oldest clock and clocks left {clocks:?}", client.worker())
        });
        let parts = self.servers.iter().flat_map(|server| server.parts.iter());
        let open = parts.filter_map(|part| {
            let open = part.rounds.as_ref()?;
            Some(format!("\n{:?} {:?} {:?}", part.members, open.rounds, open.waiting))
        });
        workers.chain(open).collect()
    }

    /// The head's tick: workers whom the coordinator has given up, or who have left, are retired.
    pub(super) fn tick_rounds(&mut self, s: usize, p: usize) {
        if !self.is_in_rounds() || !self.servers[s].parts[p].replica.is_head() {
            return;
        }
        let gone: Vec<(WorkerRank, bool)> = (0..self.clients.len())
            .filter(|client| {
                let worker = self.clients[*client].worker();
                let is_silent = match self.options.has_registry() {
                    true => self.is_given_up(s, *client),
                    false => self.now >= worker.heard_at + WORKER_TIMEOUT_US,
                };
                (worker.left || is_silent)
                    && self.servers[s].parts[p].members.is_live(rank(*client))
            })
            .map(|client| (rank(client), false))
            .collect();
        if !gone.is_empty() && self.options.mutation != Some(Mutation::WaitForTheDead) {
            let turned = Turned { live: gone, ..Turned::default() };
            self.append_turned(s, p, turned, Vec::new());
        }
        self.close_rounds(s, p);
    }

    /// A worker wants to be waited for.
    pub(super) fn joins(&mut self, s: usize, p: usize, from: Node, epoch: Epoch) {
        if !self.leads(s, p, epoch) {
            self.send(s, from, Message::Refused);
            return;
        }
        let worker = rank(from - self.client_base());
        if !self.servers[s].parts[p].members.is_live(worker) {
            let turned = Turned { live: vec![(worker, true)], ..Turned::default() };
            self.append_turned(s, p, turned, Vec::new());
        }
        let part = &self.servers[s].parts[p];
        let log = part.replica.log();
        // It asks again until all replicas know it.
        if part.members.is_live(worker) && log.committed() >= log.last() {
            let clock = part.members.workers[&worker].0.max(part.members.closed);
            self.send(s, from, Message::Joined { partition: p, clock });
        }
    }
}
