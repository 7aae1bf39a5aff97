//! The bytes of the log between reservation and release: a ring in pinned memory, in which every
//! record lies in one piece. Cursors count bytes and never wrap; only offsets do.
//!
//! ```text
//!  released        submitted          tail            released + capacity
//!     | with the      | sealed, or      | free            |
//!     | disk          | being filled    |                 |
//! ```
//!
//! Who may touch what: the shard writes between reservation and sealing; from sealing to release
//! the bytes are constant, and the disk and the shard read them.

use super::{limits::BLOCK_BYTES, memory::Window};

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring {
    window: Window,
    tail: u64,
    released: u64,
}

/// Whether some bytes fit in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// At the tail.
    Here,
    /// At the start of the memory, after leaving out the rest of it.
    AfterGap,
    /// Not before more is released.
    Full,
}

impl Ring {
    /// A ring over whole blocks of memory.
    pub(crate) fn new(window: Window) -> Self {
        assert!(window.len().is_multiple_of(BLOCK_BYTES), "the ring is made of whole blocks");
        assert!(window.start().is_multiple_of(BLOCK_BYTES as u64), "the ring starts at a block");
        assert!(window.len() >= 4 * BLOCK_BYTES, "a ring of {} bytes", window.len());
        Self { window, tail: 0, released: 0 }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.window.len() as u64
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    pub(crate) fn used(&self) -> u64 {
        self.tail - self.released
    }

    /// Where `length` bytes, rounded up to the block they end in, would fit.
    pub(crate) fn room(&self, length: u64) -> Room {
        let block = BLOCK_BYTES as u64;
        let rest = self.capacity() - self.tail % self.capacity();
        let (end, room) = if length <= rest {
            (self.tail + length, Room::Here)
        } else {
            (self.tail + rest + length, Room::AfterGap)
        };
        if end.next_multiple_of(block) - self.released > self.capacity() {
            return Room::Full;
        }
        room
    }

    /// Leaves out the rest of the memory.
    pub(crate) fn leave_gap(&mut self) {
        let rest = self.capacity() - self.tail % self.capacity();
        if rest < self.capacity() {
            self.tail += rest;
        }
    }

    /// Goes back to the start of the memory when nothing of it is in use: a log that is written as fast
    /// as it grows stays in the caches.
    pub(crate) fn rewind(&mut self) {
        if self.used() == 0 {
            self.tail = self.tail.next_multiple_of(self.capacity());
            self.released = self.tail;
        }
    }

    /// Takes bytes at the tail, for which [`Room::Here`] was found.
    pub(crate) fn take(&mut self, length: u64) -> u64 {
        let cursor = self.tail;
        self.tail += length;
        debug_assert!(self.used() <= self.capacity(), "the ring is overfull");
        cursor
    }

    /// Where a cursor lies in the window.
    pub(crate) fn offset(&self, cursor: u64) -> usize {
        usize::try_from(cursor % self.capacity()).expect("a window is addressable")
    }

    /// Where a cursor lies in the pages.
    pub(crate) fn page_offset(&self, cursor: u64) -> u64 {
        self.window.start() + cursor % self.capacity()
    }

    /// Bytes by their offset in the pages.
    pub(crate) fn at_page_offset(&self, offset: u64, length: usize) -> &[u8] {
        let start = usize::try_from(offset - self.window.start()).expect("a window is addressable");
        self.window.bytes(start, length)
    }

    pub(crate) fn bytes_mut(&mut self, cursor: u64, length: usize) -> &mut [u8] {
        let offset = self.offset(cursor);
        self.window.bytes_mut(offset, length)
    }

    /// Gives memory back up to a cursor.
    pub(crate) fn release(&mut self, cursor: u64) {
        assert!(self.released <= cursor && cursor <= self.tail, "release of what is not there");
        self.released = cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_in_one_piece_and_space_comes_back() {
        let mut ring = Ring::new(Window::allocate(16 << 10).unwrap());
        assert_eq!(ring.room(12 << 10), Room::Here);
        assert_eq!(ring.take(12 << 10), 0);
        assert_eq!(ring.room(4 << 10), Room::Here);
        assert_eq!(ring.room(5 << 10), Room::Full);
        ring.release(8 << 10);
        assert_eq!(ring.room(8 << 10), Room::AfterGap);
        ring.leave_gap();
        assert_eq!(ring.tail(), 16 << 10);
        let cursor = ring.take(8 << 10);
        assert_eq!(ring.offset(cursor), 0);
        assert_eq!(ring.room(1), Room::Full);
    }

    #[test]
    fn an_empty_ring_begins_at_its_start_again() {
        let mut ring = Ring::new(Window::allocate(16 << 10).unwrap());
        ring.take(4 << 10);
        ring.rewind();
        assert_eq!(ring.tail(), 4 << 10, "in use");
        ring.release(4 << 10);
        ring.rewind();
        assert_eq!((ring.tail(), ring.used()), (16 << 10, 0));
        ring.rewind();
        assert_eq!(ring.tail(), 16 << 10);
        assert_eq!(ring.offset(ring.tail()), 0);
        assert_eq!(ring.room(16 << 10), Room::Here);
    }
}
