//! Scans: all rows of a sparse table, batch by batch, while others go on pushing.

use std::{fmt, marker::PhantomData, str::FromStr};

use windlass_wire::{PartitionId, TableId, TableKind};

pub use windlass_wire::ScanColumns;

use crate::{
    config::PullFrom,
    core::scan::{Step, step},
    element::Element,
    error::RequestError,
    table::Table,
};

/// Which columns a scan returns, and which replicas it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Keys only, with their values, or with the optimiser's state as well.
    pub columns: ScanColumns,
    /// Most rows of a batch; zero chooses a batch of about 512 KiB.
    pub rows_max: u32,
    /// Which replicas are read.
    pub from: PullFrom,
}

/// The position of a scan. You can save its text and continue from it in a later process. The order of a scan depends
/// only on the keys, so it does not matter which servers hold the rows by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanCursor {
    table: TableId,
    partition_count: u32,
    partition: PartitionId,
    position: u64,
}

/// The text is not a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a cursor of a scan: they look like 3-256-17-0123456789abcdef")]
pub struct CursorError {
    text: String,
}

/// Some rows of a table: those of one partition, in the order of the scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanBatch<T> {
    /// Their keys.
    pub keys: Vec<u64>,
    /// Width values of each row, if they were asked for.
    pub values: Vec<T>,
    /// The state of each row, if it was asked for: [`ScanBatch::state_len`] bytes, little-endian. First the
    /// planes of state values (`f64` of `f64` tables, else `f32`), width of each, then the row's word if the
    /// rule has one: its step count (`u32`), or a number (`f32`).
    pub state: Vec<u8>,
    /// Bytes of a row's state.
    pub state_len: usize,
}

/// A scan under way: an iterator over batches, none of them empty. See [`Table::scan`].
pub struct Scan<T: Element> {
    table: Table<T>,
    cursor: ScanCursor,
    options: ScanOptions,
    bytes: Vec<u8>,
    element: PhantomData<T>,
}

impl ScanCursor {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.partition.0 >= self.partition_count
    }

    fn go_on(&mut self, next: Option<u64>) {
        match next {
            Some(position) => self.position = position,
            None => (self.partition.0, self.position) = (self.partition.0 + 1, 0),
        }
    }
}

impl fmt::Display for ScanCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, partition_count, partition, position } = self;
        write!(formatter, "{}-{partition_count}-{}-{position:016x}", table.0, partition.0)
    }
}

impl FromStr for ScanCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let mut parts = text.split('-');
            let table = TableId(parts.next()?.parse().ok()?);
            let partition_count = parts.next()?.parse().ok()?;
            let partition = PartitionId(parts.next()?.parse().ok()?);
            let position = u64::from_str_radix(parts.next()?, 16).ok()?;
            let is_whole = parts.next().is_none() && partition.0 <= partition_count;
            is_whole.then_some(Self { table, partition_count, partition, position })
        };
        parse().ok_or_else(|| CursorError { text: text.to_owned() })
    }
}

impl<T: Element> Table<T> {
    /// Scans a sparse table. A row that exists throughout comes exactly once, any other at most once. This holds
    /// while others push, rows move between servers, and servers fail. Values are those at the time their batch was
    /// read. The server does bounded work for each batch and keeps no state for the scan.
    ///
    /// # Errors
    /// When the table is dense.
    pub fn scan(&self, options: &ScanOptions) -> Result<Scan<T>, RequestError> {
        let entry = self.entry();
        if entry.schema.kind != (TableKind::Sparse {}) {
            return Err(RequestError::ScanOfDense);
        }
        let partition_count = self.core().enter()?.cluster.map.partition_count();
        let cursor =
            ScanCursor { table: entry.id, partition_count, partition: PartitionId(0), position: 0 };
        let (table, options, bytes) = (self.clone(), *options, Vec::new());
        Ok(Scan { table, cursor, options, bytes, element: PhantomData })
    }

    /// Goes on with a scan of this table, in this process or another.
    ///
    /// # Errors
    /// When the table is dense, or the cursor belongs to another table or to a dropped one of the same name.
    pub fn scan_from(
        &self,
        cursor: ScanCursor,
        options: &ScanOptions,
    ) -> Result<Scan<T>, RequestError> {
        let mut scan = self.scan(options)?;
        let begun = scan.cursor;
        if (cursor.table, cursor.partition_count) != (begun.table, begun.partition_count) {
            let entry = self.entry();
            return Err(RequestError::CursorOfAnother {
                cursor: cursor.to_string(),
                name: entry.name,
                table: entry.id.0,
            });
        }
        scan.cursor = cursor;
        Ok(scan)
    }
}

impl<T: Element> Scan<T> {
    /// The position after the last batch.
    #[must_use]
    pub fn cursor(&self) -> ScanCursor {
        self.cursor
    }

    /// Fills `batch` with the next rows; false at the end. After an error the next call asks for the same rows.
    ///
    /// # Errors
    /// Why the rows could not be read.
    pub fn next_into(&mut self, batch: &mut ScanBatch<T>) -> Result<bool, RequestError> {
        let mut core = self.table.core().enter()?;
        while !self.cursor.is_at_end() {
            let asked = Step {
                partition: self.cursor.partition,
                position: self.cursor.position,
                columns: self.options.columns,
                rows_max: self.options.rows_max,
                from: self.options.from,
            };
            self.bytes.clear();
            let head = step(&mut core, self.table.index(), &asked, &mut self.bytes)?;
            self.cursor.go_on(head.next);
            if head.row_count > 0 {
                let schema = &core.tables[self.table.index()].entry.schema;
                let (values_len, state_len) = self.options.columns.lens(schema);
                batch.take(&self.bytes, head.row_count as usize, values_len, state_len);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<T: Element> ScanBatch<T> {
    /// Takes an answer's columns.
    fn take(&mut self, bytes: &[u8], rows: usize, values_len: u64, state_len: u64) {
        let index = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let (keys, rest) = bytes.split_at(rows * 8);
        let (values, rest) = rest.split_at(rows * index(values_len));
        self.keys.clear();
        self.keys.extend(keys.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>));
        self.values.clear();
        self.values.resize(values.len() / size_of::<T>(), T::default());
        bytemuck::cast_slice_mut::<T, u8>(&mut self.values).copy_from_slice(values);
        self.state.clear();
        self.state.extend_from_slice(&rest[..rows * index(state_len)]);
        self.state_len = index(state_len);
    }
}

impl<T: Element> Iterator for Scan<T> {
    type Item = Result<ScanBatch<T>, RequestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = ScanBatch::default();
        match self.next_into(&mut batch) {
            Ok(true) => Some(Ok(batch)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl<T: Element> fmt::Debug for Scan<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scan").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_from_their_text_and_nothing_else_is_one() {
        let cursor = ScanCursor {
            table: TableId(3),
            partition_count: 256,
            partition: PartitionId(17),
            position: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(cursor.to_string(), "3-256-17-0123456789abcdef");
        assert_eq!("3-256-17-0123456789abcdef".parse(), Ok(cursor));
        for text in ["", "3-256-17", "3-256-257-0", "3-256-17-0-", "3-256-17-g", "x-256-17-0"] {
            let error = text.parse::<ScanCursor>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
