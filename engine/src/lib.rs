//! The Windlass server: shards that own tables and aggregate pushes into them, the log, and the
//! coordinator.
#![deny(unsafe_code)]

pub mod limits;
#[allow(unsafe_code)] // io_uring
pub mod persist;
pub mod server;
pub mod shard;
pub mod table;
#[allow(unsafe_code)] // the SIMD kernels
pub mod update;

pub use server::{Server, ServerConfig, StartError};
