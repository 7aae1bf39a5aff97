//! The sending side of a mailbox: lays messages into a local mirror of the ring and writes them to
//! the peer, payload first.

use std::collections::VecDeque;

use super::{
    HOT_LEN, ONE_WRITE, ONE_WRITE_LEN_MAX, RING_AT, SLEEP_EPOCH_AT, Sender, WAKE_IMMEDIATE, WRAP,
    commit_word, digest_len, footprint, lay_whole,
};
use crate::{
    error::PostError,
    fabric::{
        INLINE_LEN_MAX, InlineBytes, LocalSlice, MemoryRegion, Operation, RemoteAddress,
        RemoteRegion, ScatterList, Transport,
    },
};

/// Longest payload that is written at once: a longer one is not worth another copy.
const AT_ONCE_LEN_MAX: usize = 1 << 10;

/// There is no room in the ring or the send queue: wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mailbox is full: wait for completions")]
pub struct MailboxFull;

/// Writes messages into one peer's mailbox. The mirror holds every message, untouched until
/// [`MailboxWriter::release`] of its number: what a lost peer never answered is read back from it.
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
    /// Oldest first.
    in_flight: VecDeque<Posted>,
    in_flight_max: usize,
    /// Whether commit word and payload travel together.
    one_write: bool,
    /// Whether writes show in any order.
    any_order: bool,
}

/// A short message, laid out to be written.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Its number.
    pub number: u32,
    bytes: [u8; INLINE_LEN_MAX],
    len: usize,
    /// Its commit word in the ring.
    at: u64,
}

impl Laid {
    /// What has to be written.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A message that is not released.
#[derive(Clone, Copy, Debug)]
struct Posted {
    number: u32,
    /// Its payload in the ring.
    at: u64,
    len: u64,
    /// `tail` behind it.
    end: u64,
    is_released: bool,
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
            one_write: false,
            any_order: false,
        }
    }

    /// The same, putting commit word and payload in one write or not: what
    /// [`Capabilities::prefers_one_write`](crate::fabric::Capabilities::prefers_one_write) says.
    #[must_use]
    pub fn in_one_write(self, one_write: bool) -> Self {
        Self { one_write, ..self }
    }

    /// The same, over a queue pair whose writes may show in any order; the reader has to be told too.
    #[must_use]
    pub fn in_any_order(self, any_order: bool) -> Self {
        Self { any_order, ..self }
    }

    /// Longest payload that always fits an empty ring.
    #[must_use]
    pub fn payload_len_max(&self) -> u64 {
        self.ring_len / 2 - 16 - digest_len(self.any_order)
    }

    /// Bytes that a message takes in the ring.
    #[inline]
    fn footprint(&self, len: u64) -> u64 {
        footprint(len) + digest_len(self.any_order)
    }

    /// Number of messages not released yet.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages that can be written before one is released, if they are short enough.
    #[must_use]
    pub fn messages_left(&self) -> usize {
        self.in_flight_max - self.in_flight.len()
    }

    /// Bytes of the ring that are free.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.ring_len - (self.tail - self.head)
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
        self.write_parts(parts, None, wake, sender)
    }

    /// As [`MailboxWriter::write`], with bytes of a registered region behind `parts`, whose length is a multiple
    /// of 8: they are written from where they lie and not read back, so they must stay unchanged until the
    /// message is released. One request gathers [`LENT_PIECES`](super::LENT_PIECES) slices.
    ///
    /// # Errors
    /// As of [`MailboxWriter::write`], which also says when it panics; and it does when so few bytes are lent
    /// that the message would go in one write with its word.
    pub fn write_lent(
        &mut self,
        parts: &[&[u8]],
        lent: LocalSlice,
        wake: bool,
        sender: &mut Sender,
    ) -> Result<u32, MailboxFull> {
        assert!(u64::from(lent.len) >= ONE_WRITE_LEN_MAX, "{} bytes are lent", lent.len);
        self.write_parts(parts, Some(lent), wake, sender)
    }

    fn write_parts(
        &mut self,
        parts: &[&[u8]],
        lent: Option<LocalSlice>,
        wake: bool,
        sender: &mut Sender,
    ) -> Result<u32, MailboxFull> {
        let own_len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let len = own_len + lent.map_or(0, |lent| u64::from(lent.len));
        assert!(len <= self.payload_len_max(), "payload of {len} bytes");
        assert!(len > 0, "an empty message cannot be told from none");
        if self.in_flight.len() == self.in_flight_max || sender.room() < 3 {
            return Err(MailboxFull);
        }
        let mut at = self.at;
        // Eight more: the payload also clears the commit word behind it.
        let needed = self.footprint(len) + 8;
        let room = self.ring_len - (self.tail - self.head);
        let rest = self.ring_len - at;
        let wraps = self.footprint(len) > rest || (at >= HOT_LEN && rest + needed <= room);
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
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        let word_len = len as u32;
        let has_next = at + footprint(len) + 8 <= self.ring_len;
        if self.any_order {
            assert!(lent.is_none(), "bytes that are lent have no digest");
            self.write_whole(at, number, word_len, parts, sender);
            if wake {
                self.write_wake(sender);
            }
        } else if self.one_write && len <= ONE_WRITE_LEN_MAX && has_next && !wake {
            // Word, payload and the next word, which says that this is all.
            let first = commit_word(number, word_len | ONE_WRITE);
            let last = commit_word(number, 0);
            self.write_span(at, Some(first), len, parts, Some(last), sender);
        } else {
            match lent {
                Some(lent) => self.write_lent_span(at + 8, own_len, parts, lent, has_next, sender),
                None => {
                    self.write_span(at + 8, None, len, parts, has_next.then_some(0), sender);
                }
            }
            let word = InlineBytes::word(commit_word(number, word_len));
            let remote = self.remote.at(RING_AT + at);
            sender.push(if wake {
                Operation::WriteWithImmediate { bytes: word, remote, immediate: WAKE_IMMEDIATE }
            } else {
                Operation::WriteInline { bytes: word, remote }
            });
        }
        let behind = at + self.footprint(len);
        self.pass(behind, Posted { number, at: at + 8, len, end: 0, is_released: false });
        Ok(number)
    }

    /// Writes a short message made of `parts` at once, where the transport can, and returns its number; `None`
    /// when it has to go by [`MailboxWriter::write`], and nothing was done. The mirror does not get it, so it cannot be read
    /// back.
    ///
    /// # Errors
    /// When the queue pair has failed.
    pub fn write_at_once(
        &mut self,
        parts: &[&[u8]],
        sender: &mut Sender,
        transport: &mut dyn Transport,
    ) -> Result<Option<u32>, PostError> {
        let at = self.at;
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let needed = footprint(len as u64) + 8;
        let room = self.ring_len - (self.tail - self.head);
        // Near the ends of ring and hot part, and of what there is room for, it is written as others
        // are.
        let is_in_the_way = at + needed > self.ring_len || at >= HOT_LEN;
        let is_full = needed > room || self.in_flight.len() == self.in_flight_max;
        let is_special = self.one_write || self.any_order;
        if len == 0 || len > AT_ONCE_LEN_MAX || is_special || is_in_the_way || is_full {
            return Ok(None);
        }
        let number = self.next_number;
        #[expect(clippy::cast_possible_truncation, reason = "at most AT_ONCE_LEN_MAX")]
        let word = commit_word(number, len as u32);
        let remote = self.remote.at(RING_AT + at);
        // Its padding and the next commit word are written as zeros.
        if !sender.write_message_now(transport, word, parts, remote)? {
            return Ok(None);
        }
        let posted = Posted { number, at: at + 8, len: len as u64, end: 0, is_released: false };
        self.pass(at + footprint(len as u64), posted);
        Ok(Some(number))
    }

    /// Goes past a message that ends at `behind`.
    #[inline]
    fn pass(&mut self, behind: u64, mut posted: Posted) {
        self.at = if behind == self.ring_len { 0 } else { behind };
        self.tail += self.footprint(posted.len);
        self.next_number = posted.number.wrapping_add(1);
        posted.end = self.tail;
        self.in_flight.push_back(posted);
    }

    /// Lays out a message so short that it goes in one inline write, whose `len` bytes `fill` writes
    /// into zeros; `None` when it has to go by [`MailboxWriter::write`], and nothing was done. It
    /// counts as written: the caller does that at once.
    #[inline]
    pub fn lay(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Laid> {
        let total = 16 + len.next_multiple_of(8);
        let at = self.at;
        let needed = total as u64;
        let room = self.ring_len - (self.tail - self.head);
        // Near the ends of ring and hot part, and of what there is room for, it is written as others
        // are.
        let is_in_the_way = at + needed > self.ring_len || at >= HOT_LEN;
        let is_full = needed > room || self.in_flight.len() == self.in_flight_max;
        if len == 0 || total > INLINE_LEN_MAX || self.any_order || is_in_the_way || is_full {
            return None;
        }
        let number = self.next_number;
        let mut laid = Laid { number, bytes: [0; INLINE_LEN_MAX], len: total, at };
        let (first, rest) = laid.bytes[..total].split_at_mut(8);
        let (payload, last) = rest.split_at_mut(total - 16);
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
        let word = commit_word(number, len as u32 | ONE_WRITE);
        first.copy_from_slice(&word.to_le_bytes());
        fill(&mut payload[..len]);
        last.copy_from_slice(&commit_word(number, 0).to_le_bytes());
        self.mirror.pages.write(at, &laid.bytes[..total - 8]);
        let behind = at + needed - 8;
        self.pass(
            behind,
            Posted { number, at: at + 8, len: len as u64, end: 0, is_released: false },
        );
        Some(laid)
    }

    /// Where a laid message goes.
    #[must_use]
    #[inline]
    pub fn place_of(&self, laid: &Laid) -> RemoteAddress {
        self.remote.at(RING_AT + laid.at)
    }

    /// The peer has completed a message: its room is free once all before it are.
    #[inline]
    pub fn release(&mut self, number: u32) {
        let Some(first) = self.in_flight.front() else { return };
        let index = number.wrapping_sub(first.number) as usize;
        let Some(posted) = self.in_flight.get_mut(index) else { return };
        posted.is_released = true;
        while let Some(posted) = self.in_flight.front().filter(|posted| posted.is_released) {
            self.head = posted.end;
            self.in_flight.pop_front();
        }
    }

    /// Appends the payload of a message that is not released to `into`; false for another.
    pub fn read_back(&self, number: u32, into: &mut Vec<u8>) -> bool {
        let Some(first) = self.in_flight.front() else { return false };
        let index = number.wrapping_sub(first.number) as usize;
        let posted = self.in_flight.get(index).filter(|posted| !posted.is_released);
        let Some(posted) = posted else { return false };
        let from = into.len();
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        into.resize(from + posted.len as usize, 0);
        self.mirror.pages.read(posted.at, &mut into[from..]);
        true
    }

    /// The local region that mirrors the ring.
    #[must_use]
    pub fn mirror(&self) -> &MemoryRegion {
        &self.mirror
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

    /// Writes, in one request, commit word, payload and digest.
    fn write_whole(&self, at: u64, number: u32, len: u32, parts: &[&[u8]], sender: &mut Sender) {
        let pages = &self.mirror.pages;
        let total = lay_whole(pages, at, (number, len), parts);
        let remote = self.remote.at(RING_AT + at);
        if total as usize <= INLINE_LEN_MAX {
            let mut bytes = InlineBytes::zeroed(total as usize);
            pages.read(at, bytes.as_mut_slice());
            sender.push(Operation::WriteInline { bytes, remote });
        } else {
            let local = ScatterList::from(self.mirror.slice(at, total));
            sender.push(Operation::Write { local, remote });
        }
    }

    /// Writes, in one request, a payload with its padding, and the words before and behind it.
    ///
    /// The word behind lies where the next message's word will lie, in the mirror too: a device that
    /// gathers late may send that one instead. It is of a message in one write, which its reader
    /// believes only when it is there to its end.
    fn write_span(
        &self,
        at: u64,
        first: Option<u64>,
        len: u64,
        parts: &[&[u8]],
        last: Option<u64>,
        sender: &mut Sender,
    ) {
        let word_len = |word: Option<u64>| if word.is_some() { 8 } else { 0 };
        let total = word_len(first) + len.next_multiple_of(8) + word_len(last);
        let remote = self.remote.at(RING_AT + at);
        if total <= INLINE_LEN_MAX as u64 {
            #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
            let mut inline = InlineBytes::zeroed(total as usize);
            let bytes = inline.as_mut_slice();
            let mut used = 0;
            if let Some(word) = first {
                bytes[..8].copy_from_slice(&word.to_le_bytes());
                used = 8;
            }
            for part in parts {
                bytes[used..used + part.len()].copy_from_slice(part);
                used += part.len();
            }
            self.mirror.pages.write(at, &bytes[..used]);
            if let Some(word) = last {
                let behind = bytes.len() - 8;
                bytes[behind..].copy_from_slice(&word.to_le_bytes());
            }
            sender.push(Operation::WriteInline { bytes: inline, remote });
            return;
        }
        let pages = &self.mirror.pages;
        let mut offset = at;
        if let Some(word) = first {
            pages.store_u64(offset, word);
            offset += 8;
        }
        for part in parts {
            pages.write(offset, part);
            offset += part.len() as u64;
        }
        let padded = offset.next_multiple_of(8);
        #[expect(clippy::cast_possible_truncation, reason = "below 8")]
        pages.zero(offset, (padded - offset) as usize);
        if let Some(word) = last {
            pages.store_u64(padded, word);
        }
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        let local = ScatterList::from(self.mirror.slice(at, total as u32));
        sender.push(Operation::Write { local, remote });
    }

    /// The same for bytes that are lent: between `parts` and the next word, which is zero.
    fn write_lent_span(
        &self,
        at: u64,
        own_len: u64,
        parts: &[&[u8]],
        lent: LocalSlice,
        has_next: bool,
        sender: &mut Sender,
    ) {
        assert!(own_len.is_multiple_of(8), "lent bytes are behind {own_len}");
        let pages = &self.mirror.pages;
        let mut offset = at;
        for part in parts {
            pages.write(offset, part);
            offset += part.len() as u64;
        }
        let behind = offset + u64::from(lent.len);
        let padding = behind.next_multiple_of(8) - behind;
        let rest_len = padding + if has_next { 8 } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "below ring_len, a u32")]
        let (own_len, rest_len) = (own_len as u32, rest_len as u32);
        pages.zero(behind, rest_len as usize);
        let mut local = ScatterList::from(self.mirror.slice(at, own_len));
        local.push(lent);
        if rest_len > 0 {
            local.push(self.mirror.slice(behind, rest_len));
        }
        sender.push(Operation::Write { local, remote: self.remote.at(RING_AT + at) });
    }
}
