//! Servers that come back in a new life before anybody has noticed the end of the old one, as after a
//! power cut. Whoever shares chains with them is heard or failed first: where all of a chain came back or
//! is dead, nobody has gone on, and the first with what it held has everything.
//!
//! One that comes back with what its disk holds may hold less than another that was only cut off. Where all
//! of a chain went down together it waits for those that are not back yet, for a while. Time in which it is
//! not heard itself does not count: whom it waits for may not be heard for the same reason.

use std::collections::BTreeMap;

use windlass_wire::{Incarnation, ServerId, coordination::Kept};

use super::CoordinatorOptions;
use super::health::Health;
use crate::membership::{Change, Membership, PartitionEntry};
use crate::time::Time;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Returning {
    servers: BTreeMap<ServerId, Return>,
}

#[derive(Clone, Debug)]
struct Return {
    /// Since when it waits, and is heard.
    since: Time,
    heard_at: Time,
    join: Change,
    is_of_disk: bool,
    /// Its old life is failed, now that it is known who went on without it.
    is_failed: bool,
}

impl Return {
    /// It is heard. After a silence its wait begins anew.
    fn heard(&mut self, now: Time, silence_us: u64) {
        if now.since(self.heard_at) >= silence_us {
            self.since = now;
        }
        self.heard_at = now;
    }

    fn is_life(&self, life: Incarnation) -> bool {
        matches!(self.join, Change::Join { incarnation, .. } if incarnation == life)
    }
}

impl Returning {
    pub(super) fn clear(&mut self) {
        self.servers.clear();
    }

    /// Whether it is still to be known who went on without one of them.
    pub(super) fn is_open(&self) -> bool {
        self.servers.values().any(|one| !one.is_failed)
    }

    /// A server asks to be taken back; returns who has to be heard first.
    pub(super) fn insert(
        &mut self,
        now: Time,
        server: ServerId,
        join: Change,
        map: &Membership,
        options: &CoordinatorOptions,
    ) -> Vec<ServerId> {
        let is_of_disk = matches!(join, Change::Join { kept: Kept::Disk {}, .. });
        let is_failed = !map.is_in_force(server);
        let new = Return { since: now, heard_at: now, join, is_of_disk, is_failed };
        let one = self.servers.entry(server).or_insert_with(|| new.clone());
        one.heard(now, options.rejoin_silence_us());
        *one = Return { since: one.since, ..new };
        self.peers(server, map)
    }

    /// A server that waits to be taken back is alive.
    pub(super) fn heard(
        &mut self,
        now: Time,
        server: ServerId,
        life: Incarnation,
        options: &CoordinatorOptions,
    ) {
        let waiting = self.servers.get_mut(&server);
        if let Some(one) = waiting.filter(|one| one.is_life(life)) {
            one.heard(now, options.rejoin_silence_us());
        }
    }

    /// It has come in yet another life, with nothing or with all.
    pub(super) fn forget(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    /// Whether all that share chains with them came back, too, or are heard, or dead.
    pub(super) fn is_decided(&self, map: &Membership, health: &Health, wanted: &[Change]) -> bool {
        let is_known = |peer: &ServerId, since| {
            health.is_heard_since(*peer, since) || wanted.contains(&Change::Fail { server: *peer })
        };
        self.servers
            .iter()
            .filter(|(_, one)| !one.is_failed)
            .all(|(server, one)| self.peers(*server, map).iter().all(|id| is_known(id, one.since)))
    }

    /// Whether a failure has to wait until it is known who goes on: without the server that fails, the life
    /// of a chain's member that has come back in another would seem to be the one that does. Nor is that life
    /// failed before: one that nobody hears would seem to go on without it.
    pub(super) fn holds_up(&self, server: ServerId, map: &Membership, health: &Health) -> bool {
        let open = |id: &ServerId| self.servers.get(id).filter(|one| !one.is_failed);
        let is_in_doubt = |entry: &PartitionEntry| {
            let Some(since) = entry.members.iter().filter_map(open).map(|one| one.since).max()
            else {
                return false;
            };
            let goes_on = |id: &&ServerId| {
                **id != server
                    && !self.servers.contains_key(id)
                    && health.is_heard_since(**id, since)
            };
            entry.members.contains(&server) && !entry.members.iter().any(|id| goes_on(&id))
        };
        open(&server).is_some() || self.is_open() && map.partitions.iter().any(is_in_doubt)
    }

    /// It is known who went on: the failures of their old lives, and the joins of those that may come back.
    /// One with what its disk holds waits for whoever may hold more, for at most
    /// [`CoordinatorOptions::disk_wait_us`].
    pub(super) fn take(
        &mut self,
        now: Time,
        map: &Membership,
        wanted: &[Change],
        options: &CoordinatorOptions,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&server, one) in &mut self.servers {
            if !std::mem::replace(&mut one.is_failed, true) {
                changes.push(Change::Fail { server });
            }
        }
        let may_come = |(server, one): &(&ServerId, &Return)| {
            let is_heard = now.since(one.heard_at) < options.rejoin_silence_us();
            let is_over = is_heard && now.since(one.since) >= options.disk_wait_us;
            !one.is_of_disk || is_over || !self.awaits_others(**server, map, wanted)
        };
        let come = self.servers.iter().filter(may_come).map(|(server, _)| *server);
        for server in come.collect::<Vec<_>>() {
            changes.extend(self.servers.remove(&server).map(|one| one.join));
        }
        changes
    }

    /// Whether a chain of a server that is down has members that may come back and hold more.
    fn awaits_others(&self, server: ServerId, map: &Membership, wanted: &[Change]) -> bool {
        let is_back = |id: &ServerId| self.servers.contains_key(id);
        let is_failing = |id: &ServerId| wanted.contains(&Change::Fail { server: *id });
        let goes_on = |id: &ServerId| map.is_in_force(*id) && !is_back(id) && !is_failing(id);
        let mut its = map.partitions.iter().filter(|entry| entry.members.contains(&server));
        its.any(|entry| !entry.members.iter().any(goes_on) && !entry.members.iter().all(is_back))
    }

    /// Members in force of a server's chains that are not among them.
    fn peers(&self, server: ServerId, map: &Membership) -> Vec<ServerId> {
        let shared = map.partitions.iter().filter(|entry| entry.members.contains(&server));
        let members = shared.flat_map(|entry| entry.members.iter().copied());
        let mut peers: Vec<ServerId> =
            members.filter(|id| map.is_in_force(*id) && !self.servers.contains_key(id)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::Epoch;

    use super::super::{CoordinatorInput, tests::Driver};
    use super::*;

    /// Three servers with a copy of everything each.
    fn three() -> Driver {
        Driver::new(3)
    }

    /// All three go down in one map.
    fn all_down() -> Driver {
        let mut driver = three();
        (1..=3).for_each(|id| driver.give(CoordinatorInput::Disconnected { server: ServerId(id) }));
        driver.now = driver.now.after(20_000);
        driver.give(CoordinatorInput::Tick);
        assert!((1..=3).all(|id| !driver.coordinator.map().is_in_force(ServerId(id))));
        driver
    }

    fn come_back(driver: &mut Driver, id: u32, life: u64, kept: Kept) {
        driver.give(CoordinatorInput::Join {
            server: ServerId(id),
            incarnation: Incarnation(life),
            address: String::new(),
            shards: 2,
            kept,
        });
    }

    /// The first server waits, and says every 100 ms that it is alive.
    fn beats(driver: &mut Driver, life: u64, count: u32) {
        for _ in 0..count {
            driver.now = driver.now.after(100_000);
            let (server, incarnation) = (ServerId(1), Incarnation(life));
            driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch: Epoch(0) });
            driver.give(CoordinatorInput::Tick);
        }
    }

    /// Who has each partition, and that it is the same of all.
    fn members(driver: &Driver) -> Vec<ServerId> {
        let map = driver.coordinator.map();
        let first = map.partitions[0].members.clone();
        let has = |entry: &PartitionEntry| {
            first.iter().all(|id| entry.members.contains(id)) && !entry.lost
        };
        assert!(map.partitions.iter().all(has), "{map:?}");
        first
    }

    #[test]
    fn a_server_as_of_its_disk_waits_for_one_that_was_only_cut_off() {
        let mut driver = all_down();
        come_back(&mut driver, 1, 2, Kept::Disk {});
        assert!(!driver.coordinator.map().is_in_force(ServerId(1)), "the others may hold more");
        driver.now = driver.now.after(3_000_000);
        come_back(&mut driver, 2, 2, Kept::Whole {});
        assert_eq!(members(&driver), [ServerId(2)]);
        assert!(driver.coordinator.map().admits(ServerId(1), Incarnation(2)), "to copy");
    }

    #[test]
    fn of_those_that_come_in_one_map_the_whole_one_takes_the_chains() {
        let mut driver = three();
        driver.now = driver.now.after(1_000);
        come_back(&mut driver, 1, 2, Kept::Disk {});
        come_back(&mut driver, 3, 2, Kept::Nothing {});
        come_back(&mut driver, 2, 2, Kept::Whole {});
        assert_eq!(members(&driver), [ServerId(2)]);
        assert!(driver.coordinator.map().admits(ServerId(1), Incarnation(2)), "to copy");
    }

    #[test]
    fn a_server_as_of_its_disk_goes_on_when_nobody_comes() {
        let mut driver = all_down();
        come_back(&mut driver, 1, 2, Kept::Disk {});
        beats(&mut driver, 2, 40);
        // It goes on asking in another life.
        come_back(&mut driver, 1, 3, Kept::Disk {});
        beats(&mut driver, 3, 39);
        assert!(!driver.coordinator.map().is_in_force(ServerId(1)));
        beats(&mut driver, 3, 1);
        assert_eq!(members(&driver), [ServerId(1)]);
        assert!(driver.coordinator.map().admits(ServerId(1), Incarnation(3)));
    }

    /// A coordinator that hears nobody does not know whether those that are waited for have died.
    #[test]
    fn a_server_as_of_its_disk_is_not_taken_in_while_it_is_not_heard() {
        let mut driver = all_down();
        come_back(&mut driver, 1, 2, Kept::Disk {});
        beats(&mut driver, 2, 70);
        driver.now = driver.now.after(3_000_000);
        driver.give(CoordinatorInput::Tick);
        assert!(!driver.coordinator.map().is_in_force(ServerId(1)), "nobody is heard");
        beats(&mut driver, 2, 70);
        assert!(
            !driver.coordinator.map().is_in_force(ServerId(1)),
            "the others may be heard again"
        );
        come_back(&mut driver, 2, 2, Kept::Whole {});
        assert_eq!(members(&driver), [ServerId(2)]);
    }

    #[test]
    fn servers_as_of_their_disks_wait_for_each_other_and_nobody_else() {
        let mut driver = all_down();
        come_back(&mut driver, 1, 2, Kept::Disk {});
        come_back(&mut driver, 2, 2, Kept::Disk {});
        assert!(!driver.coordinator.map().is_in_force(ServerId(1)));
        come_back(&mut driver, 3, 2, Kept::Nothing {});
        assert_eq!(members(&driver), [ServerId(1)], "there is nothing better");
    }

    /// Its end was not noticed: as long as nobody knows whether the others live, its old life is not one
    /// that goes on without them.
    #[test]
    fn the_old_life_of_a_server_that_is_back_outlives_nobody() {
        let mut driver = three();
        driver.now = driver.now.after(1_000);
        come_back(&mut driver, 1, 2, Kept::Disk {});
        // One is dead at once, the other silent.
        driver.give(CoordinatorInput::Disconnected { server: ServerId(2) });
        for _ in 0..100 {
            driver.now = driver.now.after(10_000);
            driver.give(CoordinatorInput::Tick);
        }
        assert!((1..=3).all(|id| !driver.coordinator.map().is_in_force(ServerId(id))));
        assert_eq!(members(&driver).len(), 3);
        come_back(&mut driver, 2, 2, Kept::Whole {});
        assert_eq!(members(&driver), [ServerId(2)]);
    }

    /// Its connection broke, so its old life could be failed before the others are missed: they may have died, too.
    #[test]
    fn the_old_life_of_a_server_that_is_back_is_not_failed_for_one_that_is_not_heard() {
        let mut driver = three();
        driver.now = driver.now.after(1_000);
        driver.give(CoordinatorInput::Disconnected { server: ServerId(1) });
        come_back(&mut driver, 1, 2, Kept::Disk {});
        for _ in 0..10 {
            driver.now = driver.now.after(10_000);
            driver.give(CoordinatorInput::Tick);
        }
        assert_eq!(members(&driver).len(), 3, "whether the others live is not known");
        driver.heartbeats(1);
        driver.give(CoordinatorInput::Tick);
        assert_eq!(members(&driver).len(), 2, "they went on");
    }

    /// A chain that goes on is not held up: who is in force has everything.
    #[test]
    fn a_server_as_of_its_disk_copies_from_those_that_went_on() {
        let mut driver = three();
        driver.now = driver.now.after(1_000);
        come_back(&mut driver, 1, 2, Kept::Disk {});
        driver.now = driver.now.after(1_000);
        driver.heartbeats(1);
        assert!(driver.coordinator.map().admits(ServerId(1), Incarnation(2)));
        let map = driver.coordinator.map();
        assert!(map.partitions.iter().all(|entry| entry.members.len() == 2), "{map:?}");
    }
}
