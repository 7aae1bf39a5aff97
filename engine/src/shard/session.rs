//! One client's session at one shard: its mailbox, its completions, its duplicate suppression.

use std::{collections::VecDeque, time::Instant};

use windlass_transport::{
    MemoryRegion, QueuePairId, RemoteRegion,
    mailbox::{CompletionWriter, MailboxReader, Sender},
};
use windlass_wire::{Incarnation, PartitionId, Sequence, SessionId, WorkerRank};

use super::{coded::KeptKeys, fetch::Parked};

/// Highest sequence applied, for each partition of the shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    sequences: Vec<Sequence>,
    /// Of those, what records of the log cover; may be shorter.
    recorded: Vec<Sequence>,
}

impl Applied {
    /// The highest sequence applied to a partition.
    pub(super) fn sequence(&self, partition: PartitionId, shard_count: u16) -> Sequence {
        let slot = partition.0 as usize / usize::from(shard_count);
        self.sequences.get(slot).copied().unwrap_or(Sequence(0))
    }

    /// Whether a push was applied to a partition already.
    #[inline]
    pub(super) fn contains(&self, partition: PartitionId, shard_count: u16, at: Sequence) -> bool {
        let slot = partition.0 as usize / usize::from(shard_count);
        self.sequences.get(slot).is_some_and(|applied| *applied >= at)
    }

    /// Whether no push was applied.
    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The highest sequence, if no record covers it; from now on one does.
    pub(super) fn take_unrecorded(
        &mut self,
        partition: PartitionId,
        shard_count: u16,
    ) -> Option<Sequence> {
        let slot = partition.0 as usize / usize::from(shard_count);
        let sequence = *self.sequences.get(slot)?;
        if slot >= self.recorded.len() {
            self.recorded.resize(self.sequences.len(), Sequence(0));
        }
        let before = std::mem::replace(&mut self.recorded[slot], sequence);
        (sequence > before).then_some(sequence)
    }

    /// A push was applied. A late answer to an old sequence takes nothing back.
    #[inline]
    pub(super) fn insert(&mut self, partition: PartitionId, shard_count: u16, at: Sequence) {
        let slot = partition.0 as usize / usize::from(shard_count);
        if slot >= self.sequences.len() {
            self.sequences.resize(slot + 1, Sequence(0));
        }
        self.sequences[slot] = self.sequences[slot].max(at);
    }
}

/// What is kept of a session without a connection.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) incarnation: Incarnation,
    pub(super) applied: Applied,
    pub(super) since: Instant,
}

/// A connected session.
#[derive(Debug)]
pub(super) struct ShardSession {
    pub(super) id: SessionId,
    pub(super) incarnation: Incarnation,
    /// The control connection it came by: a later one of the same session is not ended with it.
    pub(super) connection: u64,
    /// Tells lives of a slot apart: an answer to an earlier connection is not for this one.
    pub(super) life: u64,
    /// Whether a push was refused that its client will send again: those behind it are refused too,
    /// until the client has settled them, or the highest sequence would hide the one refused.
    pub(super) refuses: bool,
    /// The worker it is, if it is one.
    pub(super) rank: Option<WorkerRank>,
    /// The server it is, when it is no client: its mailbox takes chain messages.
    pub(super) peer: Option<windlass_wire::control::Peer>,
    /// Messages whose completion waits for a chain.
    pub(super) deferred_count: usize,
    /// Which of the shard's transports, and which of its queue pairs.
    pub(super) transport: usize,
    pub(super) queue_pair: QueuePairId,
    /// Whether what it writes lands in the mailbox without the transport being polled.
    pub(super) lands_unpolled: bool,
    /// Whether its writes, and those to it, show in the order they were posted.
    pub(super) writes_in_order: bool,
    pub(super) applied: Applied,
    /// Present once regions were exchanged.
    pub(super) mailbox: Option<Mailbox>,
    /// Requests that wait for their values or for room, in order.
    pub(super) parked: VecDeque<Parked>,
    /// Regions shared with it: arena region and what to call it.
    pub(super) shared: Vec<(usize, RemoteRegion)>,
    /// Counts sleeps told to it.
    pub(super) sleep_epoch: u64,
    /// Whether it was heard since it was last told of a sleep.
    pub(super) active: bool,
    /// Since when its next message makes no sense and is left for later.
    pub(super) doubted_since: Option<Instant>,
    /// Whether it broke the protocol or its queue pair failed.
    pub(super) failed: bool,
    /// Whether turns look at it, and sweeps that have heard nothing of it since.
    pub(super) is_watched: bool,
    pub(super) silent_sweeps: u32,
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
