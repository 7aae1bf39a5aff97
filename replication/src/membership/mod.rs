//! The cluster map: epoch, servers, and the chain of every partition; which changes of it are legal;
//! who is fenced. A map never changes in place: a change is drafted from the map in force, stored by
//! compare-and-swap on its epoch, and only then published.

mod codec;
mod transition;

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{Epoch, Incarnation, PartitionId, ServerId, map::witnesses};

pub use windlass_wire::map::ServerState;

pub use transition::{Change, TransitionError};

/// Bounds of a cluster map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLimits {
    /// Servers, up or down.
    pub servers_max: usize,
    /// Partitions; a power of two.
    pub partitions_max: usize,
}

impl Default for MapLimits {
    fn default() -> Self {
        Self { servers_max: 4096, partitions_max: 1 << 17 }
    }
}

/// Members of a chain, without a learner.
pub const REPLICAS_MAX: usize = 8;
/// Bytes of a server's address.
pub const ADDRESS_BYTES_MAX: usize = 255;

const _: () = assert!(ADDRESS_BYTES_MAX <= u8::MAX as usize, "an address length is one byte");

/// After how many milliseconds an idle session is forgotten, unless a cluster is founded with another
/// number: an hour.
pub const SESSION_EXPIRY_MS: u32 = 3_600_000;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// The life of the server that the map speaks of; an older one is fenced.
    pub incarnation: Incarnation,
    /// Where clients and peers reach it, as the transport understands it.
    pub address: String,
    /// Its shards; partition p of a server lives in shard `p % shards`.
    pub shards: u16,
    /// Whether it is in force.
    pub state: ServerState,
}

/// How far a joining server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoiningPhase {
    /// Copies blocks from the tail while the log streams behind; no commit waits for it.
    Copying,
    /// Is the tail: commits wait for it. Until it holds all that was ever committed it is not yet a
    /// member to fall back on.
    Tail,
}

/// A server on its way into a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Joining {
    /// The server.
    pub server: ServerId,
    /// How far it has come.
    pub phase: JoiningPhase,
}

/// The chain of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionEntry {
    /// The map epoch in which the path last changed: what chain messages and pushes are stamped with.
    pub epoch: Epoch,
    /// Full members, head first: each holds all that was ever committed. Never emptied. Either all are in
    /// force, or none: then any that comes back with what it held is enough.
    pub members: Vec<ServerId>,
    /// The server that joins behind them.
    pub joining: Option<Joining>,
    /// The member that leaves once the joining one is a member: a move in progress.
    pub leaving: Option<ServerId>,
    /// The last member came back without its data. Only an operator's `AcceptLoss` revives it.
    pub lost: bool,
}

impl PartitionEntry {
    /// The servers that records pass through, head first.
    pub fn path(&self) -> impl Iterator<Item = ServerId> + '_ {
        let tail = self.joining.filter(|joining| joining.phase == JoiningPhase::Tail);
        self.members.iter().copied().chain(tail.map(|joining| joining.server))
    }

    /// Where pushes go.
    #[must_use]
    pub fn head(&self) -> Option<ServerId> {
        self.path().next()
    }

    /// Where strong pulls go.
    #[must_use]
    pub fn tail(&self) -> Option<ServerId> {
        self.path().last()
    }

    /// All that have a part in it: the members, and whoever joins them.
    pub fn involved(&self) -> impl Iterator<Item = ServerId> + Clone + '_ {
        self.members.iter().copied().chain(self.joining.map(|joining| joining.server))
    }

    /// Whether `server` has any part in it.
    #[must_use]
    pub fn involves(&self, server: ServerId) -> bool {
        self.involved().any(|id| id == server)
    }

    /// What a replica needs to know of it.
    #[must_use]
    pub fn view(&self) -> ChainView {
        let phase = self.joining.map(|joining| joining.phase);
        ChainView {
            epoch: self.epoch,
            path: if self.lost { Vec::new() } else { self.path().collect() },
            tail_synchronised: phase != Some(JoiningPhase::Tail),
            learner: self
                .joining
                .filter(|_| phase == Some(JoiningPhase::Copying))
                .map(|joining| joining.server),
        }
    }
}

/// One partition's chain as a replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainView {
    /// The chain epoch.
    pub epoch: Epoch,
    /// Servers that records pass through, head first; a commit waits for all of them.
    pub path: Vec<ServerId>,
    /// Whether the tail is a full member.
    pub tail_synchronised: bool,
    /// The server that the tail feeds.
    pub learner: Option<ServerId>,
}

/// What the coordinator decides and stores: every server, and how each chain stands, moves under way included.
/// Servers and clients get the part of it that they route by, `ClusterMap` of the crate `windlass-wire`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The epoch in force.
    pub epoch: Epoch,
    /// Members every chain should have.
    pub replicas: u8,
    /// After how many milliseconds an idle session is forgotten; 0 never. Fixed for the cluster's life:
    /// clients give up pushes that are half as old.
    pub session_expiry_ms: u32,
    /// All servers known, by id.
    pub servers: BTreeMap<ServerId, ServerEntry>,
    /// All partitions, by id.
    pub partitions: Vec<PartitionEntry>,
}

impl Membership {
    /// An empty cluster at epoch 0 whose partitions have no chain yet. Panics unless `partitions` is a
    /// power of two and `replicas` is in `1..=REPLICAS_MAX`: both are set by an operator at creation.
    #[must_use]
    pub fn new(partitions: u32, replicas: u8) -> Self {
        assert!(partitions.is_power_of_two(), "partitions are a power of two");
        assert!((1..=REPLICAS_MAX).contains(&usize::from(replicas)), "replicas are 1 to 8");
        Self {
            epoch: Epoch(0),
            replicas,
            session_expiry_ms: SESSION_EXPIRY_MS,
            servers: BTreeMap::new(),
            partitions: vec![PartitionEntry::default(); partitions as usize],
        }
    }

    /// The chain of `partition`, `None` when the cluster has no such partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionEntry> {
        self.partitions.get(partition.0 as usize)
    }

    /// Whether messages of this life of `server` may be heard at all.
    #[must_use]
    pub fn admits(&self, server: ServerId, incarnation: Incarnation) -> bool {
        self.servers.get(&server).is_some_and(|entry| {
            entry.incarnation == incarnation && entry.state != ServerState::Down
        })
    }

    /// Whether `server` is up or draining.
    #[must_use]
    pub fn is_in_force(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|entry| entry.state != ServerState::Down)
    }

    /// Whether a partition has members, all of which are down: it waits for one of them.
    #[must_use]
    pub fn is_waiting(&self, entry: &PartitionEntry) -> bool {
        !entry.members.is_empty() && !entry.members.iter().any(|id| self.is_in_force(*id))
    }

    /// Servers to place on.
    pub fn placeable(&self) -> impl Iterator<Item = ServerId> + '_ {
        let up = self.servers.iter().filter(|(_, entry)| entry.state == ServerState::Up);
        up.map(|(&id, _)| id)
    }

    /// Partitions in which `server` has a part.
    pub fn held_by(&self, server: ServerId) -> impl Iterator<Item = PartitionId> + '_ {
        (0_u32..)
            .zip(&self.partitions)
            .filter_map(move |(id, entry)| entry.involves(server).then_some(PartitionId(id)))
    }

    /// Who hears whom: servers that share a chain, and witnesses.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<ServerId, BTreeSet<ServerId>> {
        let mut peers: BTreeMap<ServerId, BTreeSet<ServerId>> = BTreeMap::new();
        for entry in &self.partitions {
            for server in entry.involved() {
                peers.entry(server).or_default().extend(entry.involved());
            }
        }
        if self.replicas > 1 {
            let in_force: Vec<ServerId> =
                self.servers.keys().copied().filter(|id| self.is_in_force(*id)).collect();
            for &server in &in_force {
                peers.entry(server).or_default().extend(witnesses(&in_force, server));
            }
        }
        for (server, peers) in &mut peers {
            peers.remove(server);
        }
        peers
    }

    /// Panics when the map breaks a rule that every transition keeps.
    pub fn assert_legal(&self) {
        for (id, entry) in self.partitions.iter().enumerate() {
            assert!(entry.epoch <= self.epoch, "partition {id} is ahead of the map");
            let any = entry.members.iter().any(|member| self.is_in_force(*member));
            for (at, member) in entry.members.iter().enumerate() {
                assert!(!entry.members[..at].contains(member), "partition {id}: {member} twice");
                assert!(self.servers.contains_key(member), "partition {id}: {member} is unknown");
                assert!(!any || self.is_in_force(*member), "partition {id}: {member} is fenced");
            }
            if let Some(joining) = entry.joining {
                assert!(!entry.members.is_empty(), "partition {id}: nobody to join");
                assert!(!entry.members.contains(&joining.server), "partition {id}: joins twice");
                assert!(self.is_in_force(joining.server), "partition {id}: a fenced server joins");
            }
            if let Some(leaving) = entry.leaving {
                assert!(entry.joining.is_some(), "partition {id}: leaves without a successor");
                assert!(entry.members.contains(&leaving), "partition {id}: a stranger leaves");
            }
        }
    }
}

#[cfg(test)]
mod tests;
