//! The receiving side of a mailbox. Every byte of it is foreign.

use std::cell::Cell;

use super::{
    ONE_WRITE, ONE_WRITE_LEN_MAX, Pages, RING_AT, SLEEP_EPOCH_AT, WRAP, digest_len, digest_of,
    footprint,
};

/// What is wrong with a mailbox's bytes: the session that writes it has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// A commit word has a number that is neither the next one nor an old one.
    #[error("mailbox message has number {found}, expected {expected}")]
    Number {
        /// The next number.
        expected: u32,
        /// In the word.
        found: u32,
    },
    /// A length leaves the ring, or is zero.
    #[error("mailbox message of {len} bytes at {offset} leaves its ring")]
    Length {
        /// In the word.
        len: u32,
        /// Offset of the word in the ring.
        offset: u64,
    },
    /// A wrap at the ring's start.
    #[error("mailbox wraps twice")]
    Wrap,
}

/// A message that is in the ring, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub number: u32,
    /// Offset of its payload in the mailbox's pages.
    pub offset: u64,
    /// Length of its payload.
    pub len: u32,
    /// Whether it came in one write, so that a checksum that does not match may only say that
    /// bytes are still on their way.
    pub one_write: bool,
}

/// Reads one peer's mailbox.
#[derive(Debug)]
pub struct MailboxReader {
    pages: Pages,
    ring_len: u64,
    /// Offset in the ring of the next commit word.
    at: u64,
    expected: u32,
    /// Whether writes show in any order, and the last message whose digest was found to hold.
    any_order: bool,
    landed: Cell<u32>,
}

impl MailboxReader {
    /// Reads the fresh mailbox in `pages`.
    #[must_use]
    pub fn new(pages: Pages, ring_len: u32) -> Self {
        assert!(
            pages.contains(RING_AT, u64::from(ring_len)),
            "the region is shorter than its ring"
        );
        Self {
            pages,
            ring_len: u64::from(ring_len),
            at: 0,
            expected: 1,
            any_order: false,
            landed: Cell::new(0),
        }
    }

    /// The same, over a queue pair whose writes may show in any order. What it has gone past it clears.
    #[must_use]
    pub fn in_any_order(self, any_order: bool) -> Self {
        Self { any_order, ..self }
    }

    /// The mailbox's memory.
    #[must_use]
    #[inline]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Takes the next message if it is there. Its bytes stay as they are until the peer learns of
    /// its completion (an honest peer; a dishonest one harms itself only), but where writes show in any
    /// order: there it is peeked at, and its bytes are copied out before it is gone past.
    ///
    /// # Errors
    /// When the bytes make no sense.
    pub fn take_next(&mut self) -> Result<Option<Message>, MailboxError> {
        let message = self.peek()?;
        if let Some(message) = &message {
            self.advance(message);
        }
        Ok(message)
    }

    /// The next message if it is there, left where it is.
    ///
    /// # Errors
    /// When the bytes make no sense.
    #[inline]
    pub fn peek(&self) -> Result<Option<Message>, MailboxError> {
        let at = self.at;
        match self.commit_word(at)? {
            None => Ok(None),
            Some(WRAP) if at == 0 => Err(MailboxError::Wrap),
            // The word at the start may not be there yet.
            Some(WRAP) => match self.commit_word(0)? {
                None => Ok(None),
                Some(WRAP) => Err(MailboxError::Wrap),
                Some(len) => self.message(len, 0),
            },
            Some(len) => self.message(len, at),
        }
    }

    /// Whether something may be there: a look without a check. False positives are possible, and so
    /// are false negatives for bytes that make no sense; [`MailboxReader::peek`] finds those.
    #[inline]
    #[must_use]
    pub fn looks_ready(&self) -> bool {
        let word = self.pages.load_u64(RING_AT + self.at);
        word >> 32 == u64::from(self.expected)
    }

    /// Goes past a message that was peeked at.
    #[inline]
    pub fn advance(&mut self, message: &Message) {
        assert_eq!(message.number, self.expected, "only the next message can be passed");
        let start = message.offset - RING_AT - 8;
        let behind = start + footprint(u64::from(message.len)) + digest_len(self.any_order);
        if self.any_order {
            if start != self.at {
                // The word that sent the reader back.
                self.pages.store_u64(RING_AT + self.at, 0);
            }
            #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
            self.pages.zero(RING_AT + start, (behind - start) as usize);
        }
        self.at = if behind == self.ring_len { 0 } else { behind };
        self.expected = self.expected.wrapping_add(1);
    }

    /// The writer's sleep epoch.
    #[must_use]
    #[inline]
    pub fn sleep_epoch(&self) -> u64 {
        self.pages.load_u64(SLEEP_EPOCH_AT)
    }

    /// Length in the commit word at `at`, if it is the expected one.
    #[inline]
    fn commit_word(&self, at: u64) -> Result<Option<u32>, MailboxError> {
        let word = self.pages.load_u64(RING_AT + at);
        if word == 0 {
            return Ok(None);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the halves are cut out by shifts")]
        let (len, number) = (word as u32, (word >> 32) as u32);
        if number == self.expected {
            return Ok(Some(len));
        }
        if self.any_order {
            // Some of its bytes.
            return Ok(None);
        }
        // Software RDMA may place a word byte by byte, in ascending order, over the zeros or the
        // message before that were there: the number comes last, and until it is whole nothing has
        // arrived.
        let previous = self.expected.wrapping_sub(1);
        let is_partly_placed = (0..4).any(|bytes| {
            let placed = (1 << (8 * bytes)) - 1;
            let arrived = self.expected & placed;
            number == arrived || number == arrived | previous & !placed
        });
        if is_partly_placed {
            return Ok(None);
        }
        // Only offset 0 may still hold the word of an earlier lap.
        let age = self.expected.wrapping_sub(number);
        if at == 0 && age < u32::MAX / 2 {
            return Ok(None);
        }
        Err(MailboxError::Number { expected: self.expected, found: number })
    }

    /// Sets where and which the next message is.
    #[cfg(test)]
    pub(super) fn expect_for_test(&mut self, position: u64, expected: u32) {
        self.at = position % self.ring_len;
        self.expected = expected;
    }

    #[inline]
    fn message(&self, len: u32, at: u64) -> Result<Option<Message>, MailboxError> {
        if self.any_order {
            return Ok(self.landed_message(len, at));
        }
        let one_write = len & ONE_WRITE != 0;
        let len = len & !ONE_WRITE;
        let behind = at + footprint(u64::from(len));
        let leaves = behind + if one_write { 8 } else { 0 } > self.ring_len;
        if len == 0 || leaves || (one_write && u64::from(len) > ONE_WRITE_LEN_MAX) {
            return Err(MailboxError::Length { len, offset: at });
        }
        if one_write {
            // The last word of the write has this number, or the next message's already.
            let last = self.pages.load_u64(RING_AT + behind) >> 32;
            let next = self.expected.wrapping_add(1);
            if last != u64::from(self.expected) && last != u64::from(next) {
                return Ok(None);
            }
        }
        let (number, offset) = (self.expected, RING_AT + at + 8);
        Ok(Some(Message { number, offset, len, one_write }))
    }

    /// The message of so many bytes at `at`, once all of it is there.
    fn landed_message(&self, len: u32, at: u64) -> Option<Message> {
        let digest_at = at + footprint(u64::from(len));
        if len == 0 || digest_at + 8 > self.ring_len {
            // Some bytes of the length; of a peer that means it the message never comes.
            return None;
        }
        let word = self.pages.load_u64(RING_AT + digest_at);
        if word >> 32 != u64::from(self.expected) {
            return None;
        }
        let (number, offset) = (self.expected, RING_AT + at + 8);
        if self.landed.get() != number {
            let read = |from, section: &mut [u8]| self.pages.read(offset + from, section);
            let digest = digest_of(number, u64::from(len), read);
            if word & u64::from(u32::MAX) != u64::from(digest) {
                return None;
            }
            self.landed.set(number);
        }
        Some(Message { number, offset, len, one_write: false })
    }
}
