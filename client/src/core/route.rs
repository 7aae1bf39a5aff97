//! Which link leads to which rows.

use windlass_wire::{Layout, RowRange};

use super::{Core, TableIndex};
use crate::error::RequestError;

impl Core {
    /// The link to a row's head.
    #[inline]
    pub(super) fn link_of_row(&self, layout: &Layout, row: u64) -> usize {
        self.link_of[layout.partition_of(row).0 as usize] as usize
    }

    /// Rows from `first` on, before `end`, that one link leads to.
    pub(super) fn rows_at_one_link(
        &self,
        layout: &Layout,
        first: u64,
        end: u64,
    ) -> (usize, RowRange) {
        let link = self.link_of_row(layout, first);
        let mut to = layout.rows_of(layout.partition_of(first)).end;
        while to < end && self.link_of_row(layout, to) == link {
            to = layout.rows_of(layout.partition_of(to)).end;
        }
        (link, RowRange::new(first, to.min(end)))
    }

    /// Checks a list of keys: strictly ascending, and within a dense table.
    pub(super) fn check_keys(&self, table: TableIndex, keys: &[u64]) -> Result<(), RequestError> {
        let disorder = keys.windows(2).position(|pair| pair[0] >= pair[1]);
        if let Some(at) = disorder {
            let (index, key) = (at + 1, keys[at + 1]);
            return Err(if keys[at] == key {
                RequestError::DuplicateKey { index, key }
            } else {
                RequestError::UnsortedKeys { index, key }
            });
        }
        match (self.tables[table.0].dense_rows(), keys.last()) {
            (Some(rows), Some(&row)) if row >= rows => Err(RequestError::OutOfRange { row, rows }),
            _ => Ok(()),
        }
    }

    /// Checks a range of rows of a dense table.
    pub(super) fn check_range(
        &self,
        table: TableIndex,
        rows: RowRange,
    ) -> Result<(), RequestError> {
        match self.tables[table.0].dense_rows() {
            None => Err(RequestError::RangeOfSparse),
            Some(all) if rows.end > all => {
                Err(RequestError::OutOfRange { row: rows.end - 1, rows: all })
            }
            Some(_) => Ok(()),
        }
    }

    /// Checks the rows of a prepared operation.
    pub(crate) fn check_rows(
        &self,
        table: TableIndex,
        keys: &[u64],
        range: Option<&std::ops::Range<u64>>,
    ) -> Result<(), RequestError> {
        match range {
            Some(rows) => {
                self.check_range(table, RowRange::new(rows.start, rows.end.max(rows.start)))
            }
            None => self.check_keys(table, keys),
        }
    }

    /// Checks that there is room for exactly the values of a pull.
    pub(crate) fn check_length(
        &self,
        table: TableIndex,
        expected: usize,
        found: usize,
    ) -> Result<(), RequestError> {
        if expected == found {
            return Ok(());
        }
        let width = self.tables[table.0].entry.schema.width;
        let rows = expected as u64 / u64::from(width);
        Err(self.length_error(table, rows, found))
    }

    /// Values do not fit the rows.
    pub(crate) fn length_error(&self, table: TableIndex, rows: u64, found: usize) -> RequestError {
        let width = self.tables[table.0].entry.schema.width;
        let expected = rows.saturating_mul(u64::from(width));
        RequestError::Length { rows, width, expected, found: found as u64 }
    }
}
