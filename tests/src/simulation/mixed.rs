//! Tables of every durability side by side, and servers that fail however few are left: of each partition one block
//! is a table in memory, one an interval's, one synchronous. A server that starts again takes up what its disk holds
//! where the map names it alone, as in production.
//!
//! What may be lost is decided when it happens: rows that the last member to hold them lost with its process; rows of
//! members that were removed while another went on, or that stayed away for longer than one with its disk waits; and what one
//! disk holds of an interval and another does not. All other rows have to be there in the end.

use std::collections::BTreeSet;

use windlass_replication::{LogIndex, Membership, Position, Replica, SessionTable};
use windlass_wire::{Epoch, ServerId};

use super::memory::{BLOCKS, Block, Part, Pushed, new_clock, rows};
use super::message::Record;
use super::options::{Mode, Mutation};
use super::overlap::{APART_US_MAX, DISK_WAIT_US};
use super::random::Random;
use super::rounds::rank;
use super::schedule::FaultKind;
use super::server::{LIMITS, Process, partition, place};
use super::world::World;

/// What becomes of a block's rows when their server's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    Memory,
    Interval,
    Sync,
}

const DURABILITIES: [Durability; BLOCKS] =
    [Durability::Memory, Durability::Interval, Durability::Sync];

/// Beside what a server's parts hold.
#[derive(Debug)]
pub(super) struct Mixed {
    /// By server: whether the disk outlives the process that has ended.
    keeps_disk: Vec<bool>,
    /// By server: it has read its disk, and no map has told it yet what of it is in force.
    has_recovered: Vec<bool>,
    /// Until when one that has lost its disk may not be back.
    disk_lost_until: u64,
    /// By server: when it last read its disk.
    recovered_at: Vec<u64>,
    /// By partition: when a server last went on from its disk, and what it had lost was lost.
    pub(super) resumed_at: Vec<Option<u64>>,
}

impl Mixed {
    pub(super) fn new(servers: usize, partitions: usize) -> Self {
        Self {
            keeps_disk: vec![false; servers],
            has_recovered: vec![false; servers],
            disk_lost_until: 0,
            recovered_at: vec![0; servers],
            resumed_at: vec![None; partitions],
        }
    }
}

/// What a disk brings back of a partition.
struct FromDisk {
    blocks: Vec<Block>,
    sessions: SessionTable,
    at: Position,
}

/// By then the chains are made.
const FOUNDED_US: u64 = 20_000;

/// Any servers, however few are left; no fault takes the last disk.
pub(super) fn any(random: &mut Random, servers: usize) -> FaultKind {
    let server = random.index(servers);
    let us = random.between(1_000, APART_US_MAX);
    match random.below(9) {
        0..=2 => FaultKind::Crash {
            server,
            kept: !random.one_in(4),
            visible: random.one_in(2),
            restart_us: random.between(2_000, APART_US_MAX),
        },
        3..=4 => FaultKind::Isolate { server, us, clients: random.one_in(2) },
        5 => FaultKind::LoseControl { server, us },
        6 => FaultKind::PowerLoss { restart_us: random.between(2_000, 60_000) },
        7 => FaultKind::Replace {
            server,
            restart_us: random.between(1_000, 60_000),
            others_us: random.between(60_000, APART_US_MAX),
        },
        _ => super::overlap::any(random, servers),
    }
}

/// Whether a record of these pushes is synchronous.
fn is_sync(pushes: &[u32], all: &[Pushed]) -> bool {
    pushes.iter().any(|push| durability_of(&all[*push as usize]) == Durability::Sync)
}

fn durability_of(push: &Pushed) -> Durability {
    DURABILITIES[push.block]
}

fn is_logged(record: &Record, pushes: &[Pushed]) -> bool {
    let mut its = record.pushes.iter();
    its.any(|push| durability_of(&pushes[*push as usize]) != Durability::Memory)
}

fn listed(blocks: &[Block]) -> BTreeSet<u32> {
    blocks.iter().flat_map(|block| block.list.iter().copied()).collect()
}

/// Reads what a disk holds of a partition: the checkpoint without the table in memory, and the records of the
/// others behind it.
fn from_disk(part: &Part, pushes: &[Pushed]) -> Option<FromDisk> {
    let snapshot = &part.snapshot;
    let gap = part.log.first().is_some_and(|record| record.lsn > snapshot.lsn.next());
    if part.replica.position().is_none() || gap {
        return None;
    }
    let (mut blocks, mut sessions) = (snapshot.blocks.clone(), snapshot.sessions.clone());
    blocks[0] = Block::default();
    let mut last = snapshot.lsn;
    let behind =
        |record: &&std::rc::Rc<Record>| record.lsn > snapshot.lsn && record.lsn <= part.disk;
    for record in part.log.iter().filter(behind).filter(|record| is_logged(record, pushes)) {
        for push in &record.pushes {
            blocks[pushes[*push as usize].block].apply(*push);
        }
        sessions.apply(record.lsn, &record.covered, &record.expired);
        last = record.lsn;
    }
    blocks.iter_mut().for_each(|block| block.lsn = last);
    let epochs = part.replica.log().epochs().filter(|change| change.lsn <= last);
    let epoch = epochs.last().unwrap_or_default().epoch;
    Some(FromDisk { blocks, sessions, at: Position { epoch, lsn: last } })
}

impl World {
    pub(super) fn is_mixed(&self) -> bool {
        self.options.mode == Mode::Mixed
    }

    /// How long the store takes for a write: now and then so long that more is decided meanwhile.
    pub(super) fn store_us(&mut self) -> u64 {
        match self.is_mixed() && self.now > FOUNDED_US && self.random.one_in(4) {
            true => self.random.between(1_500, 30_000),
            false => self.random.between(50, 1_500),
        }
    }

    /// A server crashes and loses its disk; those that share chains with it crash, too, and keep theirs.
    pub(super) fn replace(&mut self, server: usize, restart_us: u64, others_us: u64) {
        let id = self.servers[server].id;
        let members = self.store.partitions.iter().filter(|entry| entry.members.contains(&id));
        let others: BTreeSet<ServerId> = members.flat_map(|entry| entry.members.clone()).collect();
        if !self.all_are_fit() || !self.may_fail(server) {
            return;
        }
        for other in others.into_iter().filter(|other| *other != id) {
            self.crash(place(other), true, false, others_us);
        }
        self.crash(server, false, false, restart_us);
    }

    /// The pushes of a turn, as records hold them: where tables differ each record is of one.
    pub(super) fn records_of<'a, T>(
        &self,
        turn: &'a [(u32, T)],
    ) -> impl Iterator<Item = (bool, &'a [(u32, T)])> + use<'a, '_, T> {
        let is_mixed = self.is_mixed();
        let block = |one: &(u32, T)| self.pushes[one.0 as usize].block;
        let runs = turn.chunk_by(move |a, b| !is_mixed || block(a) == block(b));
        runs.map(move |run| {
            let sync = match is_mixed {
                true => is_sync(&[run[0].0], &self.pushes) && !self.forgets_sync(),
                false => self.sync,
            };
            (sync, run)
        })
    }

    fn forgets_sync(&self) -> bool {
        self.options.mutation == Some(Mutation::ForgetSync)
    }

    /// Whether a server may be hit by a fault that may cost its disk: any may where it does not, unless another has
    /// just lost its own. Of two that end, the coordinator may long take that one for the one that lives.
    pub(super) fn may_be_hit(&self, server: usize, keeps_disk: bool) -> bool {
        let is_any = self.is_mixed() && keeps_disk && self.now >= self.mixed.disk_lost_until;
        self.may_fail(server) || is_any && self.servers[server].is_running()
    }

    /// A process has ended. What only its memory held of all members is gone with it.
    pub(super) fn note_end(&mut self, s: usize, keeps_disk: bool) {
        self.mixed.keeps_disk[s] = keeps_disk;
        self.mixed.has_recovered[s] = false;
        if !keeps_disk {
            let until = &mut self.mixed.disk_lost_until;
            *until = self.servers[s].unfit_until.max(*until);
        }
        if !self.is_mixed() {
            return;
        }
        let id = self.servers[s].id;
        for p in 0..self.partitions {
            let members = self.store.partitions[p].members.clone();
            if !members.contains(&id) {
                continue;
            }
            let mut held: BTreeSet<u32> = BTreeSet::new();
            members.iter().for_each(|member| held.append(&mut self.held_by(*member, p)));
            let blocks = &self.servers[s].parts[p].blocks;
            let lost = listed(blocks).difference(&held).copied().collect();
            self.excuse(lost);
        }
    }

    fn excuse(&mut self, lost: Vec<u32>) {
        for push in lost {
            self.pushes[push as usize].excused = true;
            self.outcome.excused += 1;
        }
    }

    /// The pushes that a server holds of a partition: in memory, or, where its process has ended, on its disk.
    fn held_by(&self, id: ServerId, p: usize) -> BTreeSet<u32> {
        let s = place(id);
        let part = &self.servers[s].parts[p];
        match self.servers[s].process {
            Process::Down { .. } if self.mixed.keeps_disk[s] => from_disk(part, &self.pushes)
                .map_or_else(BTreeSet::new, |disk| listed(&disk.blocks)),
            Process::Down { .. } => BTreeSet::new(),
            _ if part.replica.position().is_none() => BTreeSet::new(),
            _ => listed(&part.blocks),
        }
    }

    /// A map takes the place of the one that is stored: what members held that are none of it any more.
    pub(super) fn note_map(&mut self, draft: &Membership) {
        if !self.is_mixed() {
            return;
        }
        for p in 0..self.partitions {
            let (old, new) = (&self.store.partitions[p].members, &draft.partitions[p].members);
            let has_ended = new.iter().any(|id| self.has_ended(*id, draft));
            let has_waited = new.iter().any(|id| self.has_waited(*id));
            let removed: Vec<ServerId> =
                old.iter().filter(|id| !new.contains(id)).copied().collect();
            let mut held: BTreeSet<u32> = BTreeSet::new();
            new.clone().iter().for_each(|member| held.append(&mut self.held_by(*member, p)));
            for id in removed {
                let its = self.held_by(id, p);
                let is_excused = |push: &u32| {
                    let durability = durability_of(&self.pushes[*push as usize]);
                    has_ended
                        || has_waited && !self.store.is_in_force(id)
                        || self.is_as_of_disk(id) && durability != Durability::Sync
                };
                let lost = its.difference(&held).copied().filter(is_excused).collect();
                self.excuse(lost);
            }
        }
    }

    /// The life of a member that a map goes by has ended while the map was stored.
    fn has_ended(&self, id: ServerId, draft: &Membership) -> bool {
        let server = &self.servers[place(id)];
        draft.is_in_force(id) && !(server.is_running() && draft.admits(id, server.life))
    }

    fn is_as_of_disk(&self, id: ServerId) -> bool {
        let is_down = matches!(self.servers[place(id)].process, Process::Down { .. });
        is_down || self.mixed.has_recovered[place(id)]
    }

    /// A server goes on from its disk, since those that may hold more stayed away for too long.
    fn has_waited(&self, id: ServerId) -> bool {
        let s = place(id);
        self.mixed.has_recovered[s] && self.now >= self.mixed.recovered_at[s] + DISK_WAIT_US
    }

    /// What a map was that failed a member before it took in the other one, which had come back with nothing.
    pub(super) fn lost_with_joiner(&self, draft: &Membership) -> Option<Membership> {
        if self.options.mutation != Some(Mutation::LoseWithJoiner) {
            return None;
        }
        let mut mutated = None;
        for (p, entry) in draft.partitions.iter().enumerate() {
            let old = &self.store.partitions[p].members;
            let fails = |id: &ServerId| self.store.is_in_force(*id) && !draft.is_in_force(*id);
            let joins = |id: &&ServerId| {
                let life = |map: &Membership| map.servers.get(id).map(|entry| entry.incarnation);
                draft.is_in_force(**id) && life(draft) > life(&self.store)
            };
            let joiner = old.iter().filter(|id| !entry.members.contains(id)).find(joins);
            if let (Some(joiner), true) = (joiner, entry.members.iter().all(fails)) {
                let map = mutated.get_or_insert_with(|| draft.clone());
                map.partitions[p].members = vec![*joiner];
                map.partitions[p].lost = true;
            }
        }
        mutated
    }

    /// A process starts on what its disk holds.
    pub(super) fn recover(&mut self, s: usize) {
        let id = self.servers[s].id;
        for (p, part) in self.servers[s].parts.iter_mut().enumerate() {
            let found = from_disk(part, &self.pushes);
            let new = Part::new(Replica::new(partition(p), id, LIMITS));
            let old = std::mem::replace(part, new);
            part.word.renewals = old.word.renewals + 1;
            let Some(FromDisk { blocks, sessions, at }) = found else { continue };
            part.clock = clock_of(&blocks, &self.pushes);
            part.blocks = blocks;
            let log = LogIndex::recovered(at.lsn.next(), at.lsn, &[at]);
            part.replica = Replica::recover(partition(p), id, LIMITS, log, sessions);
            part.checked = at.lsn;
            part.disk = at.lsn;
            part.checkpoint();
        }
        self.mixed.has_recovered[s] = true;
        self.mixed.recovered_at[s] = self.now;
    }

    /// A map leaves what it gives to other servers to them. The first after a start says of which partitions the
    /// server goes on from its disk: where others may have gone on it copies.
    pub(super) fn take_from_disk(&mut self, s: usize, map: &Membership) {
        let has_recovered = std::mem::replace(&mut self.mixed.has_recovered[s], false);
        if !self.is_mixed() {
            return;
        }
        let id = self.servers[s].id;
        for p in 0..self.partitions {
            let entry = &map.partitions[p];
            let is_alone = entry.members == [id];
            let resumes = is_alone || self.options.mutation == Some(Mutation::ResumeAnyway);
            if !entry.involves(id) || has_recovered && !resumes {
                self.forget(s, p);
            } else if has_recovered && is_alone {
                self.go_on_from_disk(s, p, entry.epoch);
            }
        }
    }

    fn forget(&mut self, s: usize, p: usize) {
        let id = self.servers[s].id;
        let part = &mut self.servers[s].parts[p];
        let renewals = part.word.renewals;
        *part = Part::new(Replica::new(partition(p), id, LIMITS));
        part.word.renewals = renewals + 1;
    }

    /// Nobody else goes on from where a disk ends: its position lacks what the table in memory had.
    fn go_on_from_disk(&mut self, s: usize, p: usize, epoch: Epoch) {
        let id = self.servers[s].id;
        let part = &mut self.servers[s].parts[p];
        let mut at = part.replica.log().position();
        if self.options.mutation != Some(Mutation::TrustRecovered) {
            at.epoch = epoch;
        }
        let log = LogIndex::recovered(at.lsn.next(), at.lsn, &[at]);
        let sessions = part.replica.sessions().clone();
        part.replica = Replica::recover(partition(p), id, LIMITS, log, sessions);
        self.mixed.resumed_at[p] = Some(self.now);
        self.committed[p].truncate(usize::try_from(at.lsn.0).expect("few records"));
    }
}

fn clock_of(blocks: &[Block], pushes: &[Pushed]) -> windlass_replication::RangeClock {
    let mut clock = new_clock();
    for (at, block) in blocks.iter().enumerate() {
        for push in &block.list {
            let push = &pushes[*push as usize];
            clock.tick(rank(push.client), rows(at), push.clock).expect("few clients");
        }
    }
    clock
}
