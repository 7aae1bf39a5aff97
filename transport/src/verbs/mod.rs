//! The verbs provider: reliable connected queue pairs on InfiniBand, RoCE and SoftRoCE devices.
//!
//! libibverbs is opened when the first instance is ([`load`]), through declarations of our own
//! ([`abi`]), so one binary runs with and without it. [`device`] finds devices; one file per verbs
//! noun sets them up; `datapath` is what runs per request.
#![allow(unsafe_code)]

pub mod abi;
mod completion_queue;
mod config;
mod connect;
mod datapath;
pub mod device;
mod leave;
pub mod load;
mod memory_region;
mod order;
mod progress;
mod queue_pair;
mod send_ring;
mod single;
mod slot;
mod transport;
mod wake;
mod window;

pub use config::{ConfigError, VerbsConfig};
pub use transport::VerbsTransport;
