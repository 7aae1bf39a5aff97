//! Bytes received and not yet understood: headers, short payloads, and the beginning of long ones.

use super::limits::INBOX_LEN;

/// A buffer that is filled at its back and taken from at its front.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; INBOX_LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What is there.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the first `count` bytes away.
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "only what is there can be taken");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for the next bytes; never empty unless the inbox is full.
    pub(super) fn room(&mut self) -> &mut [u8] {
        // Moved only when space runs out: a partial frame is short.
        if INBOX_LEN - self.end < INBOX_LEN / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// Says that the first `count` bytes of the room were filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= INBOX_LEN, "only the room can be filled");
    }
}
