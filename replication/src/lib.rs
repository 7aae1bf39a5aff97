//! Chains, range clocks, placement and membership as pure state machines.
#![forbid(unsafe_code)]

mod bytes;
pub mod consistency;
pub mod mix;
pub mod range_clock;
pub mod ring;
pub mod time;

pub use bytes::DecodeError;
pub use consistency::Consistency;
pub use range_clock::{RangeClock, RangeClockError, RangeClockLimits, Stamp};
pub use ring::{PlacementError, Ring};
pub use time::Time;
