//! A new map: who is out is cut off first, then leases, then every replica.

use std::{collections::BTreeSet, sync::Arc};

use windlass_replication::{ChainView, Input, Replica, ReplicaLimits};
use windlass_wire::{
    ClusterMap, PartitionId, ServerId, SessionId,
    control::Peer,
    map::{self, ServerState, shard_of},
};

use super::{
    super::{Shard, durable::Durable},
    Chain, ChainContext, lone,
    part::Part,
};

/// A shard that keeps leases with other servers never waits for its disk within a call: they would count
/// it as dead meanwhile.
pub(in crate::shard) fn note_peers(chain: Option<&Chain>, durable: Option<&mut Durable>) {
    if let (Some(chain), Some(durable)) = (chain, durable) {
        durable.set_in_place(!chain.context.leases.has_peers());
    }
}

impl Shard {
    /// Gives the shard what it needs to be part of chains.
    pub(in crate::shard) fn replicate(&mut self, context: ChainContext) {
        self.chain_context = Some(context);
    }

    /// Whether the map in force admits this life of a server.
    pub(in crate::shard) fn admits_peer(&self, peer: Peer) -> bool {
        admits(&self.map, peer)
    }

    /// This life of the server is over: all its links end. What the shard holds stays, until a map
    /// says what becomes of it.
    pub(in crate::shard) fn fence(&mut self) {
        if let Some(chain) = &self.chain {
            chain.context.leases.begin_life();
        }
        while let Some(link) = self.chain.as_ref().and_then(|chain| chain.links.first()) {
            let server = link.peer.server;
            self.link_close(server);
        }
        let sessions: Vec<SessionId> = self.by_session.keys().copied().collect();
        for session in sessions {
            self.close_session(session);
        }
    }

    /// Before a new map is acted on: connections of servers that it does not admit end, so that
    /// nothing of theirs arrives any more.
    pub(in crate::shard) fn fence_peers(&mut self, next: &ClusterMap) {
        let Some(chain) = &mut self.chain else { return };
        let out: Vec<ServerId> = chain
            .links
            .iter()
            .filter(|link| !admits(next, link.peer))
            .map(|link| link.peer.server)
            .collect();
        for server in out {
            self.link_close(server);
        }
        let Some(chain) = &self.chain else { return };
        let out = chain.incoming.iter().filter(|incoming| !admits(next, incoming.peer));
        let out: Vec<_> = out
            .filter_map(|incoming| self.sessions[incoming.slot].as_ref().map(|open| open.id))
            .collect();
        for session in out {
            self.close_session(session);
        }
    }

    /// Acts by the map that is in force now.
    pub(in crate::shard) fn configure_chains(&mut self) {
        if self.chain.is_none() {
            let Some(context) = self.chain_context.clone() else { return };
            let count = self.map.partition_count();
            let chain = Chain::new(context, self.server, self.id, self.shard_count, count);
            self.chain = Some(Box::new(chain));
        }
        let map = Arc::clone(&self.map);
        lone::before_map(self, &map);
        let Some(chain) = &mut self.chain else { return };
        chain.now = chain.context.leases.now();
        chain.context.leases.adopt(chain.now, &map, self.server);
        note_peers(Some(chain), self.durable.as_deref_mut());
        for partition in (0..map.partition_count()).map(PartitionId) {
            // Rows that are still to be made take no part yet, as if the map had not come.
            if shard_of(partition, self.shard_count) == self.id && !self.growth.lacks(partition) {
                self.configure_chain(partition, &map.chains[partition.0 as usize]);
            }
        }
        self.fence_stale_rows();
        // Whoever leads now has heard workers that no record speaks of yet.
        self.clocks.unrecorded = self.clocks.is_used();
    }

    /// Rows of these partitions were made: they take part from now on, those aside that still lack some.
    pub(in crate::shard) fn configure_grown(&mut self, grown: &BTreeSet<PartitionId>) {
        if self.chain.is_none() || grown.is_empty() {
            return;
        }
        let map = Arc::clone(&self.map);
        for &partition in grown {
            if !self.growth.lacks(partition) {
                self.configure_chain(partition, &map.chains[partition.0 as usize]);
            }
        }
        self.fence_stale_rows();
        self.clocks.unrecorded = self.clocks.is_used();
    }

    pub(super) fn configure_chain(&mut self, partition: PartitionId, next: &map::Chain) {
        let Some(chain) = &mut self.chain else { return };
        let index = chain.index(partition);
        let involved = next.servers.contains(&self.server) || next.learner == Some(self.server);
        if chain.parts.len() <= index {
            chain.parts.resize_with(index + 1, || None);
        }
        if chain.parts[index].is_none() {
            if !involved {
                return;
            }
            let replica = Replica::new(partition, self.server, ReplicaLimits::default());
            chain.parts[index] = Some(Box::new(Part::new(partition, replica)));
        }
        let Some(chain) = &mut self.chain else { return };
        let Some(part) = chain.parts[index].as_deref() else { return };
        let view = ChainView {
            epoch: next.epoch,
            path: next.servers.clone(),
            tail_synchronised: !next.tail_joining,
            learner: next.learner,
        };
        let changed = part.epoch() != view.epoch;
        let removed = part.replica.removed_tail(&view);
        let was_head = part.replica.is_head();
        let hold_until = chain.context.leases.hold_until(removed);
        if changed {
            for link in &mut chain.links {
                link.forget(partition);
            }
        }
        // A map is always taken.
        let _ = self.step(partition, Input::Configure { chain: &view, hold_until });
        let Some(chain) = &mut self.chain else { return };
        if hold_until > chain.now && hold_until < chain.next_tick {
            chain.next_tick = hold_until;
        }
        let Some(part) = chain.part_mut(partition) else { return };
        let is_head = part.replica.is_head();
        if part.copy_out.as_ref().is_some_and(|copy| next.learner != Some(copy.learner)) {
            part.copy_out = None;
            chain.copies_out -= 1;
        }
        if was_head && !is_head {
            self.give_up_waiting(partition);
        }
        if !involved {
            self.forget_records(partition);
        }
    }

    /// The life before is over: what it had under way is given up, what it holds is kept for the
    /// chains to continue from, if it is whole.
    pub(in crate::shard) fn begin_life(&mut self) {
        lone::unsettle(self);
        let Some(chain) = &self.chain else { return };
        let peers: Vec<ServerId> = chain.links.iter().map(|link| link.peer.server).collect();
        let incoming = chain.incoming.iter().map(|incoming| incoming.slot);
        let sessions: Vec<_> =
            incoming.filter_map(|slot| self.sessions[slot].as_ref().map(|open| open.id)).collect();
        peers.into_iter().for_each(|server| self.link_close(server));
        sessions.into_iter().for_each(|session| self.close_session(session));
        let count = self.chain.as_ref().map_or(0, |chain| chain.parts.len());
        for index in 0..count {
            let part = self.chain.as_ref().and_then(|chain| chain.parts[index].as_deref());
            let Some(partition) = part.map(|part| part.partition) else { continue };
            self.give_up_waiting(partition);
            let Some(chain) = &mut self.chain else { return };
            let (server, limits) = (chain.server, ReplicaLimits::default());
            let Some(mut part) = chain.parts[index].take() else { continue };
            chain.inflight_count -= part.inflight_count;
            chain.copies_out -= usize::from(part.copy_out.is_some());
            let is_whole = part.replica.position().is_some() && !part.broken;
            let replica = if is_whole {
                let (log, sessions) = (part.replica.log().clone(), part.replica.sessions().clone());
                Replica::recover(partition, server, limits, log, sessions)
            } else {
                part.records.drain(..).for_each(|held| chain.spare.put(held.words));
                chain.disk.forget(index);
                Replica::new(partition, server, limits)
            };
            let next = Part {
                records: std::mem::take(&mut part.records),
                fenced: part.fenced,
                dirty: part.dirty,
                ..Part::new(partition, replica)
            };
            chain.parts[index] = Some(Box::new(next));
        }
        self.fence_stale_rows();
    }

    /// A partition that is kept elsewhere: its records are of no use here.
    fn forget_records(&mut self, partition: PartitionId) {
        let Some(chain) = &mut self.chain else { return };
        let index = chain.index(partition);
        let Some(mut part) = chain.parts[index].take() else { return };
        chain.inflight_count -= part.inflight_count;
        for held in part.records.drain(..) {
            chain.spare.put(held.words);
        }
        if part.copy_out.is_some() {
            chain.copies_out -= 1;
        }
        chain.disk.forget(index);
        self.forget_copied(partition);
        self.drop_rows(partition);
    }
}

fn admits(map: &ClusterMap, peer: Peer) -> bool {
    map.server(peer.server).is_some_and(|entry| {
        entry.incarnation == peer.incarnation && entry.state != ServerState::Down
    })
}
