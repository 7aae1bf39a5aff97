//! Finds the rows of a push's keys in a sparse table once, and prefetches them before they are used.

use windlass_wire::Status;

use super::{ShardTable, TableRows};
use crate::{
    limits::KEYS_FETCHED_AHEAD,
    shard::{push::Refused, rule::TableRule},
    table::{SparseFull, SparsePartition},
};

/// Where the rows of some keys are, and which of these are new.
#[derive(Debug, Default)]
pub(super) struct Found {
    places: Vec<Place>,
    made: Vec<u64>,
}

/// Where a row of a sparse table is.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Place {
    /// Index into the table's partitions.
    pub(in crate::shard) partition: usize,
    pub(in crate::shard) row: u64,
}

impl ShardTable {
    /// Makes the rows of new keys, so that a push of them finds memory for all or changes nothing: where
    /// there is none for one of them, no row stays that this made.
    pub(in crate::shard) fn make_rows(
        &mut self,
        keys: &[u64],
        memory: &mut u64,
    ) -> Result<(), Refused> {
        let Self { rows: TableRows::Sparse(partitions), slots, layout, found, .. } = self else {
            return Ok(());
        };
        let Found { places, made } = found;
        places.clear();
        made.clear();
        for (at, key) in keys.iter().enumerate() {
            if let Some(ahead) = keys.get(at + KEYS_FETCHED_AHEAD)
                && let Some(slot) = slots.find(layout.partition_of(*ahead))
            {
                partitions[slot].fetch_slot(*ahead);
            }
            let slot = slots.find(layout.partition_of(*key));
            let slot = slot.expect("rows that were checked are here");
            match partitions[slot].make_row(*key, memory) {
                Ok((row, is_new)) => {
                    places.push(Place { partition: slot, row });
                    if is_new {
                        made.push(*key);
                    }
                }
                Err(SparseFull) => {
                    for key in made.drain(..).rev() {
                        let slot = slots.find(layout.partition_of(key));
                        slot.into_iter().for_each(|slot| _ = partitions[slot].remove_row(key));
                    }
                    return Err(Refused::at(Status::Full, at));
                }
            }
        }
        Ok(())
    }

    /// Rows of a sparse table, and where those are that [`ShardTable::make_rows`] was asked for last.
    pub(in crate::shard) fn places(&mut self) -> (&mut [SparsePartition], &[Place], &TableRule) {
        let TableRows::Sparse(partitions) = &mut self.rows else {
            unreachable!("rows of a sparse table")
        };
        (partitions, &self.found.places, &self.rule)
    }

    /// Begins to bring near what a loop over keys, which is at one of them, is going to meet in a sparse
    /// table: the slots of its index first, then rows.
    #[inline]
    pub(in crate::shard) fn look_ahead(&self, keys: &[u64], at: usize) {
        let TableRows::Sparse(partitions) = &self.rows else { return };
        let partition_of = |key| {
            let slot = self.slots.find(self.layout.partition_of(key));
            slot.map(|slot| &partitions[slot])
        };
        if let Some(key) = keys.get(at + 2 * KEYS_FETCHED_AHEAD)
            && let Some(partition) = partition_of(*key)
        {
            partition.fetch_slot(*key);
        }
        if let Some(key) = keys.get(at + KEYS_FETCHED_AHEAD)
            && let Some(partition) = partition_of(*key)
        {
            partition.fetch_row_of(*key);
        }
    }
}
