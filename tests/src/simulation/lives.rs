//! A server's lives: it acts by maps that know its life, takes a new life when fenced, and starts again
//! with what its disk holds.

use std::rc::Rc;

use windlass_replication::{Input, Leases, LogIndex, Membership, Replica, Time};
use windlass_wire::{Epoch, Incarnation, coordination::Kept};

use super::memory::Part;
use super::options::Mutation;
use super::server::{LIMITS, Process, TIMINGS, partition};
use super::world::{Event, World};

impl World {
    pub(super) fn adopt(&mut self, s: usize, map: &Rc<Membership>) {
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
        let peers = map.peers().remove(&me).unwrap_or_default();
        self.take_from_disk(s, map);
        let server = &mut self.servers[s];
        server.joined = true;
        server.map = Rc::clone(map);
        let peers = peers.into_iter().map(|id| (id, map.servers[&id].incarnation));
        server.leases.adopt(now, map.epoch, server.life, peers);
        for p in 0..self.partitions {
            if self.lacks_room(s, p, map) {
                if self.options.mutation == Some(Mutation::InstallHalfWay) {
                    return;
                }
                // As if the map had not come.
                continue;
            }
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
                part.rounds = None;
                self.give_up_waiting(s, p);
            }
            let part = &mut self.servers[s].parts[p];
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
        let now = self.local(s);
        let server = &mut self.servers[s];
        server.life = Incarnation(server.life.0 + 1);
        if std::mem::replace(&mut server.joined, false) {
            server.kept = Kept::Whole {};
        }
        server.leases.begin_life(now);
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
            part.rounds = None;
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
        server.map = Rc::new(Membership::new(1, 1));
        server.process = Process::Running;
        server.joined = false;
        server.leases = Leases::new(now, TIMINGS);
        server.inbox.clear();
        if kept && self.is_mixed() {
            self.recover(s);
        } else {
            self.replay(s, kept);
        }
        self.servers[s].kept = match kept {
            true if sync || self.options.mutation == Some(Mutation::DiskIsWhole) => Kept::Whole {},
            true => Kept::Disk {},
            false => Kept::Nothing {},
        };
        self.renew_links(s);
    }

    /// Checkpoint and log, where the disk is `kept`.
    fn replay(&mut self, s: usize, kept: bool) {
        let server = &mut self.servers[s];
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
            part.blocks = old.snapshot.blocks.clone();
            part.clock = old.snapshot.clock.clone();
            part.members = old.snapshot.members.clone();
            let mut sessions = old.snapshot.sessions.clone();
            part.log = old.log.iter().filter(|record| record.lsn <= durable).cloned().collect();
            let replayed = part.log.clone();
            for record in replayed.iter().filter(|record| record.lsn > old.snapshot.lsn) {
                part.apply(record, &self.pushes, false);
                sessions.apply(record.lsn, &record.covered, &record.expired);
            }
            let epochs: Vec<_> = index.epochs().filter(|at| at.lsn <= durable).collect();
            let log = LogIndex::recovered(index.first().min(durable.next()), durable, &epochs);
            part.snapshot = old.snapshot;
            part.replica = Replica::recover(partition(p), server.id, LIMITS, log, sessions);
            part.checked = durable;
            part.disk = durable;
        }
    }
}
