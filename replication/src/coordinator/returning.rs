//! Servers that come back in a new life before anybody has noticed the end of the old one, as after a
//! power cut. Whoever shares chains with them is heard or failed first: where all of a chain came back or
//! is dead, nobody has gone on, and the first with what it held has everything.

use std::collections::BTreeMap;

use windlass_wire::ServerId;

use super::health::Health;
use crate::membership::{Change, ClusterMap};
use crate::time::Time;

/// They, since when, and their joins.
#[derive(Clone, Debug, Default)]
pub(super) struct Returning {
    servers: BTreeMap<ServerId, (Time, Change)>,
}

impl Returning {
    pub(super) fn clear(&mut self) {
        self.servers.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// A server asks to be taken back; returns who has to be heard first.
    pub(super) fn insert(
        &mut self,
        now: Time,
        server: ServerId,
        change: Change,
        map: &ClusterMap,
    ) -> Vec<ServerId> {
        let since = self.servers.get(&server).map_or(now, |(since, _)| *since);
        self.servers.insert(server, (since, change));
        self.peers(server, map)
    }

    /// Whether all that share chains with them came back, too, or are heard, or are down.
    pub(super) fn is_decided(&self, map: &ClusterMap, health: &Health) -> bool {
        !self.servers.is_empty()
            && self.servers.iter().all(|(server, (since, _))| {
                self.peers(*server, map).iter().all(|peer| health.is_heard_since(*peer, *since))
            })
    }

    /// They, with their joins.
    pub(super) fn take(&mut self) -> Vec<(ServerId, Change)> {
        let taken = std::mem::take(&mut self.servers);
        taken.into_iter().map(|(server, (_, change))| (server, change)).collect()
    }

    /// Members in force of a server's chains that are not among them.
    fn peers(&self, server: ServerId, map: &ClusterMap) -> Vec<ServerId> {
        let shared = map.partitions.iter().filter(|entry| entry.members.contains(&server));
        let members = shared.flat_map(|entry| entry.members.iter().copied());
        let mut peers: Vec<ServerId> =
            members.filter(|id| map.is_in_force(*id) && !self.servers.contains_key(id)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}
