//! Measures operations of a client against a server, and in the same run the limits of the machine
//! they are compared with.

pub mod connections;
mod draw;
pub mod driver;
pub mod limit;
mod log_use;
mod operations;
pub mod target;

pub use draw::{Distribution, Naming};
pub use target::{Operation, Outcome, Target, TargetOptions};
