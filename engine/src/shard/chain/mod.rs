//! Chains of replicas in a running shard: the shell around `windlass_replication`'s state machines. The head
//! makes one record of each turn, table and partition (`head`, `shard::record`), every member applies records
//! from their bytes (`apply`), and what a replica wants done is carried out in `outputs`; the commit position
//! rides on the completions of the messages that brought the records (`answer`). Servers talk over one
//! mailbox from each shard to the equal shard of each peer: `link` writes, `receive` reads, `connect` sets
//! them up; `lone` skips all of that where no other server shares a partition; maps come by `configure`;
//! learners copy in `copy_in` what their feeder sends in `copy_out`; `disk` writes records of durable tables
//! to the shard's log.

mod aging;
mod alone;
mod answer;
mod append;
mod apply;
mod attach;
mod checksum;
mod clocks;
mod command;
mod configure;
mod connect;
mod copy_in;
mod copy_out;
mod disk;
mod event;
mod expiry;
mod head;
mod leases;
mod link;
mod lone;
mod lost;
mod outputs;
mod part;
mod receive;
mod records_in;
mod rows;
mod set;
mod status;
mod taken;
mod turn;
mod waiting;

use std::sync::Arc;

use crossbeam::channel::Sender;
use windlass_replication::{Covered, Output, Time};
use windlass_transport::QueuePairId;
use windlass_wire::{
    ClusterMap, Epoch, PartitionId, ServerId, SessionId, ShardId,
    control::Peer,
    map::{ServerState, shard_of},
};

pub use checksum::PartitionChecksum;
pub use command::ChainCommand;
pub use event::{LinkEnded, ServerEvent};
pub use leases::SharedLeases;
pub use status::PartitionStatus;

pub(super) use self::{
    aging::{Aging, Sweep},
    alone::push_alone,
    answer::give_up_answers,
    append::{ClosingRecord, append_round, append_stamp},
    attach::peer_attached,
    clocks::{advance_recorded, answer_when_recorded, is_clock_stale, last_of, led_partitions},
    command::carry_out_chain,
    configure::{configure_chains, configure_grown, fence, fence_peers},
    connect::{end_failed_links, peer_detached},
    disk::{
        begins_anew, chain_sessions, copied_epoch, is_checkpointed, log_all_records,
        note_checkpoint_begun, note_checkpoint_ended, note_disk_failed, note_durable,
        recover_chains,
    },
    head::{check_chains, hold, wait_for_lsn, wait_for_record},
    outputs::release_records,
    part::Held,
    rows::fence_new_rows,
    set::{append_set, check_head},
    status::chain_backlog,
    turn::{chain_deadline, end_chain_turn, is_chain_full, note_time, take_from_peers},
};
pub(super) use checksum::sum_some;
pub(super) use clocks::{lane_of, reaching};
pub(super) use configure::note_peers;
pub(super) use lone::{epoch_of, is_settled, ready_log, seal};
pub(super) use lost::begin_empty;
pub(super) use taken::SlotPush;
pub(super) use turn::has_room_for_records;

use self::{
    answer::{Records, Taking},
    checksum::Checksums,
    clocks::Joining,
    disk::ChainDisk,
    link::Link,
    part::{Part, Spare},
    receive::Incoming,
};

/// Bit of a record's tag: it must be on the disk of every replica before it is acknowledged.
pub(super) const SYNC: u16 = 1;

/// What a server gives each of its shards when it may be part of chains.
#[derive(Clone, Debug)]
pub struct ChainContext {
    /// The server's leases, shared by its shards.
    pub leases: Arc<SharedLeases>,
    /// What the coordinator should hear.
    pub events: Sender<ServerEvent>,
    /// Links that ended and have to be made anew.
    pub ended: Sender<LinkEnded>,
}

/// A shard's part in the chains of its partitions. Before its first map it is in none.
pub(super) struct Chain {
    context: ChainContext,
    pub(super) server: ServerId,
    pub(super) shard: ShardId,
    pub(super) shard_count: u16,
    /// The map in force.
    pub(super) map: Arc<ClusterMap>,
    /// By partition divided by the number of shards.
    parts: Vec<Option<Box<Part>>>,
    peers: Peers,
    step: Step,
    kept: Kept,
    lone: Lone,
    time: Times,
    /// Copies under way to learners.
    copies_out: usize,
    /// What of all this is on disk.
    pub(super) disk: ChainDisk,
    /// Workers who are not told yet that they have joined.
    joining: Vec<Joining>,
    checksums: Checksums,
}

/// What goes to the other members of chains, and what comes from them.
#[derive(Default)]
struct Peers {
    links: Vec<Link>,
    incoming: Vec<Incoming>,
    /// Bytes of a message being taken in.
    body: Vec<u8>,
    taking: Option<Taking>,
    /// What completions say that were just found.
    committed: Vec<(ServerId, Records)>,
}

/// What a replica's step takes and wants done; buffers used again and again.
#[derive(Debug)]
struct Step {
    outputs: Vec<Output>,
    covered: Vec<Covered>,
    /// Sessions that expire with the record being made or taken in.
    expired: Vec<SessionId>,
}

/// Records that are held in memory, over all partitions.
#[derive(Debug, Default)]
struct Kept {
    spare: Spare,
    /// Parts that may let go of records.
    dirty: Vec<usize>,
    /// Turns since it was last looked what of them can be let go of.
    unreleased: u32,
    /// Records appended here and not yet committed.
    inflight_count: u64,
}

/// Where no partition is shared with another server.
#[derive(Debug, Default)]
struct Lone {
    /// The oldest map clients may go by, while that is so.
    settled: Option<Epoch>,
    /// What was pushed that replicas are not told of yet.
    taken: taken::Taken,
}

/// This turn's moment, and when there is something to do.
#[derive(Clone, Copy, Debug)]
struct Times {
    now: Time,
    /// Turns until a settled shard looks at the clock again.
    turns_to_tick: u32,
    next_tick: Time,
    /// When idle sessions are looked for.
    next_expiry: Time,
}

impl Chain {
    pub(super) fn new(
        context: ChainContext,
        server: ServerId,
        shard: ShardId,
        shard_count: u16,
        partition_count: u32,
    ) -> Self {
        let now = context.leases.now();
        let mut chain = Self {
            context,
            server,
            shard,
            shard_count,
            map: Arc::default(),
            parts: Vec::new(),
            peers: Peers::default(),
            step: Step {
                outputs: Vec::with_capacity(64),
                covered: Vec::with_capacity(64),
                expired: Vec::new(),
            },
            kept: Kept::default(),
            lone: Lone::default(),
            time: Times { now, turns_to_tick: 0, next_tick: Time(0), next_expiry: Time(0) },
            copies_out: 0,
            disk: ChainDisk::default(),
            joining: Vec::new(),
            checksums: Checksums::default(),
        };
        chain.make_room(partition_count);
        chain
    }

    /// Room for the replicas of a cluster of so many partitions.
    fn make_room(&mut self, partition_count: u32) {
        let count = (partition_count as usize).div_ceil(usize::from(self.shard_count));
        if self.parts.len() < count {
            self.parts.resize_with(count, || None);
        }
    }

    /// Whether nobody is linked, and no record waits for anything: as in a settled shard, mostly.
    #[inline]
    fn is_quiet(&self) -> bool {
        self.peers.links.is_empty()
            && self.copies_out == 0
            && self.kept.dirty.is_empty()
            && !self.disk.is_behind()
    }

    #[inline]
    fn index(&self, partition: PartitionId) -> usize {
        (partition.0 / u32::from(self.shard_count)) as usize
    }

    /// Most partitions that a push can have rows in here.
    pub(super) fn part_count(&self) -> u64 {
        self.parts.len() as u64
    }

    #[inline]
    fn part(&self, partition: PartitionId) -> Option<&Part> {
        self.parts.get(self.index(partition))?.as_deref()
    }

    /// Whether pushes to a partition go here.
    pub(in crate::shard) fn leads(&self, partition: PartitionId) -> bool {
        self.part(partition).is_some_and(|part| part.replica.is_head() && !part.broken)
    }

    #[inline]
    fn part_mut(&mut self, partition: PartitionId) -> Option<&mut Part> {
        let index = self.index(partition);
        self.parts.get_mut(index)?.as_deref_mut()
    }

    /// A buffer for a record of `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Vec<u64> {
        self.kept.spare.take(len)
    }

    #[inline]
    fn link_mut(&mut self, server: ServerId) -> Option<&mut Link> {
        self.peers.links.iter_mut().find(|link| link.peer.server == server)
    }

    /// Whether a peer has completed a message with records: a look at memory.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        !self.peers.links.is_empty() && self.peers.links.iter().any(Link::is_answered)
    }

    pub(super) fn tell(&self, event: ServerEvent) {
        // A server that is stopping listens no more.
        let _ = self.context.events.send(event);
    }

    /// Notes that a queue pair failed, if it is a link's.
    pub(super) fn queue_pair_failed(&mut self, transport: usize, queue_pair: QueuePairId) {
        for link in &mut self.peers.links {
            if link.transport == transport && link.queue_pair == Some(queue_pair) {
                link.failed = true;
            }
        }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Chain").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Whether the map in force admits this life of a server.
pub(in crate::shard) fn admits_peer(chain: &Chain, peer: Peer) -> bool {
    admits(&chain.map, peer)
}

pub(in crate::shard) fn admits(map: &ClusterMap, peer: Peer) -> bool {
    map.server(peer.server).is_some_and(|entry| {
        entry.incarnation == peer.incarnation && entry.state != ServerState::Down
    })
}

/// The partitions whose replica here lacks some change, or has no memory for the rows that it copies.
pub(in crate::shard) fn cannot_go_on(chain: &Chain) -> impl Iterator<Item = PartitionId> + '_ {
    let parts = chain.parts.iter().filter_map(Option::as_deref);
    let is_given_up = |part: &&Part| part.copy_in.as_ref().is_some_and(|copy| copy.is_given_up);
    parts.filter(move |part| part.broken || is_given_up(part)).map(|part| part.partition)
}

/// Whether what the disk holds of a partition is taken up. Where there are replicas, others went on
/// without a server that was down, unless it is the only one left.
pub(in crate::shard) fn recovers(chain: &Chain, partition: PartitionId) -> bool {
    let its = chain.map.chains.get(partition.0 as usize);
    shard_of(partition, chain.shard_count) == chain.shard
        && its.is_none_or(|its| its.servers == [chain.server])
}
