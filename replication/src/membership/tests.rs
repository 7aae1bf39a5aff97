//! Legal changes of the map.

use proptest::prelude::*;
use windlass_wire::{Epoch, coordination::Kept};

use super::*;

const P: PartitionId = PartitionId(0);

fn map(servers: u32) -> Membership {
    let mut map = Membership::new(1, 3).draft();
    for id in 1..=servers {
        join(&mut map, id, 1, true).unwrap();
    }
    map
}

fn kept(has_all: bool) -> Kept {
    if has_all { Kept::Whole {} } else { Kept::Nothing {} }
}

fn join(map: &mut Membership, id: u32, life: u64, has_all: bool) -> Result<(), TransitionError> {
    map.apply(Change::Join {
        server: ServerId(id),
        incarnation: Incarnation(life),
        address: format!("10.0.0.{id}:7700"),
        shards: 2,
        kept: kept(has_all),
    })
}

fn ids(ids: &[u32]) -> Vec<ServerId> {
    ids.iter().map(|&id| ServerId(id)).collect()
}

#[test]
fn a_move_is_copy_then_tail_then_member_and_only_then_the_old_one_goes() {
    let mut map = map(4);
    map.apply(Change::Create { partition: P, members: ids(&[1, 2, 3]) }).unwrap();
    let mut map = map.draft();
    let start = Change::StartJoin { partition: P, server: ServerId(4), leaving: Some(ServerId(1)) };
    map.apply(start.clone()).unwrap();
    map.apply(start).unwrap_err();
    let view = map.partitions[0].view();
    assert_eq!(
        (view.path, view.learner, view.epoch),
        (ids(&[1, 2, 3]), Some(ServerId(4)), Epoch(1))
    );
    map.apply(Change::Settle { partition: P }).unwrap_err();
    let mut map = map.draft();
    map.apply(Change::Promote { partition: P }).unwrap();
    let view = map.partitions[0].view();
    assert_eq!(
        (view.path, view.tail_synchronised, view.epoch),
        (ids(&[1, 2, 3, 4]), false, Epoch(3))
    );
    let mut map = map.draft();
    map.apply(Change::Settle { partition: P }).unwrap();
    let view = map.partitions[0].view();
    assert_eq!((view.path, view.tail_synchronised, view.epoch), (ids(&[2, 3, 4]), true, Epoch(4)));
}

#[test]
fn nobody_leaves_a_chain_that_has_lost_another_member_meanwhile() {
    let mut map = map(4);
    map.apply(Change::Create { partition: P, members: ids(&[1, 2, 3]) }).unwrap();
    let start = Change::StartJoin { partition: P, server: ServerId(4), leaving: Some(ServerId(1)) };
    map.apply(start).unwrap();
    map.apply(Change::Fail { server: ServerId(2) }).unwrap();
    map.apply(Change::Promote { partition: P }).unwrap();
    map.apply(Change::Settle { partition: P }).unwrap();
    assert_eq!(map.partitions[0].members, ids(&[1, 3, 4]));
    assert_eq!(map.partitions[0].leaving, None);
}

#[test]
fn the_last_member_stays_and_an_unsettled_tail_does_not_replace_it() {
    let mut map = map(2);
    map.apply(Change::Create { partition: P, members: ids(&[1]) }).unwrap();
    map.apply(Change::StartJoin { partition: P, server: ServerId(2), leaving: None }).unwrap();
    map.apply(Change::Promote { partition: P }).unwrap();
    map.apply(Change::Fail { server: ServerId(1) }).unwrap();
    assert_eq!(map.partitions[0].members, ids(&[1]));
    assert!(!map.admits(ServerId(1), Incarnation(1)), "its old life is fenced");
    assert_eq!(
        join(&mut map, 1, 1, true),
        Err(TransitionError::StaleIncarnation {
            server: ServerId(1),
            its: Incarnation(1),
            own: Incarnation(1),
        })
    );
    join(&mut map, 1, 2, true).unwrap();
    assert!(!map.partitions[0].lost);
    map.apply(Change::Fail { server: ServerId(2) }).unwrap();
    join(&mut map, 1, 3, false).unwrap();
    assert!(map.partitions[0].lost && map.partitions[0].view().path.is_empty());
    map.apply(Change::AcceptLoss { partition: P, members: ids(&[1]) }).unwrap();
    assert!(!map.partitions[0].lost);
}

#[test]
fn a_partition_waits_when_it_has_members_and_all_of_them_are_down() {
    let mut map = map(2);
    assert!(!map.is_waiting(&map.partitions[0]), "it has none yet");
    map.apply(Change::Create { partition: P, members: ids(&[1]) }).unwrap();
    assert!(!map.is_waiting(&map.partitions[0]));
    map.apply(Change::Fail { server: ServerId(1) }).unwrap();
    assert!(map.is_waiting(&map.partitions[0]));
}

#[test]
fn a_restart_leaves_every_chain_that_can_do_without() {
    let mut map = map(3);
    map.apply(Change::Create { partition: P, members: ids(&[1, 2, 3]) }).unwrap();
    join(&mut map, 2, 2, true).unwrap();
    assert_eq!(map.partitions[0].members, ids(&[1, 3]));
    map.apply(Change::Forget { server: ServerId(1) }).unwrap_err();
    map.apply(Change::Forget { server: ServerId(2) }).unwrap();
}

#[test]
fn who_is_separated_stays_in_force_and_in_other_chains() {
    let mut map = Membership::new(2, 3).draft();
    for server in 1..5 {
        join(&mut map, server, 1, true).unwrap();
    }
    for (partition, members) in [(0, [1, 2, 3]), (1, [4, 1, 3])] {
        let partition = PartitionId(partition);
        map.apply(Change::Create { partition, members: ids(&members) }).unwrap();
    }
    let (partition, server) = (PartitionId(1), ServerId(2));
    map.apply(Change::StartJoin { partition, server, leaving: None }).unwrap();
    map = map.draft();
    map.apply(Change::Separate { server: ServerId(1), from: ServerId(2) }).unwrap();
    assert_eq!(map.partitions[0].members, ids(&[2, 3]));
    assert_eq!(map.partitions[0].epoch, map.epoch);
    assert_eq!(map.partitions[1].members, ids(&[4, 1, 3]), "all of it is there");
    assert_eq!(map.partitions[1].joining, None, "it joins a chain without the other");
    assert!([1, 2].map(ServerId).iter().all(|id| map.is_in_force(*id)));
    map.assert_legal();
}

fn change() -> impl Strategy<Value = Change> {
    let server = || (1..6_u32).prop_map(ServerId);
    let partition = || (0..2_u32).prop_map(PartitionId);
    prop_oneof![
        (server(), 1..9_u64, any::<bool>()).prop_map(|(server, life, has_all)| Change::Join {
            server,
            incarnation: Incarnation(life),
            address: "a".into(),
            shards: 1,
            kept: kept(has_all),
        }),
        server().prop_map(|server| Change::Fail { server }),
        server().prop_map(|server| Change::Drain { server }),
        server().prop_map(|server| Change::Forget { server }),
        (partition(), prop::collection::btree_set(server(), 1..4)).prop_map(
            |(partition, members)| {
                Change::Create { partition, members: members.into_iter().collect() }
            }
        ),
        (partition(), server(), prop::option::of(server())).prop_map(
            |(partition, server, leaving)| {
                Change::StartJoin {
                    partition,
                    server,
                    leaving: leaving.filter(|&leaving| leaving != server),
                }
            }
        ),
        partition().prop_map(|partition| Change::Promote { partition }),
        partition().prop_map(|partition| Change::Settle { partition }),
        partition().prop_map(|partition| Change::Abandon { partition }),
        (partition(), server()).prop_map(|(partition, server)| Change::Leave { partition, server }),
        (server(), server()).prop_map(|(server, from)| Change::Separate { server, from }),
    ]
}

proptest! {
    #[test]
    fn every_sequence_of_changes_keeps_the_rules(changes in prop::collection::vec(change(), 0..80)) {
        let mut map = Membership::new(2, 3);
        for change in changes {
            let mut draft = map.draft();
            let before = draft.clone();
            match draft.apply(change) {
                Ok(()) => {
                    draft.assert_legal();
                    for (old, new) in map.partitions.iter().zip(&draft.partitions) {
                        prop_assert!(old.members.is_empty() || !new.members.is_empty());
                        let survivors = new.members.iter().filter(|id| old.path().any(|was| was == **id));
                        prop_assert!(old.members.is_empty() || survivors.count() > 0);
                        if old.path().collect::<Vec<_>>() != new.path().collect::<Vec<_>>() {
                            prop_assert_eq!(new.epoch, draft.epoch);
                        }
                    }
                    let mut bytes = Vec::new();
                    draft.encode(&mut bytes);
                    prop_assert_eq!(&Membership::decode(&bytes, Default::default()).unwrap(), &draft);
                    map = draft;
                }
                Err(_) => prop_assert_eq!(&draft, &before, "a refused change changes nothing"),
            }
        }
    }
}
