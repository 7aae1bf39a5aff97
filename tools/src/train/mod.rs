//! Logistic regression trained on parameter servers: what a worker computes, the worker's loop, and
//! the processes around it.

pub mod gradient;

pub use gradient::Problem;

#[cfg(test)]
mod oracle;
