//! The rows of one partition of a dense table.
#![allow(unsafe_code)]

use windlass_transport::Pages;
use windlass_wire::{PartitionId, RowRange, TableSchema};

use super::{BlockGeometry, Blocks, ChangedPieces, DirtyRows, StatePlanes};
use crate::update::{Kernel, Run};

/// Rows `rows` of a dense table: values in readable blocks, state beside them.
#[derive(Debug)]
pub struct DensePartition {
    partition: PartitionId,
    rows: RowRange,
    width: usize,
    blocks: Blocks,
    state: StatePlanes,
    /// Pieces that changed since they were copied into a checkpoint last, when those are taken.
    changed: ChangedPieces,
    /// Rows that changed since the log recorded them last, when it records rows and not pushes.
    dirty: DirtyRows,
    /// Rows within the partition, neighbours, that are marked in both wherever those are asked for: of
    /// rows pushed again and again nothing is left to be marked.
    marked: RowRange,
}

impl DensePartition {
    /// Zeroed rows at `offset` of `pages`, see [`Blocks::new`], with their state.
    #[must_use]
    pub fn new(
        partition: PartitionId,
        rows: RowRange,
        schema: &TableSchema,
        (pages, offset): (Pages, u64),
        state: StatePlanes,
    ) -> Self {
        let geometry = BlockGeometry::new(schema.row_len(), rows.count());
        let width = schema.width as usize;
        Self {
            partition,
            rows,
            width,
            blocks: Blocks::new(pages, offset, rows.count(), geometry),
            state,
            changed: ChangedPieces::default(),
            dirty: DirtyRows::default(),
            marked: RowRange::default(),
        }
    }

    /// Rows of one piece: what a checkpoint copies as one.
    #[must_use]
    pub fn piece_rows(&self) -> u64 {
        let state = self.state.saved_len(1) as u64;
        (PIECE_LEN / (self.blocks.geometry().row_len + state)).max(1)
    }

    /// Number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> u64 {
        self.rows.count().div_ceil(self.piece_rows())
    }

    /// From now on changes are noted by piece; all pieces count as changed.
    pub fn track_changes(&mut self) {
        self.changed = ChangedPieces::all(self.piece_count());
    }

    /// From now on changes are noted by row.
    pub fn track_dirty(&mut self) {
        self.dirty.track();
        self.marked = RowRange::default();
    }

    /// The rows that changed, by row within the partition.
    #[must_use]
    pub fn dirty(&self) -> &DirtyRows {
        &self.dirty
    }

    /// Takes the rows that changed, by row of the table, as runs that lie in one piece each.
    pub fn take_dirty(&mut self) -> Vec<RowRange> {
        let (first, piece_rows) = (self.rows.start, self.piece_rows());
        let mut runs = Vec::new();
        self.marked = RowRange::default();
        self.dirty.take(piece_rows, |run| {
            runs.push(RowRange::new(first + run.start, first + run.end));
        });
        runs
    }

    /// The pieces that changed.
    #[must_use]
    pub fn changed_mut(&mut self) -> &mut ChangedPieces {
        self.marked = RowRange::default();
        &mut self.changed
    }

    /// Rows of a piece, by row of the table.
    #[must_use]
    pub fn rows_of_piece(&self, piece: u64) -> RowRange {
        let start = (self.rows.start + piece * self.piece_rows()).min(self.rows.end);
        RowRange::new(start, (start + self.piece_rows()).min(self.rows.end))
    }

    /// Appends the values of a piece's rows, then their state.
    pub fn save_piece(&self, piece: u64, into: &mut Vec<u8>) {
        self.save_rows(self.rows_of_piece(piece), into);
    }

    /// Appends the values of rows, then their state.
    pub fn save_rows(&self, rows: RowRange, into: &mut Vec<u8>) {
        let len = usize_of(rows.count() * self.blocks.geometry().row_len);
        let at = into.len();
        into.reserve(len);
        // SAFETY: room for the values of all the rows was just made, behind what was there, and all of it
        // is written before it counts as the vector's.
        unsafe {
            self.copy_out(rows, into.as_mut_ptr().add(at));
            into.set_len(at + len);
        }
        self.state.save(usize_of(rows.start - self.rows.start), usize_of(rows.count()), into);
    }

    /// Takes back what [`DensePartition::save_piece`] made; false when the length is not right.
    #[must_use]
    pub fn restore_piece(&mut self, piece: u64, saved: &[u8]) -> bool {
        let rows = self.rows_of_piece(piece);
        self.restore_rows(rows.start, rows.count(), saved)
    }

    /// Takes back what [`DensePartition::save_rows`] made of rows from `start` on; false when they
    /// are not here or the length is not right.
    #[must_use]
    pub fn restore_rows(&mut self, start: u64, count: u64, saved: &[u8]) -> bool {
        let end = start.checked_add(count);
        if start < self.rows.start || end.is_none_or(|end| end > self.rows.end) {
            return false;
        }
        let first = start - self.rows.start;
        let row_len = self.blocks.geometry().row_len;
        let values_len = usize_of(count * row_len);
        let state_len = self.state.saved_len(usize_of(count));
        if count == 0 || saved.len() != values_len + state_len {
            return false;
        }
        self.blocks.update(RowRange::new(first, first + count), |values, row, count| {
            let from = &saved[usize_of((row - first) * row_len)..][..usize_of(count * row_len)];
            // SAFETY: the blocks hand out the values of `count` rows for writing; `saved` is other
            // memory.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), values, from.len()) };
        });
        self.state.restore(usize_of(first), usize_of(count), &saved[values_len..]);
        if self.changed.is_tracked() {
            let piece_rows = self.piece_rows();
            self.changed.set(first / piece_rows, (first + count).div_ceil(piece_rows));
        }
        true
    }

    /// What [`DensePartition::save_rows`] would make of rows of these values whose state begins anew.
    #[must_use]
    pub fn saved_of(&self, values: &[u8]) -> Vec<u8> {
        let rows = values.len() / usize_of(self.blocks.geometry().row_len);
        let mut saved = Vec::with_capacity(values.len() + self.state.saved_len(rows));
        saved.extend_from_slice(values);
        saved.resize(values.len() + self.state.saved_len(rows), 0);
        saved
    }

    /// All rows are about to be restored: each counts as changed.
    pub fn begin_copy(&mut self) {
        if self.changed.is_tracked() {
            self.changed = ChangedPieces::all(self.piece_count());
        }
    }

    /// Makes all rows and their state zero, as they were at first.
    pub fn clear(&mut self) {
        let row_len = self.blocks.geometry().row_len;
        self.blocks.update(RowRange::new(0, self.rows.count()), |values, _, count| {
            // SAFETY: the blocks hand out the values of `count` rows for writing.
            unsafe { std::ptr::write_bytes(values, 0, usize_of(count * row_len)) };
        });
        self.state.clear();
        self.begin_copy();
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The table's rows that it holds.
    #[must_use]
    pub fn rows(&self) -> RowRange {
        self.rows
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The blocks, for fencing and restoring.
    #[must_use]
    pub fn blocks_mut(&mut self) -> &mut Blocks {
        &mut self.blocks
    }

    /// The optimiser state, by row within the partition.
    #[must_use]
    pub fn state_mut(&mut self) -> &mut StatePlanes {
        &mut self.state
    }

    /// Notes that rows within the partition change.
    #[inline]
    fn change(&mut self, within: RowRange) {
        if within.start < self.marked.start || within.end > self.marked.end {
            self.mark(within);
        }
    }

    fn mark(&mut self, within: RowRange) {
        if self.changed.is_tracked() {
            let piece_rows = self.piece_rows();
            self.changed.set(within.start / piece_rows, within.end.div_ceil(piece_rows));
        }
        if self.dirty.is_tracked() {
            self.dirty.set_range(within.start, within.end);
        }
        self.marked = within;
    }

    /// Applies gradients to rows of the table, all of which the partition has to hold.
    ///
    /// # Safety
    /// `gradient` points to the readable gradients of all the rows, of the kernel's gradient dtype,
    /// outside parameter memory; the kernel is of this table's schema.
    #[inline]
    pub unsafe fn apply(&mut self, kernel: &Kernel, rows: RowRange, gradient: *const u8) {
        assert!(
            rows.start >= self.rows.start && rows.end <= self.rows.end,
            "rows {rows} are not all in {}",
            self.rows
        );
        let gradient_len = self.width * kernel.gradient_dtype().size();
        let base = self.rows.start;
        let within = RowRange::new(rows.start - base, rows.end - base);
        self.change(within);
        let (state, width) = (&mut self.state, self.width);
        self.blocks.update(within, |values, first, count| {
            let row = usize_of(first);
            let run = Run {
                values,
                state: state.planes_at(row),
                words: state.word_at(row),
                gradient: gradient.wrapping_add((row - usize_of(within.start)) * gradient_len),
                rows: usize_of(count),
                width,
            };
            // SAFETY: the blocks hand out the values of `count` rows of the table's dtype for
            // writing; the state has as many rows as the partition, `first + count` is within it,
            // and both belong to this partition alone; the caller promises the gradients.
            unsafe { kernel.apply(&run) };
        });
    }

    /// Copies the values of rows of the table into `into`.
    ///
    /// # Safety
    /// `into` has room for all of the rows, outside parameter memory.
    #[inline]
    pub unsafe fn copy_out(&self, rows: RowRange, into: *mut u8) {
        assert!(
            rows.start >= self.rows.start && rows.end <= self.rows.end,
            "rows {rows} are not all in {}",
            self.rows
        );
        let base = self.rows.start;
        let within = RowRange::new(rows.start - base, rows.end - base);
        let row_len = self.blocks.geometry().row_len;
        self.blocks.read(within, |values, first, count| {
            let to = into.wrapping_add(usize_of((first - within.start) * row_len));
            // SAFETY: the blocks hand out `count` rows; the caller promises room for them behind
            // `into`, apart from parameter memory.
            unsafe { std::ptr::copy_nonoverlapping(values, to, usize_of(count * row_len)) };
        });
    }
}

/// Bytes a piece aims at: small enough to be copied within a turn, large enough to be written well.
const PIECE_LEN: u64 = 64 << 10;

#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
const fn usize_of(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use windlass_transport::memory::PagesOptions;
    use windlass_wire::DataType;

    use super::*;

    #[test]
    fn rows_that_change_again_are_marked_again_once_marks_are_taken() {
        let schema = TableSchema::dense(DataType::F32, 100, 4);
        let rows = RowRange::new(1000, 1100);
        let len = BlockGeometry::new(schema.row_len(), rows.count()).len(rows.count());
        let pages = Pages::allocate(usize_of(len) + 64, PagesOptions::default()).unwrap();
        let state = StatePlanes::new(&schema.rule, schema.dtype, 100, 4);
        let mut dense = DensePartition::new(PartitionId(0), rows, &schema, (pages, 64), state);
        dense.change(RowRange::new(0, 10));
        dense.track_dirty();
        dense.change(RowRange::new(0, 10));
        assert_eq!(
            dense.take_dirty(),
            [RowRange::new(1000, 1010)],
            "changes before were not noted"
        );
        for (from, to, count) in [(5, 9, 4), (5, 9, 4), (6, 8, 4), (4, 7, 5), (90, 100, 15)] {
            dense.change(RowRange::new(from, to));
            assert_eq!(dense.dirty().count(), count);
        }
        assert_eq!(dense.take_dirty(), [RowRange::new(1004, 1009), RowRange::new(1090, 1100)]);
        dense.change(RowRange::new(90, 100));
        assert_eq!(dense.take_dirty(), [RowRange::new(1090, 1100)]);
        dense.track_changes();
        assert!(dense.changed_mut().take().contains(0));
        assert!(!dense.changed_mut().contains(0));
        dense.change(RowRange::new(90, 100));
        assert!(dense.changed_mut().take().contains(0));
        dense.change(RowRange::new(90, 100));
        assert!(dense.changed_mut().contains(0), "a checkpoint took the marks");
    }

    fn with_state(rows: RowRange) -> DensePartition {
        let mut schema = TableSchema::dense(DataType::F32, rows.count(), 4);
        schema.rule = "adam".parse().unwrap();
        let len = BlockGeometry::new(schema.row_len(), rows.count()).len(rows.count());
        let pages = Pages::allocate(usize_of(len) + 64, PagesOptions::default()).unwrap();
        let state = StatePlanes::new(&schema.rule, schema.dtype, usize_of(rows.count()), 4);
        DensePartition::new(PartitionId(3), rows, &schema, (pages, 64), state)
    }

    fn saved(dense: &DensePartition, rows: RowRange) -> Vec<u8> {
        let mut saved = vec![7];
        dense.save_rows(rows, &mut saved);
        saved.split_off(1)
    }

    #[test]
    fn rows_and_state_come_back_where_they_were_and_nothing_else_changes() {
        let all = RowRange::new(1000, 1100);
        let mut dense = with_state(all);
        assert_eq!((dense.partition(), dense.rows()), (PartitionId(3), all));
        let row_len = saved(&dense, RowRange::new(1000, 1001)).len();
        assert_eq!(row_len, 4 * 4 + 2 * 4 * 4 + 4, "values, two moments, and the steps");
        // Rows that differ in every byte but those that must be finite numbers.
        let pattern: Vec<u8> =
            (0..100 * row_len).map(|at| 1 + u8::try_from(at % 63).unwrap()).collect();
        assert!(dense.restore_rows(1000, 100, &pattern));
        assert_eq!(saved(&dense, all), pattern);
        for (from, to) in [(1000, 1001), (1099, 1100), (1003, 1050), (1000, 1100)] {
            let range = RowRange::new(from, to);
            let mut other = with_state(all);
            other.track_changes();
            let _ = other.changed_mut().take();
            let piece = saved(&dense, range);
            assert_eq!(piece.len(), usize_of(range.count()) * row_len);
            assert!(other.restore_rows(from, range.count(), &piece));
            assert_eq!(saved(&other, range), piece);
            assert!(other.changed_mut().contains(0), "restored rows are in the next checkpoint");
            for row in (1000..from).chain(to..1100) {
                assert!(saved(&other, RowRange::new(row, row + 1)).iter().all(|byte| *byte == 0));
            }
            let before = saved(&other, all);
            let longer = [&piece[..], &[0]].concat();
            for (start, count, bytes) in [
                (from, range.count(), &piece[1..]),
                (from, range.count(), &longer[..]),
                (999, range.count(), &piece[..]),
                (1101 - range.count(), range.count(), &piece[..]),
                (from, 0, &[][..]),
                (u64::MAX, range.count(), &piece[..]),
            ] {
                assert!(!other.restore_rows(start, count, bytes), "{start}, {count}");
                assert_eq!(saved(&other, all), before, "a refusal changes nothing");
            }
        }
        dense.clear();
        assert!(saved(&dense, all).iter().all(|byte| *byte == 0));
        let values = [1_u8; 32];
        let made = dense.saved_of(&values);
        assert_eq!((made.len(), &made[..32]), (2 * row_len, &values[..]));
        assert!(made[32..].iter().all(|byte| *byte == 0));
        assert!(dense.restore_rows(1000, 2, &made));
        assert_eq!(saved(&dense, RowRange::new(1000, 1002)), made);
    }

    #[test]
    fn pieces_follow_each_other_and_each_restored_one_counts_as_changed() {
        let rows = RowRange::new(500, 500 + 40_000);
        let mut dense = with_state(rows);
        let pieces = dense.piece_count();
        assert!(pieces > 2 && dense.piece_rows() * (pieces - 1) < rows.count());
        dense.track_changes();
        let mut next = rows.start;
        for piece in 0..pieces {
            let within = dense.rows_of_piece(piece);
            assert_eq!(within.start, next);
            next = within.end;
            let _ = dense.changed_mut().take();
            let mut bytes = Vec::new();
            dense.save_piece(piece, &mut bytes);
            assert!(dense.restore_piece(piece, &bytes));
            for other in 0..pieces {
                assert_eq!(dense.changed_mut().contains(other), other == piece, "{piece}, {other}");
            }
        }
        assert_eq!(next, rows.end);
        dense.begin_copy();
        assert!((0..pieces).all(|piece| dense.changed_mut().contains(piece)));
    }
}
