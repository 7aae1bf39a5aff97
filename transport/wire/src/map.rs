//! The cluster map: which servers there are and which chain holds each partition. Clients compute
//! placement from it; nothing is looked up on the data path.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    codec::{DecodeError, Reader, Wire},
    ids::{Epoch, Incarnation, PartitionId, RowRange, ServerId, SessionId, ShardId, TableId},
    schema::TableKind,
};

/// Most partitions of a cluster; always a power of two.
pub const PARTITIONS_MAX: u32 = 1 << 14;

/// Fewer partitions than this for each shard would give some shards far more than others.
const PARTITIONS_PER_SHARD: u32 = 4;

/// Fewest partitions that a cluster is founded with unless told otherwise: it may grow.
pub const PARTITIONS_USUAL: u32 = 64;

/// As many partitions as suit a new cluster of so many servers and shards of each.
#[must_use]
pub fn suitable_partitions(servers: u32, shards: u16) -> u32 {
    let wanted = servers.saturating_mul(u32::from(shards)).saturating_mul(PARTITIONS_PER_SHARD);
    wanted.clamp(PARTITIONS_USUAL, PARTITIONS_MAX).next_power_of_two()
}

/// Each server listens to so many on either side of it in a circle of those in force, even if it shares no
/// chain with them: where two have trouble with each other, somebody else can say with which of them.
const WITNESSES: usize = 2;

/// The servers that `own` hears as a witness, chosen from the servers in force in ascending order. The relation is
/// symmetric.
pub fn witnesses(in_force: &[ServerId], own: ServerId) -> impl Iterator<Item = ServerId> + '_ {
    let count = in_force.len();
    let around = move |at: usize| {
        (1..=WITNESSES).flat_map(move |step| [at + step, at + count - step % count])
    };
    let at = in_force.binary_search(&own).ok();
    at.into_iter().flat_map(around).map(move |at| in_force[at % count]).filter(move |id| *id != own)
}

/// What a server may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// In force; may be placed on.
    #[default]
    Up,
    /// In force; its copies are moving away.
    Draining,
    /// Fenced: nobody listens to this life of it.
    Down,
}

impl Wire for ServerState {
    fn encode(&self, into: &mut Vec<u8>) {
        into.push(*self as u8);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            0 => Ok(Self::Up),
            1 => Ok(Self::Draining),
            2 => Ok(Self::Down),
            value => Err(DecodeError::Unknown { field: "server state", value: u64::from(value) }),
        }
    }
}

/// A server as the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// Its number.
    pub id: ServerId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where its control port listens, `host:port`.
    pub address: String,
    /// How many shards it has, from 1.
    pub shard_count: u16,
    /// Whether it is in force.
    pub state: ServerState,
}

/// The chain of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The map epoch in which `servers` last changed: a client whose map is at least as new knows
    /// this chain.
    pub epoch: Epoch,
    /// The servers that records pass through, head first; empty when the partition's rows are lost.
    pub servers: Vec<ServerId>,
    /// Whether the last of them is joining and may not hold all that was committed yet.
    pub tail_joining: bool,
    /// A server that copies the partition before it joins; no commit waits for it.
    pub learner: Option<ServerId>,
}

/// The map of one epoch, as servers and clients get it: what they route by. The coordinator publishes it from its
/// own `Membership` (crate `windlass-replication`), which also knows members that are down and who leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// Its number: a later map has a larger one.
    pub epoch: Epoch,
    /// Copies that each partition should have. With more than one, pushes are acknowledged once the
    /// whole chain has them.
    pub replicas: u8,
    /// How long a session that is not connected and pushes nothing is remembered, in milliseconds; 0 for
    /// ever. A push not answered within half of that is not sent again.
    pub session_expiry_ms: u32,
    /// The servers.
    pub servers: Vec<ServerEntry>,
    /// The chain of each partition; as many as there are partitions, a power of two.
    pub chains: Vec<Chain>,
}

crate::codec::wire_struct!(ServerEntry { id, incarnation, address, shard_count, state });
crate::codec::wire_struct!(Chain { epoch, servers, tail_joining, learner });
crate::codec::wire_struct!(ClusterMap { epoch, replicas, session_expiry_ms, servers, chains });

impl ClusterMap {
    /// Number of partitions.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.chains.len()).unwrap_or(u32::MAX)
    }

    /// Whether chains have been created: before that, servers join and nothing can be stored.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.chains.iter().any(|chain| chain.epoch > Epoch(0))
    }

    /// Whether this life of a server is in force.
    #[must_use]
    pub fn admits(&self, server: ServerId, incarnation: Incarnation) -> bool {
        self.server(server).is_some_and(|entry| {
            entry.incarnation == incarnation && entry.state != ServerState::Down
        })
    }

    /// The server with this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&ServerEntry> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// Servers that hear each other: those that share a chain with `own`, and its witnesses.
    #[must_use]
    pub fn peers_of(&self, own: ServerId) -> BTreeSet<ServerId> {
        let mut peers = BTreeSet::new();
        for chain in &self.chains {
            let members = || chain.servers.iter().chain(&chain.learner).copied();
            if members().any(|member| member == own) {
                peers.extend(members());
            }
        }
        if self.replicas > 1 {
            let in_force = self.servers.iter().filter(|entry| entry.state != ServerState::Down);
            let in_force: BTreeSet<ServerId> = in_force.map(|entry| entry.id).collect();
            let in_force: Vec<ServerId> = in_force.into_iter().collect();
            peers.extend(witnesses(&in_force, own));
        }
        peers.remove(&own);
        peers
    }

    /// The shards of each server that hold partitions.
    #[must_use]
    pub fn shards_used(&self) -> BTreeMap<ServerId, BTreeSet<ShardId>> {
        let counts: BTreeMap<ServerId, u16> =
            self.servers.iter().map(|entry| (entry.id, entry.shard_count)).collect();
        let mut used: BTreeMap<ServerId, BTreeSet<ShardId>> =
            counts.keys().map(|id| (*id, BTreeSet::new())).collect();
        for (partition, chain) in (0..).map(PartitionId).zip(&self.chains) {
            for server in &chain.servers {
                if let (Some(count), Some(shards)) = (counts.get(server), used.get_mut(server)) {
                    shards.insert(shard_of(partition, *count));
                }
            }
        }
        used
    }

    /// How many shards of all servers hold nothing.
    #[must_use]
    pub fn idle_shards(&self) -> usize {
        let all: usize = self.servers.iter().map(|entry| usize::from(entry.shard_count)).sum();
        all - self.shards_used().values().map(BTreeSet::len).sum::<usize>()
    }

    /// The head of a partition's chain, which takes its pushes.
    #[must_use]
    #[inline]
    pub fn head(&self, partition: PartitionId) -> Option<ServerId> {
        self.chains.get(partition.0 as usize)?.servers.first().copied()
    }

    /// The tail of a partition's chain, which answers strong pulls.
    #[must_use]
    pub fn tail(&self, partition: PartitionId) -> Option<ServerId> {
        self.chains.get(partition.0 as usize)?.servers.last().copied()
    }

    /// The replicas that hold all of a partition that was committed, head first.
    #[must_use]
    pub fn readable(&self, partition: PartitionId) -> &[ServerId] {
        let Some(chain) = self.chains.get(partition.0 as usize) else { return &[] };
        let joining = usize::from(chain.tail_joining && chain.servers.len() > 1);
        &chain.servers[..chain.servers.len() - joining]
    }

    /// The replica to read a partition from: the last that holds all that was committed.
    #[must_use]
    pub fn read_tail(&self, partition: PartitionId) -> Option<ServerId> {
        self.readable(partition).last().copied()
    }

    /// The replicas that may be read, in the order in which a session that takes any of them prefers
    /// them: sessions spread evenly over each partition's.
    pub fn any_of(
        &self,
        partition: PartitionId,
        session: SessionId,
    ) -> impl Iterator<Item = ServerId> + Clone {
        let readable = self.readable(partition);
        let first = usize::try_from(mix(session.0 ^ u64::from(partition.0))).unwrap_or(0);
        (0..readable.len()).map(move |offset| readable[first.wrapping_add(offset) % readable.len()])
    }
}

/// The shard of a server that owns a partition there.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a u16")]
#[inline]
pub fn shard_of(partition: PartitionId, shard_count: u16) -> ShardId {
    ShardId((partition.0 % u32::from(shard_count.max(1))) as u16)
}

/// How the rows of one table spread over the partitions of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    kind: TableKind,
    partition_mask: u32,
    rotation: u32,
    rows_per_partition: u64,
}

impl Layout {
    /// The layout of a table in a cluster of `partition_count` partitions, a power of two.
    #[must_use]
    pub fn new(table: TableId, kind: TableKind, partition_count: u32) -> Self {
        assert!(partition_count.is_power_of_two(), "{partition_count} partitions");
        let rows = match kind {
            TableKind::Dense { rows } => rows,
            TableKind::Sparse {} => 0,
        };
        Self {
            kind,
            partition_mask: partition_count - 1,
            // Small tables would otherwise all begin in partition 0.
            rotation: mix(u64::from(table.0)).to_le_bytes()[0].into(),
            rows_per_partition: rows.div_ceil(u64::from(partition_count)).max(1),
        }
    }

    /// The partition that holds a row or key.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the mask is below 2^32")]
    #[inline]
    pub fn partition_of(&self, key: u64) -> PartitionId {
        let index = match self.kind {
            TableKind::Dense { .. } => (key / self.rows_per_partition) as u32,
            TableKind::Sparse {} => mix(key) as u32,
        };
        PartitionId(index.wrapping_add(self.rotation) & self.partition_mask)
    }

    /// The rows of a dense table that a partition holds; empty for sparse tables and for
    /// partitions past the table's end.
    #[must_use]
    #[inline]
    pub fn rows_of(&self, partition: PartitionId) -> RowRange {
        let TableKind::Dense { rows } = self.kind else { return RowRange::default() };
        let index = partition.0.wrapping_sub(self.rotation) & self.partition_mask;
        let start = (u64::from(index) * self.rows_per_partition).min(rows);
        RowRange::new(start, (start + self.rows_per_partition).min(rows))
    }

    /// A range of rows of a dense table, cut by partition, in the order of the rows. Those past the table's
    /// end are left out.
    #[inline]
    pub fn pieces_of(
        &self,
        rows: RowRange,
    ) -> impl Iterator<Item = (PartitionId, RowRange)> + use<> {
        let Self { kind, rows_per_partition, rotation, partition_mask, .. } = *self;
        let end = match kind {
            TableKind::Dense { rows: count } => rows.end.min(count),
            TableKind::Sparse {} => rows.start,
        };
        let mut index = rows.start / rows_per_partition;
        let mut first = rows.start;
        std::iter::from_fn(move || {
            if first >= end {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "the mask is below 2^32")]
            let partition = PartitionId((index as u32).wrapping_add(rotation) & partition_mask);
            index += 1;
            let piece = RowRange::new(first, end.min(index.saturating_mul(rows_per_partition)));
            first = piece.end;
            Some((partition, piece))
        })
    }

    /// Rows that neighbouring partitions hold each; the last one may hold fewer.
    #[must_use]
    pub fn rows_per_partition(&self) -> u64 {
        self.rows_per_partition
    }
}

/// A bijective mixer of 64 bits (the finalizer of SplitMix64): spreads keys that count up. Peers agree on it,
/// so its constants never change.
#[must_use]
#[inline]
pub const fn mix(key: u64) -> u64 {
    let mut mixed = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_rows_are_covered_once_and_agree_with_partition_of() {
        for rows in [1, 2, 63, 64, 65, 1000, 1 << 20] {
            for table in 0..5 {
                let layout = Layout::new(TableId(table), TableKind::Dense { rows }, 64);
                let mut covered = 0;
                for partition in (0..64).map(PartitionId) {
                    let range = layout.rows_of(partition);
                    covered += range.count();
                    if !range.is_empty() {
                        assert_eq!(layout.partition_of(range.start), partition);
                        assert_eq!(layout.partition_of(range.end - 1), partition);
                    }
                }
                assert_eq!(covered, rows, "table {table} with {rows} rows");
            }
        }
    }

    #[test]
    fn shards_without_partitions_are_counted() {
        let entry = |id| ServerEntry {
            id: ServerId(id),
            incarnation: Incarnation(1),
            address: String::new(),
            shard_count: 3,
            state: ServerState::Up,
        };
        let chain = |ids: &[u32]| Chain {
            servers: ids.iter().copied().map(ServerId).collect(),
            ..Chain::default()
        };
        let map = ClusterMap {
            servers: vec![entry(1), entry(2)],
            chains: vec![chain(&[1]), chain(&[2, 1]), chain(&[2]), chain(&[1])],
            ..Default::default()
        };
        let used = map.shards_used();
        assert_eq!(used[&ServerId(1)], [ShardId(0), ShardId(1)].into());
        assert_eq!(used[&ServerId(2)], [ShardId(1), ShardId(2)].into());
        assert_eq!(map.idle_shards(), 2);
    }

    #[test]
    fn partitions_suit_servers_and_shards() {
        let sizes = [(1, 1, 64), (1, 16, 64), (4, 16, 256), (3, 8, 128), (200, 16, 16_384)];
        for (servers, shards, partitions) in sizes {
            assert_eq!(suitable_partitions(servers, shards), partitions, "{servers} x {shards}");
        }
        assert_eq!(suitable_partitions(u32::MAX, u16::MAX), PARTITIONS_MAX);
    }

    #[test]
    fn whoever_listens_is_listened_to() {
        for count in 1..12 {
            let entry = |at: u32| ServerEntry {
                id: ServerId(3 + at * 7),
                incarnation: Incarnation(1),
                address: String::new(),
                shard_count: 1,
                state: ServerState::Up,
            };
            let servers: Vec<ServerEntry> = (0..count).map(entry).collect();
            let chain = Chain { servers: vec![servers[0].id], ..Chain::default() };
            let mut map =
                ClusterMap { replicas: 2, servers, chains: vec![chain], ..Default::default() };
            for a in &map.servers {
                let peers = map.peers_of(a.id);
                assert_eq!(peers.len(), (count as usize - 1).min(2 * WITNESSES), "{a:?}");
                assert!(peers.iter().all(|b| map.peers_of(*b).contains(&a.id)), "{a:?}: {peers:?}");
            }
            let (first, second) = (map.servers[0].id, ServerId(10));
            if count > 1 {
                map.servers[1].state = ServerState::Down;
                assert!(!map.peers_of(first).contains(&second));
                map.chains[0].learner = Some(second);
                assert!(map.peers_of(first).contains(&second), "it shares a chain");
            }
            map.replicas = 1;
            assert_eq!(map.peers_of(first).len(), usize::from(count > 1), "nobody is to be judged");
        }
    }

    #[test]
    fn sessions_spread_over_the_readable_replicas() {
        let servers = [4, 7, 9].map(ServerId).to_vec();
        let chain = Chain { servers: servers.clone(), ..Chain::default() };
        let map = ClusterMap { chains: vec![chain], ..ClusterMap::default() };
        let mut counts = [0; 3];
        for session in (0..3000).map(|session| SessionId(mix(session))) {
            let mut order: Vec<_> = map.any_of(PartitionId(0), session).collect();
            let first = servers.iter().position(|server| *server == order[0]).unwrap();
            counts[first] += 1;
            order.sort();
            assert_eq!(order, servers, "each is there once");
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(map.any_of(PartitionId(1), SessionId(1)).count(), 0);
    }

    #[test]
    fn small_ids_of_sparse_tables_spread() {
        let layout = Layout::new(TableId(1), TableKind::Sparse {}, 64);
        let mut counts = [0_u32; 64];
        for key in 0..6400 {
            counts[layout.partition_of(key).0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }
}
