//! A shard that shares no partition with another server is settled. Nobody else has to hold what it takes: it
//! applies pushes without records, or has records in its log alone, where they lie.

use windlass_replication::{Admission, Covered, Lane, Push};
use windlass_wire::{ClusterMap, Epoch, Lsn, PartitionId, ServerId, ShardId, Status, map};

use super::{
    Chain,
    part::Part,
    taken::{SlotPush, Taker},
};
use crate::{
    persist::{
        log::{Full, Reservation, ReserveError, Sealed},
        record,
    },
    shard::{Shard, durable::Durable, push::Refusal},
};

/// Whether a shard shares no partition with another server, and all of them are whole.
#[inline]
pub(in crate::shard) fn is_settled(chain: Option<&Chain>) -> bool {
    chain.is_some_and(Chain::is_settled)
}

impl Chain {
    /// Whether no partition is shared with another server, and all of them are whole.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Finds out whether the shard is settled; `lacks` when it still lacks rows that the map gives it.
    pub(super) fn settle(&mut self, lacks: bool) {
        let parts = self.parts.iter().flatten();
        let is_settled =
            !lacks && parts.clone().all(|part| part.replica.is_alone() && !part.broken);
        // A map is too old that lacks the youngest chain.
        let epoch = parts.map(|part| part.epoch()).max().unwrap_or_default();
        match (self.settled.is_some(), is_settled) {
            // What was pushed so far is in records.
            (false, true) => self.parts.iter_mut().flatten().for_each(|part| part.note_imaged()),
            (true, false) => self.taken.end_all(&mut self.parts),
            _ => {}
        }
        self.settled = is_settled.then_some(epoch);
    }

    /// Whether a push is surely newer than what its session has pushed to a partition.
    #[inline]
    pub(in crate::shard) fn is_newest(&self, partition: PartitionId, push: SlotPush<'_>) -> bool {
        self.taken.is_newest(self.index(partition), push)
    }

    /// The same of every partition here.
    #[inline]
    pub(in crate::shard) fn is_newest_of_all(&self, push: SlotPush<'_>) -> bool {
        self.taken.is_newest_of_all(self.parts.len(), push)
    }

    /// Remembers a push that is newest, partition by partition.
    #[inline]
    pub(in crate::shard) fn taker(&mut self, push: SlotPush<'_>) -> Taker<'_> {
        self.taken.taker(self.shard_count, push)
    }

    /// Tells replicas what was pushed without records, before they are asked.
    #[inline]
    pub(in crate::shard) fn note_taken(&mut self) {
        self.taken.note(&mut self.parts);
    }

    /// The same for one session.
    pub(in crate::shard) fn note_taken_of(&mut self, slot: usize) {
        self.taken.note_of(&mut self.parts, slot);
    }

    /// A session is gone.
    pub(in crate::shard) fn end_taking(&mut self, slot: usize) {
        self.taken.end(&mut self.parts, slot);
    }

    /// Oldest map by which clients of a settled shard may ask for its rows.
    #[inline]
    pub(super) fn settled_epoch(&self) -> Option<Epoch> {
        self.settled
    }

    /// What would become of a push at a partition, beside `others` new sessions.
    #[inline]
    pub(in crate::shard) fn look(
        &self,
        partition: PartitionId,
        push: &Push,
        others: usize,
    ) -> Admission {
        self.own(partition).replica.look(push, others)
    }

    /// A push is applied to a partition of a settled shard without a record, and its replica is told.
    pub(in crate::shard) fn note_applied(&mut self, partition: PartitionId, push: SlotPush<'_>) {
        self.own_mut(partition).replica.note_applied(push.1.covered());
        let index = self.index(partition);
        self.taken.begin(&mut self.parts, index, push);
    }

    /// A record of a settled shard is in its log, and applied.
    pub(in crate::shard) fn note_logged(
        &mut self,
        partition: PartitionId,
        lsn: Lsn,
        covered: &[record::Covered],
    ) {
        self.cover(covered);
        let index = self.index(partition);
        let part = self.parts[index].as_deref_mut().expect("a settled shard's partition");
        part.replica.append_alone(lsn, &self.covered);
        part.applied = lsn;
        self.disk.note_logged(index, lsn);
        self.covered.clear();
    }

    /// The next record covers these pushes.
    pub(super) fn cover(&mut self, covered: &[record::Covered]) {
        self.covered.clear();
        self.covered.extend(covered.iter().map(|one| Covered {
            session: one.session,
            incarnation: one.incarnation,
            lane: Lane(0),
            sequence: one.sequence,
        }));
    }

    /// Sessions whose newest pushes to a partition no record of images covers yet.
    pub(in crate::shard) fn unimaged(
        &mut self,
        partition: PartitionId,
    ) -> impl Iterator<Item = record::Covered> + '_ {
        self.note_taken();
        let part = self.own(partition);
        part.replica.sessions().since(part.imaged, Lane(0)).map(|one| record::Covered {
            session: one.session,
            incarnation: one.incarnation,
            sequence: one.sequence,
        })
    }

    /// Records of images cover all pushes to a partition so far.
    pub(in crate::shard) fn note_imaged(&mut self, partition: PartitionId) {
        self.own_mut(partition).note_imaged();
    }

    #[inline]
    pub(super) fn own(&self, partition: PartitionId) -> &Part {
        self.part(partition).expect("pushes come to partitions that have a replica here")
    }

    #[inline]
    pub(super) fn own_mut(&mut self, partition: PartitionId) -> &mut Part {
        self.part_mut(partition).expect("pushes come to partitions that have a replica here")
    }
}

/// Whether a map gives a partition to this server and to no other.
fn is_lone(chain: &map::Chain, server: ServerId) -> bool {
    chain.servers == [server] && chain.learner.is_none()
}

/// Before a map is acted on: what was applied without records gets positions, and images of its rows, where
/// others have a part in it from now on.
pub(super) fn before_map(shard: &mut Shard, map: &ClusterMap) {
    let Some(chain) = &mut shard.chain else { return };
    chain.taken.end_all(&mut chain.parts);
    let (server, own) = (chain.server, (chain.shard, chain.shard_count));
    let is_own = |partition: PartitionId| is_of(partition, own);
    let chains = (0..).map(PartitionId).zip(&map.chains);
    let mut shared = chains.filter(|(partition, chain)| {
        is_own(*partition)
            && (chain.servers.contains(&server) || chain.learner == Some(server))
            && !is_lone(chain, server)
    });
    if shared.next().is_some() || shard.growth.is_lacking() {
        unsettle(shard);
    }
}

fn is_of(partition: PartitionId, (shard, shard_count): (ShardId, u16)) -> bool {
    map::shard_of(partition, shard_count) == shard
}

/// From now on what is pushed takes records: what was pushed before is in them, or in images.
pub(super) fn unsettle(shard: &mut Shard) {
    if let Some(chain) = &mut shard.chain {
        chain.taken.end_all(&mut chain.parts);
    }
    if is_settled(shard.chain.as_deref())
        && let Some(mut durable) = shard.durable.take()
    {
        shard.write_images(&mut durable);
        shard.durable = Some(durable);
    }
    name_positions(shard);
    if let Some(chain) = &mut shard.chain {
        chain.settled = None;
    }
}

/// Gives what was pushed without a record a position: behind it comes a record that says nothing.
fn name_positions(shard: &mut Shard) {
    let count = shard.chain.as_ref().map_or(0, |chain| chain.parts.len());
    for index in 0..count {
        let part = shard.chain.as_ref().and_then(|chain| chain.parts[index].as_deref());
        if let Some(part) =
            part.filter(|part| part.replica.has_unrecorded() && part.replica.is_head())
        {
            let partition = part.partition;
            shard.append_expired(partition);
        }
    }
}

/// Brings a settled shard's log to where a partition's replica is, so that its next record may be made in
/// the log.
///
/// # Errors
/// When the log has stopped.
pub(in crate::shard) fn ready_log(
    shard: &mut Shard,
    durable: &mut Durable,
    partition: PartitionId,
) -> Result<(), Refusal> {
    loop {
        if durable.log().poison().is_some() {
            return Err((Status::Poisoned, 0));
        }
        let now = durable.now();
        let Some(chain) = &mut shard.chain else { unreachable!("a settled shard has a chain") };
        let index = chain.index(partition);
        if chain.disk.is_part_behind(index) {
            if shard.log_part(index, durable) {
                shard.wait_for_room(durable, Full::Ring, now);
            } else if let Some(chain) = &mut shard.chain {
                chain.disk.end_behind(index);
            }
            continue;
        }
        let part = chain.parts[index].as_deref_mut().expect("a settled shard's partition");
        let last = part.replica.log().last();
        if durable.log().last_lsn(partition) < last {
            match durable.log_mut().skip(partition, last, now) {
                Ok(()) => {}
                Err(ReserveError::Full(full)) => {
                    shard.wait_for_room(durable, full, now);
                    continue;
                }
                Err(_) => return Err((Status::Poisoned, 0)),
            }
        }
        // Nobody else waits for them, and the next record is not among them.
        part.records.drain(..).for_each(|held| chain.spare.put(held.words));
        return Ok(());
    }
}

/// Completes a record that was made in a settled shard's log, and covers these pushes.
pub(in crate::shard) fn seal(
    chain: Option<&mut Chain>,
    durable: &mut Durable,
    (partition, reservation): (PartitionId, Reservation),
    covered: &[record::Covered],
) -> Sealed {
    let sealed = durable.log_mut().seal(reservation);
    let chain = chain.expect("a settled shard has a chain");
    chain.note_logged(partition, sealed.lsn, covered);
    sealed
}

/// The epoch of the records of a partition that is led here.
pub(in crate::shard) fn epoch_of(chain: Option<&Chain>, partition: PartitionId) -> Epoch {
    chain.expect("pushes come to partitions that have a replica here").own(partition).epoch()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use windlass_replication::{ChainView, Input, LeaseTimings, Replica, ReplicaLimits, Time};
    use windlass_wire::{Incarnation, Layout, RowRange, Sequence, SessionId, TableId, TableKind};

    use super::*;
    use crate::shard::{
        ChainContext, SharedLeases,
        admitted::{Admitted, RowsOf},
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
        chain.taken.end_all(&mut chain.parts);
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
        let chain = shard.chain.as_mut().unwrap();
        for sequence in 1..=2 {
            let push = push(7, sequence);
            let rows = RowsOf::Keys(&[0]);
            assert_eq!(admitted.admit(chain, &layout, rows, (0, &push)), Ok(false));
        }
        shard.begin_life();
        let chain = shard.chain.as_mut().unwrap();
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
                let part = shard.chain.as_ref().unwrap().parts[0].as_deref().unwrap();
                (part.replica.has_unrecorded(), part.replica.log().last())
            };
            checkpoint::tests::leave(&mut shard, 7, 1);
            let before = part(&shard);
            assert_eq!(before, (true, Lsn(0)));
            let mut map = ClusterMap::clone(&shard.map);
            before_map(&mut shard, &map);
            assert_eq!(part(&shard), before, "nobody else has a part in it");
            // A replica that has come apart ends the straight way as well.
            shard.chain.as_mut().unwrap().settle(is_broken);
            map.chains[0].learner = Some(ServerId(9));
            before_map(&mut shard, &map);
            assert_eq!(part(&shard), (false, Lsn(1)), "broken: {is_broken}");
            assert!(!is_settled(shard.chain.as_deref()));
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
}
