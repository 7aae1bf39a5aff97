//! Events that shards report to the server.

use windlass_wire::{Epoch, Incarnation, PartitionId, ServerId, ShardId};

/// What the coordinator should hear. All but `StaleMap` may be told again; telling twice is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// This server, a learner of the partition, may become its tail.
    CaughtUp {
        /// The partition.
        partition: PartitionId,
        /// The chain epoch.
        epoch: Epoch,
    },
    /// This server, the new tail of the partition, holds all that was ever committed.
    Synchronised {
        /// The partition.
        partition: PartitionId,
        /// The chain epoch.
        epoch: Epoch,
    },
    /// The next server of the chain has lost what it held: the chain stands still until it is out.
    Rejected {
        /// The partition.
        partition: PartitionId,
        /// The chain epoch.
        epoch: Epoch,
        /// The server to take out.
        server: ServerId,
    },
    /// This server has no memory for rows that the map gives to it, or its replica of them lacks some change.
    CannotHold {
        /// The partition.
        partition: PartitionId,
        /// The chain epoch.
        epoch: Epoch,
    },
    /// A peer is silent, or the link to it broke.
    Suspect {
        /// The peer.
        server: ServerId,
    },
    /// This server's disk refused a write: its chains have to go on without it.
    DiskFailed {},
    /// A peer acts by a newer map: this server should ask for it.
    StaleMap {
        /// An epoch that is in force there.
        epoch: Epoch,
    },
}

/// A link that ended without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEnded {
    /// The peer.
    pub server: ServerId,
    /// The peer's life.
    pub incarnation: Incarnation,
    /// The shard whose link it was.
    pub shard: ShardId,
}
