//! Logistic regression trained on parameter servers: what a worker computes, the worker's loop, and
//! the processes around it.

pub mod gradient;
pub mod message;
pub mod parameters;
pub mod source;
pub mod worker;

#[cfg(test)]
mod oracle;

pub use gradient::Problem;
pub use parameters::Parameters;
pub use source::{Source, SourceOptions};
pub use worker::{Pace, WorkerError, WorkerTotals};
