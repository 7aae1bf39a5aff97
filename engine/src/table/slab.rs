//! Rows of a sparse partition beside each other, which never move.

use windlass_transport::memory::{populate, prefer_huge_pages};
use windlass_wire::TableSchema;

use super::StatePlanes;
use crate::limits::{SLAB_LEN_MAX, SLAB_ROWS_FIRST};

/// Some rows, and their keys.
#[derive(Debug)]
pub(super) struct Slab {
    /// As many as rows have been made.
    pub(super) keys: Vec<u64>,
    pub(super) values: Vec<u64>,
    pub(super) state: StatePlanes,
}

/// How the rows of a partition lie in slabs: each holds twice as many as the one before, up to a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slabs {
    /// Rows of the largest slabs, a power of two: its exponent.
    largest: u32,
    /// Bytes that a row is charged with.
    row_charge: u64,
}

impl Slab {
    /// Zeroed rows.
    pub(super) fn new(schema: &TableSchema, rows: usize) -> Self {
        let width = schema.width as usize;
        let mut keys = Vec::with_capacity(rows);
        prefer_huge_pages(keys.spare_capacity_mut());
        let mut values = vec![0; value_words(schema, rows)];
        prefer_huge_pages(&mut values);
        Self { keys, values, state: StatePlanes::new(&schema.rule, schema.dtype, rows, width) }
    }

    /// Zeroed rows, every page of which is there.
    pub(super) fn populated(schema: &TableSchema, rows: usize) -> Self {
        let mut slab = Self::new(schema, rows);
        populate(slab.keys.spare_capacity_mut());
        populate(&mut slab.values);
        slab.state.populate();
        slab
    }

    /// Bytes of memory it takes.
    pub(super) fn memory_len(&self) -> usize {
        (self.keys.capacity() + self.values.len()) * 8 + self.state.memory_len()
    }
}

impl Slabs {
    /// Those of a table's partitions.
    pub(super) fn of(schema: &TableSchema) -> Self {
        // A key, and its part of an index whose next slots are made: three slots for each one that it has,
        // of which five in eight are taken.
        let row_charge = schema.row_len() + schema.state_planes_len() + 88;
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

fn value_words(schema: &TableSchema, rows: usize) -> usize {
    (rows * usize_of(schema.row_len())).div_ceil(8)
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
