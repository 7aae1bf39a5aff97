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
        self.tail = self.tail.next_multiple_of(self.capacity());
    }

    /// Goes back to the start of the memory when nothing of it is in use: a log that is written as fast
    /// as it grows stays in the caches.
    pub(crate) fn rewind(&mut self) {
        if self.used() == 0 {
            self.leave_gap();
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

    /// Where a cursor lies in the pages.
    pub(crate) fn page_offset(&self, cursor: u64) -> u64 {
        cursor % self.capacity()
    }

    /// Bytes by their offset in the pages.
    pub(crate) fn at_page_offset(&self, offset: u64, length: usize) -> &[u8] {
        self.window.bytes(in_memory(offset), length)
    }

    pub(crate) fn bytes_mut(&mut self, cursor: u64, length: usize) -> &mut [u8] {
        let offset = in_memory(self.page_offset(cursor));
        self.window.bytes_mut(offset, length)
    }

    /// Gives memory back up to a cursor.
    pub(crate) fn release(&mut self, cursor: u64) {
        assert!(self.released <= cursor && cursor <= self.tail, "release of what is not there");
        self.released = cursor;
    }
}

/// An offset in the pages as an index.
fn in_memory(offset: u64) -> usize {
    usize::try_from(offset).expect("a window is addressable")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u64 = 16 << 10;

    fn ring() -> Ring {
        Ring::new(Window::allocate(16 << 10).unwrap())
    }

    #[test]
    fn frames_lie_in_one_piece_and_space_comes_back() {
        let mut ring = ring();
        assert_eq!((ring.capacity(), ring.used()), (CAPACITY, 0));
        assert_eq!(ring.room(CAPACITY), Room::Here);
        assert_eq!(ring.room(CAPACITY + 1), Room::Full);
        assert_eq!(ring.room(12 << 10), Room::Here);
        assert_eq!(ring.take(12 << 10), 0);
        assert_eq!(ring.room(4 << 10), Room::Here);
        assert_eq!(ring.room(5 << 10), Room::Full);
        ring.release(8 << 10);
        assert_eq!((ring.tail(), ring.used()), (12 << 10, 4 << 10));
        assert_eq!(ring.room(4 << 10), Room::Here, "up to the end of the memory");
        assert_eq!(ring.room((4 << 10) + 1), Room::AfterGap);
        assert_eq!(ring.room(8 << 10), Room::AfterGap);
        assert_eq!(ring.room((8 << 10) + 1), Room::Full, "up to what is not released");
        ring.leave_gap();
        assert_eq!(ring.tail(), CAPACITY);
        ring.leave_gap();
        assert_eq!(ring.tail(), CAPACITY, "there is none");
        let cursor = ring.take(8 << 10);
        assert_eq!(ring.page_offset(cursor), 0);
        assert_eq!(ring.room(1), Room::Full);
    }

    /// A block that is partly taken is taken: the write of what is in it has the rest as padding.
    #[test]
    fn room_is_counted_in_blocks() {
        let mut ring = ring();
        ring.take(100);
        assert_eq!(ring.room(CAPACITY - 100), Room::Here);
        ring.release(100);
        assert_eq!(ring.room(CAPACITY - 100), Room::Here);
        assert_eq!(ring.room(CAPACITY - 99), Room::Full, "the block of byte 100 is not free");
    }

    #[test]
    fn an_empty_ring_begins_at_its_start_again() {
        let mut ring = ring();
        ring.take(4 << 10);
        ring.rewind();
        assert_eq!(ring.tail(), 4 << 10, "in use");
        ring.release(4 << 10);
        ring.rewind();
        assert_eq!((ring.tail(), ring.used()), (CAPACITY, 0));
        ring.rewind();
        assert_eq!(ring.tail(), CAPACITY);
        assert_eq!(ring.page_offset(ring.tail()), 0);
        assert_eq!(ring.room(CAPACITY), Room::Here);
    }

    #[test]
    #[should_panic(expected = "release of what is not there")]
    fn what_was_never_taken_is_not_released() {
        let mut ring = ring();
        ring.take(64);
        ring.release(65);
    }

    #[test]
    #[should_panic(expected = "a ring of 12288 bytes")]
    fn a_ring_has_four_blocks_at_least() {
        let _ = Ring::new(Window::allocate(12 << 10).unwrap());
    }

    #[test]
    #[should_panic(expected = "whole blocks")]
    fn a_ring_has_whole_blocks() {
        let _ = Ring::new(Window::allocate((16 << 10) + 64).unwrap());
    }

    proptest! {
        /// Frames are found as they were laid down until they are released, wherever they lie.
        #[test]
        fn what_is_laid_down_stays_until_it_is_released(
            lengths in prop::collection::vec((1_u64..6000, any::<bool>()), 1..60),
        ) {
            let mut ring = ring();
            let mut held: VecDeque<(u64, u64, u8)> = VecDeque::new();
            for (number, (length, releases)) in (0_u8..).zip(lengths) {
                if releases && let Some((cursor, length, _)) = held.pop_front() {
                    ring.release(cursor + length);
                }
                if held.is_empty() {
                    ring.rewind();
                }
                match ring.room(length) {
                    Room::Full => {
                        prop_assert!(!held.is_empty(), "an empty ring takes {} bytes", length);
                        continue;
                    }
                    Room::AfterGap => ring.leave_gap(),
                    Room::Here => {}
                }
                let cursor = ring.take(length);
                let length_here = usize::try_from(length).unwrap();
                ring.bytes_mut(cursor, length_here).fill(number);
                held.push_back((cursor, length, number));
                prop_assert_eq!(ring.used(), ring.tail() - ring.released);
                for (cursor, length, number) in &held {
                    let offset = ring.page_offset(*cursor);
                    prop_assert!(offset + length <= CAPACITY);
                    let bytes = ring.at_page_offset(offset, usize::try_from(*length).unwrap());
                    prop_assert!(bytes.iter().all(|byte| byte == number));
                }
            }
        }
    }
}
