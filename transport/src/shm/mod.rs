//! Shared memory between processes of one host: regions are memfds handed over a Unix socket, and
//! the initiator carries out every request itself, by copies, stores and atomics in the peer's
//! memory. The socket only sets up and tells of hang-ups; an eventfd wakes who sleeps.
//!
//! Trust: a peer runs as the same user (or root) and holds writable mappings of what was shared for
//! writing, so bounds and access there are its own honesty; what was shared for reading only is
//! opened read-only, and [`PagesOptions::sealed_for_peers`](crate::memory::PagesOptions) makes the
//! kernel refuse writable mappings for good.

mod at_once;
mod connect;
mod datapath;
mod doorbell;
mod endpoint;
mod immediates;
mod imports;
mod instance;
mod limits;
#[cfg(all(test, loom))]
mod loom_tests;
mod message;
mod queue_pair;
mod quiesce;
mod regions;
mod segment;
mod socket;
#[cfg(test)]
mod tests;

pub use instance::{Shm, ShmOptions};

use crate::sync;
use instance::Listener;
