//! Founds a cluster: makes the server's leases and the coordinator inside its process.

use std::{path::Path, time::Duration};

use windlass_replication::LeaseTimings;
use windlass_wire::{Durability, coordination::Kept};

use super::{
    ServerConfig, StartError,
    catalogue::{self, Catalogue},
};
use crate::{
    coordinator::{CoordinatorConfig, RunningCoordinator, StoreConfig},
    limits::{LATENESS_WINDOW, LINK_PATIENCE, SUSPECT_AFTER},
};

/// Workers are heard of with their servers' heartbeats: a shorter silence means nothing.
const WORKER_TIMEOUT_MIN: Duration = Duration::from_secs(3);

pub(super) fn lease_timings() -> LeaseTimings {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    LeaseTimings {
        suspect_us: micros(SUSPECT_AFTER),
        lateness_us: micros(LATENESS_WINDOW),
        link_us: micros(LINK_PATIENCE),
        ..LeaseTimings::default()
    }
}

/// What a server holds of what it acknowledged once it has read its disk. Where no table is kept there, a
/// server that was the last to hold a partition has lost it with its process.
pub(super) fn kept_on_disk(catalogue: &Catalogue, accept_damage: bool) -> Kept {
    let durabilities = || catalogue.tables.iter().map(|table| table.schema.durability);
    let in_memory = durabilities().filter(|kind| *kind == Durability::Memory {}).count();
    if in_memory > 0 && in_memory == catalogue.tables.len() {
        Kept::Nothing {}
    } else if durabilities().all(|kind| kind == Durability::Sync {}) && !accept_damage {
        Kept::Whole {}
    } else {
        Kept::Disk {}
    }
}

/// Starts the coordinator of a cluster inside this process. It takes over the tables that the server
/// has kept.
pub(super) fn found(
    config: &ServerConfig,
    kept: Option<Catalogue>,
) -> Result<RunningCoordinator, StartError> {
    let store = |data: &Path| StoreConfig::File(data.join("coordinator"));
    let kept = kept.unwrap_or_default();
    // Rows that are there already are cut as they are.
    let partitions = if kept.partitions == 0 { config.partitions } else { kept.partitions };
    let coordinator = CoordinatorConfig {
        partitions,
        expected_servers: config.expected_servers,
        session_expiry_ms: config.session_expiry_ms,
        worker_timeout: Duration::from_millis(u64::from(config.worker_timeout_ms))
            .max(WORKER_TIMEOUT_MIN),
        store: config.data_dir.as_deref().map_or(StoreConfig::Memory, store),
        ..CoordinatorConfig::new(config.replicas)
    };
    if kept.is_restored() && coordinator.replicas > 1 && !kept.tables.is_empty() {
        return Err(StartError::Data { reason: catalogue::ONE_COPY.to_owned() });
    }
    Ok(RunningCoordinator::start(coordinator, kept.tables, kept.next_table)?)
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, TableEntry, TableId, TableSchema};

    use super::*;

    #[test]
    fn a_disk_holds_all_where_every_table_is_synchronous() {
        let (sync, memory) = (Durability::Sync {}, Durability::Memory {});
        let interval = Durability::Interval { milliseconds: 10 };
        let cases: [(&[Durability], bool, Kept); 8] = [
            (&[], false, Kept::Whole {}),
            (&[sync, sync], false, Kept::Whole {}),
            (&[sync, sync], true, Kept::Disk {}),
            (&[sync, interval], false, Kept::Disk {}),
            (&[sync, memory], false, Kept::Disk {}),
            (&[interval], false, Kept::Disk {}),
            (&[memory, interval], false, Kept::Disk {}),
            (&[memory, memory], false, Kept::Nothing {}),
        ];
        for (durabilities, accept_damage, kept) in cases {
            let table = |durability: &Durability| TableEntry {
                id: TableId(1),
                name: "t".to_owned(),
                schema: TableSchema {
                    durability: *durability,
                    ..TableSchema::dense(DataType::F32, 1, 1)
                },
            };
            let tables = durabilities.iter().map(table).collect();
            let catalogue = Catalogue { tables, ..Catalogue::default() };
            assert_eq!(kept_on_disk(&catalogue, accept_damage), kept, "{durabilities:?}");
        }
    }
}
