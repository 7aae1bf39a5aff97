//! A learner takes in its feeder's rows. The log streams behind them on the same link: a record changes the
//! rows that were copied before it came, and is in those that are copied after it.

use std::collections::BTreeMap;

use windlass_wire::{Epoch, Lsn, PartitionId, ServerId, TableId};

use super::{
    Chain, ServerEvent,
    apply::{ApplyError, Extent, apply},
};
use crate::shard::tables::{TableRows, Tables};

/// How far a copy is.
#[derive(Debug)]
pub(super) struct CopyIn {
    pub(super) start: Lsn,
    /// Of dense tables, the first piece that has not come; of sparse ones, the last position that has.
    reached: BTreeMap<TableId, u64>,
    /// There was no memory for some row: what still comes is dropped, until a map says who copies instead.
    pub(super) is_given_up: bool,
}

/// Discards what the replica holds. Rows of dense tables stay as they are until the copy, which has all
/// of them, comes by: nobody reads them.
pub(super) fn start_copy_in(
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    start: Lsn,
) {
    let index = chain.index(partition);
    let part = chain.parts[index].as_deref_mut().expect("a learner has a replica");
    for held in part.records.drain(..) {
        chain.kept.spare.put(held.words);
    }
    part.copy_in = Some(CopyIn { start, reached: BTreeMap::new(), is_given_up: false });
    part.applied = start;
    part.broken = false;
    chain.disk.forget(index);
    chain.disk.end_copying(partition);
    for table in tables.by_id.values_mut() {
        table.begin_copy(partition, &mut tables.memory_left, &tables.growth.memory);
    }
}

/// Every replica of a partition has rows of the same tables there.
const NO_ROWS: &str = "a copy of a table that has no rows in the partition";

/// A part of a copy: which server sent it, and of which partition in which epoch.
#[derive(Clone, Copy)]
pub(super) struct CopyOrigin {
    pub(super) from: ServerId,
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
}

/// Rows of the feeder.
pub(super) fn take_copied_rows(
    tables: &mut Tables,
    chain: &mut Chain,
    CopyOrigin { from, partition, epoch }: CopyOrigin,
    table: TableId,
    index: u64,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let Some(part) = chain.part_mut(partition) else { return Ok(()) };
    let feeder = part.replica.chain().path.last().copied();
    let Some(copy) = part.copy_in.as_mut().filter(|_| part.replica.epoch() == epoch) else {
        return Ok(());
    };
    if copy.is_given_up {
        return Ok(());
    }
    if feeder != Some(from) {
        return Ok(());
    }
    // A table that was dropped: nobody misses its rows.
    let Some(found) = tables.by_id.get_mut(&table) else { return Ok(()) };
    let slot = found.slots.find(partition).ok_or(NO_ROWS)?;
    match &mut found.rows {
        TableRows::Dense(partitions) => {
            let next = copy.reached.entry(table).or_default();
            if index != *next || !partitions[slot].0.restore_piece(index, bytes) {
                return Err("copied rows that do not follow, or do not fit their table");
            }
            *next += 1;
        }
        TableRows::Sparse(partitions) => {
            let sparse = &mut partitions[slot];
            let row_len = sparse.saved_row_len();
            let before = copy.reached.insert(table, index);
            if !bytes.len().is_multiple_of(row_len) || before.is_some_and(|before| before >= index)
            {
                return Err("copied rows that do not follow, or do not fit their table");
            }
            for row in bytes.chunks_exact(row_len) {
                if !sparse.restore_row(row, &mut tables.memory_left) {
                    give_up(tables, chain, partition);
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// There is no memory for the rows of a partition. Those that are here go again, and the coordinator is
/// told, which names another server.
fn give_up(tables: &mut Tables, chain: &mut Chain, partition: PartitionId) {
    let part = chain.own_mut(partition);
    let epoch = part.epoch();
    if let Some(copy) = &mut part.copy_in {
        copy.is_given_up = true;
    }
    for table in tables.by_id.values_mut() {
        table.begin_copy(partition, &mut tables.memory_left, &tables.growth.memory);
    }
    let left = tables.memory_left;
    tracing::error!(%partition, left, "there is no memory for the rows of a partition: raise --memory or add servers");
    chain.tell(ServerEvent::CannotHold { partition, epoch });
}

/// A table's clock of the feeder, as of all records that came.
pub(super) fn take_copied_clock(
    tables: &mut Tables,
    chain: &mut Chain,
    CopyOrigin { from, partition, epoch }: CopyOrigin,
    table: TableId,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let Some(part) = chain.part(partition) else {
        return Ok(());
    };
    let feeder = part.replica.chain().path.last().copied();
    let is_copying = part.copy_in.as_ref().is_some_and(|copy| !copy.is_given_up);
    if !is_copying || part.replica.epoch() != epoch || feeder != Some(from) {
        return Ok(());
    }
    let Some(found) = tables.by_id.get_mut(&table) else { return Ok(()) };
    let slot = found.slots.find(partition).ok_or(NO_ROWS)?;
    // It was made anew without clocks.
    let Some(clocks) = &mut found.clocks else { return Ok(()) };
    if !clocks.decode_slot(slot, bytes) {
        return Err("a range clock that is none");
    }
    tables.clocks.is_stale = true;
    Ok(())
}

/// A record that came while rows are copied: changes those that are here.
pub(super) fn copy_in_record(
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    lsn: Lsn,
) {
    let part = chain.own_mut(partition);
    if lsn <= part.applied {
        return;
    }
    let Some(copy) = &part.copy_in else { return };
    if copy.is_given_up {
        part.applied = lsn;
        return;
    }
    let outcome = part.held(lsn).and_then(|held| held.record().ok()).map(|record| {
        let Some(table) = tables.by_id.get_mut(&record.table()) else { return Ok(()) };
        let reached = copy.reached.get(&record.table()).copied();
        let extent = match (&table.rows, table.slots.find(partition)) {
            (TableRows::Dense(partitions), Some(slot)) => {
                let end = partitions[slot].0.rows_of_piece(reached.unwrap_or(0)).start;
                Extent::Copied { end }
            }
            _ => Extent::Scanned { reached },
        };
        apply(table, &record, extent, &mut tables.memory_left)
    });
    part.applied = lsn;
    match outcome {
        Some(Ok(())) => {}
        Some(Err(ApplyError::Memory)) => give_up(tables, chain, partition),
        _ => {
            part.broken = true;
            let epoch = part.epoch();
            tracing::error!(%partition, lsn = lsn.0, ?outcome, "a learner has come apart");
            chain.tell(ServerEvent::CannotHold { partition, epoch });
        }
    }
}
