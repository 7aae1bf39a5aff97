//! All tables at a shard, the memory their rows lie in, and their workers' clocks.

mod places;
mod table;
mod usage;

pub(super) use table::{ShardTable, TableError, TableRows};
pub use usage::TableUsage;
use windlass_wire::{Durability, PartitionId, TableId};

use super::{
    arena::Arena, chain::Aging, clocks::Clocks, growth::Growth, ids_hash::IdMap, marks::Marks,
    work::Work,
};

/// The tables of a shard.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) by_id: IdMap<TableId, ShardTable>,
    /// Tables with smaller numbers were made here, or dropped.
    pub(super) below: u32,
    pub(super) arena: Arena,
    /// Rows that are being made, and rows that are being marked or given back.
    pub(super) growth: Growth,
    pub(super) marks: Marks,
    pub(super) memory_left: u64,
    pub(super) memory_len_max: u64,
    /// Workers' clocks, and pulls that wait for them.
    pub(super) clocks: Clocks,
    /// When rows that expire are looked at.
    pub(super) aging: Aging,
}

impl Tables {
    /// No tables, and so many bytes for their rows.
    pub(super) fn new(growth: Growth, clocks: Clocks, memory_len_max: u64) -> Self {
        Self {
            by_id: IdMap::default(),
            below: 0,
            arena: Arena::default(),
            growth,
            marks: Marks::default(),
            memory_left: memory_len_max,
            memory_len_max,
            clocks,
            aging: Aging::default(),
        }
    }

    /// Bytes of rows, state and indices.
    pub(super) fn held_len(&self) -> u64 {
        self.memory_len_max.saturating_sub(self.memory_left)
    }

    /// Whether a table is newer than any that was made or dropped here. What names it is left for
    /// later: without the table it would change nothing, and other replicas would differ.
    pub(in crate::shard) fn awaits_table(&self, table: TableId) -> bool {
        table.0 >= self.below || self.growth.is_making(table)
    }

    /// Gives back the rows of a partition that is kept elsewhere.
    pub(in crate::shard) fn drop_rows(&mut self, partition: PartitionId) {
        let Self { by_id: tables, memory_left, marks, growth, .. } = self;
        for table in tables.values_mut() {
            table.remove_partition(partition, memory_left, marks, &growth.memory);
        }
    }

    /// Whether any table is kept on disk: then all partitions are.
    pub(in crate::shard) fn keeps_records(&self) -> bool {
        self.by_id.values().any(|table| table.entry.schema.durability != Durability::Memory {})
    }

    /// The table of a request that was checked.
    #[inline]
    pub(in crate::shard) fn table_of(&self, work: &Work) -> &ShardTable {
        self.by_id.get(&work.header.table).expect("a request that was checked has its table")
    }
}
