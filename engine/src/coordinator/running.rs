//! A coordinator's threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam::channel::{bounded, unbounded};
use windlass_wire::TableEntry;

use super::{
    CoordinatorConfig, Desk, StoreError,
    keeper::{Founding, Keeper},
    lead::Lead,
    machine::Machine,
    store::{self, Catalogue},
};
use crate::limits::COORDINATOR_EVENTS_MAX;

/// A coordinator that runs. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct RunningCoordinator {
    desk: Desk,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Why no coordinator runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start a thread")]
    Thread {
        #[from]
        source: std::io::Error,
    },
}

impl RunningCoordinator {
    /// Starts one. `tables` and `next_table` are those of a new cluster: what a server kept before
    /// its coordinator did.
    pub(crate) fn start(
        config: CoordinatorConfig,
        tables: Vec<TableEntry>,
        next_table: u32,
    ) -> Result<Self, RunError> {
        let store = store::open(&config)?;
        // Whoever tells something waits while it is full; the stepping thread itself tells nothing.
        let (events, received) = bounded(COORDINATOR_EVENTS_MAX);
        let (jobs, to_do) = unbounded();
        let stopping = Arc::new(AtomicBool::new(false));
        let lead = Arc::new(Lead::new());
        let machine = Machine::new(config.clone(), store.name(), lead.clone(), jobs, received);
        let keeper = Keeper {
            lead,
            term: 0,
            store,
            founding: Founding {
                partitions: config.partitions,
                replicas: config.replicas,
                session_expiry_ms: config.session_expiry_ms,
                catalogue: Catalogue { tables, next_table, ..Catalogue::default() },
            },
            jobs: to_do,
            events: events.clone(),
            stopping: stopping.clone(),
        };
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let threads = vec![
            spawn("windlass-coordinator").spawn(move || machine.run())?,
            spawn("windlass-store").spawn(move || keeper.run())?,
        ];
        Ok(Self { desk: Desk::new(events), stopping, threads })
    }

    /// The way to it.
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for RunningCoordinator {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.desk.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the coordinator panicked");
            }
        }
    }
}
