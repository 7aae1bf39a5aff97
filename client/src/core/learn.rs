//! Learns the current map from the first server or coordinator that answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use windlass_wire::{
    ClusterMap,
    control::{ClientReply, ClientRequest},
};

use super::{Cluster, Links, Session, connect::chain, greet::ask};
use crate::error::ConnectError;

/// How many of those who are asked for a map may say nothing until the rest is left for the next attempt:
/// who waits for the map has a deadline.
const SILENT_MAX: u32 = 3;

impl Session {
    /// The newest map that somebody knows. Asks one after the other, beginning with another at each
    /// attempt, until one answers: who has not heard of a change yet is not asked next time. `limit` bounds
    /// what each is waited for.
    pub(super) fn learn_map(
        &mut self,
        cluster: &Cluster,
        links: &Links,
        attempt: usize,
        limit: Duration,
    ) -> Option<ClusterMap> {
        let mut known = self.known_addresses(cluster, links);
        let count = known.len().max(1);
        known.rotate_left(attempt % count);
        let until = Instant::now() + limit * SILENT_MAX;
        for address in known {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.ask_map(&address, left.min(limit)) {
                Ok(map) if map.epoch >= cluster.map.epoch && !map.chains.is_empty() => {
                    return Some(map);
                }
                Err(ConnectError::Interrupted) => {
                    self.watching.ended_another();
                    break;
                }
                Ok(map) => tracing::debug!(address, epoch = map.epoch.0, "an old map"),
                Err(error) => tracing::debug!(address, error = chain(&error), "no map"),
            }
        }
        None
    }

    fn ask_map(&mut self, address: &str, limit: Duration) -> Result<ClusterMap, ConnectError> {
        let (mut control, _) = self.greet(address, limit)?;
        match ask(&mut control, &ClientRequest::Map {})? {
            ClientReply::Map { map } => Ok(map),
            _ => Err(ConnectError::Unexpected { address: address.to_owned() }),
        }
    }

    /// Servers that are reached, then whatever the user named, then the others.
    fn known_addresses(&self, cluster: &Cluster, links: &Links) -> VecDeque<String> {
        let is_reached = |id| {
            let server = cluster.servers.iter().find(|server| server.id == id);
            server.is_some_and(|server| {
                !server.left && !server.links().any(|link| links.all[link].state.failed)
            })
        };
        let (reached, others): (Vec<_>, Vec<_>) =
            cluster.map.servers.iter().partition(|server| is_reached(server.id));
        let mut known = VecDeque::new();
        let named = self.addresses.iter().cloned();
        for address in (reached.iter().map(|server| server.address.clone()))
            .chain(named)
            .chain(others.iter().map(|server| server.address.clone()))
        {
            if !known.contains(&address) {
                known.push_back(address);
            }
        }
        known
    }
}
