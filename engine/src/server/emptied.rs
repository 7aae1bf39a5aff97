//! Finds `memory` tables that a restart has emptied. If no replica went on without this server, their rows are gone. The
//! log and the cluster's status say so, because users should not learn it from pulls alone.

use std::sync::{MutexGuard, PoisonError};

use windlass_wire::{Durability, TableId};

use super::cluster::{Cluster, State};

impl Cluster {
    /// This server brings partitions back of which other replicas are gone.
    pub(super) fn note_emptied(&self, state: &State) {
        let in_memory =
            |table: &&windlass_wire::TableEntry| table.schema.durability == (Durability::Memory {});
        let mut emptied = self.emptied();
        for table in state.tables.values().filter(in_memory) {
            tracing::warn!(
                table = table.name,
                "is kept in memory only: its rows on this server went with the restart"
            );
            emptied.push(table.id);
        }
    }

    /// What the coordinator is still to be told.
    pub(super) fn emptied(&self) -> MutexGuard<'_, Vec<TableId>> {
        // Whole values in any case.
        self.emptied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
