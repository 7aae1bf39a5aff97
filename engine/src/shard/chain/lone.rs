//! A shard that shares no partition with another server is settled. Nobody else has to hold what it takes: it
//! applies pushes without records, or has records in its log alone, where they lie.

mod unsettle;

use windlass_replication::{Admission, Covered, Lane, Push};
use windlass_wire::{Epoch, Lsn, PartitionId};

pub(in crate::shard) use self::unsettle::ready_log;
pub(super) use self::unsettle::{before_map, unsettle};
use super::{
    Chain,
    part::Part,
    taken::{SlotPush, Taker},
};
use crate::{
    persist::{
        log::{Reservation, Sealed},
        record,
    },
    shard::durable::Durable,
};

/// Whether a shard shares no partition with another server, and all of them are whole.
#[inline]
pub(in crate::shard) fn is_settled(chain: &Chain) -> bool {
    chain.is_settled()
}

impl Chain {
    /// Whether no partition is shared with another server, and all of them are whole.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.lone.settled.is_some()
    }

    /// Finds out whether the shard is settled; `lacks` when it still lacks rows that the map gives it.
    pub(super) fn settle(&mut self, lacks: bool) {
        let parts = self.parts.iter().flatten();
        let is_settled =
            !lacks && parts.clone().all(|part| part.replica.is_alone() && !part.broken);
        // A map is too old that lacks the youngest chain.
        let epoch = parts.map(|part| part.epoch()).max().unwrap_or_default();
        match (self.lone.settled.is_some(), is_settled) {
            // What was pushed so far is in records.
            (false, true) => self.parts.iter_mut().flatten().for_each(|part| part.note_imaged()),
            (true, false) => self.lone.taken.end_all(&mut self.parts),
            _ => {}
        }
        self.lone.settled = is_settled.then_some(epoch);
    }

    /// Whether a push is surely newer than what its session has pushed to a partition.
    #[inline]
    pub(in crate::shard) fn is_newest(&self, partition: PartitionId, push: SlotPush<'_>) -> bool {
        self.lone.taken.is_newest(self.index(partition), push)
    }

    /// Whether the push is surely newest in every partition here.
    #[inline]
    pub(in crate::shard) fn is_newest_of_all(&self, push: SlotPush<'_>) -> bool {
        self.lone.taken.is_newest_of_all(self.parts.len(), push)
    }

    /// Remembers a push that is newest, partition by partition.
    #[inline]
    pub(in crate::shard) fn taker(&mut self, push: SlotPush<'_>) -> Taker<'_> {
        self.lone.taken.taker(self.shard_count, push)
    }

    /// Tells replicas what was pushed without records, before they are asked.
    #[inline]
    pub(in crate::shard) fn note_taken(&mut self) {
        self.lone.taken.note(&mut self.parts);
    }

    /// Tells replicas what one session has pushed to them.
    pub(in crate::shard) fn note_taken_of(&mut self, slot: usize) {
        self.lone.taken.note_of(&mut self.parts, slot);
    }

    /// A session is gone.
    pub(in crate::shard) fn end_taking(&mut self, slot: usize) {
        self.lone.taken.end(&mut self.parts, slot);
    }

    /// Oldest map by which clients of a settled shard may ask for its rows.
    #[inline]
    pub(super) fn settled_epoch(&self) -> Option<Epoch> {
        self.lone.settled
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
        self.lone.taken.begin(&mut self.parts, index, push);
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
        part.replica.append_alone(lsn, &self.step.covered);
        part.applied = lsn;
        self.disk.note_logged(index, lsn);
        self.step.covered.clear();
    }

    /// The next record covers these pushes.
    pub(super) fn cover(&mut self, covered: &[record::Covered]) {
        self.step.covered.clear();
        self.step.covered.extend(covered.iter().map(|one| Covered {
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
        self.part(partition).expect("a partition that this shard holds has its replica")
    }

    #[inline]
    pub(super) fn own_mut(&mut self, partition: PartitionId) -> &mut Part {
        self.part_mut(partition).expect("a partition that this shard holds has its replica")
    }
}

/// Completes a record that was made in a settled shard's log, and covers these pushes.
pub(in crate::shard) fn seal(
    chain: &mut Chain,
    durable: &mut Durable,
    partition: PartitionId,
    reservation: Reservation,
    covered: &[record::Covered],
) -> Sealed {
    let sealed = durable.log_mut().seal(reservation);
    chain.note_logged(partition, sealed.lsn, covered);
    sealed
}

/// The epoch of the records of a partition that is led here.
pub(in crate::shard) fn epoch_of(chain: &Chain, partition: PartitionId) -> Epoch {
    chain.own(partition).epoch()
}

#[cfg(test)]
mod tests;
