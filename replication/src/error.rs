//! Why a replica refused an input. None of these changes its state.

use thiserror::Error;
use windlass_wire::{Epoch, Lsn, PartitionId, ServerId};

/// Why [`crate::Replica::step`] refused an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplicaError {
    /// The sender's epoch is older; it has been told.
    #[error(
        "partition {partition}: server {from} speaks for epoch {its}, epoch {own} is in force: it must fetch the map"
    )]
    StaleEpoch {
        /// The partition.
        partition: PartitionId,
        /// The sender.
        from: ServerId,
        /// Its epoch.
        its: Epoch,
        /// The epoch in force here.
        own: Epoch,
    },
    /// The sender's epoch is newer; this replica waits for the map.
    #[error(
        "partition {partition}: server {from} speaks for epoch {its}, this replica is at {own}: fetch the map"
    )]
    BehindEpoch {
        /// The partition.
        partition: PartitionId,
        /// The sender.
        from: ServerId,
        /// Its epoch.
        its: Epoch,
        /// The epoch in force here.
        own: Epoch,
    },
    /// The sender is not this replica's neighbour.
    #[error(
        "partition {partition}: server {from} is no neighbour in the chain of epoch {epoch}: close its link"
    )]
    NotANeighbour {
        /// The partition.
        partition: PartitionId,
        /// The sender.
        from: ServerId,
        /// The epoch in force.
        epoch: Epoch,
    },
    /// An append on a replica that is not the head.
    #[error(
        "partition {partition}: this replica is not the head in epoch {epoch}: refuse the push, the client re-routes"
    )]
    NotHead {
        /// The partition.
        partition: PartitionId,
        /// The epoch in force.
        epoch: Epoch,
    },
    /// A record does not continue the log.
    #[error(
        "partition {partition}: record {lsn} does not follow {last}: the link lost one, reconnect it"
    )]
    OutOfOrder {
        /// The partition.
        partition: PartitionId,
        /// The record's position.
        lsn: Lsn,
        /// The last record held.
        last: Lsn,
    },
    /// Too many records wait for the tail.
    #[error(
        "partition {partition}: {bound} records wait for the tail, the bound: leave pushes in their mailboxes"
    )]
    InflightFull {
        /// The partition.
        partition: PartitionId,
        /// The bound in force.
        bound: u64,
    },
    /// An input that the replica's state does not await.
    #[error("partition {partition}: {what} is not awaited: drop it")]
    NotAwaited {
        /// The partition.
        partition: PartitionId,
        /// The input.
        what: &'static str,
    },
}
