//! The state of this server's replicas, for people who want to know what a chain waits for.

use windlass_replication::Role;
use windlass_wire::{Epoch, Lsn, PartitionId};

use super::Chain;

/// One replica of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// What this server is to it.
    pub role: Role,
    /// The chain epoch in force here.
    pub epoch: Epoch,
    /// The last record held.
    pub last: Lsn,
    /// The last record known to be on every replica.
    pub committed: Lsn,
    /// The last record applied.
    pub applied: Lsn,
    /// Records held for others.
    pub records_held: u64,
    /// Whether the rows are those of a position of the log; false while they are copied.
    pub is_whole: bool,
    /// Whether it feeds a learner right now.
    pub feeds: bool,
    /// Whether a record could not be applied: the replica answers nothing.
    pub is_broken: bool,
}

/// Every partition this shard has a replica of.
pub(in crate::shard) fn partition_states(chain: &Chain) -> Vec<PartitionStatus> {
    let parts = chain.parts.iter().flatten();
    parts
        .map(|part| PartitionStatus {
            partition: part.partition,
            role: part.replica.role(),
            epoch: part.epoch(),
            last: part.replica.log().last(),
            committed: part.replica.log().committed(),
            applied: part.applied,
            records_held: part.records.len() as u64,
            is_whole: part.replica.position().is_some(),
            feeds: part.copy_out.is_some(),
            is_broken: part.broken,
        })
        .collect()
}

/// Bytes of records held for others, and records appended here that are not committed.
pub(in crate::shard) fn chain_backlog(chain: &Chain) -> (u64, u64) {
    (chain.kept.spare.held_len, chain.kept.inflight_count)
}
