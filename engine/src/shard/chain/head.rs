//! The head's turn: admits pushes, makes their records, appends them to the chain.

use windlass_replication::Role;
use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, Rows, Status};

use super::{Chain, append, part::Held};
use crate::{
    persist::{
        commit,
        frame::Kind,
        limits::{KEYS_MAX, RECORD_BYTES_MAX},
        record,
    },
    shard::{
        port::Port,
        push::Refused,
        tables::{ShardTable, Tables},
        work::Work,
    },
};

/// Bytes of a record that are not rows of its push, at most.
const RECORD_OVERHEAD: u64 = 1024;

/// Whether this replica may answer a request, by the chains of all partitions it touches.
pub(in crate::shard) fn check_chains(
    port: &Port,
    chain: &Chain,
    table: &ShardTable,
    work: &Work,
) -> Result<(), Refused> {
    if let Some(epoch) = chain.settled_epoch().filter(|_| !table.goes_by_records()) {
        let is_old = work.header.epoch < epoch;
        return if is_old { Err(Status::StaleEpoch.into()) } else { Ok(()) };
    }
    let pushes = work.header.kind.pushes();
    let record_len = work.header.values_len() + work.header.keys_len() + RECORD_OVERHEAD;
    let is_keyed_long = work.header.keys_len() > 0 && work.header.row_count as usize > KEYS_MAX;
    if pushes && (record_len > RECORD_BYTES_MAX as u64 || is_keyed_long) {
        return Err(Status::TooLarge.into());
    }
    let is_unsafe = pushes && table.is_kept() && chain.disk.has_failed();
    let check = |partition: PartitionId| -> Result<(), Refused> {
        let Some(part) = chain.part(partition) else { return Err(Status::NotHere.into()) };
        if part.epoch() > work.header.epoch || part.broken {
            return Err(Status::StaleEpoch.into());
        }
        if is_unsafe {
            // Others go on without this server, if there are any.
            let is_alone = part.replica.role() == Role::Single;
            return Err(if is_alone { Status::Poisoned } else { Status::StaleEpoch }.into());
        }
        let serves = if pushes { part.replica.is_head() } else { part.replica.is_readable() };
        if !serves {
            return Err(Status::StaleEpoch.into());
        }
        if work.header.strong && !pushes && !chain.is_strong(part) {
            return Err(Status::StaleEpoch.into());
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
            for key in &port.turn.keys[work.keys.0..work.keys.1] {
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
pub(in crate::shard) fn wait_for_lsn(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    at: usize,
    lsn: Lsn,
) {
    let id = port.begin_wait(at);
    let part = chain.own_mut(partition);
    // A push without a record is behind the last one, and waits for no other.
    let lsn = lsn.min(part.replica.log().last());
    if lsn <= part.replica.log().committed() {
        return;
    }
    let place = part.waiting.partition_point(|(position, _)| *position <= lsn);
    part.waiting.insert(place, (lsn, id));
    port.waits.add(id);
}

/// Has the messages of pushes wait for the record that the partition's replica gets next.
pub(in crate::shard) fn wait_for_record(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    lsn: Lsn,
    members: impl Iterator<Item = usize>,
) {
    for member in members {
        let wait = port.begin_wait(member);
        chain.own_mut(partition).waiting.push_back((lsn, wait));
        port.waits.add(wait);
    }
}

/// Gives the record of pushes to its replica.
pub(in crate::shard) fn hold(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    held: Held,
    sync: bool,
    covered: &[record::Covered],
) {
    chain.cover(covered);
    append::append_held(port, tables, chain, partition, held, sync, &[]);
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
