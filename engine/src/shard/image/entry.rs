//! Encodes rows with their state for a record: rows of one table in one partition.
//!
//! ```text
//!  0   4  table
//!  4   4  0: neighbouring rows of a dense table, of one piece; 1: rows of a sparse one; 2: keys of a sparse
//!         one whose rows are removed
//!  8   8  first row; 0 for sparse ones
//! 16   8  number of rows
//! 24   8  bytes of what follows
//! 32      values, then state, of the rows; for sparse ones key, values, state of each; for removed ones
//!         their keys, 8 bytes each
//! ```

use windlass_wire::{RowRange, TableId};

use super::IMAGE;
use crate::{
    persist::{
        frame::Kind,
        record::Record,
        recovery::{AppliedBlocks, ReplayError},
    },
    shard::{
        checkpoint::ROWS,
        tables::{ShardTable, TableRows, Tables},
    },
    table::piece_of,
};

/// Bit of the tag of a record of a chain that sets rows of its table to what its entries hold. No bit but
/// [`SYNC`] stands beside it.
///
/// [`SYNC`]: crate::shard::chain::SYNC
pub(in crate::shard) const SET: u16 = 32;

pub(super) const ENTRY_LEN: usize = 32;

/// Rows of dense and of sparse tables, and rows of sparse tables that are removed.
pub(super) const DENSE: u32 = 0;
pub(super) const SPARSE: u32 = 1;
const REMOVED: u32 = 2;

/// An entry, over the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Entry<'a> {
    table: TableId,
    kind: u32,
    first: u64,
    count: u64,
    rows: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry that the bytes begin with, and what is behind it; `None` when it is cut off.
    pub(in crate::shard) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_at_checked(ENTRY_LEN)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let (rows, rest) = rest.split_at_checked(usize::try_from(word(24)).ok()?)?;
        let (table, kind) = (TableId(half(0)), half(4));
        Some((Self { table, kind, first: word(8), count: word(16), rows }, rest))
    }

    /// The first row of a dense table; 0 of a sparse one.
    pub(in crate::shard) fn first(&self) -> u64 {
        self.first
    }

    /// Puts the rows into a slot of their table, or removes them from there, but for keys of a sparse one that
    /// `skips` names; false when they do not fit it, or memory is short.
    pub(in crate::shard) fn restore(
        &self,
        rows: &mut TableRows,
        slot: usize,
        memory: &mut u64,
        skips: impl Fn(u64) -> bool,
    ) -> bool {
        match (rows, self.kind) {
            (TableRows::Dense(partitions), DENSE) => {
                partitions[slot].0.restore_rows(self.first, self.count, self.rows)
            }
            (TableRows::Sparse(partitions), SPARSE) => {
                let sparse = &mut partitions[slot];
                let row_len = sparse.saved_row_len();
                self.rows.len().is_multiple_of(row_len)
                    && self.rows.chunks_exact(row_len).all(|row| {
                        let key = u64::from_le_bytes(std::array::from_fn(|byte| row[byte]));
                        skips(key) || sparse.restore_row(row, memory)
                    })
            }
            (TableRows::Sparse(partitions), REMOVED) => {
                let sparse = &mut partitions[slot];
                for key in self.rows.chunks_exact(8) {
                    let key = u64::from_le_bytes(std::array::from_fn(|byte| key[byte]));
                    if !skips(key) {
                        sparse.remove_row(key);
                    }
                }
                self.rows.len().is_multiple_of(8)
            }
            _ => false,
        }
    }
}

/// Appends neighbouring rows of one piece of a dense table, from what [`save_rows`] makes of them.
///
/// [`save_rows`]: crate::table::DensePartition::save_rows
pub(in crate::shard) fn dense_entry(
    table: TableId,
    rows: RowRange,
    saved: &[u8],
    into: &mut Vec<u8>,
) {
    let at = begin_entry(table, DENSE, rows.start, rows.count(), into);
    into.extend_from_slice(saved);
    end_entry(at, into);
}

/// Appends rows of a sparse table: key, values and state of each.
pub(in crate::shard) fn sparse_entry<'a>(
    table: TableId,
    rows: impl ExactSizeIterator<Item = &'a [u8]>,
    row_len: usize,
    into: &mut Vec<u8>,
) {
    let at = begin_entry(table, SPARSE, 0, rows.len() as u64, into);
    for row in rows {
        let end = into.len() + row_len;
        into.extend_from_slice(row);
        // State that is not given begins anew.
        into.resize(end, 0);
    }
    end_entry(at, into);
}

/// Appends keys of a sparse table whose rows are removed.
pub(in crate::shard) fn removed_entry(table: TableId, keys: &[u64], into: &mut Vec<u8>) {
    let at = begin_entry(table, REMOVED, 0, keys.len() as u64, into);
    into.extend_from_slice(bytemuck::cast_slice(keys));
    end_entry(at, into);
}

/// Appends an entry's head, with its length left open; returns where it ends.
pub(super) fn begin_entry(
    table: TableId,
    kind: u32,
    first: u64,
    count: u64,
    buffer: &mut Vec<u8>,
) -> usize {
    buffer.extend_from_slice(&table.0.to_le_bytes());
    buffer.extend_from_slice(&kind.to_le_bytes());
    buffer.extend_from_slice(&first.to_le_bytes());
    buffer.extend_from_slice(&count.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    buffer.len()
}

pub(super) fn end_entry(at: usize, buffer: &mut [u8]) {
    let length = (buffer.len() - at) as u64;
    buffer[at - 8..at].copy_from_slice(&length.to_le_bytes());
}

/// Whether a record holds rows as they are.
pub(in crate::shard) fn holds_images(record: &Record<'_>) -> bool {
    record.kind() == Kind::Engine && (record.tag() == IMAGE || record.tag() & SET != 0)
}

/// Puts the rows of a record back, except those that a checkpoint's blocks hold newer.
pub(in crate::shard) fn restore_image(
    tables: &mut Tables,
    record: &Record<'_>,
    applied: &AppliedBlocks,
) -> Result<(), ReplayError> {
    let (partition, lsn) = (record.partition(), record.lsn());
    let mut bytes = record.delta();
    while !bytes.is_empty() {
        let (entry, rest) = Entry::split(bytes).ok_or(ReplayError::CutOff)?;
        bytes = rest;
        // A table that was dropped since: nobody misses its rows.
        let id = entry.table;
        let Some(table) = tables.by_id.get_mut(&id) else { continue };
        let Some(slot) = table.slots.find(partition) else { continue };
        let ShardTable { rows, .. } = table;
        let is_newer = |piece: u64| applied.contains(partition, id, ROWS, piece, lsn);
        if let TableRows::Dense(partitions) = rows
            && let dense = &partitions[slot].0
            && is_newer(entry.first.saturating_sub(dense.rows().start) / dense.piece_rows())
        {
            continue;
        }
        let skips = |key: u64| is_newer(piece_of(key));
        if !entry.restore(rows, slot, &mut tables.memory_left, skips) {
            return Err(ReplayError::Image(id));
        }
    }
    Ok(())
}
