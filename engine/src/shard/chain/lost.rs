//! Lost partitions. A server that is named a member while its copy is incomplete begins empty; an operator
//! has accepted that.

use std::sync::Arc;

use windlass_replication::{Replica, ReplicaLimits};
use windlass_wire::{PartitionId, ServerId, map};

use super::{Chain, part::Part};
use crate::shard::tables::Tables;

/// Before the rows are made that the map in force gives to this shard: gives those back that are of no use
/// to a partition that begins empty, so that others are made beside the turns. Until they are there it takes
/// no part in its chain.
pub(in crate::shard) fn begin_empty(tables: &mut Tables, chain: &mut Chain) {
    let map = Arc::clone(&chain.map);
    let server = chain.server;
    let mut lost: Vec<PartitionId> = Vec::new();
    for part in chain.parts.iter_mut().flatten() {
        let next = &map.chains[part.partition.0 as usize];
        if !is_lost(part, next, server) {
            continue;
        }
        let partition = part.partition;
        tracing::warn!(%partition, "begins empty: its rows are lost");
        let replica = Replica::new(partition, server, ReplicaLimits::default());
        let old = std::mem::replace(&mut **part, Part::new(partition, replica));
        old.records.into_iter().for_each(|held| chain.kept.spare.put(held.words));
        lost.push(partition);
    }
    for partition in lost {
        let index = chain.index(partition);
        chain.disk.forget(index);
        chain.disk.end_copying(partition);
        tables.drop_rows(partition);
    }
}

/// Whether a replica is named a member whose rows are those of no position.
fn is_lost(part: &Part, next: &map::Chain, server: ServerId) -> bool {
    let is_joining = next.tail_joining && next.servers.last() == Some(&server);
    let is_member = next.servers.contains(&server) && !is_joining;
    is_member && part.replica.position().is_none() && part.epoch() < next.epoch
}
