//! The coordinator alone, its store always in agreement.

use super::*;

fn joining(id: u32, life: u64, kept: Kept) -> CoordinatorInput {
    CoordinatorInput::Join {
        server: ServerId(id),
        incarnation: Incarnation(life),
        address: format!("10.0.0.{id}"),
        shards: 2,
        kept,
    }
}

pub(super) struct Driver {
    pub(super) coordinator: Coordinator,
    pub(super) outputs: Vec<CoordinatorOutput>,
    pub(super) now: Time,
}

impl Driver {
    pub(super) fn new(servers: u32) -> Self {
        Self::with_copies(servers, 64)
    }

    fn with_copies(servers: u32, copies_per_server_max: usize) -> Self {
        let options = CoordinatorOptions { copies_per_server_max, ..Default::default() };
        let mut driver =
            Self { coordinator: Coordinator::new(options), outputs: Vec::new(), now: Time(1) };
        driver.give(CoordinatorInput::Elected { map: Membership::new(16, 3) });
        (1..=servers).for_each(|id| driver.join(id, 1));
        driver
    }

    pub(super) fn give(&mut self, input: CoordinatorInput) {
        self.coordinator.step(self.now, input, &mut self.outputs);
        while let Some(epoch) = self.coordinator.draft().map(|draft| draft.epoch) {
            let stored = CoordinatorInput::Stored { epoch };
            self.coordinator.step(self.now, stored, &mut self.outputs);
        }
    }

    pub(super) fn join(&mut self, id: u32, life: u64) {
        self.give(joining(id, life, Kept::Whole {}));
    }

    pub(super) fn heartbeats(&mut self, but: u32) {
        let map = self.coordinator.map().clone();
        for (&server, entry) in map.servers.iter().filter(|(id, _)| id.0 != but) {
            self.give(CoordinatorInput::Heartbeat {
                server,
                incarnation: entry.incarnation,
                map_epoch: map.epoch,
            });
        }
    }

    /// Time passes, in which one server is not heard by anybody.
    pub(super) fn pass(&mut self, micros: u64, silent: u32) {
        for tick in 1..=micros / 10_000 {
            self.now = self.now.after(10_000);
            self.heartbeats(silent);
            if silent != 0 && tick > 20 {
                self.all_late(ServerId(silent), (tick - 20) * 10_000);
            }
            self.give(CoordinatorInput::Tick);
        }
    }

    /// All others say how late a server is for them.
    fn all_late(&mut self, server: ServerId, late_us: u64) {
        let servers = self.coordinator.map().servers.clone();
        for (&by, entry) in servers.iter().filter(|(id, _)| **id != server) {
            let late = vec![(server, late_us)];
            let incarnation = entry.incarnation;
            self.give(CoordinatorInput::Hearing { server: by, incarnation, probe: Time(0), late });
        }
    }

    /// Every joining server does at once what it should.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            let map = self.coordinator.map().clone();
            let joins = (0_u32..).zip(&map.partitions);
            for (id, joining, epoch) in
                joins.filter_map(|(id, entry)| Some((id, entry.joining?, entry.epoch)))
            {
                let server = joining.server;
                let incarnation = map.servers[&server].incarnation;
                let partition = PartitionId(id);
                self.give(match joining.phase {
                    JoiningPhase::Copying => {
                        CoordinatorInput::CaughtUp { server, incarnation, partition, epoch }
                    }
                    JoiningPhase::Tail => {
                        CoordinatorInput::Synchronised { server, incarnation, partition, epoch }
                    }
                });
            }
        }
    }
}

#[test]
fn creates_chains_mends_them_and_takes_a_server_back() {
    let mut driver = Driver::new(4);
    let map = driver.coordinator.map();
    assert!(map.partitions.iter().all(|entry| entry.members.len() == 3));
    driver.pass(1_000_000, 2);
    let map = driver.coordinator.map();
    assert!(!map.is_in_force(ServerId(2)));
    assert!(map.partitions.iter().all(|entry| !entry.members.contains(&ServerId(2))));
    assert!(
        driver.outputs.contains(&CoordinatorOutput::Fence {
            server: ServerId(2),
            incarnation: Incarnation(1)
        })
    );
    driver.settle();
    assert!(driver.coordinator.map().partitions.iter().all(|entry| entry.members.len() == 3));
    driver.join(2, 1);
    assert!(matches!(driver.outputs.last(), Some(CoordinatorOutput::Fence { .. })));
    driver.join(2, 2);
    driver.settle();
    assert!(driver.coordinator.map().is_in_force(ServerId(2)));
    let held = driver.coordinator.map().held_by(ServerId(2)).count();
    assert_eq!(held, 0, "it was silent: it gets no copies at once");
    driver.pass(2_000_000, 0);
    driver.settle();
    let held = driver.coordinator.map().held_by(ServerId(2)).count();
    assert!((10..=14).contains(&held), "balanced again: {held}");
}

#[test]
fn a_server_copies_a_few_partitions_at_a_time() {
    let mut driver = Driver::with_copies(3, 2);
    driver.join(4, 1);
    let map = driver.coordinator.map();
    let copies = map.partitions.iter().filter(|entry| entry.joining.is_some()).count();
    assert_eq!(copies, 2);
}

#[test]
fn a_drained_server_holds_nothing_and_chains_never_shrink() {
    let mut driver = Driver::new(4);
    driver.give(CoordinatorInput::Operator(Change::Drain { server: ServerId(1) }));
    assert!(driver.coordinator.map().partitions.iter().all(|entry| entry.members.len() == 3));
    driver.settle();
    assert_eq!(driver.coordinator.map().held_by(ServerId(1)).count(), 0);
    assert!(driver.coordinator.map().partitions.iter().all(|entry| entry.members.len() == 3));
    driver.give(CoordinatorInput::Operator(Change::Forget { server: ServerId(1) }));
    assert!(!driver.coordinator.map().servers.contains_key(&ServerId(1)));
}

/// Only the coordinator does not hear it: its chains go on, and nothing is gained by failing it soon.
/// It may soon be the only one that holds what the others hold.
/// Two fall silent, one a little later: each of them may be there after all, and has everything.
/// It may be its own network that is ill, and another one may lead.
#[test]
fn a_deposed_coordinator_decides_nothing() {
    let mut driver = Driver::new(3);
    let epoch = driver.coordinator.map().epoch;
    driver.give(CoordinatorInput::Deposed);
    driver.outputs.clear();
    driver.join(9, 1);
    driver.give(CoordinatorInput::Tick);
    assert!(driver.outputs.is_empty() && driver.coordinator.map().epoch == epoch);
}

/// One member of every chain is enough after all were down, whichever it is: nobody went on alone.
#[test]
fn any_member_brings_back_a_chain_that_went_down_together() {
    for first in 1..=3 {
        let mut driver = Driver::new(3);
        for id in 1..=3 {
            driver.give(CoordinatorInput::Disconnected { server: ServerId(id) });
            driver.now = driver.now.after(3_000);
        }
        for _ in 0..10 {
            driver.now = driver.now.after(4_000);
            driver.give(CoordinatorInput::Tick);
        }
        let map = driver.coordinator.map();
        assert!(map.partitions.iter().all(|entry| entry.members.len() == 3), "{map:?}");
        assert!(map.partitions.iter().all(|entry| map.is_waiting(entry)));
        driver.join(first, 2);
        let map = driver.coordinator.map();
        assert!(map.partitions.iter().all(|entry| entry.members == [ServerId(first)]), "{map:?}");
        assert!(map.partitions.iter().all(|entry| !entry.lost));
        (1..=3).filter(|id| *id != first).for_each(|id| driver.join(id, 2));
        driver.settle();
        let map = driver.coordinator.map();
        assert!(map.partitions.iter().all(|entry| entry.members.len() == 3));
    }
}

/// A power cut takes coordinator and servers; one of them never comes back.
#[test]
fn servers_that_come_back_before_their_end_was_noticed_need_no_dead_one() {
    let mut driver = Driver::new(3);
    let map = driver.coordinator.map().clone();
    driver.give(CoordinatorInput::Elected { map });
    driver.join(1, 2);
    driver.join(2, 2);
    assert!(!driver.coordinator.map().admits(ServerId(1), Incarnation(2)), "3 may have gone on");
    for _ in 0..100 {
        driver.now = driver.now.after(10_000);
        driver.give(CoordinatorInput::Tick);
    }
    let map = driver.coordinator.map();
    assert!(!map.is_in_force(ServerId(3)));
    assert!(map.admits(ServerId(1), Incarnation(2)));
    let is_held = |id| map.partitions.iter().all(|entry| entry.members.contains(&ServerId(id)));
    assert!(is_held(1) || is_held(2), "{map:?}");
}

/// One that lives has gone on: a server that comes back takes second place.
#[test]
fn a_server_that_comes_back_at_once_copies_from_those_that_went_on() {
    let mut driver = Driver::new(3);
    driver.join(2, 2);
    driver.now = driver.now.after(1_000);
    driver.heartbeats(2);
    let map = driver.coordinator.map();
    assert!(map.admits(ServerId(2), Incarnation(2)));
    assert!(map.partitions.iter().all(|entry| !entry.members.contains(&ServerId(2))), "{map:?}");
}

/// What was kept in memory only is gone with one; the others may still have it.
#[test]
fn a_member_that_kept_nothing_leaves_it_to_the_others() {
    let mut driver = Driver::new(3);
    (1..=3).for_each(|id| driver.give(CoordinatorInput::Disconnected { server: ServerId(id) }));
    driver.now = driver.now.after(20_000);
    driver.give(CoordinatorInput::Tick);
    let mut join = |id, kept| {
        driver.give(CoordinatorInput::Join {
            server: ServerId(id),
            incarnation: Incarnation(2),
            address: String::new(),
            shards: 2,
            kept,
        });
        let map = driver.coordinator.map();
        let entries = map.partitions.iter();
        entries.map(|entry| (entry.members.clone(), entry.lost)).collect::<Vec<_>>()
    };
    let left = join(1, Kept::Nothing {});
    assert!(left.iter().all(|(members, lost)| members.len() == 2 && !lost), "{left:?}");
    let back = join(3, Kept::Whole {});
    assert!(back.iter().all(|(members, lost)| *members == [ServerId(3)] && !lost), "{back:?}");
}

#[test]
fn a_join_without_data_and_a_death_in_one_map_lose_nothing() {
    for first_is_join in [true, false] {
        let mut driver = Driver::new(3);
        driver.settle();
        let (coordinator, outputs) = (&mut driver.coordinator, &mut driver.outputs);
        // While a map is being stored, one server comes back empty and the other two die.
        let drain = Change::Drain { server: ServerId(3) };
        coordinator.step(driver.now, CoordinatorInput::Operator(drain), outputs);
        assert!(coordinator.draft().is_some());
        let mut inputs = vec![
            joining(1, 2, Kept::Nothing {}),
            CoordinatorInput::Operator(Change::Fail { server: ServerId(2) }),
            CoordinatorInput::Operator(Change::Fail { server: ServerId(3) }),
        ];
        if !first_is_join {
            inputs.rotate_left(1);
        }
        for input in inputs {
            coordinator.step(driver.now, input, outputs);
        }
        driver.give(CoordinatorInput::Tick);
        let map = driver.coordinator.map();
        for entry in &map.partitions {
            assert!(!entry.lost, "the others hold everything and are waited for: {entry:?}");
            assert!(!entry.members.is_empty() && !entry.members.contains(&ServerId(1)));
        }
    }
}

#[test]
fn a_server_ahead_of_the_store_ends_the_leading() {
    let mut driver = Driver::new(3);
    driver.settle();
    let epoch = Epoch(driver.coordinator.map().epoch.0 + 1);
    driver.outputs.clear();
    driver.give(CoordinatorInput::Heartbeat {
        server: ServerId(2),
        incarnation: Incarnation(1),
        map_epoch: epoch,
    });
    assert_eq!(driver.outputs, [CoordinatorOutput::Outdated { server: ServerId(2), epoch }]);
    assert!(!driver.coordinator.leads());
    driver.give(CoordinatorInput::Operator(Change::Fail { server: ServerId(1) }));
    assert!(driver.coordinator.draft().is_none());
}

/// Partitions in which a server is a member, or joins.
fn named(driver: &Driver, server: ServerId) -> usize {
    let entries = &driver.coordinator.map().partitions;
    let joins = |entry: &crate::membership::PartitionEntry| {
        entry.joining.is_some_and(|joining| joining.server == server)
    };
    entries.iter().filter(|entry| entry.members.contains(&server) || joins(entry)).count()
}

#[test]
fn who_has_no_memory_for_a_partition_is_not_asked_again_and_another_server_is() {
    let mut driver = Driver::new(5);
    driver.settle();
    driver.give(CoordinatorInput::Operator(Change::Fail { server: ServerId(2) }));
    // Server 1 takes nothing more, whatever it is asked to copy.
    let mut refusals = 0;
    for _ in 0..400 {
        let map = driver.coordinator.map().clone();
        let copying = (0_u32..).zip(&map.partitions).find_map(|(id, entry)| {
            let joining = entry.joining.filter(|joining| joining.phase == JoiningPhase::Copying)?;
            Some((PartitionId(id), joining.server, entry.epoch))
        });
        let Some((partition, server, epoch)) = copying else { break };
        let incarnation = map.servers[&server].incarnation;
        if server == ServerId(1) {
            refusals += 1;
            driver.give(CoordinatorInput::CannotHold { server, incarnation, partition, epoch });
            continue;
        }
        driver.give(CoordinatorInput::CaughtUp { server, incarnation, partition, epoch });
        let epoch = driver.coordinator.map().partitions[partition.0 as usize].epoch;
        driver.give(CoordinatorInput::Synchronised { server, incarnation, partition, epoch });
    }
    assert!((1..=16).contains(&refusals), "asked once for each partition: {refusals}");
    let map = driver.coordinator.map();
    assert!(map.partitions.iter().all(|entry| entry.joining.is_none()), "it has come to rest");
    for entry in &map.partitions {
        assert_eq!(entry.members.len(), 3, "others hold what it cannot: {entry:?}");
    }
    // In another life it is asked again.
    driver.give(CoordinatorInput::Operator(Change::Fail { server: ServerId(1) }));
    driver.settle();
    assert_eq!(named(&driver, ServerId(1)), 0);
    driver.join(1, 2);
    driver.settle();
    assert!(named(&driver, ServerId(1)) >= 10, "it takes its share");
}

#[test]
fn a_refusal_of_an_old_epoch_or_of_a_stranger_changes_nothing() {
    let mut driver = Driver::new(4);
    driver.settle();
    let map = driver.coordinator.map().clone();
    let server = map.partitions[0].members[0];
    let outsider = map.servers.keys().find(|id| !map.partitions[0].members.contains(id));
    for (server, epoch) in [(server, Epoch(0)), (*outsider.unwrap(), map.partitions[0].epoch)] {
        let incarnation = map.servers[&server].incarnation;
        let partition = PartitionId(0);
        driver.give(CoordinatorInput::CannotHold { server, incarnation, partition, epoch });
    }
    assert_eq!(*driver.coordinator.map(), map);
}

#[test]
fn a_member_that_cannot_hold_a_partition_leaves_that_one_chain_alone() {
    let mut driver = Driver::new(4);
    driver.settle();
    let partition = PartitionId(0);
    let before = driver.coordinator.map().clone();
    let refuse = |driver: &mut Driver, server: ServerId| {
        let map = driver.coordinator.map();
        let (epoch, incarnation) = (map.partitions[0].epoch, map.servers[&server].incarnation);
        driver.give(CoordinatorInput::CannotHold { server, incarnation, partition, epoch });
    };
    let first = before.partitions[0].members[0];
    refuse(&mut driver, first);
    driver.settle();
    let map = driver.coordinator.map().clone();
    assert!(map.is_in_force(first));
    assert!(!map.partitions[0].members.contains(&first));
    assert_eq!(map.partitions[0].members.len(), 3, "another one holds it");
    for (old, new) in before.partitions.iter().zip(&map.partitions).skip(1) {
        assert_eq!(old.members.contains(&first), new.members.contains(&first));
    }
    // Whoever is asked last keeps what nobody else has.
    for server in (1..=4).map(ServerId) {
        refuse(&mut driver, server);
    }
    driver.settle();
    let map = driver.coordinator.map();
    assert_eq!(map.partitions[0].members.len(), 1);
    assert!(map.partitions[0].joining.is_none());
}

/// A server that is slow to put a map in force, and is probed all the time meanwhile.
#[test]
fn a_server_that_lags_is_sent_few_maps() {
    let mut driver = Driver::new(3);
    let (server, incarnation, map_epoch) = (ServerId(2), Incarnation(1), Epoch(1));
    assert!(driver.coordinator.map().epoch > map_epoch);
    let is_map = |output: &CoordinatorOutput| matches!(output, CoordinatorOutput::SendMap { .. });
    driver.outputs.clear();
    let beat = CoordinatorInput::Heartbeat { server, incarnation, map_epoch };
    driver.give(beat.clone());
    assert!(driver.outputs.iter().any(is_map), "at once");
    for _ in 0..50 {
        driver.now = driver.now.after(20_000);
        driver.give(beat.clone());
    }
    let sent = driver.outputs.iter().filter(|output| is_map(output)).count();
    assert!((2..=5).contains(&sent), "{sent} in a second");
    driver.give(CoordinatorInput::Disconnected { server });
    driver.outputs.clear();
    driver.give(beat.clone());
    assert!(driver.outputs.iter().any(is_map), "what was sent went with its connection");
    driver.give(CoordinatorInput::Operator(Change::Drain { server: ServerId(1) }));
    driver.outputs.clear();
    driver.give(beat);
    assert!(driver.outputs.iter().any(is_map), "a newer one");
}
