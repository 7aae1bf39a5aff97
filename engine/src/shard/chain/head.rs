//! The head's turn: admits pushes, makes their records, appends them to the chain.

use windlass_replication::Role;
use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, Rows, Status};

use super::{Chain, part::Held};
use crate::{
    persist::{
        commit,
        frame::Kind,
        limits::{KEYS_MAX, RECORD_BYTES_MAX},
        record,
    },
    shard::{
        Shard,
        push::{Refusal, is_sent_again},
        tables::ShardTable,
        work::Work,
    },
};

/// Bytes of a record that are not rows of its push, at most.
const RECORD_OVERHEAD: u64 = 1024;

impl Shard {
    /// Whether this replica may answer a request, by the chains of all partitions it touches.
    pub(in crate::shard) fn check_chains(
        &self,
        table: &ShardTable,
        work: &Work,
    ) -> Result<(), Refusal> {
        let chain = self.chain.as_ref().ok_or((Status::NotHere, 0))?;
        if let Some(epoch) = chain.settled_epoch().filter(|_| !table.goes_by_records()) {
            let is_old = work.header.epoch < epoch;
            return if is_old { Err((Status::StaleEpoch, 0)) } else { Ok(()) };
        }
        let pushes = work.header.kind.pushes();
        let record_len = work.header.values_len() + work.header.keys_len() + RECORD_OVERHEAD;
        let is_keyed_long = work.header.keys_len() > 0 && work.header.row_count as usize > KEYS_MAX;
        if pushes && (record_len > RECORD_BYTES_MAX as u64 || is_keyed_long) {
            return Err((Status::TooLarge, 0));
        }
        let is_unsafe = pushes && table.is_kept() && chain.disk.has_failed();
        let check = |partition: PartitionId| -> Result<(), Refusal> {
            let Some(part) = chain.part(partition) else { return Err((Status::NotHere, 0)) };
            if part.epoch() > work.header.epoch || part.broken {
                return Err((Status::StaleEpoch, 0));
            }
            if is_unsafe {
                // Others go on without this server, if there are any.
                let is_alone = part.replica.role() == Role::Single;
                return Err((if is_alone { Status::Poisoned } else { Status::StaleEpoch }, 0));
            }
            let serves = if pushes { part.replica.is_head() } else { part.replica.is_readable() };
            if !serves {
                return Err((Status::StaleEpoch, 0));
            }
            if work.header.strong && !pushes && !chain.is_strong(part) {
                return Err((Status::StaleEpoch, 0));
            }
            Ok(())
        };
        match work.header.rows {
            Rows::Partition { partition, .. } => check(partition)?,
            Rows::Range { first } => {
                let end = first + u64::from(work.header.row_count);
                let mut pieces = table.layout.pieces_of(RowRange::new(first, end));
                pieces.try_for_each(|(partition, _)| check(partition))?;
            }
            Rows::Keys => {
                let mut last = None;
                for key in &self.turn.keys[work.keys.0..work.keys.1] {
                    let partition = table.layout.partition_of(*key);
                    if last.replace(partition) != Some(partition) {
                        check(partition)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A message waits for a position of a partition, unless it is committed.
    pub(in crate::shard) fn wait_for_lsn(&mut self, partition: PartitionId, at: usize, lsn: Lsn) {
        let id = self.begin_wait(at);
        let chain = self.chain.as_mut().expect("a shard without a chain takes no pushes");
        let part = chain.own_mut(partition);
        // A push without a record is behind the last one, and waits for no other.
        let lsn = lsn.min(part.replica.log().last());
        if lsn <= part.replica.log().committed() {
            return;
        }
        let place = part.waiting.partition_point(|(position, _)| *position <= lsn);
        part.waiting.insert(place, (lsn, id));
        self.waits.add(id);
    }

    /// A message whose rows of one partition are refused: it ends so once the others are settled.
    pub(in crate::shard) fn refuse_later(&mut self, at: usize, status: Status) {
        let id = self.begin_wait(at);
        self.waits.add(id);
        let session = self.turn.works[at].session;
        if is_sent_again(status)
            && let Some(session) = &mut self.sessions[session]
        {
            session.gate.close();
        }
        self.end_wait(id, status, 0);
    }

    /// Gives the record of pushes to its replica. Their messages wait until it is where it has to be.
    pub(in crate::shard) fn hold(
        &mut self,
        (partition, sync): (PartitionId, bool),
        held: Held,
        covered: &[record::Covered],
        members: impl Iterator<Item = usize>,
    ) {
        for member in members {
            let wait = self.begin_wait(member);
            let chain = self.chain.as_mut().expect("a shard without a chain takes no pushes");
            chain.own_mut(partition).waiting.push_back((held.lsn, wait));
            self.waits.add(wait);
        }
        let chain = self.chain.as_mut().expect("a shard without a chain takes no pushes");
        chain.cover(covered);
        self.append_held(partition, held, sync, &[]);
    }
}

impl Chain {
    /// The position of the next record of a partition; `None` when there is no room for it now.
    pub(in crate::shard) fn next_of(&self, partition: PartitionId) -> Option<Lsn> {
        let replica = &self.own(partition).replica;
        replica.has_room().then(|| replica.log().last().next())
    }
}

pub(super) fn facts_of(table: &ShardTable, partition: PartitionId, epoch: Epoch) -> record::Facts {
    let dtype: DataType = table.entry.schema.dtype;
    record::Facts {
        kind: Kind::Keys,
        partition,
        epoch,
        table: table.entry.id,
        dtype,
        rows: RowRange::default(),
        tag: table.rule.tag(),
        durability: commit::Durability::Memory,
    }
}
