//! Which server copies which partition: the placement is computed once per change of the servers,
//! then worked off a bounded number of copies at a time.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{PartitionId, ServerId};

use super::{CoordinatorOptions, absence::Out};
use crate::membership::{Change, Membership, PartitionEntry, ServerState};
use crate::ring::Ring;

#[derive(Clone, Debug, Default)]
pub(super) struct Planner {
    target: Option<Vec<Vec<ServerId>>>,
    stale: bool,
    /// Something changed since the last look at what could be started.
    look: bool,
    /// What servers had no memory for, in the lives they are in.
    refused: BTreeSet<(ServerId, PartitionId)>,
}

impl Planner {
    pub(super) fn replan(&mut self) {
        self.stale = true;
        self.look = true;
        self.refused.clear();
    }

    /// A server has no memory for a partition: others are asked until it comes back in another life, or
    /// the placement is worked out anew.
    pub(super) fn refuse(&mut self, server: ServerId, partition: PartitionId) {
        self.refused.insert((server, partition));
    }

    pub(super) fn has_work(&self) -> bool {
        self.stale || self.look
    }

    pub(super) fn note_changes(&mut self, old: &Membership, new: &Membership) {
        self.look = true;
        let states = |map: &Membership| {
            map.servers.iter().map(|(&id, entry)| (id, entry.state)).collect::<Vec<_>>()
        };
        let life = |map: &Membership, id: &ServerId| map.servers.get(id).map(|one| one.incarnation);
        self.refused.retain(|(server, _)| life(old, server) == life(new, server));
        let created = old.partitions.iter().zip(&new.partitions);
        self.stale |= states(old) != states(new) || { created }
            .any(|(old, new)| old.members.is_empty() != new.members.is_empty());
    }

    pub(super) fn note_stored(&mut self) {
        self.look = true;
    }

    /// Servers may get copies that might not before.
    pub(super) fn look_again(&mut self) {
        self.look = true;
    }

    /// Changes that bring `map` nearer to its placement.
    pub(super) fn plan(
        &mut self,
        map: &Membership,
        options: &CoordinatorOptions,
        out: &Out,
    ) -> Vec<Change> {
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
                continue;
            }
            if !options.rebalance {
                continue;
            }
            let can_hold = |id: &ServerId| {
                !self.refused.contains(&(*id, partition)) && out.may_join(*id, &entry.members)
            };
            let load = |id: &ServerId| busy.get(id).copied().unwrap_or(0);
            if let Some((server, leaving)) = next_join(map, entry, wanted, can_hold, load) {
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

fn place(map: &Membership, options: &CoordinatorOptions) -> Option<Vec<Vec<ServerId>>> {
    let placed = map.partitions.iter().any(|entry| !entry.members.is_empty());
    let servers: Vec<ServerId> = map.placeable().collect();
    if servers.is_empty() || !placed && servers.len() < options.servers_at_creation {
        return None;
    }
    // A move in progress counts as done.
    let current: Vec<Vec<ServerId>> = map
        .partitions
        .iter()
        .map(|entry| entry.involved().filter(|id| entry.leaving != Some(*id)).collect())
        .collect();
    Ring::new(servers).place(&current, usize::from(map.replicas)).ok()
}

/// The next server to join one chain, and the member it replaces.
fn next_join(
    map: &Membership,
    entry: &PartitionEntry,
    wanted: &[ServerId],
    can_hold: impl Fn(&ServerId) -> bool,
    load: impl Fn(&ServerId) -> usize,
) -> Option<(ServerId, Option<ServerId>)> {
    // A chain whose last member is down cannot feed anybody.
    let feeds = entry.tail().is_some_and(|tail| map.is_in_force(tail));
    if entry.joining.is_some() || entry.lost || !feeds {
        return None;
    }
    let up = |id: &ServerId| map.servers[id].state == ServerState::Up;
    let joins = |id: &&ServerId| !entry.members.contains(id) && can_hold(id);
    let full = entry.members.len() >= usize::from(map.replicas);
    let placed = wanted.iter().find(joins).copied();
    // Where those that the placement names have no memory, or have only just come back, any server will do
    // for a copy that is missing.
    let is_short =
        !full || entry.members.iter().any(|id| map.servers[id].state == ServerState::Draining);
    let other = || {
        let others = map.placeable().filter(|id| is_short && up(id) && joins(&id));
        others.min_by_key(|id| (load(id), *id))
    };
    let has_refused = wanted.iter().any(|id| !entry.members.contains(id) && !can_hold(id));
    let server = placed.or_else(|| if has_refused { other() } else { None })?;
    if !up(&server) {
        return None;
    }
    // A draining member leaves even a short chain once its replacement is in.
    let leaving = entry.members.iter().copied().find(|id| {
        !wanted.contains(id) && (full || map.servers[id].state == ServerState::Draining)
    });
    Some((server, leaving))
}
