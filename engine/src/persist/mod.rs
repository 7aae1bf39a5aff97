//! Durability: one log per shard with three readers, checkpoints behind it, recovery from both.
//!
//! ```text
//!  pushes -> sum in the ring (log) -> applied from there     by the shard
//!                                  -> sent from there        by the transport, to the successor
//!                                  -> written from there     by the storage, one write a turn
//! ```
//!
//! Everything belongs to one thread, waits for nothing and allocates nothing per record. A shard's
//! turn:
//!
//! 1. [`log::Log::reserve`] room for each sum, [`log::Log::fill`] it, [`log::Log::seal`] it; apply
//!    the bytes from [`log::Log::sealed_bytes`]. [`log::Full`] is back-pressure: take no more pushes
//!    before the next poll. Poison means: refuse pushes, serve reads, leave the chain.
//! 2. `sync` acknowledgements go into a [`commit::CommitQueue`] at the record's position; others
//!    are sent at once.
//! 3. [`persistence::Persistence::flush`], then [`persistence::Persistence::poll`]: the position
//!    it returns releases acknowledgements.
//! 4. [`persistence::Persistence::step_checkpoint`] with a budget, when one is being taken.
//!
//! Before sleeping, ask [`log::Log::deadline`], and sleep on
//! [`storage::Storage::wait_descriptor`] too. With a successor: [`log::Log::hold`] keeps records in
//! the ring until [`log::Log::replicated`], [`log::Log::held`] resends, [`log::Log::append`] takes
//! a predecessor's record in. LSNs that are not logged are noted by [`log::Log::skip`].
//!
//! At start, [`recovery::recover`] feeds the engine's [`recovery::Replay`]; what it returns for the
//! shard's own directory opens the log where it ended. Blocks restored are clean, blocks that a
//! replayed record touched are dirty, for the next increment.
//!
//! ```
//! use std::time::Duration;
//! use windlass_engine::persist::{
//!     checkpoint::CheckpointConfig, commit::{CommitQueue, Durability}, frame::Kind, log::LogConfig,
//!     memory::Window, persistence::Persistence, record::{Facts, Shape},
//!     recovery::RecoveredDirectory, storage::{Provider, open},
//! };
//! use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, TableId};
//!
//! # let directory = tempfile::tempdir()?;
//! let storage = open(directory.path(), Provider::Automatic)?;
//! let config = LogConfig { log_id: 42, segment_bytes: 1 << 20, ..LogConfig::default() };
//! let mut persistence = Persistence::open(
//!     storage,
//!     &config,
//!     CheckpointConfig::default(),
//!     Window::allocate(1 << 20)?,
//!     &RecoveredDirectory::default(),
//! )?;
//! persistence.log.add_partition(PartitionId(3), Lsn(0));
//!
//! let facts = Facts {
//!     kind: Kind::Rows,
//!     partition: PartitionId(3),
//!     epoch: Epoch(1),
//!     table: TableId(1),
//!     dtype: DataType::F32,
//!     rows: RowRange::new(0, 2),
//!     tag: 0,
//!     durability: Durability::Sync,
//! };
//! let shape = Shape { delta_bytes: 8, ..Shape::default() };
//! let now = Duration::ZERO;
//! let mut reservation = persistence.log.reserve(&facts, shape, now)?;
//! persistence.log.fill(&mut reservation).delta().copy_from_slice(&[0, 0, 128, 63, 0, 0, 0, 64]);
//! let sealed = persistence.log.seal(reservation);
//!
//! let mut acknowledgements = CommitQueue::new(16);
//! acknowledgements.push(sealed.position, "the client's request").unwrap();
//! loop {
//!     persistence.flush(now);
//!     let durable = persistence.poll();
//!     if acknowledgements.release(durable).is_some() {
//!         break;
//!     }
//!     persistence.wait(Duration::from_millis(10));
//! }
//! assert_eq!(persistence.log.last_lsn(PartitionId(3)), Lsn(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod buffered;
pub mod checkpoint;
pub mod clocks;
pub mod commit;
pub mod delayed;
pub mod directories;
pub mod export;
pub mod frame;
#[cfg(test)]
pub(crate) mod hooked;
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
pub(crate) mod sessions;
pub mod storage;
pub mod uring;
mod watermark;
