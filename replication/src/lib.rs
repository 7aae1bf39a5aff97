//! Chains, range clocks, placement and membership as pure state machines.
#![forbid(unsafe_code)]

mod bytes;
mod catch_up;
pub mod chain;
pub mod consistency;
pub mod coordinator;
pub mod error;
mod head;
pub mod inflight;
pub mod input;
pub mod lease;
pub mod membership;
mod middle;
pub mod mix;
pub mod output;
pub mod range_clock;
pub mod ring;
pub mod rounds;
pub mod session;
mod tail;
pub mod time;

pub use bytes::DecodeError;
pub use chain::{Replica, ReplicaLimits, Role};
pub use consistency::Consistency;
pub use coordinator::{
    Coordinator, CoordinatorInput, CoordinatorOptions, CoordinatorOutput, Workers,
};
pub use error::ReplicaError;
pub use inflight::{LogIndex, Position};
pub use input::{Input, RecordHeader};
pub use lease::{LeaseOutput, LeaseTimings, LeaseWord, Leases, StrongReads};
pub use membership::{ChainView, Change, ClusterMap, MapDelta, MapLimits};
pub use output::Output;
pub use range_clock::{RangeClock, RangeClockError, RangeClockLimits, Stamp};
pub use ring::{PlacementError, Ring};
pub use rounds::Rounds;
pub use session::{Admission, Covered, Lane, Push, SessionTable};
pub use time::Time;
