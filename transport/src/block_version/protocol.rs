//! The words at the head and at the tail of a block. Both hold the same version: odd while the block
//! is written, even otherwise, [`FENCED`] when its memory is no longer current.

use super::sync::{AtomicU64, Ordering, fence};

/// The bit of a version that says the memory is no longer current.
pub const FENCED: u64 = 1 << 63;

/// What a reader found before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The block rests at this version: what is read now is whole if [`is_unchanged`] afterwards.
    Rests(u64),
    /// It is being written.
    Moves,
    /// Its memory is not current.
    Fenced,
}

/// Marks a block as being written, before its bytes are; returns the version for [`end`]. A block has
/// one writer.
#[inline]
pub fn begin(head: &AtomicU64, tail: &AtomicU64) -> u64 {
    let version = head.load(Ordering::Relaxed);
    debug_assert_eq!(version & 1, 0, "one writer");
    let odd = version | 1;
    // The tail first: who reads upwards and finds new bytes finds this behind them.
    tail.store(odd, Ordering::Relaxed);
    head.store(odd, Ordering::Relaxed);
    // The bytes' stores stay behind the odd versions.
    fence(Ordering::Release);
    version
}

/// Marks a block as resting at its next version, after its bytes were written.
#[inline]
pub fn end(head: &AtomicU64, tail: &AtomicU64, version: u64) {
    // Wraps within the low 62 bits' worth of counting: two updates a nanosecond take a century.
    let next = version.wrapping_add(2);
    head.store(next, Ordering::Release);
    tail.store(next, Ordering::Release);
}

/// Looks at a block before its bytes are read.
#[inline]
pub fn look(head: &AtomicU64) -> Look {
    let version = head.load(Ordering::Acquire);
    if version & FENCED != 0 {
        Look::Fenced
    } else if version & 1 != 0 {
        Look::Moves
    } else {
        Look::Rests(version)
    }
}

/// Whether bytes read since a look at this version are whole.
#[inline]
pub fn is_unchanged(head: &AtomicU64, version: u64) -> bool {
    // The reads stay before the second look.
    fence(Ordering::Acquire);
    head.load(Ordering::Relaxed) == version
}
