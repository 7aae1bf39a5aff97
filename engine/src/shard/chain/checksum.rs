//! What a partition amounts to, for comparing replicas: a sum over rows that does not depend on where
//! they lie, and in which rows of zeros count as absent, as pulls see them.

use windlass_wire::{Lsn, PartitionId, map::mix};

use crate::shard::{
    Shard,
    tables::{ShardTable, TableRows},
};

/// One replica of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionChecksum {
    /// The partition.
    pub partition: PartitionId,
    /// Its last record applied.
    pub lsn: Lsn,
    /// Of all values and optimiser state at that position.
    pub checksum: u64,
}

impl Shard {
    /// Every partition this shard is a member for, learners aside.
    pub(in crate::shard) fn partition_checksums(&self) -> Vec<PartitionChecksum> {
        let parts = self.chain.iter().flat_map(|chain| chain.parts.iter().flatten());
        let readable = parts.filter(|part| part.replica.is_readable());
        readable
            .map(|part| {
                let tables = self.tables.values().map(|table| checksum_of(table, part.partition));
                PartitionChecksum {
                    partition: part.partition,
                    lsn: part.applied,
                    checksum: tables.fold(0, u64::wrapping_add),
                }
            })
            .collect()
    }
}

fn checksum_of(table: &ShardTable, partition: PartitionId) -> u64 {
    let Some(slot) = table.slots.find(partition) else { return 0 };
    let seed = mix(u64::from(table.entry.id.0));
    let mut sum = 0_u64;
    let mut bytes = Vec::new();
    match &table.rows {
        TableRows::Dense(partitions) => {
            let dense = &partitions[slot].0;
            for piece in 0..dense.piece_count() {
                bytes.clear();
                dense.save_piece(piece, &mut bytes);
                sum = sum.wrapping_add(row_sum(seed, piece, &bytes));
            }
        }
        TableRows::Sparse(partitions) => {
            let sparse = &partitions[slot];
            for (key, row) in sparse.keys() {
                bytes.clear();
                sparse.save_row(key, row, &mut bytes);
                sum = sum.wrapping_add(row_sum(seed, key, &bytes[8..]));
            }
        }
    }
    sum
}

fn row_sum(seed: u64, key: u64, bytes: &[u8]) -> u64 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    bytes.chunks(8).fold(mix(seed ^ key), |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word))
    })
}
