//! Durability: one log per shard with three readers, checkpoints behind it, recovery from both.
#![deny(unsafe_code)]

pub mod buffered;
pub mod commit;
pub mod frame;
pub mod limits;
pub mod log;
pub mod memory;
mod partitions;
pub mod poison;
pub mod record;
mod ring;
pub mod segment;
mod segments;
pub mod storage;
pub mod uring;
