//! Durability: one log per shard with three readers, checkpoints behind it, recovery from both.
#![deny(unsafe_code)]

pub mod buffered;
pub mod checkpoint;
pub mod commit;
pub mod export;
pub mod frame;
pub mod inspect;
pub mod limits;
pub mod log;
mod log_files;
mod log_walk;
pub mod manifest;
pub mod memory;
mod partitions;
pub mod persistence;
pub mod poison;
pub mod record;
pub mod recovery;
mod ring;
mod scan;
pub mod scrub;
pub mod segment;
mod segments;
pub mod storage;
pub mod uring;
