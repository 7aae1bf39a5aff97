//! A simulated worker of a table in rounds: joins, pushes clock by clock, ends each clock, dies for a
//! while, joins again, and leaves when it is done.

use windlass_replication::Push;
use windlass_wire::{Sequence, WorkerClock};

use super::client::Outstanding;
use super::memory::{BLOCKS, Pushed, session};
use super::message::Message;
use super::rounds::LANE;
use super::server::place;
use super::world::{Node, World};

/// Clocks of a worker that are not acknowledged, at most.
pub(super) const CLOCKS_AHEAD: u64 = 2;
/// How soon it asks again to be waited for, or says again that it waits.
const ASK_US: u64 = 4_000;

impl World {
    /// One tick of a worker that is there.
    pub(super) fn worker_tick(&mut self, c: usize) {
        let now = self.now;
        let is_done = self.clients[c].is_done();
        let worker = self.clients[c].worker_mut();
        worker.heard_at = now;
        worker.left |= is_done;
        if worker.left {
            return;
        }
        if worker.clock == WorkerClock(0) {
            if worker.asked_at + ASK_US <= now {
                worker.asked_at = now;
                self.ask_to_join(c);
            }
            return;
        }
        let clock = worker.clock;
        let ahead = self.clients[c].oldest_clock().map_or(0, |oldest| clock.0 - oldest.0);
        if ahead >= CLOCKS_AHEAD || self.clients[c].clocks_left() == 0 {
            if self.clients[c].worker().asked_at + ASK_US <= now {
                self.clients[c].worker_mut().asked_at = now;
                self.say_idle(c, WorkerClock(clock.0 - 1));
            }
        } else if self.random.one_in(2) {
            self.work_at(c, clock);
        }
    }

    /// It waits, and has ended this clock.
    fn say_idle(&mut self, c: usize, clock: WorkerClock) {
        for partition in 0..self.partitions {
            let entry = &self.clients[c].map().partitions[partition];
            let (Some(head), epoch) = (entry.head(), entry.epoch) else { continue };
            self.write(c, place(head), Message::Idle { partition, epoch, clock });
        }
    }

    fn ask_to_join(&mut self, c: usize) {
        self.want_map(c);
        for p in 0..self.partitions {
            if self.clients[c].worker().joined.contains_key(&p) {
                continue;
            }
            let entry = &self.clients[c].map().partitions[p];
            let (Some(head), epoch) = (entry.head(), entry.epoch) else { continue };
            let from = self.client_base() + c;
            self.send(from, place(head), Message::JoinRounds { partition: p, epoch });
        }
    }

    /// All that the worker pushes in one clock, and its end.
    fn work_at(&mut self, c: usize, clock: WorkerClock) {
        self.check_bound(c, clock);
        for p in 0..self.partitions {
            for _ in 0..self.random.below(3) {
                let block = self.random.index(BLOCKS);
                let index = u32::try_from(self.pushes.len()).expect("few pushes");
                self.pushes.push(Pushed {
                    client: c,
                    partition: p,
                    block,
                    clock,
                    ..Pushed::default()
                });
                self.send_in_clock(c, p, index, clock, false);
            }
            self.send_in_clock(c, p, u32::MAX, clock, true);
        }
        let client = &mut self.clients[c];
        client.worker_mut().clock = WorkerClock(clock.0 + 1);
        client.end_clock();
    }

    fn send_in_clock(&mut self, c: usize, p: usize, index: u32, clock: WorkerClock, ends: bool) {
        let now = self.now;
        let client = &mut self.clients[c];
        let sequence = client.next_sequence();
        let (session, incarnation) = session(c);
        let previous = client.last_outstanding(p);
        let push = Push { session, incarnation, lane: LANE, sequence, previous };
        let ends = ends.then_some(clock);
        let one =
            Outstanding { index, partition: p, push, sent_at: now, begun_at: now, clock, ends };
        client.add(one);
        self.send_one(c, &one);
    }

    /// A worker is not waited for any more: what it had under way may count or not.
    pub(super) fn worker_lost_rank(&mut self, c: usize, from: Node) {
        // What it had asked of one that no longer leads was settled with the map that says so.
        let entries = &self.clients[c].map().partitions;
        if !entries.iter().any(|entry| entry.head().map(place) == Some(from)) {
            return;
        }
        for one in self.clients[c].abandon() {
            if let Some(pushed) = self.pushes.get_mut(one as usize) {
                pushed.given_up = true;
                self.outcome.given_up += 1;
            }
        }
        let worker = self.clients[c].worker_mut();
        worker.clock = WorkerClock(0);
        worker.joined.clear();
        worker.has_lost = true;
    }

    pub(super) fn worker_joined(&mut self, c: usize, p: usize, clock: WorkerClock) {
        let (now, partitions) = (self.now, self.partitions);
        let worker = self.clients[c].worker_mut();
        if worker.clock > WorkerClock(0) {
            return;
        }
        worker.joined.insert(p, clock);
        if worker.joined.len() == partitions {
            let last = worker.joined.values().max().copied().unwrap_or_default();
            worker.clock = WorkerClock(last.0 + 1);
            worker.joined_at = now;
        }
    }

    pub(super) fn send_one(&mut self, c: usize, one: &Outstanding) {
        let Some(clock) = one.ends else {
            self.send_push(c, one.index, one.partition, one.push);
            return;
        };
        let entry = &self.clients[c].map().partitions[one.partition];
        let (Some(head), epoch) = (entry.head(), entry.epoch) else { return };
        let (partition, sequence): (usize, Sequence) = (one.partition, one.push.sequence);
        let after = self.clients[c].last_before(partition, sequence);
        let message = Message::Finish { partition, epoch, clock, sequence, after };
        self.write(c, place(head), message);
    }
}
