//! The rows of one partition of a dense table.
#![allow(unsafe_code)]

use windlass_transport::Pages;
use windlass_wire::{PartitionId, RowRange, TableSchema};

use super::{BlockGeometry, Blocks, StatePlanes};
use crate::update::{Kernel, Run};

/// Rows `rows` of a dense table: values in readable blocks, state beside them.
#[derive(Debug)]
pub struct DensePartition {
    partition: PartitionId,
    rows: RowRange,
    width: usize,
    blocks: Blocks,
    state: StatePlanes,
}

impl DensePartition {
    /// Zeroed rows at `offset` of `pages`, see [`Blocks::new`].
    #[must_use]
    pub fn new(
        partition: PartitionId,
        rows: RowRange,
        schema: &TableSchema,
        pages: Pages,
        offset: u64,
    ) -> Self {
        let geometry = BlockGeometry::new(schema.row_len());
        let width = schema.width as usize;
        let row_count = usize_of(rows.count());
        Self {
            partition,
            rows,
            width,
            blocks: Blocks::new(pages, offset, rows.count(), geometry),
            state: StatePlanes::new(&schema.rule, schema.dtype, row_count, width),
        }
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
        let (state, width) = (&mut self.state, self.width);
        self.blocks.update(within, |values, first, count| {
            let row = usize_of(first);
            let run = Run {
                values,
                state: state.planes_at(row),
                steps: state.steps_at(row),
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

#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
const fn usize_of(value: u64) -> usize {
    value as usize
}
