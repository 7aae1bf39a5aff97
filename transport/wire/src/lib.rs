//! The bytes Windlass peers agree on, and nothing else: ids, frames, messages, a bounded codec and a
//! checksum. No IO, no unsafe code, little-endian only.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod dtype;
pub mod ids;

pub use checksum::Checksum;
pub use dtype::DataType;
pub use ids::{
    Epoch, Incarnation, Key, Lsn, PartitionId, RowRange, Sequence, ServerId, SessionId, ShardId,
    TableId, Timestamp, WorkerClock, WorkerRank,
};
