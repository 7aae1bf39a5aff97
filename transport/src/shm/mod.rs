//! Shared memory between processes of one host: regions are memfds handed over a Unix socket, and
//! the initiator carries out every request itself, by copies, stores and atomics in the peer's
//! memory. The socket only sets up and tells of hang-ups; an eventfd wakes who sleeps.
//!
//! Trust: a peer runs as the same user (or root) and holds writable mappings of what was shared for
//! writing, so bounds and access there are its own honesty; what was shared for reading only is
//! opened read-only, and [`PagesOptions::sealed_for_peers`](crate::memory::PagesOptions) makes the
//! kernel refuse writable mappings for good.

mod doorbell;
mod immediates;
mod limits;

#[cfg(not(loom))]
mod connect;
#[cfg(not(loom))]
mod datapath;
#[cfg(not(loom))]
mod endpoint;
#[cfg(not(loom))]
mod instance;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(not(loom))]
mod message;
#[cfg(not(loom))]
mod queue_pair;
#[cfg(not(loom))]
mod quiesce;
#[cfg(not(loom))]
mod regions;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod socket;

#[cfg(not(loom))]
use instance::Listener;
#[cfg(not(loom))]
pub use instance::{Shm, ShmOptions};
