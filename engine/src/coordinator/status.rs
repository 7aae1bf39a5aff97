//! The coordinator's status, for operators.

use std::time::{SystemTime, UNIX_EPOCH};

use windlass_wire::{
    ClusterMap, ServerId, TableId,
    coordination::{CoordinatorStatus, EmptiedTable, SeparatedPair},
    map::suitable_partitions,
};

use super::machine::Machine;

impl Machine {
    /// A server came back without the rows of these tables, and nobody else has them. Kept until a table
    /// is dropped: whoever looks is to know why rows are missing.
    pub(super) fn note_emptied(&mut self, server: ServerId, tables: &[TableId]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        let known = |id: &&TableId| self.catalogue.tables.iter().any(|table| table.id == **id);
        let emptied: Vec<TableId> = tables.iter().filter(known).copied().collect();
        if emptied.is_empty() {
            return;
        }
        tracing::warn!(%server, ?emptied, "tables in memory only went with a server's restart");
        self.catalogue.emptied.retain(|one| !emptied.contains(&one.table));
        let new = emptied.into_iter().map(|table| EmptiedTable { table, server, seconds });
        self.catalogue.emptied.extend(new);
        self.store_catalogue();
    }

    pub(super) fn status(&self) -> CoordinatorStatus {
        let joined = self.members.iter().filter(|(_, member)| member.is_joined);
        let mut connected: Vec<ServerId> = joined.map(|(_, member)| member.server).collect();
        connected.sort_unstable();
        let copies = self.coordinator.map().partitions.iter();
        let copies = copies.filter(|entry| entry.joining.is_some()).count();
        let separated = self.coordinator.separated().map(|(a, b)| SeparatedPair { a, b }).collect();
        CoordinatorStatus {
            leads: self.coordinator.leads(),
            store: self.store_name.to_owned(),
            store_error: self.store_error.clone(),
            connected,
            resting: self.coordinator.resting().collect(),
            separated,
            workers: self.worker_entries(),
            emptied: self.catalogue.emptied.clone(),
            copies_under_way: u32::try_from(copies).unwrap_or(u32::MAX),
            map: self.map.as_ref().clone(),
        }
    }
}

/// Says that shards hold nothing, while nothing is lost by founding the cluster anew: its partitions are fixed.
pub(super) fn note_idle_shards(map: &ClusterMap) {
    let idle = map.idle_shards();
    if idle > 0 {
        let shards = map.servers.iter().map(|entry| entry.shard_count).max().unwrap_or(1);
        let servers = u32::try_from(map.servers.len()).unwrap_or(u32::MAX);
        tracing::warn!(
            idle,
            partitions = map.partition_count(),
            wanted = suitable_partitions(servers, shards),
            "shards hold no partition: found the cluster anew with as many --partitions as are wanted, or fewer shards"
        );
    }
}
