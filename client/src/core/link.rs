//! A link to one shard: queue pair, mailbox, completions, requests in flight.

use std::{collections::VecDeque, time::Instant};

use windlass_transport::{
    MemoryRegion, QueuePairId,
    chunks::Chunk,
    fabric::Promises,
    mailbox::{CompletionReader, MailboxWriter, Sender},
};
use windlass_wire::{ServerId, ShardId};

use super::{RegionId, memory::SharedRegions, requests::RequestId, vigil::Vigil};

/// Memory that a message's values lie in, released when the message is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    /// A piece of the staging area.
    Chunk(Chunk),
    /// A region of its own.
    Region(RegionId),
    /// Nothing: the values were written from the user's memory, and are not in the mailbox's mirror.
    Lent {
        region: RegionId,
        offset: u64,
    },
}

/// A message without its completion. The mailbox's mirror has its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) number: u32,
    pub(super) request: RequestId,
    pub(super) held: Held,
}

/// A link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) server: ServerId,
    /// Index of the server in the client.
    pub(super) server_at: usize,
    pub(super) shard: ShardId,
    pub(super) transport: usize,
    pub(super) queue_pair: QueuePairId,
    pub(super) writer: MailboxWriter,
    pub(super) completions: CompletionReader,
    /// Where completions are written.
    pub(super) reply: MemoryRegion,
    pub(super) sender: Sender,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) shared: SharedRegions,
    pub(super) by_reference_len: u64,
    /// Whether what the shard writes lands in memory without the transport being polled.
    pub(super) lands_unpolled: bool,
    /// When its server was last looked at because rows were read in place.
    pub(super) vigil: Vigil,
    /// What may be relied on of reads and writes over it.
    pub(super) promises: Promises,
    /// The shard's sleep epoch that was answered by a wake-up.
    pub(super) woken_epoch: u64,
    /// Counts this side's sleeps.
    pub(super) sleep_epoch: u64,
    pub(super) failed: bool,
    /// A push was refused that has to be sent again: nothing else is sent before.
    pub(super) refused: bool,
    /// The next push tells the shard that everything before it is settled.
    pub(super) resumes: bool,
    /// Since when rows are awaited whose pull has completed.
    pub(super) doubted_since: Option<Instant>,
}

impl Link {
    /// Whether the oldest message in flight is done.
    #[inline]
    pub(super) fn looks_complete(&self) -> bool {
        let oldest = self.in_flight.front();
        oldest.is_some_and(|oldest| self.completions.is_complete(oldest.number))
    }

    /// Whether messages may be written to it.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.failed && !self.refused
    }

    /// Whether the shard fell asleep since it was woken last.
    #[inline]
    pub(super) fn is_asleep(&self) -> bool {
        self.completions.sleep_epoch() != self.woken_epoch
    }

    /// Whether the next commit word has to wake the shard; remembers that it did.
    #[inline]
    pub(super) fn take_wake(&mut self) -> bool {
        let epoch = self.completions.sleep_epoch();
        let wake = epoch != self.woken_epoch;
        self.woken_epoch = epoch;
        wake
    }
}
