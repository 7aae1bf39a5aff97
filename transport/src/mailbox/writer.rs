//! The sending side of a mailbox: lays messages into a local mirror of the ring and writes them to
//! the peer, payload first.

use std::collections::VecDeque;

use super::{
    HOT_LEN, RING_AT, SLEEP_EPOCH_AT, Sender, WAKE_IMMEDIATE, WRAP, commit_word, footprint,
};
use crate::fabric::{
    INLINE_LEN_MAX, InlineBytes, MemoryRegion, Operation, RemoteRegion, ScatterList,
};

/// There is no room in the ring or the send queue: wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mailbox is full: wait for completions")]
pub struct MailboxFull;

/// Writes messages into one peer's mailbox. The mirror's bytes of a message stay untouched until
/// [`MailboxWriter::release`] of its number.
#[derive(Debug)]
pub struct MailboxWriter {
    mirror: MemoryRegion,
    remote: RemoteRegion,
    ring_len: u64,
    /// Bytes ever used and ever released; their difference is what is in use.
    tail: u64,
    head: u64,
    /// Offset in the ring that `tail` is.
    at: u64,
    next_number: u32,
    /// Message number and `tail` behind it, oldest first.
    in_flight: VecDeque<(u32, u64, bool)>,
    in_flight_max: usize,
}

impl MailboxWriter {
    /// A writer to a fresh mailbox. `mirror` is a local region of at least `ring_len` bytes.
    #[must_use]
    pub fn new(
        mirror: MemoryRegion,
        remote: RemoteRegion,
        ring_len: u32,
        in_flight_max: u32,
    ) -> Self {
        assert!(mirror.pages.len() >= ring_len as usize, "the mirror is shorter than the ring");
        assert!(ring_len.is_multiple_of(64), "ring of {ring_len} bytes");
        assert!(
            remote.len >= RING_AT + u64::from(ring_len),
            "the mailbox is shorter than its ring"
        );
        Self {
            mirror,
            remote,
            ring_len: u64::from(ring_len),
            tail: 0,
            head: 0,
            at: 0,
            next_number: 1,
            in_flight: VecDeque::with_capacity(in_flight_max as usize),
            in_flight_max: in_flight_max as usize,
        }
    }

    /// Longest payload that always fits an empty ring.
    #[must_use]
    pub fn payload_len_max(&self) -> u64 {
        self.ring_len / 2 - 16
    }

    /// Number of messages not released yet.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Writes one message made of `parts` and returns its number. `wake` makes the commit word a
    /// write with immediate.
    ///
    /// # Errors
    /// When there is no room; nothing was written then. Panics when the payload is longer than
    /// [`MailboxWriter::payload_len_max`].
    pub fn write(
        &mut self,
        parts: &[&[u8]],
        wake: bool,
        sender: &mut Sender,
    ) -> Result<u32, MailboxFull> {
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        assert!(len <= self.payload_len_max(), "payload of {len} bytes");
        assert!(len > 0, "an empty message cannot be told from none");
        if self.in_flight.len() == self.in_flight_max || sender.room() < 3 {
            return Err(MailboxFull);
        }
        let mut at = self.at;
        // Eight more: the payload also clears the commit word behind it.
        let needed = footprint(len) + 8;
        let room = self.ring_len - (self.tail - self.head);
        let rest = self.ring_len - at;
        let wraps = footprint(len) > rest || (at >= HOT_LEN && rest + needed <= room);
        let skipped = if wraps { rest } else { 0 };
        if skipped + needed > room {
            return Err(MailboxFull);
        }
        let number = self.next_number;
        if wraps {
            let word = InlineBytes::word(commit_word(number, WRAP));
            let remote = self.remote.at(RING_AT + at);
            sender.push(Operation::WriteInline { bytes: word, remote });
            self.tail += skipped;
            at = 0;
        }
        self.write_payload(at, len, parts, sender);
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        let word = InlineBytes::word(commit_word(number, len as u32));
        let remote = self.remote.at(RING_AT + at);
        sender.push(if wake {
            Operation::WriteWithImmediate { bytes: word, remote, immediate: WAKE_IMMEDIATE }
        } else {
            Operation::WriteInline { bytes: word, remote }
        });
        self.tail += footprint(len);
        let behind = at + footprint(len);
        self.at = if behind == self.ring_len { 0 } else { behind };
        self.next_number = number.wrapping_add(1);
        self.in_flight.push_back((number, self.tail, false));
        Ok(number)
    }

    /// The peer has completed a message: its room is free once all before it are.
    #[inline]
    pub fn release(&mut self, number: u32) {
        let Some((first, _, _)) = self.in_flight.front() else { return };
        let index = number.wrapping_sub(*first) as usize;
        let Some(entry) = self.in_flight.get_mut(index) else { return };
        entry.2 = true;
        while let Some((_, end, true)) = self.in_flight.front() {
            self.head = *end;
            self.in_flight.pop_front();
        }
    }

    /// Tells the reader that this side sleeps, or no longer (`epoch` as before).
    pub fn write_sleep_epoch(&self, epoch: u64, sender: &mut Sender) {
        let remote = self.remote.at(SLEEP_EPOCH_AT);
        sender.push(Operation::WriteInline { bytes: InlineBytes::word(epoch), remote });
    }

    /// Wakes the reader without a message.
    pub fn write_wake(&self, sender: &mut Sender) {
        sender.push(Operation::WriteWithImmediate {
            bytes: InlineBytes::new(&[]),
            remote: self.remote.at(0),
            immediate: WAKE_IMMEDIATE,
        });
    }

    /// Payload, padding and the cleared next commit word, in one write.
    fn write_payload(&self, at: u64, len: u64, parts: &[&[u8]], sender: &mut Sender) {
        let padded = len.next_multiple_of(8);
        let clears_next = at + 8 + padded + 8 <= self.ring_len;
        let total = padded + if clears_next { 8 } else { 0 };
        let remote = self.remote.at(RING_AT + at + 8);
        if total <= INLINE_LEN_MAX as u64 {
            let mut bytes = [0_u8; INLINE_LEN_MAX];
            let mut used = 0;
            for part in parts {
                bytes[used..used + part.len()].copy_from_slice(part);
                used += part.len();
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
            let bytes = InlineBytes::new(&bytes[..total as usize]);
            sender.push(Operation::WriteInline { bytes, remote });
            return;
        }
        let mut offset = at + 8;
        for part in parts {
            self.mirror.pages.write(offset, part);
            offset += part.len() as u64;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 16")]
        let zero_len = (at + 8 + total - offset) as usize;
        self.mirror.pages.zero(offset, zero_len);
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        let local = ScatterList::from(self.mirror.slice(at + 8, total as u32));
        sender.push(Operation::Write { local, remote });
    }
}
