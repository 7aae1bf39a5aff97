//! Lengths of images of rows.

use windlass_wire::PartitionId;

use super::ENTRY_LEN;
use crate::{
    limits::IMAGE_PARTITION_LEN_MAX,
    shard::tables::{ShardTable, TableRows, Tables},
};

impl ShardTable {
    /// Bytes of the image of one row that has no neighbour.
    pub(in crate::shard) fn row_image_len(&self) -> u64 {
        let schema = &self.entry.schema;
        // With its word, stamp and key.
        schema.row_len() + schema.state_planes_len() + 4 + 4 + 8 + ENTRY_LEN as u64
    }

    /// Upper bound for the image of all rows of a partition, in bytes.
    fn whole_image_len(&self) -> u64 {
        let rows = match &self.rows {
            TableRows::Dense(_) => self.layout.rows_per_partition(),
            TableRows::Sparse(_) => u64::MAX,
        };
        rows.saturating_mul(self.row_image_len())
    }

    /// Rows of a partition that changed since they were recorded.
    pub(super) fn dirty_count(&self, slot: usize) -> u64 {
        match &self.rows {
            TableRows::Dense(partitions) => partitions[slot].0.dirty().count(),
            TableRows::Sparse(partitions) => partitions[slot].dirty().count(),
        }
    }
}

impl Tables {
    /// Bytes of the images of all rows that changed, at most.
    pub(super) fn images_len(&self) -> u64 {
        let imaged = self.by_id.values().filter(|table| table.is_imaged());
        let lengths = imaged.map(|table| {
            let slots = table.slots.filled().map(|(_, slot)| table.dirty_count(slot));
            slots.sum::<u64>() * table.row_image_len()
        });
        lengths.sum()
    }

    /// Upper bound for the longest image of any partition now, in bytes. Rows that are pushed again do not
    /// add to it.
    pub(super) fn longest_image_len(&self) -> u64 {
        let imaged = || self.by_id.values().filter(|table| table.is_imaged());
        // Where partitions are small none has to be looked at.
        let most: u64 = imaged().map(ShardTable::whole_image_len).fold(0, u64::saturating_add);
        if most <= IMAGE_PARTITION_LEN_MAX / 2 {
            return most;
        }
        let lengths = imaged().map(|table| {
            let counts = table.slots.filled().map(|(_, slot)| table.dirty_count(slot));
            counts.max().unwrap_or(0) * table.row_image_len()
        });
        lengths.sum()
    }

    /// Upper bound for the image of a partition now, in bytes.
    pub(super) fn image_len(&self, partition: PartitionId) -> u64 {
        let imaged = self.by_id.values().filter(|table| table.is_imaged());
        let lengths = imaged.filter_map(|table| {
            let slot = table.slots.find(partition)?;
            Some(table.dirty_count(slot) * table.row_image_len())
        });
        lengths.sum()
    }
}
