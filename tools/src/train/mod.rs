//! Logistic regression trained on parameter servers: what a worker computes, the worker's loop, and
//! the processes around it.

pub mod filters;
pub mod gradient;
pub mod message;
pub mod parameters;
pub mod run;
pub mod servers;
pub mod source;
pub mod straggler;
pub mod weights;
pub mod worker;
pub mod worker_process;

#[cfg(test)]
mod oracle;

pub use filters::Filters;
pub use gradient::Problem;
pub use parameters::Parameters;
pub use run::{Audit, Event, RunError, RunOptions, Snapshot, Trained};
pub use servers::{ServerOptions, Servers};
pub use source::{Source, SourceOptions};
pub use straggler::Straggler;
pub use worker::{Pace, WorkerError, WorkerTotals};
