//! Which server copies which partition: the placement is computed once per change of the servers,
//! then worked off a bounded number of copies at a time.

use std::collections::BTreeMap;

use windlass_wire::{PartitionId, ServerId};

use super::CoordinatorOptions;
use crate::membership::{Change, ClusterMap, PartitionEntry, ServerState};
use crate::ring::Ring;

#[derive(Clone, Debug, Default)]
pub(super) struct Planner {
    target: Option<Vec<Vec<ServerId>>>,
    stale: bool,
    /// Something changed since the last look at what could be started.
    look: bool,
}

impl Planner {
    pub(super) fn replan(&mut self) {
        self.stale = true;
        self.look = true;
    }

    pub(super) fn has_work(&self) -> bool {
        self.stale || self.look
    }

    pub(super) fn note_changes(&mut self, old: &ClusterMap, new: &ClusterMap) {
        self.look = true;
        let states = |map: &ClusterMap| {
            map.servers.iter().map(|(&id, entry)| (id, entry.state)).collect::<Vec<_>>()
        };
        let created = old.partitions.iter().zip(&new.partitions);
        self.stale |= states(old) != states(new) || { created }
            .any(|(old, new)| old.members.is_empty() != new.members.is_empty());
    }

    pub(super) fn note_stored(&mut self) {
        self.look = true;
    }

    /// Changes that bring `map` nearer to its placement.
    pub(super) fn plan(&mut self, map: &ClusterMap, options: &CoordinatorOptions) -> Vec<Change> {
        if !self.has_work() {
            return Vec::new();
        }
        self.look = false;
        if std::mem::take(&mut self.stale) {
            self.target = place(map, options);
        }
        let Some(target) = &self.target else { return Vec::new() };
        let mut busy: BTreeMap<ServerId, usize> = BTreeMap::new();
        for joining in map.partitions.iter().filter_map(|entry| entry.joining) {
            *busy.entry(joining.server).or_default() += 1;
        }
        let mut changes = Vec::new();
        for (id, (entry, wanted)) in (0_u32..).zip(map.partitions.iter().zip(target)) {
            let partition = PartitionId(id);
            if entry.members.is_empty() {
                changes.push(Change::Create { partition, members: wanted.clone() });
            } else if !options.rebalance {
                continue;
            } else if let Some((server, leaving)) = next_join(map, entry, wanted) {
                let copies = busy.entry(server).or_default();
                if *copies < options.copies_per_server_max {
                    *copies += 1;
                    changes.push(Change::StartJoin { partition, server, leaving });
                }
            }
        }
        changes
    }
}

fn place(map: &ClusterMap, options: &CoordinatorOptions) -> Option<Vec<Vec<ServerId>>> {
    let placed = map.partitions.iter().any(|entry| !entry.members.is_empty());
    let servers: Vec<ServerId> = map.placeable().collect();
    if servers.is_empty() || !placed && servers.len() < options.servers_at_creation {
        return None;
    }
    // A move in progress counts as done.
    let current: Vec<Vec<ServerId>> = map
        .partitions
        .iter()
        .map(|entry| {
            let joining = entry.joining.map(|joining| joining.server);
            let members = entry.members.iter().copied().chain(joining);
            members.filter(|&id| entry.leaving != Some(id)).collect()
        })
        .collect();
    Ring::new(servers).place(&current, usize::from(map.replicas)).ok()
}

/// The next server to join one chain, and the member it replaces.
fn next_join(
    map: &ClusterMap,
    entry: &PartitionEntry,
    wanted: &[ServerId],
) -> Option<(ServerId, Option<ServerId>)> {
    // A chain whose last member is down cannot feed anybody.
    let feeds = entry.tail().is_some_and(|tail| map.is_in_force(tail));
    if entry.joining.is_some() || entry.lost || !feeds {
        return None;
    }
    let server = *wanted.iter().find(|id| !entry.members.contains(id))?;
    let up = |id: &ServerId| map.servers[id].state == ServerState::Up;
    if !up(&server) {
        return None;
    }
    let full = entry.members.len() >= usize::from(map.replicas);
    // A draining member leaves even a short chain once its replacement is in.
    let leaving = entry.members.iter().copied().find(|id| {
        !wanted.contains(id) && (full || map.servers[id].state == ServerState::Draining)
    });
    Some((server, leaving))
}
