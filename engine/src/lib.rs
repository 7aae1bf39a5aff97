//! The Windlass server: shards that own tables and aggregate pushes into them, the log, and the
//! coordinator.
#![deny(unsafe_code)]

mod complaints;
mod control_port;
pub mod coordinator;
mod greeting;
pub mod limits;
#[allow(unsafe_code)] // io_uring
pub mod persist;
mod private_files;
mod refusal;
pub mod server;
pub mod shard;
pub mod table;
#[allow(unsafe_code)] // the SIMD kernels
pub mod update;

pub use coordinator::{CoordinatorConfig, CoordinatorConfigError, CoordinatorServer, StoreConfig};
pub use refusal::Refusal;
pub use server::{Server, ServerConfig, ShardThread, StartError};
