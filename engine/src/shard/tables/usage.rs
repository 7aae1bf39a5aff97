//! What tables take of a shard's memory, and how many rows they have.

use serde::{Deserialize, Serialize};
use windlass_wire::PartitionId;

use super::{ShardTable, TableRows, Tables};

/// What one table has at a shard or, added up, at a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUsage {
    /// Its number.
    pub table: u32,
    /// Rows of partitions whose pushes go here: over all servers every row is counted once.
    pub rows: u64,
    /// Bytes of values, optimiser state and index, copies for other servers' partitions included.
    pub bytes: u64,
    /// Keys in the index of a sparse table.
    pub index_keys: u64,
    /// Slots of the index.
    pub index_slots: u64,
}

impl TableUsage {
    /// Adds what another shard has of the table.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.index_keys += other.index_keys;
        self.index_slots += other.index_slots;
    }
}

impl Tables {
    /// What each table has here. `leads` says which partitions' pushes go to this shard.
    pub(in crate::shard) fn usage(&self, leads: impl Fn(PartitionId) -> bool) -> Vec<TableUsage> {
        let usage = |table: &ShardTable| {
            let mut usage = TableUsage { table: table.entry.id.0, ..TableUsage::default() };
            let led = |partition, rows| if leads(partition) { rows } else { 0 };
            match &table.rows {
                TableRows::Dense(partitions) => {
                    for (dense, _) in partitions {
                        let (partition, rows) = (dense.partition(), dense.rows().count());
                        usage.rows += led(partition, rows);
                        usage.bytes +=
                            table.len_of(partition) + rows * table.entry.schema.state_len();
                    }
                }
                TableRows::Sparse(partitions) => {
                    for sparse in partitions {
                        usage.rows += led(sparse.partition(), sparse.row_count());
                        usage.bytes += sparse.memory_len() as u64;
                        usage.index_keys += sparse.row_count();
                        usage.index_slots += sparse.index_slots();
                    }
                }
            }
            usage
        };
        let mut all: Vec<TableUsage> = self.by_id.values().map(usage).collect();
        all.sort_unstable_by_key(|usage| usage.table);
        all
    }
}
