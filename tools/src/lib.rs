//! The library behind the `windlass` command: data files, metrics, reports, training, benches and
//! the command line itself. Results go to stdout, all else to stderr.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod control;
pub mod data;
pub mod drill;
pub mod element;
pub mod metrics;
pub mod plan;
pub mod process;
pub mod remote;
pub mod replicas;
pub mod report;
pub mod train;
pub mod verbs_flags;
