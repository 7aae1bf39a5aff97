//! Chains, range clocks, placement and membership as pure state machines.
#![forbid(unsafe_code)]

mod bytes;
pub mod mix;
pub mod range_clock;
pub mod time;

pub use bytes::DecodeError;
pub use range_clock::{RangeClock, RangeClockError, RangeClockLimits, Stamp};
pub use time::Time;
