//! What recovery feeds: the engine takes in blocks and records, or says why it cannot.

use windlass_wire::{PartitionId, TableId, codec::DecodeError};

use super::{AppliedBlocks, Block, Progress};
use crate::persist::record::Record;

/// What recovery feeds: the engine's tables.
pub trait Replay {
    /// Whether a partition is to be recovered here.
    fn wants(&self, partition: PartitionId) -> bool;

    /// Takes a block of a checkpoint in. Later calls for the same block replace earlier ones.
    ///
    /// # Errors
    /// When the block makes no sense to the engine; recovery of the partition ends.
    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError>;

    /// Applies a record, except to blocks whose LSN in `applied` is not before the record's. A
    /// record of kind [`Kind::Begin`](crate::persist::frame::Kind::Begin) discards the partition's state.
    ///
    /// # Errors
    /// When the record makes no sense to the engine; recovery of the partition ends.
    fn apply(&mut self, record: &Record<'_>, applied: &AppliedBlocks) -> Result<(), ReplayError>;

    /// Told now and then.
    fn progress(&mut self, _progress: Progress) {}
}

/// Why the engine cannot take in a block of a checkpoint or a record of the log.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A block belongs to no section that the engine knows.
    #[error("section {0} is unknown")]
    UnknownSection(u16),
    /// A block of a piece has not come, or not in its turn.
    #[error("a block of piece {index} of table {table} is missing")]
    MissingBlock {
        /// The piece's table.
        table: TableId,
        /// The piece.
        index: u64,
    },
    /// The rows of a piece have another length than the table's rows, or there is no memory for them.
    #[error("piece {index} of table {table} does not fit, or memory is short: raise --memory")]
    Piece {
        /// The piece's table.
        table: TableId,
        /// The piece.
        index: u64,
    },
    /// The clock of a table's workers cannot be read.
    #[error("the clock of table {0} is damaged")]
    Clock(TableId),
    /// The sessions of a partition cannot be read.
    #[error("the partition's sessions are damaged")]
    Sessions(#[from] DecodeError),
    /// A record's values are not what the table's schema asks for.
    #[error("the record does not fit the schema of table {0}")]
    Schema(TableId),
    /// A record names a row of another partition.
    #[error("row {key} is not in partition {partition}")]
    Elsewhere {
        /// The row's key.
        key: u64,
        /// The record's partition.
        partition: PartitionId,
    },
    /// A record of images ends within an entry.
    #[error("a record of images is cut off")]
    CutOff,
    /// An image has another length than the table's rows, or there is no memory for its rows.
    #[error("an image of table {0} does not fit, or memory is short: raise --memory")]
    Image(TableId),
    /// There is no memory for a record's new rows.
    #[error("no memory is left for rows: raise --memory")]
    Memory,
}
