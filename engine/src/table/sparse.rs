//! The rows of one partition of a sparse table: an index from keys to rows, and slabs of rows that
//! never move.
#![allow(unsafe_code)]

use windlass_transport::memory::fetch;
use windlass_wire::{PartitionId, TableSchema, UpdateRule, map::mix};

use super::{ChangedPieces, DirtyRows, HashIndex, StatePlanes};
use crate::{
    limits::SLAB_ROWS_FIRST,
    update::{Kernel, Run},
};

/// No memory is left for a new row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for new rows")]
pub struct SparseFull;

/// Rows of a sparse table that one partition holds.
#[derive(Debug)]
pub struct SparsePartition {
    partition: PartitionId,
    schema: TableSchema,
    index: HashIndex,
    slabs: Vec<Slab>,
    /// Pieces that changed since they were copied into a checkpoint last, when those are taken.
    changed: ChangedPieces,
    /// The first row made since a checkpoint listed the keys it is going to copy.
    fresh: Option<u64>,
    /// Rows that changed since the log recorded them last, when it records rows.
    dirty: DirtyRows,
}

/// Pieces of a partition, by hash of the key, so that a key's piece never changes.
pub const PIECES: u64 = 4096;

/// The piece of a key.
#[must_use]
pub fn piece_of(key: u64) -> u64 {
    // Other bits than those that choose the partition and the index slot.
    mix(key) >> 52
}

/// Rows beside each other. Slab `n` holds `SLAB_ROWS_FIRST << n` rows.
#[derive(Debug)]
struct Slab {
    /// As many as rows have been made.
    keys: Vec<u64>,
    values: Vec<u64>,
    state: StatePlanes,
}

impl SparsePartition {
    /// No rows yet.
    #[must_use]
    pub fn new(partition: PartitionId, schema: &TableSchema) -> Self {
        Self {
            partition,
            schema: schema.clone(),
            index: HashIndex::new(),
            slabs: Vec::new(),
            changed: ChangedPieces::default(),
            fresh: None,
            dirty: DirtyRows::default(),
        }
    }

    /// From now on changes are noted by piece; all pieces count as changed.
    pub fn track_changes(&mut self) {
        self.changed = ChangedPieces::all(PIECES);
    }

    /// From now on changes are noted by row.
    pub fn track_dirty(&mut self) {
        self.dirty.track();
    }

    /// The rows that changed.
    #[must_use]
    pub fn dirty(&self) -> &DirtyRows {
        &self.dirty
    }

    /// Takes the keys, with their rows, whose rows changed.
    pub fn take_dirty(&mut self) -> Vec<(u64, u64)> {
        let mut rows = Vec::new();
        self.dirty.take(u64::MAX, |run| rows.extend(run.start..run.end));
        rows.into_iter().map(|row| (self.key_of(row), row)).collect()
    }

    /// The pieces that changed.
    #[must_use]
    pub fn changed_mut(&mut self) -> &mut ChangedPieces {
        &mut self.changed
    }

    /// Notes new keys from now on, or no more.
    pub fn note_fresh(&mut self, noted: bool) {
        self.fresh = noted.then_some(self.row_count());
    }

    /// Takes the keys, with their rows, that were made since they were taken last.
    pub fn take_fresh(&mut self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let count = self.row_count();
        let first = self.fresh.as_mut().map_or(count, |first| std::mem::replace(first, count));
        self.keys_of(first..count)
    }

    /// Appends key, values and state of a row.
    pub fn save_row(&self, key: u64, row: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&key.to_le_bytes());
        let at = into.len();
        into.resize(at + usize_of(self.schema.row_len()), 0);
        // SAFETY: a row's values lie whole in its slab, and room for them was just made.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.values_of(row),
                into[at..].as_mut_ptr(),
                usize_of(self.schema.row_len()),
            );
        }
        self.save_state(row, into);
    }

    /// Bytes that [`SparsePartition::save_row`] makes.
    #[must_use]
    pub fn saved_row_len(&self) -> usize {
        let rule = &self.schema.rule;
        let width = self.schema.width as usize;
        let state = rule.state_width() * width * UpdateRule::state_value_size(self.schema.dtype);
        8 + usize_of(self.schema.row_len()) + state + if rule.counts_steps() { 4 } else { 0 }
    }

    /// Takes back what [`SparsePartition::save_row`] made; false when the length is not right or
    /// there is no memory.
    #[must_use]
    pub fn restore_row(&mut self, saved: &[u8], memory: &mut u64) -> bool {
        let row_len = usize_of(self.schema.row_len());
        if saved.len() != self.saved_row_len() {
            return false;
        }
        let mut key = [0; 8];
        key.copy_from_slice(&saved[..8]);
        let Ok(row) = self.row_of_or_new(u64::from_le_bytes(key), memory) else { return false };
        let (slab, within) = locate(row);
        let slab = &mut self.slabs[slab];
        let values = slab.values.as_mut_ptr().cast::<u8>().wrapping_add(within * row_len);
        // SAFETY: `locate` gives a row inside its slab, whose values have room for it; `saved` is
        // other memory.
        unsafe { std::ptr::copy_nonoverlapping(saved[8..].as_ptr(), values, row_len) };
        slab.state.restore(within, 1, &saved[8 + row_len..]);
        true
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Number of rows.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.index.len()
    }

    /// Keys and rows, in the order of rows: that in which they were made.
    pub fn keys(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.keys_of(0..self.row_count())
    }

    /// Keys of some of the rows there are, and these.
    pub fn keys_of(&self, rows: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        rows.map(|row| (self.key_of(row), row))
    }

    /// The key of a row there is.
    #[inline]
    #[must_use]
    pub fn key_of(&self, row: u64) -> u64 {
        let (slab, within) = locate(row);
        self.slabs[slab].keys[within]
    }

    /// Applies one row's gradient, making the row if it is new. `memory` is what may still be
    /// allocated, in bytes, and is reduced by what was.
    ///
    /// # Errors
    /// When the row is new and there is no memory for it.
    ///
    /// # Safety
    /// `gradient` points to one row's readable gradient of the kernel's gradient dtype, outside
    /// this partition; the kernel is of this table's schema.
    #[inline]
    pub unsafe fn apply(
        &mut self,
        kernel: &Kernel,
        key: u64,
        gradient: *const u8,
        memory: &mut u64,
    ) -> Result<(), SparseFull> {
        let row = self.row_of_or_new(key, memory)?;
        if self.changed.is_tracked() {
            let piece = piece_of(key);
            self.changed.set(piece, piece + 1);
        }
        if self.dirty.is_tracked() {
            self.dirty.set(row);
        }
        let width = self.schema.width as usize;
        let row_len = usize_of(self.schema.row_len());
        let (slab, within) = locate(row);
        let slab = &mut self.slabs[slab];
        let run = Run {
            values: slab.values.as_mut_ptr().cast::<u8>().wrapping_add(within * row_len),
            state: slab.state.planes_at(within),
            steps: slab.state.steps_at(within),
            gradient,
            rows: 1,
            width,
        };
        // SAFETY: `locate` gives a row inside its slab, whose values and state have room for every
        // row of the slab and belong to this partition alone; the caller promises the gradient.
        unsafe { kernel.apply(&run) };
        Ok(())
    }

    /// Whether a key has a row.
    #[must_use]
    pub fn contains(&self, key: u64) -> bool {
        self.index.find(key).is_some()
    }

    /// Makes the row of a key if it is new.
    ///
    /// # Errors
    /// When there is no memory for it.
    #[inline]
    pub fn row_of_or_new(&mut self, key: u64, memory: &mut u64) -> Result<u64, SparseFull> {
        self.make_row(key, memory).map(|(row, _)| row)
    }

    /// Makes the row of a key if it is new; the row, and whether it is.
    ///
    /// # Errors
    /// When there is no memory for it.
    #[inline]
    pub fn make_row(&mut self, key: u64, memory: &mut u64) -> Result<(u64, bool), SparseFull> {
        if self.index.len() == self.capacity() && self.index.find(key).is_none() {
            self.grow(memory)?;
        }
        let (row, is_new) = self.index.find_or_insert(key);
        if is_new {
            self.slabs[locate(row).0].keys.push(key);
        }
        Ok((row, is_new))
    }

    /// Takes back the row that was made last, to which nothing was applied; the memory for it stays.
    ///
    /// # Panics
    ///
    /// When it is another key's.
    pub fn unmake_row(&mut self, key: u64) {
        self.index.remove_last(key);
        let made = self.slabs[locate(self.index.len()).0].keys.pop();
        assert_eq!(made, Some(key), "rows and keys are in one order");
    }

    /// Begins to bring near where looking for a key begins.
    #[inline]
    pub fn fetch_slot(&self, key: u64) {
        self.index.fetch(key);
    }

    /// The row of a key, if it has one, whose values it begins to bring near.
    #[inline]
    #[must_use]
    pub fn fetch_row(&self, key: u64) -> Option<u64> {
        let row = self.index.find(key)?;
        self.fetch_values(row);
        Some(row)
    }

    /// Begins to bring a row near, with its state.
    #[inline]
    pub fn fetch_state(&mut self, row: u64) {
        self.fetch_values(row);
        let (slab, within) = locate(row);
        let planes = self.slabs[slab].state.planes_at(within);
        planes.into_iter().take(self.schema.rule.state_width()).for_each(|plane| fetch(plane));
    }

    #[inline]
    fn fetch_values(&self, row: u64) {
        let (values, row_len) = (self.values_of(row), usize_of(self.schema.row_len()));
        fetch(values);
        fetch(values.wrapping_add(row_len - 1));
    }

    /// Copies a key's values into `into`; zeros if the key has no row.
    ///
    /// # Safety
    /// `into` has room for one row, outside this partition.
    #[inline]
    pub unsafe fn copy_out(&self, key: u64, into: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.copy_row(self.index.find(key), into) };
    }

    /// Copies a row's values into `into`; zeros if there is none.
    ///
    /// # Safety
    /// The row is one of this partition; `into` has room for one, outside of it.
    #[inline]
    pub unsafe fn copy_row(&self, row: Option<u64>, into: *mut u8) {
        let row_len = usize_of(self.schema.row_len());
        match row {
            // SAFETY: a row's values lie whole in its slab; the caller promises room for them.
            Some(row) => unsafe {
                std::ptr::copy_nonoverlapping(self.values_of(row), into, row_len);
            },
            // SAFETY: the caller promises room for one row.
            None => unsafe { std::ptr::write_bytes(into, 0, row_len) },
        }
    }

    /// Pointer to a row's values.
    #[must_use]
    pub fn values_of(&self, row: u64) -> *const u8 {
        let (slab, within) = locate(row);
        let offset = within * usize_of(self.schema.row_len());
        self.slabs[slab].values.as_ptr().cast::<u8>().wrapping_add(offset)
    }

    /// A row's state, for checkpoints: appends to `into`.
    pub fn save_state(&self, row: u64, into: &mut Vec<u8>) {
        let (slab, within) = locate(row);
        self.slabs[slab].state.save(within, 1, into);
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        let slabs: usize =
            self.slabs.iter().map(|slab| slab.words() * 8 + slab.state.memory_len()).sum();
        slabs + self.index.memory_len()
    }

    fn capacity(&self) -> u64 {
        SLAB_ROWS_FIRST * ((1 << self.slabs.len()) - 1)
    }

    /// Bytes that its rows were charged with.
    #[must_use]
    pub fn charged_len(&self) -> u64 {
        (0..self.slabs.len()).map(|slab| self.slab_len(slab).2).sum()
    }

    /// Rows of a slab, words of its values, and bytes it is charged with.
    fn slab_len(&self, slab: usize) -> (usize, usize, u64) {
        let rows = usize_of(SLAB_ROWS_FIRST << slab);
        let words = (rows * usize_of(self.schema.row_len())).div_ceil(8);
        let state_len = self.schema.rule.state_width()
            * rows
            * self.schema.width as usize
            * UpdateRule::state_value_size(self.schema.dtype);
        // A key, and its part of an index that is growing: three slots for each of the old ones, of
        // which seven in eight are taken.
        (rows, words, (words * 8 + state_len + rows * 64) as u64)
    }

    #[cold]
    fn grow(&mut self, memory: &mut u64) -> Result<(), SparseFull> {
        let (rows, words, needed) = self.slab_len(self.slabs.len());
        let Some(left) = memory.checked_sub(needed) else { return Err(SparseFull) };
        *memory = left;
        self.slabs.push(Slab {
            keys: Vec::with_capacity(rows),
            values: vec![0; words],
            state: StatePlanes::new(
                &self.schema.rule,
                self.schema.dtype,
                rows,
                self.schema.width as usize,
            ),
        });
        Ok(())
    }
}

impl Slab {
    /// Words of its keys and values.
    fn words(&self) -> usize {
        self.keys.capacity() + self.values.len()
    }
}

/// Slab and row within it.
#[inline]
fn locate(row: u64) -> (usize, usize) {
    let slab = (row / SLAB_ROWS_FIRST + 1).ilog2();
    let before = SLAB_ROWS_FIRST * ((1 << slab) - 1);
    (slab as usize, usize_of(row - before))
}

#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
const fn usize_of(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use windlass_wire::DataType;

    use super::*;

    #[test]
    fn slabs_cover_rows_without_gaps() {
        let mut expected = (0, 0);
        for row in 0..1000 {
            assert_eq!(locate(row), expected);
            expected.1 += 1;
            if expected.1 == 16 << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    #[test]
    fn rows_are_made_by_pushes_and_bounded_by_memory() {
        let schema = TableSchema::sparse(DataType::F32, 2);
        let kernel = Kernel::new(UpdateRule::Add, DataType::F32, DataType::F32).unwrap();
        let mut partition = SparsePartition::new(PartitionId(0), &schema);
        let mut memory = 4000;
        let mut full = 0;
        for key in (0..100).chain(0..100) {
            let gradient = [key as f32, 1.0];
            // SAFETY: two readable values of the table's dtype.
            let pushed = unsafe {
                partition.apply(&kernel, key << 40, gradient.as_ptr().cast(), &mut memory)
            };
            full += u32::from(pushed.is_err());
        }
        assert_eq!(partition.row_count(), 48);
        assert_eq!(full, 2 * 52);
        let mut row = [9.0_f32; 2];
        // SAFETY: room for one row.
        unsafe { partition.copy_out(47 << 40, row.as_mut_ptr().cast()) };
        assert_eq!(row, [94.0, 2.0]);
        // SAFETY: room for one row.
        unsafe { partition.copy_out(48 << 40, row.as_mut_ptr().cast()) };
        assert_eq!(row, [0.0; 2]);
    }
}
