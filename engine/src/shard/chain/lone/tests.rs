use std::sync::Arc;

use windlass_replication::{ChainView, Input, LeaseTimings, Replica, ReplicaLimits, Time};
use windlass_wire::{
    ClusterMap, Incarnation, Layout, RowRange, Sequence, ServerId, SessionId, ShardId, Status,
    TableId, TableKind,
};

use super::*;
use crate::shard::{
    ChainContext, Shard, SharedLeases,
    admitted::{Admitted, RowsOf},
    chain::configure,
    checkpoint::{self, tests::push},
};

const ME: ServerId = ServerId(1);

/// A chain of one for each partition, whose replicas remember so many sessions.
fn chain(partition_count: u32, sessions_max: usize) -> Chain {
    let context = ChainContext {
        leases: Arc::new(SharedLeases::new(LeaseTimings::default())),
        events: crossbeam::channel::unbounded().0,
        ended: crossbeam::channel::unbounded().0,
    };
    let mut chain = Chain::new(context, ME, ShardId(0), 1, partition_count);
    let limits = ReplicaLimits { sessions_max, ..ReplicaLimits::default() };
    for partition in (0..partition_count).map(PartitionId) {
        let replica = Replica::new(partition, ME, limits);
        chain.parts[partition.0 as usize] = Some(Box::new(Part::new(partition, replica)));
        configure(&mut chain, partition, 3, None);
    }
    chain.settle(false);
    chain
}

fn configure(chain: &mut Chain, partition: PartitionId, epoch: u64, learner: Option<ServerId>) {
    let epoch = Epoch(epoch);
    let view = ChainView { epoch, path: vec![ME], tail_synchronised: true, learner };
    let input = Input::Configure { chain: &view, hold_until: Time(0) };
    let part = chain.part_mut(partition).unwrap();
    part.replica.step(Time(1), input, &mut Vec::new()).unwrap();
}

#[test]
fn a_shard_is_settled_while_nobody_else_has_a_part() {
    let mut chain = chain(2, 8);
    assert_eq!(chain.settled_epoch(), Some(Epoch(3)));
    configure(&mut chain, PartitionId(1), 4, None);
    chain.settle(false);
    assert_eq!(chain.settled_epoch(), Some(Epoch(4)), "the youngest chain's");
    chain.settle(true);
    assert!(!chain.is_settled(), "rows are still to come");
    configure(&mut chain, PartitionId(1), 5, Some(ServerId(2)));
    chain.settle(false);
    assert!(!chain.is_settled(), "somebody learns");
    configure(&mut chain, PartitionId(1), 6, None);
    chain.parts[0].as_mut().unwrap().broken = true;
    chain.settle(false);
    assert!(!chain.is_settled(), "a replica has come apart");
}

#[test]
fn a_push_is_new_to_each_partition_once() {
    let (mut chain, mut admitted) = (chain(4, 8), Admitted::default());
    let layout = Layout::new(TableId(1), TableKind::Dense { rows: 40 }, 4);
    let partition_of = |row| layout.partition_of(row);
    let first = [1_u64, 2, 11];
    let known = admitted.admit(&mut chain, &layout, RowsOf::Keys(&first), (0, &push(7, 1)));
    assert_eq!(known, Ok(false));
    assert!(admitted.is_fresh(partition_of(1)) && admitted.is_fresh(partition_of(11)));
    // A part of it was carried out before, by another map perhaps.
    let again = [2_u64, 11, 25];
    let known = admitted.admit(&mut chain, &layout, RowsOf::Keys(&again), (0, &push(7, 1)));
    assert_eq!(known, Ok(true));
    assert!(!admitted.is_fresh(partition_of(2)) && !admitted.is_fresh(partition_of(11)));
    assert!(admitted.is_fresh(partition_of(25)));
    let rows = RowRange::new(5, 35);
    let known = admitted.admit(&mut chain, &layout, RowsOf::Range(rows), (0, &push(7, 2)));
    assert_eq!(known, Ok(false));
    assert!((5..35).all(|row| admitted.is_fresh(partition_of(row))));
}

#[test]
fn a_push_of_no_rows_by_a_session_that_nobody_knows_changes_nothing() {
    let (mut chain, mut admitted) = (chain(4, 8), Admitted::default());
    let layout = Layout::new(TableId(1), TableKind::Dense { rows: 40 }, 4);
    for none in [RowsOf::Keys(&[]), RowsOf::Range(RowRange::new(3, 3))] {
        let known = admitted.admit(&mut chain, &layout, none, (1, &push(7, 1)));
        assert_eq!(known, Ok(false));
        assert!(!admitted.is_fresh_to_all());
    }
    let known = admitted.admit(&mut chain, &layout, RowsOf::Keys(&[5]), (1, &push(7, 1)));
    assert_eq!((known, admitted.is_fresh(layout.partition_of(5))), (Ok(false), true));
}

/// Whatever is pushed, told to replicas and ended between: a push is new to a partition exactly once.
#[test]
fn what_sessions_pushed_is_known_ahead_of_replicas_and_by_them() {
    const PARTITIONS: u32 = 8;
    let (mut chain, mut admitted) = (chain(PARTITIONS, 8), Admitted::default());
    let layout = Layout::new(TableId(1), TableKind::Dense { rows: 60 }, PARTITIONS);
    let mut applied = std::collections::BTreeMap::new();
    let (mut next, mut random) = ([1_u64; 3], 7_u64);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let (mut new, mut known) = (0, 0);
    for _ in 0..4_000 {
        let session = draw(3);
        let slot = usize::try_from(session).unwrap();
        match draw(12) {
            0 => chain.note_taken(),
            1 => chain.note_taken_of(slot),
            2 => chain.end_taking(slot),
            3 => chain.settle(false),
            4 => chain.note_logged(PartitionId(0), chain.next_of(PartitionId(0)).unwrap(), &[]),
            _ => {
                let is_again = next[slot] > 1 && draw(4) == 0;
                let sequence = if is_again { next[slot] - 1 } else { next[slot] };
                next[slot] = next[slot].max(sequence + 1);
                let first = draw(59);
                let rows = RowRange::new(first, first + 1 + draw(60 - first));
                let push = push(session, sequence);
                let is_known = admitted
                    .admit(&mut chain, &layout, RowsOf::Range(rows), (slot, &push))
                    .unwrap();
                let mut any_known = false;
                for partition in (0..PARTITIONS).map(PartitionId) {
                    let of_it = layout.rows_of(partition);
                    if of_it.end <= rows.start || rows.end <= of_it.start {
                        continue;
                    }
                    let last = applied.entry((session, partition)).or_insert(0);
                    let is_fresh = sequence > *last;
                    assert_eq!(admitted.is_fresh(partition), is_fresh);
                    *last = sequence.max(*last);
                    any_known |= !is_fresh;
                }
                assert_eq!(is_known, any_known);
                (new, known) = (new + u32::from(!is_known), known + u32::from(is_known));
            }
        }
    }
    assert!(new > 1_000 && known > 300, "{new} new, {known} known");
    chain.lone.taken.end_all(&mut chain.parts);
    for ((session, partition), last) in applied {
        let applied = chain.applied(partition, SessionId(session), Lane(0));
        assert_eq!(applied, Some((Incarnation(1), Sequence(last))));
    }
}

/// Its client stays connected meanwhile, and sends again what it had no answer for.
#[test]
fn a_life_that_ends_forgets_no_push() {
    let (mut shard, mut admitted) = (checkpoint::tests::shard(), Admitted::default());
    let layout = Layout::new(TableId(1), TableKind::Dense { rows: 1 }, 1);
    let chain = &mut shard.chain;
    for sequence in 1..=2 {
        let push = push(7, sequence);
        let rows = RowsOf::Keys(&[0]);
        assert_eq!(admitted.admit(chain, &layout, rows, (0, &push)), Ok(false));
    }
    let Shard { port, tables, chain, disk, .. } = &mut shard;
    configure::begin_life(port, tables, chain, disk);
    let applied = chain.applied(PartitionId(0), SessionId(7), Lane(0));
    assert_eq!(applied, Some((Incarnation(1), Sequence(2))));
    // The replica of the next life is not alone yet: it must not be told anything.
    chain.note_taken();
}

#[test]
fn a_push_that_one_partition_refuses_is_new_to_all() {
    let (mut chain, mut admitted) = (chain(2, 1), Admitted::default());
    let layout = Layout::new(TableId(1), TableKind::Dense { rows: 20 }, 2);
    let other = push(8, 1);
    let rows = RowsOf::Keys(&[15]);
    assert_eq!(admitted.admit(&mut chain, &layout, rows, (1, &other)), Ok(false));
    let both = RowsOf::Keys(&[1, 15]);
    let refused = admitted.admit(&mut chain, &layout, both, (0, &push(7, 1)));
    assert_eq!(refused, Err(Status::TooManySessions));
    assert_eq!(admitted.look(&chain, &layout, RowsOf::Keys(&[1]), &push(7, 1)), Ok(false));
    assert!(admitted.is_fresh(layout.partition_of(1)));
    let older = Push { incarnation: Incarnation(0), ..other };
    let refused = admitted.admit(&mut chain, &layout, rows, (1, &older));
    assert_eq!(refused, Err(Status::Superseded));
}

/// Whoever learns compares positions: none must be that of other rows elsewhere.
#[test]
fn before_somebody_learns_every_push_has_a_position() {
    for is_broken in [false, true] {
        let mut shard = checkpoint::tests::shard();
        let part = |shard: &Shard| {
            let part = shard.chain.parts[0].as_deref().unwrap();
            (part.replica.has_unrecorded(), part.replica.log().last())
        };
        let act = |shard: &mut Shard, map: &ClusterMap| {
            let Shard { port, tables, chain, disk, .. } = shard;
            before_map(port, tables, chain, disk, map);
        };
        checkpoint::tests::leave(&mut shard, 7, 1);
        let before = part(&shard);
        assert_eq!(before, (true, Lsn(0)));
        let mut map = ClusterMap::clone(&shard.chain.map);
        act(&mut shard, &map);
        assert_eq!(part(&shard), before, "nobody else has a part in it");
        // A replica that has come apart ends the straight way as well.
        shard.chain.settle(is_broken);
        map.chains[0].learner = Some(ServerId(9));
        act(&mut shard, &map);
        assert_eq!(part(&shard), (false, Lsn(1)), "broken: {is_broken}");
        assert!(!is_settled(&shard.chain));
    }
}

#[test]
fn images_cover_who_has_pushed_since_the_last_ones() {
    let mut chain = chain(1, 8);
    let partition = PartitionId(0);
    let unimaged = |chain: &mut Chain| -> Vec<(u64, u64)> {
        chain.unimaged(partition).map(|one| (one.session.0, one.sequence.0)).collect()
    };
    assert_eq!(unimaged(&mut chain), []);
    chain.note_applied(partition, (7, &push(7, 1)));
    chain.note_applied(partition, (8, &push(8, 4)));
    assert_eq!(unimaged(&mut chain), [(7, 1), (8, 4)]);
    chain.note_logged(partition, Lsn(1), &[]);
    chain.note_imaged(partition);
    assert_eq!(unimaged(&mut chain), []);
    chain.note_applied(partition, (8, &push(8, 5)));
    assert_eq!(unimaged(&mut chain), [(8, 5)]);
}
