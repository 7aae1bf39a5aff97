//! The Windlass client: `push` gradients to and `pull` parameters from the servers that hold them.
//!
//! ```no_run
//! use windlass_client::{Client, TableSchema};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("windlass://127.0.0.1:7700")?;
//! let schema = TableSchema { rule: "sgd:lr=0.1".parse()?, ..TableSchema::dense(f32::DTYPE, 1000, 4) };
//! let table = client.create_table::<f32>("weights", &schema)?;
//! table.push(&[3, 7], &[1.0; 8], &Default::default())?.wait()?;
//! let rows: Vec<f32> = table.pull(&[3, 7], &Default::default())?.wait()?;
//! # use windlass_client::Element;
//! # Ok(())
//! # }
//! ```
//!
//! A client belongs to one thread, has no threads of its own and needs no async runtime: requests
//! are sent when they are made, and whoever waits for one moves all of them on. Dropping a pending
//! request forgets its answer, never its memory.
//!
//! It also belongs to one process: in a forked child every operation fails with [`WrongProcess`], dropping
//! it there touches neither connection nor shared memory, and the parent goes on.
#![deny(unsafe_code)]

mod bags;
mod client;
mod config;
mod core;
mod element;
mod error;
mod fork;
mod order;
mod pending;
mod prepared;
mod rows;
mod scan;
mod shared;
mod sparsify;
mod table;
mod watch;

pub use bags::Pooling;
pub use client::{Client, Counters};
pub use windlass_transport::verbs::VerbsConfig;

pub use config::{ClientOptions, PullFrom, PullOptions, PushOptions};
pub use element::Element;
pub use error::{ConnectError, FilterRefusal, RequestError, TableError, chain};
pub use fork::{Process, WrongProcess};
pub use pending::{PendingPull, PendingPush};
pub use prepared::Prepared;
pub use rows::Rows;
pub use scan::{CursorError, Scan, ScanBatch, ScanColumns, ScanCursor, ScanOptions};
pub use sparsify::{Candidates, ParseSparsifierError, SelectRows, Sparsifier};
pub use table::{RowSelection, Table};
pub use watch::Watch;
pub use windlass_wire::{
    Aggregation, ClusterMap, Consistency, DataType, Durability, Expiry, FilterStack, Initializer,
    NotFinitePolicy, ServerId, Status, TableEntry, TableKind, TableSchema, Timestamp, UpdateRule,
    WorkerClock, WorkerRank,
    control::Provider,
    filter::{SavedBytes, StackError},
    rule::{Limits, RowWord},
};
