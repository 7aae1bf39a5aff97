//! RDMA verbs semantics over InfiniBand, RoCE and SoftRoCE (`verbs`), shared memory (`shm`) and TCP
//! (`tcp`): one trait, one conformance suite, three providers.
//!
//! - [`fabric`] is the trait and its rules; [`memory`] the pinned memory it works on.
//! - [`shm`], [`tcp`], [`verbs`] implement it.
//! - [`mailbox`] is the message ring that a peer writes one-sided.
#![deny(unsafe_code)]

pub mod batch;
pub mod block_version;
pub mod chunks;
pub mod clock;
pub mod control;
pub mod descriptors;
pub mod doctor;
pub mod error;
pub mod fabric;
pub mod fabric_admin;
pub mod late_run;
pub mod mailbox;
pub mod memory;
pub mod random;
mod resolve;
pub mod shm;
mod slab;
pub mod spin;
mod sync;
pub mod tcp;
pub mod text;
pub mod verbs;
pub mod wait;

pub use batch::Batch;
pub use fabric::{
    Access, Capabilities, Completion, CompletionStatus, Endpoint, InlineBytes, LocalSlice,
    MemoryRegion, Opcode, Operation, PendingQueuePair, Prepared, QueuePairId, QueuePairState,
    RegionId, Registrar, RemoteAddress, RemoteKey, RemoteRegion, Role, ScatterList, SendRequest,
    Transport, Waker, WorkId,
};
pub use memory::Pages;
