//! Failures that overlap in one chain: all of its members are gone at once, and what they come back with
//! differs.

use std::collections::BTreeSet;

use windlass_wire::ServerId;

use super::random::Random;
use super::schedule::FaultKind;
use super::server::place;
use super::world::World;

/// How long those that are cut off stay so, at most: less than a server with what its disk holds waits.
pub(super) const APART_US_MAX: u64 = 120_000;
/// As [`windlass_replication::CoordinatorOptions::disk_wait_us`].
pub(super) const DISK_WAIT_US: u64 = 200_000;

const _: () = assert!(APART_US_MAX < DISK_WAIT_US, "they are waited for");

pub(super) fn any(random: &mut Random, servers: usize) -> FaultKind {
    FaultKind::Apart {
        server: random.index(servers),
        restart_us: random.between(1_000, APART_US_MAX / 2),
        us: random.between(APART_US_MAX / 4, APART_US_MAX),
    }
}

impl World {
    /// A server crashes, and what its disk holds is as of its last checkpoint, or of
    /// its last synchronous record. At the same moment those that
    /// share chains with it are cut off, and lose nothing.
    pub(super) fn part_chains(&mut self, server: usize, restart_us: u64, us: u64) {
        let id = self.servers[server].id;
        let is_settled = self.store.partitions.iter().all(|entry| entry.joining.is_none());
        let members = self.store.partitions.iter().filter(|entry| entry.involves(id));
        let members = members.flat_map(|entry| entry.members.iter().copied());
        let members: BTreeSet<ServerId> = members.collect();
        // Somebody else has to be heard, or it is the coordinator that is cut off.
        let in_force = self.store.servers.keys().filter(|id| self.store.is_in_force(**id)).count();
        if self.sync
            || !is_settled
            || !self.all_are_fit()
            || members.len() < 2
            || in_force <= members.len()
        {
            return;
        }
        for member in members {
            let member_us = if member == id { restart_us } else { us };
            self.unfit(place(member), us);
            for node in 0..self.client_base() {
                self.cut(place(member), node, member_us);
            }
        }
        for part in &mut self.servers[server].parts {
            let synchronous = part.log.iter().filter(|one| one.sync && one.lsn <= part.disk);
            let last = synchronous.map(|record| record.lsn).next_back().unwrap_or_default();
            part.disk = part.snapshot.lsn.max(last);
        }
        self.crash(server, true, false, restart_us);
    }

    /// Whether all servers run, are in the cluster, and have been well for a while.
    pub(super) fn all_are_fit(&self) -> bool {
        let now = self.now;
        self.servers.iter().all(|one| one.is_running() && one.unfit_until <= now && one.joined)
    }
}
