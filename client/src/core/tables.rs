//! Tables as the client knows them.

use std::ops::{Index, IndexMut};

use windlass_wire::{Layout, PartitionId, TableEntry, TableKind};

use super::{clock::TableClock, places::Places};

/// A table in [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableIndex(pub(crate) usize);

/// A table and, once a one-sided pull asked for it, where its rows lie.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(crate) entry: TableEntry,
    pub(crate) layout: Layout,
    pub(crate) row_len: u64,
    /// Place of each partition; empty until it is needed.
    pub(super) places: Places,
    /// Dropped by this client: clocks do not go on there.
    pub(crate) dropped: bool,
    /// Where its workers' clocks are, if it keeps any.
    pub(super) clock: Option<TableClock>,
    /// The only copy of its rows went with its server; until it is opened again.
    pub(crate) rows_lost: bool,
}

/// The tables that were opened, by [`TableIndex`].
#[derive(Debug, Default)]
pub(crate) struct Tables(Vec<TableState>);

impl Index<TableIndex> for Tables {
    type Output = TableState;

    #[inline]
    fn index(&self, table: TableIndex) -> &TableState {
        &self.0[table.0]
    }
}

impl IndexMut<TableIndex> for Tables {
    #[inline]
    fn index_mut(&mut self, table: TableIndex) -> &mut TableState {
        &mut self.0[table.0]
    }
}

impl Tables {
    pub(super) fn iter(&self) -> std::slice::Iter<'_, TableState> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, TableState> {
        self.0.iter_mut()
    }

    /// Takes in a table as its servers have it now.
    pub(super) fn learn(&mut self, entry: TableEntry, partition_count: u32) -> TableIndex {
        let found = self.iter().position(|known| known.entry.id == entry.id);
        let index = TableIndex(found.unwrap_or(self.0.len()));
        match self.0.get_mut(index.0) {
            // Others may have changed it meanwhile.
            Some(known) => known.entry = entry,
            None => self.0.push(TableState::new(entry, partition_count)),
        }
        self[index].rows_lost = false;
        index
    }

    /// The index of each.
    pub(super) fn indices(&self) -> impl Iterator<Item = TableIndex> + use<> {
        (0..self.0.len()).map(TableIndex)
    }
}

impl TableState {
    fn new(entry: TableEntry, partition_count: u32) -> Self {
        Self {
            layout: Layout::new(entry.id, entry.schema.kind, partition_count),
            row_len: entry.schema.row_len(),
            places: Places::default(),
            dropped: false,
            clock: None,
            rows_lost: false,
            entry,
        }
    }

    /// Rows of a dense table.
    pub(crate) fn dense_rows(&self) -> Option<u64> {
        match self.entry.schema.kind {
            TableKind::Dense { rows } => Some(rows),
            TableKind::Sparse {} => None,
        }
    }

    /// Whether rows of the table may be in a partition: of a dense one none are in partitions beyond its last.
    pub(super) fn may_have_rows_in(&self, partition: PartitionId) -> bool {
        self.dense_rows().is_none() || !self.layout.rows_of(partition).is_empty()
    }
}
