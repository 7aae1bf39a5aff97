//! The rows of one partition of a sparse table: an index from keys to rows, and slabs of rows that
//! never move.
#![allow(unsafe_code)]

use std::sync::Arc;

use windlass_wire::{PartitionId, TableSchema, map::mix};

use super::{
    ChangedPieces, DirtyRows, HashIndex,
    ahead::{Ahead, Background},
    row_numbers::RowNumbers,
    slab::{RowLayout, Slab, Slabs, usize_of},
};
use crate::{
    limits::MADE_AHEAD_LEN,
    update::{Kernel, Run},
};

mod age;
mod noted;

use noted::NotedKeys;

/// No memory is left for a new row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for new rows")]
pub struct SparseFull;

/// Rows of a sparse table that one partition holds.
#[derive(Debug)]
pub struct SparsePartition {
    partition: PartitionId,
    schema: TableSchema,
    /// Memory to make a row's first values in.
    first_values: Vec<u8>,
    index: HashIndex,
    slabs: Vec<Slab>,
    shape: Slabs,
    layout: RowLayout,
    rows: RowNumbers,
    /// Rows that the slabs have room for.
    capacity: u64,
    /// Rows at which the next slab is asked for, or is needed.
    mark: u64,
    ahead: SlabAhead,
    /// Pieces that changed since they were copied into a checkpoint last, when those are taken.
    changed: ChangedPieces,
    /// Which keys came and went.
    noted: NotedKeys,
    /// Rows that changed since the log recorded them last, when it records rows.
    dirty: DirtyRows,
    /// Seconds of service: what rows are stamped with, if they expire. Never zero.
    time_s: u32,
}

/// The next slab.
#[derive(Debug, Default)]
struct SlabAhead {
    /// Who makes it before it is needed.
    background: Option<Arc<dyn Background>>,
    /// It, once the partition has been charged with it.
    slab: Option<Ahead<Slab>>,
}

/// Pieces of a partition, by hash of the key, so that a key's piece never changes.
pub const PIECES: u64 = 4096;

/// The piece of a key.
#[must_use]
pub fn piece_of(key: u64) -> u64 {
    // Other bits than those that choose the partition and the index slot.
    mix(key) >> 52
}

impl SparsePartition {
    /// No rows yet.
    #[must_use]
    pub fn new(partition: PartitionId, schema: &TableSchema) -> Self {
        Self {
            partition,
            schema: schema.clone(),
            first_values: Vec::new(),
            index: HashIndex::staggered(partition.0),
            slabs: Vec::new(),
            rows: RowNumbers::default(),
            shape: Slabs::of(schema),
            layout: RowLayout::of(schema),
            capacity: 0,
            mark: 0,
            ahead: SlabAhead::default(),
            changed: ChangedPieces::default(),
            noted: NotedKeys::default(),
            dirty: DirtyRows::default(),
            time_s: 1,
        }
    }

    /// Has rows begin as those of a table of that name do.
    #[must_use]
    pub fn of_table(mut self, name: &str) -> Self {
        self.schema.initializer = self.schema.initializer.of_table(name);
        self
    }

    /// Whether rows begin with zeros.
    #[inline]
    #[must_use]
    pub fn begins_with_zeros(&self) -> bool {
        self.schema.initializer.is_zero()
    }

    /// What a key's values are while it has no row.
    #[must_use]
    pub fn first_values_of(&mut self, key: u64) -> &[u8] {
        self.first_values.resize(self.layout.values_len(), 0);
        self.schema.initializer.fill(key, self.schema.dtype, &mut self.first_values);
        &self.first_values
    }

    /// Has values that [`SparsePartition::save_row`] made read as zeros where they are what the row began with.
    pub fn hide_first_values(&self, key: u64, values: &mut [u8]) {
        if !self.begins_with_zeros() {
            let mut first = vec![0; self.values_len()];
            self.schema.initializer.fill(key, self.schema.dtype, &mut first);
            values.iter_mut().zip(first).for_each(|(byte, first)| *byte ^= first);
        }
    }

    /// From now on memory for more rows is made by another thread, before it is needed where that thread
    /// is fast enough.
    pub fn grow_ahead(&mut self, background: Arc<dyn Background>) {
        self.index.grow_ahead(Arc::clone(&background));
        self.ahead.background = Some(background);
    }

    /// Appends key, values and state of a row, and its stamp if rows expire.
    pub fn save_row(&self, key: u64, row: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&key.to_le_bytes());
        self.save_values(row, into);
        self.save_state(row, into);
        if self.layout.has_stamp() {
            into.extend_from_slice(&self.stamp_of(row).to_le_bytes());
        }
    }

    /// Appends a row's values.
    pub fn save_values(&self, row: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.bytes_of(row)[..self.layout.values_len()]);
    }

    /// Bytes that [`SparsePartition::save_row`] makes.
    #[must_use]
    pub fn saved_row_len(&self) -> usize {
        let stamp_len = if self.layout.has_stamp() { size_of::<u32>() } else { 0 };
        usize_of(8 + self.schema.row_len() + self.schema.state_len()) + stamp_len
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
        let key = u64::from_le_bytes(key);
        let Ok(row) = self.row_of_or_new(key, memory) else { return false };
        if self.changed.is_tracked() {
            let piece = piece_of(key);
            self.changed.set(piece, piece + 1);
        }
        let state_end = 8 + row_len + usize_of(self.schema.state_len());
        if let Some(stamp) = saved[state_end..].first_chunk() {
            let stamp = u32::from_le_bytes(*stamp);
            // Rows that are set are as old as if they were pushed now.
            let stamp = if stamp == 0 { self.time_s } else { stamp };
            self.time_s = self.time_s.max(stamp);
            self.stamp(row, stamp);
        }
        let layout = self.layout;
        let row = self.bytes_of_mut(row);
        row[..row_len].copy_from_slice(&saved[8..8 + row_len]);
        layout.restore_state(row, &saved[8 + row_len..state_end]);
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

    /// One more than the largest number that a row has had.
    #[must_use]
    pub fn rows_end(&self) -> u64 {
        self.rows.end()
    }

    /// Keys of some of the rows there are, and these; of a row that no key has, nothing.
    pub fn keys_of(&self, rows: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        rows.filter(|row| !self.rows.is_free(*row)).map(|row| (self.key_of(row), row))
    }

    /// Whether a row is still, or again, that of a key.
    #[must_use]
    pub fn has_row(&self, key: u64, row: u64) -> bool {
        self.key_of(row) == key && !self.rows.is_free(row)
    }

    /// See [`HashIndex::scan`].
    pub fn scan(&self, from: u64, limit: usize, found: &mut Vec<(u64, u64)>) -> Option<u64> {
        self.index.scan(from, limit, found)
    }

    /// The key of a row there is.
    #[inline]
    #[must_use]
    pub fn key_of(&self, row: u64) -> u64 {
        let (slab, within) = self.shape.locate(row);
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
        // SAFETY: the caller's promise.
        unsafe { self.apply_at(kernel, (key, row), gradient) };
        Ok(())
    }

    /// Applies the gradient of a key's row.
    ///
    /// # Safety
    /// As for [`SparsePartition::apply`].
    #[inline]
    pub unsafe fn apply_at(
        &mut self,
        kernel: &Kernel,
        (key, row): (u64, u64),
        gradient: *const u8,
    ) {
        debug_assert_eq!(self.key_of(row), key, "the row of the key");
        if self.changed.is_tracked() {
            let piece = piece_of(key);
            self.changed.set(piece, piece + 1);
        }
        if self.dirty.is_tracked() {
            self.dirty.set(row);
        }
        let (layout, width, time_s) = (self.layout, self.schema.width as usize, self.time_s);
        let row = self.bytes_of_mut(row);
        layout.set_stamp(row, time_s);
        let row = row.as_mut_ptr();
        let run = Run {
            values: row,
            state: layout.planes_of(row),
            words: layout.word_of(row),
            gradient,
            rows: 1,
            width,
        };
        // SAFETY: the row's bytes have its values and state, as they are laid out, and belong to this
        // partition alone; the caller promises the gradient.
        unsafe { kernel.apply(&run) };
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
        if self.rows.next() >= self.mark && self.index.find(key).is_none() {
            self.reach_mark(memory)?;
        }
        let (row, is_new) = self.index.find_or_insert(key, self.rows.next());
        if is_new {
            self.take_next_row(key);
        }
        Ok((row, is_new))
    }

    /// Gives a new key the next row.
    #[inline]
    fn take_next_row(&mut self, key: u64) {
        let row = self.rows.next();
        let (slab, within) = self.shape.locate(row);
        if self.rows.take_next() {
            self.slabs[slab].keys.push(key);
        } else {
            self.slabs[slab].keys[within] = key;
        }
        if let Some(fresh) = &mut self.noted.fresh {
            fresh.push(row);
        }
        if !self.begins_with_zeros() {
            self.initialize(key, row);
        }
        if self.layout.has_stamp() {
            self.stamp(row, self.time_s);
        }
    }

    #[cold]
    fn initialize(&mut self, key: u64, row: u64) {
        let (initializer, dtype) = (self.schema.initializer, self.schema.dtype);
        let len = self.values_len();
        initializer.fill(key, dtype, &mut self.bytes_of_mut(row)[..len]);
    }

    /// Removes the row of a key, if it has one, with its state; whether it had. The memory for it stays.
    pub fn remove_row(&mut self, key: u64) -> bool {
        let Some(row) = self.index.remove(key) else { return false };
        self.bytes_of_mut(row).fill(0);
        self.rows.release(row);
        let piece = piece_of(key);
        if self.changed.is_tracked() {
            self.changed.set(piece, piece + 1);
        }
        self.noted.thin(piece);
        true
    }

    /// Begins to bring near where looking for a key begins.
    #[inline]
    pub fn fetch_slot(&self, key: u64) {
        self.index.fetch(key);
    }

    /// Has an index that is growing go on with it, for a key that is met: see [`HashIndex::settle`].
    #[inline]
    pub fn settle(&mut self, key: u64) {
        self.index.settle(key);
    }

    /// The values of a key's row, if it has one, which it begins to bring near.
    #[inline]
    #[must_use]
    pub fn fetch_values_of(&self, key: u64) -> Option<*const u8> {
        let values = self.bytes_of(self.index.find(key)?).as_ptr();
        self.layout.fetch_values(values);
        Some(values)
    }

    /// Begins to bring near the row of a key, if it has one, with its state.
    #[inline]
    pub fn fetch_row_of(&self, key: u64) {
        if let Some(row) = self.index.find(key) {
            self.fetch_row(row);
        }
    }

    /// Begins to bring a row near, with its state.
    #[inline]
    pub fn fetch_row(&self, row: u64) {
        self.layout.fetch(self.bytes_of(row).as_ptr());
    }

    /// Begins to bring a row's values near.
    #[inline]
    pub fn fetch_values(&self, row: u64) {
        self.layout.fetch_values(self.bytes_of(row).as_ptr());
    }

    /// Bytes of a row's values.
    #[inline]
    #[must_use]
    pub fn values_len(&self) -> usize {
        self.layout.values_len()
    }

    /// A key's values, if it has a row.
    #[must_use]
    pub fn values_of(&self, key: u64) -> Option<&[u8]> {
        let row = self.bytes_of(self.index.find(key)?);
        Some(&row[..self.layout.values_len()])
    }

    /// A row, as its layout says.
    #[inline]
    fn bytes_of(&self, row: u64) -> &[u8] {
        let (slab, within) = self.shape.locate(row);
        let stride = self.layout.stride();
        &self.slabs[slab].rows[within * stride..][..stride]
    }

    #[inline]
    fn bytes_of_mut(&mut self, row: u64) -> &mut [u8] {
        let (slab, within) = self.shape.locate(row);
        let stride = self.layout.stride();
        &mut self.slabs[slab].rows[within * stride..][..stride]
    }

    /// A row's state, for checkpoints: appends to `into`.
    pub fn save_state(&self, row: u64, into: &mut Vec<u8>) {
        self.layout.save_state(self.bytes_of(row), into);
    }

    /// See [`HashIndex::slot_count`].
    #[must_use]
    pub fn index_slots(&self) -> u64 {
        self.index.slot_count()
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        self.slabs.iter().map(Slab::memory_len).sum::<usize>() + self.index.memory_len()
    }

    /// Bytes that its rows were charged with.
    #[must_use]
    pub fn charged_len(&self) -> u64 {
        let slabs = self.slabs.len() + usize::from(self.ahead.slab.is_some());
        (0..slabs).map(|slab| self.shape.charge(slab)).sum()
    }

    /// Asks for the next slab, or puts it in use once the others are full.
    #[cold]
    fn reach_mark(&mut self, memory: &mut u64) -> Result<(), SparseFull> {
        if self.rows.end() < self.capacity {
            self.prepare(memory);
            self.mark = self.capacity;
            return Ok(());
        }
        let slab = self.slabs.len();
        let made = match self.ahead.slab.take() {
            Some(next) => next.take(),
            None => {
                let left = memory.checked_sub(self.shape.charge(slab));
                *memory = left.ok_or(SparseFull)?;
                None
            }
        };
        let rows = self.shape.rows(slab);
        self.slabs.push(made.unwrap_or_else(|| Slab::new(self.layout, usize_of(rows))));
        self.capacity += rows;
        let is_large = self.shape.charge(slab + 1) >= MADE_AHEAD_LEN;
        let asks = self.ahead.background.is_some() && is_large;
        self.mark = self.capacity - if asks { rows / 2 } else { 0 };
        Ok(())
    }

    /// Has the next slab made, where there is memory for it.
    fn prepare(&mut self, memory: &mut u64) {
        let Some(background) = &self.ahead.background else { return };
        let slab = self.slabs.len();
        let Some(left) = memory.checked_sub(self.shape.charge(slab)) else { return };
        *memory = left;
        let (layout, rows) = (self.layout, usize_of(self.shape.rows(slab)));
        self.ahead.slab = Some(Ahead::begin(&**background, move || Slab::populated(layout, rows)));
    }
}

#[cfg(test)]
mod tests;
