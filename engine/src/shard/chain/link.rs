//! The outgoing half of a link between this shard and the same shard of a peer: a mailbox there. What finds
//! no room waits as ranges of records and small frames, never as copies of records.

use std::collections::VecDeque;

use windlass_transport::{
    MemoryRegion, PendingQueuePair, QueuePairId, QueuePairState, Transport,
    mailbox::{CompletionReader, MailboxWriter, Sender},
};
use windlass_wire::{
    Epoch, Lsn, PartitionId, Status,
    chain::{BODY_LEN_MAX, ChainFrame},
    control::Peer,
};

use super::{
    answer::{COMMITTED, Records},
    part::Part,
};

/// How many of the oldest unacknowledged record messages may complete out of order.
const ANSWERS_LOOKED_AT: usize = 64;

/// Most records in one message.
const RECORDS_PER_MESSAGE: usize = 15;

/// A link.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) transport: usize,
    /// Between the two halves of connecting.
    pub(super) connecting: Option<PendingQueuePair>,
    pub(super) queue_pair: Option<QueuePairId>,
    /// The reply region, registered, until the mailbox is attached.
    pub(super) reply: Option<MemoryRegion>,
    pub(super) mirror: Option<MemoryRegion>,
    pub(super) attached: Option<Attached>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) failed: bool,
}

/// A link whose mailbox can be written.
pub(super) struct Attached {
    pub(super) writer: MailboxWriter,
    pub(super) completions: CompletionReader,
    pub(super) sender: Sender,
    /// Number of the oldest message that is not completed.
    pub(super) oldest: u32,
    /// The peer's sleep epoch that was answered by a wake-up.
    pub(super) woken_epoch: u64,
    /// Whether the queue pair refused a write.
    pub(super) failed: bool,
    /// Whether a completion was written without a wake-up.
    pub(super) owes_wake: bool,
    /// Messages with records that are not completed, oldest first.
    pub(super) records: VecDeque<Sent>,
}

/// A message with records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    number: u32,
    records: Records,
}

/// Something to send, in order.
#[derive(Debug)]
pub(super) enum Pending {
    Frame(ChainFrame),
    Records {
        partition: PartitionId,
        epoch: Epoch,
        next: Lsn,
        last: Lsn,
        /// Bytes of the next record that are sent already.
        offset: usize,
    },
    /// Bytes that go in pieces, each behind the frame with its own offset.
    Copy {
        frame: ChainFrame,
        bytes: Vec<u8>,
        offset: usize,
    },
}

impl Pending {
    fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::Records { partition, .. } => Some(*partition),
            Self::Frame(frame) | Self::Copy { frame, .. } => match frame {
                ChainFrame::Ping { .. } | ChainFrame::Grant { .. } => None,
                ChainFrame::Records { partition, .. }
                | ChainFrame::RecordPiece { partition, .. }
                | ChainFrame::Committed { partition, .. }
                | ChainFrame::Report { partition, .. }
                | ChainFrame::AskReport { partition, .. }
                | ChainFrame::Welcome { partition, .. }
                | ChainFrame::CopyFrom { partition, .. }
                | ChainFrame::CopyRows { partition, .. }
                | ChainFrame::CopyClock { partition, .. }
                | ChainFrame::CopyEnd { partition, .. }
                | ChainFrame::Refuse { partition, .. } => Some(*partition),
            },
        }
    }
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// All of it.
    Whole,
    /// As much as there was room for.
    Partly,
}

impl Link {
    pub(super) fn new(peer: Peer, transport: usize) -> Self {
        Self {
            peer,
            transport,
            connecting: None,
            queue_pair: None,
            reply: None,
            mirror: None,
            attached: None,
            pending: VecDeque::new(),
            failed: false,
        }
    }

    /// Ends the link at its transport.
    pub(super) fn close(&mut self, transport: &mut dyn Transport) {
        let half_open = self.connecting.take().map(|pending| pending.id());
        if let Some(queue_pair) = self.queue_pair.take().or(half_open) {
            transport.disconnect(queue_pair);
        }
        for region in [self.reply.take(), self.mirror.take()].into_iter().flatten() {
            transport.deregister(&region);
        }
        self.attached = None;
        self.pending.clear();
    }

    /// Sends a frame, behind all that waits.
    pub(super) fn push_frame(&mut self, frame: ChainFrame) {
        if self.attached.is_none() {
            // A new link begins with reports.
            return;
        }
        if let ChainFrame::Committed { partition, epoch, lsn } = frame {
            let same = |pending: &&mut Pending| pending.partition() == Some(partition);
            let last = self.pending.iter_mut().rev().find(same);
            if let Some(Pending::Frame(ChainFrame::Committed { epoch: at, lsn: last, .. })) = last
                && *at == epoch
            {
                *last = lsn;
                return;
            }
        }
        self.pending.push_back(Pending::Frame(frame));
    }

    /// Sends records, behind all that waits.
    pub(super) fn push_records(
        &mut self,
        partition: PartitionId,
        epoch: Epoch,
        first: Lsn,
        last: Lsn,
    ) {
        if self.attached.is_none() {
            return;
        }
        let same = |pending: &&mut Pending| pending.partition() == Some(partition);
        if let Some(Pending::Records { epoch: at, last: end, .. }) =
            self.pending.iter_mut().rev().find(same)
            && *at == epoch
            && end.next() == first
        {
            *end = last;
            return;
        }
        self.pending.push_back(Pending::Records { partition, epoch, next: first, last, offset: 0 });
    }

    /// Sends a part of a copy, behind all that waits.
    pub(super) fn push_copy(&mut self, frame: ChainFrame, bytes: Vec<u8>) {
        if self.attached.is_some() {
            self.pending.push_back(Pending::Copy { frame, bytes, offset: 0 });
        }
    }

    /// Bytes of copies that wait; `None` when the link does not stand.
    pub(super) fn copy_backlog(&self) -> Option<usize> {
        self.attached.as_ref()?;
        let copies = self.pending.iter().map(|pending| match pending {
            Pending::Copy { bytes, offset, .. } => bytes.len() - offset,
            _ => 0,
        });
        Some(copies.sum())
    }

    /// The first record of a partition that waits to be sent.
    pub(super) fn first_pending(&self, partition: PartitionId) -> Option<Lsn> {
        self.pending.iter().find_map(|pending| match pending {
            Pending::Records { partition: of, next, .. } if *of == partition => Some(*next),
            _ => None,
        })
    }

    /// Forgets what waits of a partition: its chain has another epoch.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.pending.retain(|pending| pending.partition() != Some(partition));
    }

    /// Takes in completions: what of the records sent is committed at the peer.
    pub(super) fn take_completions(&mut self, committed: impl FnMut(Records)) -> bool {
        self.attached.as_mut().is_some_and(|attached| attached.take_completions(committed))
    }

    /// Whether a message with records seems to be completed: a look at the oldest and the newest.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        let Some(Attached { records, completions, .. }) = &self.attached else { return false };
        let is_complete =
            |at: usize| records.get(at).is_some_and(|sent| completions.is_complete(sent.number));
        let last = records.len().min(ANSWERS_LOOKED_AT);
        is_complete(0) || last > 1 && is_complete(last - 1)
    }

    /// Whether completions written to the peer will be looked at.
    pub(super) fn is_awake(&self) -> bool {
        let attached = self.attached.as_ref();
        attached.is_some_and(|attached| attached.completions.sleep_epoch() == attached.woken_epoch)
    }

    /// A completion was written that the peer should not sleep over.
    pub(super) fn owe_wake(&mut self) {
        if let Some(attached) = &mut self.attached {
            attached.owes_wake = true;
        }
    }

    /// Writes what waits, as far as there is room.
    pub(super) fn flush<'a>(
        &mut self,
        transport: &mut dyn Transport,
        part_of: impl Fn(PartitionId) -> Option<&'a Part>,
    ) -> bool {
        let Some(attached) = &mut self.attached else { return false };
        let mut worked = false;
        while let Some(front) = self.pending.front_mut() {
            let written = match front {
                Pending::Frame(frame) => {
                    attached.write(&[&frame.encode(&[])], transport).map(|_| Written::Whole)
                }
                Pending::Records { partition, epoch, next, last, offset } => {
                    let part = part_of(*partition);
                    part.map_or(Some(Written::Whole), |part| {
                        let range =
                            RecordRange { partition: *partition, epoch: *epoch, next, last: *last };
                        attached.write_records(part, range, offset, transport)
                    })
                }
                Pending::Copy { frame, bytes, offset } => {
                    attached.write_copy(*frame, bytes, offset, transport)
                }
            };
            match written {
                Some(Written::Whole) => drop(self.pending.pop_front()),
                Some(Written::Partly) => {}
                None => break,
            }
            worked = true;
        }
        attached.wake_if_asleep();
        if !attached.sender.is_empty() {
            self.failed |= attached.sender.flush(transport).is_err();
        }
        self.failed |= attached.failed;
        worked
    }

    /// Whether the queue pair still stands.
    pub(super) fn is_standing(&self, transport: &dyn Transport) -> bool {
        let state = self.queue_pair.map(|queue_pair| transport.state(queue_pair));
        !self.failed && state != Some(QueuePairState::Error)
    }
}

/// Records of a partition that a peer is owed, of which those before `next` are written.
struct RecordRange<'a> {
    partition: PartitionId,
    epoch: Epoch,
    next: &'a mut Lsn,
    last: Lsn,
}

impl Attached {
    fn take_completions(&mut self, mut committed: impl FnMut(Records)) -> bool {
        let mut taken = false;
        // In any order: records of one partition may wait for longer than those of another.
        let mut at = 0;
        while at < ANSWERS_LOOKED_AT
            && let Some(sent) = self.records.get(at)
        {
            let Some(word) = self.completions.completion_of(sent.number) else {
                at += 1;
                continue;
            };
            if (word.status, word.detail) == (Status::Done, COMMITTED) {
                committed(sent.records);
            }
            self.records.remove(at);
        }
        while self.writer.in_flight_count() > 0
            && self.completions.completion_of(self.oldest).is_some()
        {
            self.writer.release(self.oldest);
            self.oldest = self.oldest.wrapping_add(1);
            taken = true;
        }
        taken
    }

    /// Writes one message, if there is room.
    fn write(&mut self, parts: &[&[u8]], transport: &mut dyn Transport) -> Option<u32> {
        let epoch = self.completions.sleep_epoch();
        let wake = epoch != self.woken_epoch;
        if !wake {
            match self.writer.write_at_once(parts, &mut self.sender, transport) {
                Ok(Some(number)) => return Some(number),
                Ok(None) => {}
                Err(_) => {
                    self.failed = true;
                    return None;
                }
            }
        }
        let number = self.writer.write(parts, wake, &mut self.sender).ok()?;
        self.woken_epoch = epoch;
        Some(number)
    }

    /// A peer that fell asleep while a message or a completion was on its way did not see it.
    fn wake_if_asleep(&mut self) {
        let is_awaited = self.writer.in_flight_count() > 0 || self.owes_wake;
        if !is_awaited || self.sender.room() < 2 {
            return;
        }
        let epoch = self.completions.sleep_epoch();
        if epoch != self.woken_epoch {
            (self.woken_epoch, self.owes_wake) = (epoch, false);
            self.writer.write_wake(&mut self.sender);
        }
    }

    /// Writes as many records as one message takes, or a piece of one.
    fn write_records(
        &mut self,
        part: &Part,
        RecordRange { partition, epoch, next, last }: RecordRange<'_>,
        offset: &mut usize,
        transport: &mut dyn Transport,
    ) -> Option<Written> {
        let Some(held) = part.held(*next) else {
            // It was let go: whoever needs it has been told to start over.
            return Some(Written::Whole);
        };
        let bytes = held.bytes();
        if *offset > 0 || bytes.len() > BODY_LEN_MAX {
            let piece = &bytes[*offset..bytes.len().min(*offset + BODY_LEN_MAX)];
            let frame = ChainFrame::RecordPiece {
                partition,
                epoch,
                lsn: *next,
                offset: u32::try_from(*offset).ok()?,
                len: u32::try_from(bytes.len()).ok()?,
            };
            let number = self.write(&[&frame.encode(piece), piece], transport)?;
            *offset += piece.len();
            if *offset < bytes.len() {
                return Some(Written::Partly);
            }
            let records = Records { partition, epoch, last: *next };
            self.records.push_back(Sent { number, records });
            *offset = 0;
            *next = next.next();
        } else {
            let header = ChainFrame::Records { partition, epoch, first: *next }.encode(&[]);
            let mut parts: [&[u8]; RECORDS_PER_MESSAGE + 1] = [&[]; RECORDS_PER_MESSAGE + 1];
            parts[0] = &header;
            let (mut count, mut len, mut at) = (0, 0, *next);
            while count < RECORDS_PER_MESSAGE && at <= last {
                let Some(held) = part.held(at) else { break };
                len += held.bytes().len();
                if len > BODY_LEN_MAX {
                    break;
                }
                count += 1;
                parts[count] = held.bytes();
                at = at.next();
            }
            let number = self.write(&parts[..=count], transport)?;
            let records = Records { partition, epoch, last: Lsn(at.0 - 1) };
            self.records.push_back(Sent { number, records });
            *next = at;
        }
        Some(if *next > last { Written::Whole } else { Written::Partly })
    }

    fn write_copy(
        &mut self,
        mut frame: ChainFrame,
        bytes: &[u8],
        offset: &mut usize,
        transport: &mut dyn Transport,
    ) -> Option<Written> {
        if let ChainFrame::CopyRows { offset: at, .. }
        | ChainFrame::CopyClock { offset: at, .. }
        | ChainFrame::CopyEnd { offset: at, .. } = &mut frame
        {
            *at = u32::try_from(*offset).ok()?;
        }
        let piece = &bytes[*offset..bytes.len().min(*offset + BODY_LEN_MAX)];
        self.write(&[&frame.encode(piece), piece], transport)?;
        *offset += piece.len();
        Some(if *offset == bytes.len() { Written::Whole } else { Written::Partly })
    }
}
