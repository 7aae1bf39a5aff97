//! The coordinators' store out of reach: one of them is cut off from it, while its servers hear it well; what
//! it wrote may land late, and it is never told. Beside that, servers have memory for some partitions only.

use std::rc::Rc;

use windlass_replication::Membership;
use windlass_replication::membership::JoiningPhase;

use super::message::Message;
use super::options::{Mode, Mutation};
use super::random::Random;
use super::schedule::FaultKind;
use super::world::{COORDINATOR, Event, World};

/// How long a lead lasts without the store.
const LEASE_US: u64 = 60_000;
/// After how long a write without an answer is tried again.
const RETRY_US: u64 = 2_000;
/// How late a write may land.
const LATE_US_MAX: u64 = 100_000;
/// For ever, in a run.
const FOR_EVER_US: u64 = 1 << 40;

pub(super) fn any(random: &mut Random) -> FaultKind {
    let us = if random.one_in(4) { FOR_EVER_US } else { random.between(10_000, 300_000) };
    FaultKind::CutStore { us }
}

impl World {
    /// The leader no longer reaches the store; the other one does.
    pub(super) fn cut_store(&mut self, us: u64) {
        let Some(leader) = self.leader.filter(|leader| !self.is_off_store(1 - *leader)) else {
            return;
        };
        let until = &mut self.off_store_until[leader];
        *until = (*until).max(self.now + us);
        if self.options.mutation != Some(Mutation::LeadWithoutStore) {
            self.schedule(LEASE_US, Event::LeaseOver { coordinator: leader });
        }
    }

    pub(super) fn is_off_store(&self, coordinator: usize) -> bool {
        self.off_store_until[coordinator] > self.now
    }

    /// A lead that was not renewed for so long is over.
    pub(super) fn lease_over(&mut self, coordinator: usize) {
        if self.leader == Some(coordinator) && self.is_off_store(coordinator) {
            self.hand_over(coordinator, false, 500);
        }
    }

    /// A write by a coordinator that is cut off: it lands late, or never, and is tried again.
    pub(super) fn write_cut_off(&mut self, coordinator: usize, draft: Membership) {
        let epoch = draft.epoch;
        if self.random.one_in(3) {
            let delay = self.random.below(LATE_US_MAX);
            self.schedule(delay, Event::Lands { draft: Rc::new(draft) });
        }
        self.schedule(RETRY_US, Event::Stored { coordinator, epoch });
    }

    /// Whether a server has no memory for a partition that a map has it copy.
    pub(super) fn lacks_room(&self, s: usize, p: usize, map: &Membership) -> bool {
        if self.options.mode != Mode::Store {
            return false;
        }
        let id = self.servers[s].id;
        let copies = |p: usize| {
            let joining = map.partitions[p].joining;
            joining.is_some_and(|one| one.server == id && one.phase == JoiningPhase::Copying)
        };
        let held = map.partitions.iter().filter(|entry| entry.involves(id)).count();
        let behind = (p..self.partitions).filter(|p| copies(*p)).count();
        copies(p) && held - behind >= self.rooms[s]
    }

    /// What a server has no memory for, told with every heartbeat.
    pub(super) fn tell_what_lacks_room(&mut self, s: usize) {
        if self.options.mutation == Some(Mutation::InstallHalfWay) {
            return;
        }
        let map = Rc::clone(&self.servers[s].map);
        for partition in 0..map.partitions.len() {
            if self.lacks_room(s, partition, &map) {
                let (life, epoch) = (self.servers[s].life, map.partitions[partition].epoch);
                self.send(s, COORDINATOR, Message::CannotHold { life, partition, epoch });
            }
        }
    }
}
