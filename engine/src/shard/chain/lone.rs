//! A shard that shares no partition with another server is settled. Nobody else has to hold what it takes: it
//! applies pushes without records, or has records in its log alone, where they lie.

use windlass_replication::{Admission, Covered, Lane, Push};
use windlass_wire::{ClusterMap, Epoch, Lsn, PartitionId, ServerId, ShardId, Status, map};

use super::{
    Chain, disk, expiry,
    part::Part,
    taken::{SlotPush, Taker},
};
use crate::{
    persist::{
        log::{Full, Reservation, ReserveError, Sealed},
        record,
    },
    shard::{
        disk::Disk, durable, durable::Durable, image, port::Port, push::Refusal, tables::Tables,
    },
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
pub(super) fn before_map(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    map: &ClusterMap,
) {
    chain.taken.end_all(&mut chain.parts);
    let (server, own) = (chain.server, (chain.shard, chain.shard_count));
    let is_own = |partition: PartitionId| is_of(partition, own);
    let chains = (0..).map(PartitionId).zip(&map.chains);
    let mut shared = chains.filter(|(partition, chain)| {
        is_own(*partition)
            && (chain.servers.contains(&server) || chain.learner == Some(server))
            && !is_lone(chain, server)
    });
    if shared.next().is_some() || tables.growth.is_lacking() {
        unsettle(port, tables, chain, disk);
    }
}

fn is_of(partition: PartitionId, (shard, shard_count): (ShardId, u16)) -> bool {
    map::shard_of(partition, shard_count) == shard
}

/// From now on what is pushed takes records: what was pushed before is in them, or in images.
pub(super) fn unsettle(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &mut Disk) {
    chain.taken.end_all(&mut chain.parts);
    if is_settled(chain)
        && let Some(mut durable) = disk.durable.take()
    {
        image::write_images(port, tables, chain, &mut durable);
        disk.durable = Some(durable);
    }
    name_positions(port, tables, chain);
    chain.settled = None;
}

/// Gives what was pushed without a record a position: behind it comes a record that says nothing.
fn name_positions(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        if let Some(part) =
            part.filter(|part| part.replica.has_unrecorded() && part.replica.is_head())
        {
            let partition = part.partition;
            expiry::append_expired(port, tables, chain, partition);
        }
    }
}

/// Brings a settled shard's log to where a partition's replica is, so that its next record may be made in
/// the log.
///
/// # Errors
/// When the log has stopped.
pub(in crate::shard) fn ready_log(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    partition: PartitionId,
) -> Result<(), Refusal> {
    loop {
        if durable.log().poison().is_some() {
            return Err((Status::Poisoned, 0));
        }
        let now = durable.now();
        let index = chain.index(partition);
        if chain.disk.is_part_behind(index) {
            if disk::log_part(tables, chain, index, durable) {
                durable::wait_for_room(port, tables, chain, durable, Full::Ring, now);
            } else {
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
                    durable::wait_for_room(port, tables, chain, durable, full, now);
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
    chain: &mut Chain,
    durable: &mut Durable,
    (partition, reservation): (PartitionId, Reservation),
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
