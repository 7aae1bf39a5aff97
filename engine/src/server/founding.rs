//! What a server founds: its leases, and the coordinator of a cluster inside its process.

use std::{path::Path, time::Duration};

use windlass_replication::LeaseTimings;
use windlass_wire::Durability;

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

/// Whether the disk holds what tables promise to keep there. Where none promises anything, a server
/// that was the last to hold a partition has lost it with its process.
pub(super) fn keeps_what_it_promised(catalogue: &Catalogue) -> bool {
    let mut tables = catalogue.tables.iter();
    catalogue.tables.is_empty()
        || tables.any(|table| table.schema.durability != (Durability::Memory {}))
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
        movable: config.movable,
        session_expiry_ms: config.session_expiry_ms,
        worker_timeout: Duration::from_millis(u64::from(config.worker_timeout_ms))
            .max(WORKER_TIMEOUT_MIN),
        store: config.data_dir.as_deref().map_or(StoreConfig::Memory, store),
        ..CoordinatorConfig::new(config.replicas)
    };
    if kept.is_restored() && coordinator.is_chained() && !kept.tables.is_empty() {
        return Err(StartError::Data { reason: catalogue::ONE_COPY.to_owned() });
    }
    Ok(RunningCoordinator::start(coordinator, kept.tables, kept.next_table)?)
}
