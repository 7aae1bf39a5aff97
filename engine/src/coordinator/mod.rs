//! The coordinator: it alone changes the cluster map, and it owns the table catalogue and the worker
//! ranks. [`windlass_replication::Coordinator`] decides; this module carries the decisions out.
//!
//! One thread steps the machine on time and inputs (`machine`), one writes the store (`keeper`), and
//! every control connection has a thread that reads and, once a server joined by it, one that writes:
//! nothing that can block is done by the stepping thread. A server process has one of these inside it
//! when it founds a cluster; `windlass coordinator` is one alone.

mod ask;
mod config;
mod convert;
mod desk;
mod enrol;
mod event;
mod keeper;
mod lead;
mod machine;
mod members;
mod operator;
mod running;
mod standalone;
mod status;
mod store;
mod tables;
mod workers;

pub(crate) use config::check_session_expiry;
pub use config::{CoordinatorConfig, CoordinatorConfigError, SessionExpiryError, StoreConfig};
pub(crate) use desk::{Desk, Downward, Joining};
pub(crate) use running::{RunError, RunningCoordinator};
pub use standalone::{CoordinatorServer, CoordinatorStartError};
pub use store::StoreError;
pub(crate) use store::scrub_file_store;
#[cfg(test)]
pub(crate) use store::store_sample;
