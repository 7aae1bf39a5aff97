//! The invariants: agreement of replicas, no loss, no double, no stale read, no false claim.

use windlass_replication::mix::mix2;
use windlass_wire::{Epoch, Lsn, ServerId, WorkerRank};

use super::memory::{Block, Pushed, rows};
use super::server::place;
use super::world::World;

impl World {
    pub(super) fn found(&mut self, note: impl FnOnce() -> String) {
        if self.outcome.note.is_none() {
            let now = self.now;
            self.outcome.note = Some(format!("at {now} us: {}", note()));
        }
    }

    /// Replicas that are at one record of one epoch must be equal.
    pub(super) fn check_state(&mut self, p: usize, lsn: Lsn, epoch: Epoch, hash: u64) {
        let known = *self.states[p].entry((lsn, epoch)).or_insert(hash);
        if known != hash {
            self.outcome.divergent += 1;
            self.found(|| {
                format!("partition {p}: replicas differ at record {lsn} of epoch {epoch}")
            });
        }
    }

    /// Once committed, a position never changes. With `sync`, what a member calls committed is on the
    /// disks of those below it; only the head's word speaks for all.
    pub(super) fn check_committed(&mut self, s: usize, p: usize) {
        let is_mixed = self.is_mixed();
        let part = &mut self.servers[s].parts[p];
        if (self.sync || is_mixed) && !part.replica.is_head() {
            return;
        }
        let committed = part.replica.log().committed();
        while part.checked < committed {
            let lsn = part.checked.next();
            part.checked = lsn;
            let Some(record) = part.record(lsn) else { continue };
            let closes = record.turned.closes.map_or(7, |clock| clock.0 << 8);
            let pushes =
                record.pushes.iter().fold(closes, |hash, &push| mix2(hash, u64::from(push)));
            let this = (record.epoch, pushes);
            let history = &mut self.committed[p];
            let at = usize::try_from(lsn.0).expect("few records") - 1;
            if at >= history.len() {
                history.resize(at + 1, (Epoch(0), 0));
            }
            if history[at] == (Epoch(0), 0) {
                history[at] = this;
            } else if history[at] != this {
                self.outcome.divergent += 1;
                let id = self.servers[s].id;
                self.found(|| format!("partition {p}: server {id} committed another record {lsn}"));
                return;
            }
        }
    }

    /// A replica's stamp may claim only pushes that its block includes.
    pub(super) fn check_claims(&mut self, s: usize, p: usize, block: usize) {
        let part = &self.servers[s].parts[p];
        let row = rows(block).start;
        let list = &part.blocks[block].list;
        for rank in 0..self.clients.len() {
            let worker = WorkerRank(u32::try_from(rank).expect("few clients"));
            let claimed = part.clock.at(worker, row);
            let included =
                list.iter().filter(|&&push| self.pushes[push as usize].client == rank).count();
            // A later push says the clock of one that was given up, and may never have come.
            let is_missing = |&(index, push): &(usize, &Pushed)| {
                (push.given_up || push.excused)
                    && (push.client, push.partition, push.block) == (rank, p, block)
                    && push.clock <= claimed
                    && !list.iter().any(|applied| *applied as usize == index)
            };
            let missing = match self.outcome.given_up + self.outcome.excused {
                0 => 0,
                _ => self.pushes.iter().enumerate().filter(is_missing).count(),
            };
            if ((included + missing) as u64) < claimed.0 {
                self.outcome.stale += 1;
                let id = self.servers[s].id;
                self.found(|| {
                    format!("server {id} partition {p} block {block}: claims clock {claimed} of worker {rank}, has {included} pushes")
                });
                return;
            }
        }
        self.any_seen += 1;
    }

    /// Each partition has a head that lives, and takes pushes by the map in force.
    pub(super) fn check_heads(&mut self) {
        // The store may hold a later one that its writer could tell nobody of.
        let leader = self.leader.map(|leader| self.coordinators[leader].map());
        let map = leader.unwrap_or(&self.store).clone();
        for p in 0..self.partitions {
            let entry = &map.partitions[p];
            let lives = entry.head().is_some_and(|head| {
                let server = &self.servers[place(head)];
                let replica = &server.parts[p].replica;
                server.is_running() && server.joined && replica.is_head()
            });
            if !lives {
                self.outcome.stuck += 1;
                let entry = format!("{entry:?}");
                self.found(|| format!("partition {p} has no head that lives: {entry}"));
            }
        }
    }

    /// Each partition has a copy at as many servers as it should.
    pub(super) fn check_copies(&mut self) {
        if let Some(p) = self.lacking_copies() {
            self.outcome.stuck += 1;
            let entry = format!("{:?}", self.store.partitions[p]);
            self.found(|| format!("partition {p} lacks copies: {entry}"));
        }
    }

    /// A partition that has fewer copies than there are servers for.
    pub(super) fn lacking_copies(&self) -> Option<usize> {
        let map = &self.store;
        let runs = |id: &ServerId| self.servers[place(*id)].is_running();
        let wanted = usize::from(map.replicas).min(map.placeable().filter(runs).count());
        map.partitions.iter().position(|entry| entry.members.len() < wanted)
    }

    pub(super) fn final_checks(&mut self) {
        self.outcome.reads = self.seen.len() as u64;
        if !self.outcome.is_clean() {
            return;
        }
        let stuck: usize = self.clients.iter().map(super::client::Client::unacknowledged).sum();
        if stuck > 0 {
            self.outcome.stuck = stuck as u64;
            let store = format!("{:?}", self.store.partitions);
            let rounds = self.rounds_note();
            self.found(|| format!("{stuck} pushes never acknowledged; {store}{rounds}"));
            return;
        }
        for p in 0..self.partitions {
            self.check_chain(p);
            self.check_pushes(p);
            self.check_reads(p);
        }
    }

    fn check_chain(&mut self, p: usize) {
        let members = self.store.partitions[p].members.clone();
        let state = |world: &Self, id| {
            let part = &world.servers[place(id)].parts[p];
            (part.replica.log().last(), part.hash(), part.replica.sessions().clone())
        };
        let first = state(self, members[0]);
        for &id in &members[1..] {
            let (last, hash, sessions) = state(self, id);
            if (last, hash) != (first.0, first.1) || sessions != first.2 {
                self.outcome.divergent += 1;
                let heads = first.0;
                self.found(|| {
                    format!("partition {p}: server {id} ends at {last}, the head at {heads}, or they differ")
                });
            }
        }
    }

    fn final_blocks(&self, p: usize) -> &[Block] {
        let tail = *self.store.partitions[p].members.last().expect("a chain has a member");
        &self.servers[place(tail)].parts[p].blocks
    }

    fn check_pushes(&mut self, p: usize) {
        let mut count = vec![0_u32; self.pushes.len()];
        for (at, block) in self.final_blocks(p).iter().enumerate() {
            for &push in &block.list {
                assert_eq!(self.pushes[push as usize].block, at, "a push is in its block");
                count[push as usize] += 1;
            }
        }
        for (index, push) in self.pushes.clone().iter().enumerate() {
            if push.partition != p {
                continue;
            }
            let may_lack = push.dropped || push.excused;
            if count[index] == 0 && push.acknowledged_at.is_some() && !may_lack {
                self.outcome.lost += 1;
                self.found(|| format!("acknowledged {push:?} is lost"));
            }
            if count[index] > 1 {
                self.outcome.doubled += 1;
                self.found(|| format!("{push:?} is applied {} times", count[index]));
            }
        }
    }

    /// Strong reads of a block are linearizable: each is a prefix of the final order, has every push
    /// acknowledged before it began, and nothing less than any read that ended before it began.
    fn check_reads(&mut self, p: usize) {
        for block in 0..super::memory::BLOCKS {
            let list = self.final_blocks(p)[block].list.clone();
            let mut hashes = vec![0_u64];
            for &push in &list {
                hashes.push(mix2(hashes[hashes.len() - 1], u64::from(push)));
            }
            let mut reads = self.seen.clone();
            // A loss of all power may undo what was replicated and read but neither on every disk nor
            // acknowledged.
            let since = self.power_lost_at.max(self.mixed.resumed_at[p]);
            reads.retain(|seen| {
                seen.partition == p
                    && seen.block == block
                    && since.is_none_or(|at| seen.began_at > at)
            });
            for seen in &reads {
                if hashes.get(seen.count) != Some(&seen.hash) {
                    self.outcome.stale += 1;
                    self.found(|| format!("{seen:?} saw what was never committed"));
                    continue;
                }
                let missed = list.iter().skip(seen.count).find(|&&push| {
                    let acknowledged = self.pushes[push as usize].acknowledged_at;
                    acknowledged.is_some_and(|at| at < seen.began_at)
                });
                let earlier = reads
                    .iter()
                    .find(|other| other.ended_at < seen.began_at && other.count > seen.count);
                let (missed, earlier) = (missed.copied(), earlier.copied());
                if missed.is_some() || earlier.is_some() {
                    self.outcome.stale += 1;
                    self.found(|| {
                        format!("{seen:?} missed push {missed:?}, or what {earlier:?} saw")
                    });
                }
            }
        }
    }
}
