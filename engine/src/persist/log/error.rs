//! Why a record cannot be reserved.

use windlass_wire::{Lsn, PartitionId};

use crate::persist::poison::Poison;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Disk or successor are behind. Poll; take no more pushes meanwhile.
    #[error("the log ring is full: the disk or the chain's successor is behind")]
    Ring,
    /// Too many writes are waiting.
    #[error("too many log writes are waiting for the disk")]
    Writes,
    /// The next segment is still being prepared.
    #[error("the next log segment is still being prepared")]
    Preparing,
    /// All segments hold records that no checkpoint covers: a checkpoint is needed.
    #[error("all log segments are in use: the log waits for a checkpoint")]
    Segments,
}

/// Why a record cannot be reserved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReserveError {
    /// No room now: back-pressure. Retry after the next poll.
    #[error("no room in the log")]
    Full(#[from] Full),
    /// The log has stopped.
    #[error("the log is poisoned")]
    Poisoned(#[from] Poison),
    /// It never fits; split it.
    #[error("a record of {length} bytes is longer than {limit_bytes}: split the push")]
    TooLong {
        /// Length of the record.
        length: usize,
        /// The most this log takes.
        limit_bytes: usize,
    },
    /// A replicated record that does not follow the last one.
    #[error("record {found} of partition {partition} does not follow {last}: catch up first")]
    Order {
        /// The partition.
        partition: PartitionId,
        /// The last LSN here.
        last: Lsn,
        /// The record's.
        found: Lsn,
    },
}
