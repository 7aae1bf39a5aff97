//! All tables at a shard, the memory their rows lie in, and their workers' clocks.

mod table;

pub(super) use table::{ShardTable, TableError, TableRows};
use windlass_wire::TableId;

use super::{arena::Arena, clocks::Clocks, growth::Growth, ids_hash::IdMap, marks::Marks};

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
        }
    }
}
