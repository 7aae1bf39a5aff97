//! One client's session at one shard: its mailbox and its completions. Its partitions remember what it has
//! pushed.

use std::{collections::VecDeque, time::Instant};

use windlass_replication::{Lane, Push};
use windlass_transport::{
    MemoryRegion, QueuePairId, RemoteRegion,
    mailbox::{CompletionWriter, MailboxReader, Sender},
};
use windlass_wire::{
    Incarnation, Sequence, SessionId, WorkerRank, control::Peer, request::order::Gate,
};

use super::{coded::KeptKeys, fetch::Parked};
use crate::persist::record::Covered;

/// A connected session.
#[derive(Debug)]
pub(super) struct ShardSession {
    pub(super) owner: Owner,
    /// Tells lives of a slot apart: an answer to an earlier connection is not for this one.
    pub(super) life: u64,
    /// Closed while a push was refused that its client will send again.
    pub(super) gate: Gate,
    /// Messages whose completion waits for a chain.
    pub(super) deferred_count: usize,
    pub(super) route: Route,
    /// Present once regions were exchanged.
    pub(super) mailbox: Option<Mailbox>,
    /// Requests that wait for their values or for room, in order.
    pub(super) parked: VecDeque<Parked>,
    /// Regions shared with it: arena region and what to call it.
    pub(super) shared: Vec<(usize, RemoteRegion)>,
    pub(super) watch: Watch,
    /// Since when its next message makes no sense and is left for later.
    pub(super) doubted_since: Option<Instant>,
    /// Whether it broke the protocol or its queue pair failed.
    pub(super) failed: bool,
}

/// Whose session it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) id: SessionId,
    pub(super) incarnation: Incarnation,
    /// The control connection it came by: a later one of the same session is not ended with it.
    pub(super) connection: u64,
    /// The worker it is, if it is one.
    pub(super) rank: Option<WorkerRank>,
    /// The server it is, when it is no client: its mailbox takes chain messages.
    pub(super) peer: Option<Peer>,
}

/// Which of the shard's transports and queue pairs lead to a session, and what may be relied on there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) transport: usize,
    pub(super) queue_pair: QueuePairId,
    /// Whether what it writes lands in the mailbox without the transport being polled.
    pub(super) lands_unpolled: bool,
    /// Whether its writes, and those to it, show in the order they were posted.
    pub(super) writes_in_order: bool,
}

/// Whether turns look at a session, and what it was told of the shard's sleeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    pub(super) is_watched: bool,
    /// Sweeps that have heard nothing of it since.
    pub(super) silent_sweeps: u32,
    /// Whether it was heard since it was last told of a sleep.
    pub(super) active: bool,
    /// Counts sleeps told to it.
    pub(super) sleep_epoch: u64,
}

impl ShardSession {
    /// A push of the session, as replicas are asked about it.
    #[inline]
    pub(super) fn push(&self, sequence: Sequence) -> Push {
        let (session, incarnation, lane) = (self.owner.id, self.owner.incarnation, Lane(0));
        // A client sends no push before the earlier ones are settled whenever it changes its route,
        // so none can be missing between two.
        Push { session, incarnation, lane, sequence, previous: None }
    }

    /// What a record with that push covers of the session.
    #[inline]
    pub(super) fn covered(&self, sequence: Sequence) -> Covered {
        Covered { session: self.owner.id, incarnation: self.owner.incarnation, sequence }
    }
}

/// The two ends of a session's rings.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) reader: MailboxReader,
    pub(super) region: MemoryRegion,
    pub(super) completions: CompletionWriter,
    pub(super) sender: Sender,
    pub(super) kept_keys: KeptKeys,
}
