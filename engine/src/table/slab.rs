//! Rows of a sparse partition beside each other, which never move.

use windlass_transport::memory::{Zeroed, fetch, populate, prefer_huge_pages};
use windlass_wire::{TableSchema, UpdateRule};

use crate::limits::{SLAB_LEN_MAX, SLAB_ROWS_FIRST};

/// Some rows, and their keys.
#[derive(Debug)]
pub(super) struct Slab {
    /// As many as rows have been made.
    pub(super) keys: Vec<u64>,
    /// The rows, as their layout says.
    pub(super) rows: Zeroed<u8>,
}

/// How the rows of a partition lie in slabs: each holds twice as many as the one before, up to a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slabs {
    /// Rows of the largest slabs, a power of two: its exponent.
    largest: u32,
    /// Bytes that a row is charged with.
    row_charge: u64,
}

/// How a row lies in a slab: its values, the state values of one plane after the other, its word, its stamp.
/// Whoever updates it meets all of it: it is brought near as one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLayout {
    values_len: usize,
    state_at: usize,
    plane_len: usize,
    plane_count: usize,
    word_at: usize,
    has_word: bool,
    /// Where the time of the last push is, if rows expire.
    stamp_at: Option<usize>,
    /// From one row to the next.
    stride: usize,
}

/// A cache line.
const LINE_LEN: usize = 64;

/// Lines of a row that are fetched one by one; of a longer one the processor guesses the others.
const LINES_FETCHED_MAX: usize = 8;

impl RowLayout {
    pub(super) fn of(schema: &TableSchema) -> Self {
        let values_len = usize_of(schema.row_len());
        let state_size = UpdateRule::state_value_size(schema.dtype);
        let (plane_count, has_word) = (schema.rule.state_width(), schema.rule.row_word().is_some());
        let plane_len = schema.width as usize * state_size;
        let state_at =
            if plane_count > 0 { values_len.next_multiple_of(state_size) } else { values_len };
        let mut end = state_at + plane_count * plane_len;
        // State, too, begins at a multiple of its size in each row: planes end at one.
        let mut align = schema.dtype.size();
        let mut word_at = end;
        if has_word {
            word_at = end.next_multiple_of(size_of::<u32>());
            end = word_at + size_of::<u32>();
            align = align.max(size_of::<u32>());
        }
        let mut stamp_at = None;
        if !schema.expiry.is_never() {
            let at = end.next_multiple_of(size_of::<u32>());
            end = at + size_of::<u32>();
            align = align.max(size_of::<u32>());
            stamp_at = Some(at);
        }
        let stride = end.next_multiple_of(align);
        Self { values_len, state_at, plane_len, plane_count, word_at, has_word, stamp_at, stride }
    }

    /// Bytes from one row to the next.
    pub(super) fn stride(self) -> usize {
        self.stride
    }

    /// Bytes of a row's values, at its start.
    #[inline]
    pub(super) fn values_len(self) -> usize {
        self.values_len
    }

    /// Where the planes begin in a row; dangling where the rule does not have as many.
    #[inline]
    pub(super) fn planes_of(self, row: *mut u8) -> [*mut u8; UpdateRule::STATE_WIDTH_MAX] {
        let first = row.wrapping_add(self.state_at);
        std::array::from_fn(|plane| first.wrapping_add(plane * self.plane_len))
    }

    /// Where the word is in a row; dangling where the rule has none.
    #[inline]
    pub(super) fn word_of(self, row: *mut u8) -> *mut u32 {
        row.wrapping_add(self.word_at).cast()
    }

    /// Whether rows have a stamp.
    #[inline]
    pub(super) fn has_stamp(self) -> bool {
        self.stamp_at.is_some()
    }

    /// When something was last pushed to a row; zero where rows have no stamp.
    pub(super) fn stamp(self, row: &[u8]) -> u32 {
        let bytes = self.stamp_at.and_then(|at| row[at..].first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Stamps a row, if rows have a stamp.
    #[inline]
    pub(super) fn set_stamp(self, row: &mut [u8], stamp: u32) {
        if let Some(at) = self.stamp_at {
            row[at..][..size_of::<u32>()].copy_from_slice(&stamp.to_le_bytes());
        }
    }

    /// Begins to bring a row's stamp near.
    #[inline]
    pub(super) fn fetch_stamp(self, row: *const u8) {
        fetch(row.wrapping_add(self.stamp_at.unwrap_or(0)));
    }

    /// Begins to bring a row's values near.
    #[inline]
    pub(super) fn fetch_values(self, row: *const u8) {
        fetch_lines(row, self.values_len);
    }

    /// Begins to bring all of a row near.
    #[inline]
    pub(super) fn fetch(self, row: *const u8) {
        fetch_lines(row, self.stride);
    }

    /// Appends a row's state as it is saved: its state values, then its word, little-endian.
    pub(super) fn save_state(self, row: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(&row[self.state_at..][..self.plane_count * self.plane_len]);
        if self.has_word {
            into.extend_from_slice(&row[self.word_at..][..size_of::<u32>()]);
        }
    }

    /// Takes back what [`RowLayout::save_state`] made of a row of this layout.
    ///
    /// # Panics
    ///
    /// When the length is not right.
    pub(super) fn restore_state(self, row: &mut [u8], saved: &[u8]) {
        let (planes, word) = saved.split_at(self.plane_count * self.plane_len);
        row[self.state_at..][..planes.len()].copy_from_slice(planes);
        let word_len = if self.has_word { size_of::<u32>() } else { 0 };
        row[self.word_at..][..word_len].copy_from_slice(word);
    }
}

#[inline]
fn fetch_lines(from: *const u8, len: usize) {
    let lines = len.div_ceil(LINE_LEN).min(LINES_FETCHED_MAX);
    (0..lines).for_each(|line| fetch(from.wrapping_add(line * LINE_LEN)));
    fetch(from.wrapping_add(len - 1));
}

impl Slab {
    /// Zeroed rows.
    pub(super) fn new(layout: RowLayout, rows: usize) -> Self {
        let mut keys = Vec::with_capacity(rows);
        prefer_huge_pages(keys.spare_capacity_mut());
        Self { keys, rows: Zeroed::new(rows * layout.stride) }
    }

    /// Zeroed rows, every page of which is there.
    pub(super) fn populated(layout: RowLayout, rows: usize) -> Self {
        let mut slab = Self::new(layout, rows);
        populate(slab.keys.spare_capacity_mut());
        populate(&mut slab.rows[..]);
        slab
    }

    /// Bytes of memory it takes.
    pub(super) fn memory_len(&self) -> usize {
        self.keys.capacity() * 8 + self.rows.len()
    }
}

impl Slabs {
    /// Those of a table's partitions.
    pub(super) fn of(schema: &TableSchema) -> Self {
        // A key, and its part of an index whose next slots are made: three slots for each one that it has,
        // of which five in eight are taken.
        let row_charge = RowLayout::of(schema).stride as u64 + 88;
        let largest = (SLAB_LEN_MAX / row_charge).max(SLAB_ROWS_FIRST).ilog2();
        Self { largest, row_charge }
    }

    /// Rows of slab `n`.
    pub(super) fn rows(self, slab: usize) -> u64 {
        let doubled = SLAB_ROWS_FIRST.ilog2() as usize + slab;
        1 << doubled.min(self.largest as usize)
    }

    /// Bytes that slab `n` is charged with.
    pub(super) fn charge(self, slab: usize) -> u64 {
        self.rows(slab) * self.row_charge
    }

    /// Slab and row within it.
    #[inline]
    pub(super) fn locate(self, row: u64) -> (usize, usize) {
        // All slabs before the first of the largest ones hold as many rows as that but for the first few.
        let row = row + SLAB_ROWS_FIRST;
        let exponent = row.ilog2().min(self.largest);
        let slab = u64::from(exponent - SLAB_ROWS_FIRST.ilog2()) + (row >> exponent) - 1;
        (usize_of(slab), usize_of(row & ((1 << exponent) - 1)))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
pub(super) const fn usize_of(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use windlass_wire::DataType;

    use super::*;

    #[test]
    fn rows_lie_as_close_as_their_values_state_and_word_allow() {
        // Values; where state and word begin; bytes of a plane; bytes from row to row.
        for (rule, dtype, width, expected) in [
            ("add", DataType::F16, 1, [2, 2, 2, 4, 2]),
            ("add", DataType::F64, 3, [24, 24, 24, 24, 24]),
            ("adagrad", DataType::F16, 1, [2, 4, 8, 4, 8]),
            ("adagrad", DataType::F16, 5, [10, 12, 32, 20, 32]),
            ("adagrad", DataType::F64, 1, [8, 8, 16, 8, 16]),
            ("adam", DataType::F16, 1, [2, 4, 12, 4, 16]),
            ("adam", DataType::F32, 3, [12, 12, 36, 12, 40]),
            ("adam", DataType::F64, 3, [24, 24, 72, 24, 80]),
        ] {
            let rule = rule.parse().unwrap();
            let schema = TableSchema { rule, ..TableSchema::sparse(dtype, width) };
            let layout = RowLayout::of(&schema);
            let RowLayout { values_len, state_at, word_at, plane_len, stride, .. } = layout;
            let found = [values_len, state_at, word_at, plane_len, stride];
            assert_eq!(found, expected, "{schema:?}");
            assert_eq!(layout.has_word, rule.row_word().is_some());
            let slab = Slab::populated(layout, 16);
            assert_eq!(slab.memory_len(), 16 * (8 + stride));
            let expiry = "age:1h".parse().unwrap();
            let stamped = RowLayout::of(&TableSchema { expiry, ..schema });
            let stamp_at = stamped.stamp_at.unwrap();
            assert!(stamp_at.is_multiple_of(4) && stamp_at + 4 <= stamped.stride);
            let end = if layout.has_word {
                word_at + 4
            } else {
                state_at + layout.plane_count * plane_len
            };
            assert!((end..end + 4).contains(&stamp_at), "behind the rest: {stamped:?}");
            assert!(stamped.stride <= stride + 8, "{stamped:?}");
        }
    }

    #[test]
    fn slabs_cover_rows_without_gaps() {
        for width in [1, 4096, 1 << 20] {
            let slabs = Slabs::of(&TableSchema::sparse(DataType::F32, width));
            let mut expected = (0, 0);
            for row in 0..200_000 {
                assert_eq!(slabs.locate(row), expected, "row {row}");
                expected.1 += 1;
                if expected.1 as u64 == slabs.rows(expected.0) {
                    expected = (expected.0 + 1, 0);
                }
            }
            let largest = slabs.charge(expected.0);
            assert!(largest <= SLAB_LEN_MAX || slabs.rows(0) == slabs.rows(100), "{largest}");
            // Far more rows than any memory holds.
            assert!(slabs.locate(1 << 60).0 > 1 << 20);
        }
    }
}
