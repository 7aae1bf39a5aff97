//! Applying records from their bytes: the same at the head and at every other member, so that replicas
//! are equal bit for bit.
#![allow(unsafe_code)]

use windlass_wire::{Lsn, PartitionId, RowRange, scan::position};

use super::{Chain, ServerEvent};
use crate::{
    persist::{frame::Kind, record::Record},
    shard::{
        clocks::apply_record,
        image::{Entry, holds_images},
        tables::{ShardTable, TableRows, Tables},
    },
};

/// Which rows of a partition a record may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All.
    Whole,
    /// Of a dense table those that have been copied; the others will come with it.
    Copied {
        /// First row of the table that has not.
        end: u64,
    },
    /// Of a sparse table likewise.
    Scanned {
        /// Last position of the scan that has been copied, if any has.
        reached: Option<u64>,
    },
}

impl Extent {
    /// Whether a key of a sparse table is among them.
    #[inline]
    fn has_key(self, key: u64) -> bool {
        match self {
            Self::Whole => true,
            Self::Copied { .. } => false,
            Self::Scanned { reached } => reached.is_some_and(|reached| position(key) <= reached),
        }
    }
}

/// Why a record cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApplyError {
    /// Its bytes do not fit the table, or the table has no rows in the record's partition.
    #[error("the record does not fit its table's schema or rows")]
    Unfit,
    /// A row is new and there is no memory for it.
    #[error("no memory is left for rows that other replicas have: raise --memory")]
    Memory,
}

/// Applies records to memory, in order, those that were applied already aside.
pub(super) fn apply_records(
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    first: Lsn,
    last: Lsn,
) {
    let mut is_broken = false;
    for lsn in (first.0..=last.0).map(Lsn) {
        let Tables { by_id: tables, memory_left, clocks, .. } = tables;
        let part = chain.own_mut(partition);
        if lsn <= part.applied || part.broken {
            continue;
        }
        let applied = part.held(lsn).and_then(|held| held.record().ok()).map(|record| {
            // A table that was dropped has no rows to change.
            let Some(table) = tables.get_mut(&record.table()) else {
                return Ok::<(), ApplyError>(());
            };
            apply(table, &record, Extent::Whole, memory_left)?;
            if apply_record(table, &record) {
                clocks.is_stale = true;
                clocks.unclosed |= table.rounds.is_some();
                table.note_workers_of(partition);
            }
            Ok(())
        });
        match applied {
            Some(Ok(())) => part.applied = lsn,
            Some(Err(error)) => {
                part.broken = true;
                is_broken = true;
                tracing::error!(%partition, lsn = lsn.0, %error, "a replica has come apart");
            }
            None => {
                part.broken = true;
                is_broken = true;
                tracing::error!(%partition, lsn = lsn.0, "a record to apply is not held");
            }
        }
    }
    if is_broken {
        chain.settle(true);
        let epoch = chain.own(partition).epoch();
        chain.tell(ServerEvent::CannotHold { partition, epoch });
    }
}

/// Applies one record.
pub(super) fn apply(
    table: &mut ShardTable,
    record: &Record<'_>,
    extent: Extent,
    memory: &mut u64,
) -> Result<(), ApplyError> {
    if holds_images(record) {
        return set(table, record, extent, memory);
    }
    if !matches!(record.kind(), Kind::Rows | Kind::Keys) {
        return Ok(());
    }
    let ShardTable { entry, rule, rows, slots, .. } = table;
    let (kernel, values) = rule.of_record(record).ok_or(ApplyError::Unfit)?;
    let row_len = entry.schema.width as usize * record.dtype().size();
    let count = match record.kind() {
        Kind::Rows => usize::try_from(record.rows().count()).map_err(|_| ApplyError::Unfit)?,
        _ => record.keys().len(),
    };
    if count.checked_mul(row_len) != Some(values.len()) {
        return Err(ApplyError::Unfit);
    }
    let slot = slots.find(record.partition()).ok_or(ApplyError::Unfit)?;
    let delta = values.as_ptr();
    match rows {
        TableRows::Dense(partitions) => {
            let dense = &mut partitions[slot].0;
            let end = match extent {
                Extent::Copied { end } => end.min(dense.rows().end),
                Extent::Whole | Extent::Scanned { .. } => dense.rows().end,
            };
            let within = RowRange { start: dense.rows().start, end };
            if record.kind() == Kind::Rows {
                let rows = record.rows();
                if rows.start < within.start || rows.end > dense.rows().end {
                    return Err(ApplyError::Unfit);
                }
                let rows = RowRange { start: rows.start, end: rows.end.min(end) };
                if rows.start < rows.end {
                    // SAFETY: the delta holds the values of all rows of the record's range, checked
                    // above, of the kernel's gradient dtype; it lies in the record.
                    unsafe { dense.apply(&kernel, rows, delta) };
                }
                return Ok(());
            }
            for (at, key) in record.keys().enumerate() {
                if key < within.start || key >= dense.rows().end {
                    return Err(ApplyError::Unfit);
                }
                if key < end {
                    let value = delta.wrapping_add(at * row_len);
                    // SAFETY: the delta holds one row of values for each key, checked above.
                    unsafe { dense.apply(&kernel, RowRange::new(key, key + 1), value) };
                }
            }
        }
        TableRows::Sparse(partitions) => {
            let sparse = &mut partitions[slot];
            for (at, key) in record.keys().enumerate() {
                if !extent.has_key(key) {
                    continue;
                }
                let value = delta.wrapping_add(at * row_len);
                // SAFETY: the delta holds one row of values for each key, checked above, of the
                // kernel's gradient dtype; it lies in the record.
                unsafe { sparse.apply(&kernel, key, value, memory) }
                    .map_err(|_| ApplyError::Memory)?;
            }
        }
    }
    Ok(())
}

/// Sets rows to what a record holds.
fn set(
    table: &mut ShardTable,
    record: &Record<'_>,
    extent: Extent,
    memory: &mut u64,
) -> Result<(), ApplyError> {
    let slot = table.slots.find(record.partition()).ok_or(ApplyError::Unfit)?;
    let mut bytes = record.delta();
    while !bytes.is_empty() {
        let (entry, rest) = Entry::split(bytes).ok_or(ApplyError::Unfit)?;
        bytes = rest;
        if let (TableRows::Dense(_), Extent::Copied { end }) = (&table.rows, extent)
            && entry.first() >= end
        {
            // Rows are copied by pieces, and an entry is of one.
            continue;
        }
        if !entry.restore(&mut table.rows, slot, memory, |key| !extent.has_key(key)) {
            return Err(ApplyError::Memory);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, Epoch, TableEntry, TableId, TableSchema};

    use super::*;
    use crate::{
        persist::{
            commit,
            frame::Salt,
            record::{Draft, Facts, RecordMut, Shape},
        },
        shard::{arena::Arena, memory::Made},
    };

    /// A replica that dropped such a record in silence would differ from all others from then on.
    #[test]
    fn a_record_of_rows_that_are_not_here_is_no_success() {
        let schema = TableSchema::sparse(DataType::F32, 1);
        let entry = TableEntry { id: TableId(1), name: "rows".to_owned(), schema };
        let mut table = ShardTable::new(entry, 2).unwrap();
        table.install(&[PartitionId(0)], &mut Arena::default(), &mut Made::default());
        let mut apply_to = |partition| {
            let facts = Facts {
                kind: Kind::Keys,
                partition,
                epoch: Epoch(1),
                table: TableId(1),
                dtype: DataType::F32,
                rows: RowRange::default(),
                tag: table.rule.tag(),
                durability: commit::Durability::Memory,
            };
            let shape = Shape { keys: 1, delta_bytes: 4, ..Shape::default() };
            let mut words = vec![0_u64; shape.length() / 8];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            let mut draft = Draft::new(facts, shape, Lsn(1));
            draft.prepare(bytes);
            let mut record = RecordMut::new(bytes, &mut draft);
            let (keys, delta) = record.keys_and_delta();
            keys.copy_from_slice(&7_u64.to_le_bytes());
            delta.copy_from_slice(&1.5_f32.to_le_bytes());
            draft.seal(bytes, Salt::NONE);
            let record = Record::decode(bytes, Salt::NONE).unwrap();
            apply(&mut table, &record, Extent::Whole, &mut 1_000_000)
        };
        assert_eq!(apply_to(PartitionId(0)), Ok(()));
        assert_eq!(apply_to(PartitionId(1)), Err(ApplyError::Unfit));
    }
}
