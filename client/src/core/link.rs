//! A link to one shard: queue pair, mailbox, completions, requests in flight.

use std::{collections::VecDeque, time::Instant};

use windlass_transport::{
    MemoryRegion, QueuePairId, RemoteRegion,
    chunks::Chunk,
    fabric::Promises,
    mailbox::{self, CompletionReader, MailboxWriter, Sender},
};
use windlass_wire::{ServerId, ShardId, filter::ValueCoding, request::order::Resumption};

use super::{
    RegionId, key_lists::KeyLists, memory::SharedRegions, requests::RequestId, vigil::Vigil,
};

/// The shortest send queue.
const SENDER_MIN: u32 = 4;

/// Memory that a message's values lie in, released when the message is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    /// A piece of the staging area.
    Chunk(Chunk),
    /// A region of its own.
    Region(RegionId),
    /// The values were written from the user's registered memory. The mailbox's mirror has no copy of them.
    Lent {
        region: RegionId,
        offset: u64,
    },
    /// Nothing: rows that are answered here through a filter, to be decoded where they lie.
    Answer(Answer),
}

/// Rows as a filter writes them, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) region: RegionId,
    pub(super) offset: u64,
    pub(super) coding: ValueCoding,
    /// Bytes of them once they are decoded.
    pub(super) len: u32,
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
    pub(super) mailbox: Mailbox,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) shared: SharedRegions,
    pub(super) terms: Terms,
    /// Keys that the shard keeps.
    pub(super) key_lists: KeyLists,
    /// When its server was last looked at because rows were read in place.
    pub(super) vigil: Vigil,
    pub(super) sleeps: Sleeps,
    pub(super) state: LinkState,
    /// Since when rows are awaited whose pull has completed.
    pub(super) doubted_since: Option<Instant>,
}

/// This side of a mailbox: where messages are laid, and where completions come.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) writer: MailboxWriter,
    pub(super) completions: CompletionReader,
    /// Where completions are written.
    pub(super) reply: MemoryRegion,
    pub(super) sender: Sender,
}

/// The terms of a link: from what length values go by reference, and what its provider promises.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes from which values go by reference.
    pub(super) by_reference_len: u64,
    /// Whether what the shard writes lands in memory without the transport being polled.
    pub(super) lands_unpolled: bool,
    /// Order and atomicity of reads and writes.
    pub(super) promises: Promises,
}

/// Sleeps of both sides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sleeps {
    /// The shard's sleep epoch that was answered by a wake-up.
    pub(super) woken_epoch: u64,
    /// Counts this side's sleeps.
    pub(super) epoch: u64,
}

/// What a link is good for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkState {
    pub(super) failed: bool,
    /// Whether it was made: until something is sent there is no queue pair, and what would be its memory is that of
    /// all such links.
    pub(super) made: bool,
    /// What was refused, and whether the next push tells the shard that everything before it is settled.
    pub(super) order: Resumption,
}

impl LinkState {
    /// The state of a new link.
    pub(super) const MADE: Self = Self { failed: false, made: true, order: Resumption::NONE };

    /// Whether messages may be written, once the link is made.
    #[inline]
    fn is_open(self) -> bool {
        !self.failed && !self.order.is_refused()
    }
}

impl super::Links {
    /// A link is gone. What was in flight on it stays there until the core settles it.
    pub(super) fn lose(&mut self, at: usize) {
        if !std::mem::replace(&mut self.all[at].state.failed, true) {
            self.lost.push(at);
        }
    }

    /// Posts what a link holds.
    pub(super) fn flush(&mut self, link_at: usize) {
        let link = &mut self.all[link_at];
        let transport = self.transports[link.transport].as_mut();
        if link.mailbox.sender.flush(transport).is_err() {
            self.lose(link_at);
        }
    }

    /// A server no longer knows this session's mailbox: it has begun another life, and the end of the
    /// link is still on its way.
    pub(super) fn fail_forgotten(&mut self, at: usize) {
        tracing::warn!(server = self.all[at].server.0, "connecting again to a server's new life");
        self.lose(at);
    }
}

/// What links have before they are made: memory that nobody writes.
#[derive(Debug)]
pub(crate) struct Blank {
    /// Registered as a local region of the transport.
    pub(super) region: MemoryRegion,
}

impl Blank {
    /// Bytes of it: a ring and a completion ring, as short as they can be.
    pub(super) const LEN: usize = mailbox::RING_LEN_MIN as usize;
}

/// The queue pair of a link that is not made: none has this number.
const NO_QUEUE_PAIR: QueuePairId = QueuePairId(u32::MAX);

/// Bytes from which values go by reference on a link that is not made.
pub(super) const BY_REFERENCE_LEN: u64 = 16 << 10;

impl Link {
    /// A link that is made when something is first sent to its shard.
    pub(super) fn unmade(
        (server, server_at): (ServerId, usize),
        shard: ShardId,
        transport: usize,
        blank: &Blank,
    ) -> Self {
        let (region, ring_len) = (blank.region.clone(), mailbox::RING_LEN_MIN);
        let len = mailbox::mailbox_len(ring_len) as u64;
        let nowhere = RemoteRegion { len, ..RemoteRegion::default() };
        Self {
            server,
            server_at,
            shard,
            transport,
            queue_pair: NO_QUEUE_PAIR,
            mailbox: Mailbox {
                writer: MailboxWriter::new(region.clone(), nowhere, ring_len, 1),
                completions: CompletionReader::new(region.pages.clone(), 1),
                reply: region,
                sender: Sender::new(NO_QUEUE_PAIR, SENDER_MIN),
            },
            in_flight: VecDeque::new(),
            shared: SharedRegions::default(),
            terms: Terms {
                by_reference_len: BY_REFERENCE_LEN,
                lands_unpolled: true,
                promises: Promises::NONE,
            },
            key_lists: KeyLists::default(),
            vigil: Vigil::default(),
            // As if the shard slept: short pushes go the general way, which makes the link.
            sleeps: Sleeps { woken_epoch: 1, epoch: 0 },
            state: LinkState::default(),
            doubted_since: None,
        }
    }

    /// Whether the oldest message in flight is done.
    #[inline]
    pub(super) fn looks_complete(&self) -> bool {
        let oldest = self.in_flight.front();
        oldest.is_some_and(|oldest| self.mailbox.completions.is_complete(oldest.number))
    }

    /// Whether messages may be written to it, once it is made.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// Whether the shard fell asleep since it was woken last.
    #[inline]
    pub(super) fn is_asleep(&self) -> bool {
        self.mailbox.completions.sleep_epoch() != self.sleeps.woken_epoch
    }

    /// Whether the next commit word has to wake the shard; remembers that it did.
    #[inline]
    pub(super) fn take_wake(&mut self) -> bool {
        let epoch = self.mailbox.completions.sleep_epoch();
        let wake = epoch != self.sleeps.woken_epoch;
        self.sleeps.woken_epoch = epoch;
        wake
    }
}
