//! The bytes Windlass peers agree on, and nothing else: ids, frames, messages, a bounded codec and a
//! checksum. No IO, no unsafe code but the call of the processor's checksum instruction, little-endian only.
#![deny(unsafe_code)]

pub mod chain;
pub mod checksum;
pub mod clock_line;
pub mod codec;
pub mod completion;
pub mod control;
pub mod coordination;
pub mod digest;
pub mod dtype;
pub mod expiry;
pub mod filter;
pub mod half_bits;
pub mod ids;
pub mod initializer;
pub mod map;
mod numbered;
pub mod proof;
mod refusal;
pub mod request;
pub mod rule;
pub mod scan;
pub mod schema;

pub use checksum::Checksum;
pub use clock_line::ClockLine;
pub use codec::{Blob, DecodeError, Wire};
pub use completion::{CompletionWord, Status};
pub use digest::Digest;
pub use dtype::DataType;
pub use expiry::{Expiry, ExpiryError};
pub use filter::{FilterError, FilterStack};
pub use ids::{
    Epoch, Incarnation, Key, Lsn, PartitionId, RowRange, Sequence, ServerId, SessionId, ShardId,
    TableId, Timestamp, WorkerClock, WorkerRank,
};
pub use initializer::{Initializer, InitializerError};
pub use map::{ClusterMap, Layout, ServerEntry};
pub use proof::{ServerSecret, Ticket};
pub use request::{Place, RequestHeader, RequestKind, Rows};
pub use rule::UpdateRule;
pub use scan::ScanColumns;
pub use schema::{
    Aggregation, Consistency, Durability, NotFinitePolicy, TableEntry, TableKind, TableSchema,
};
