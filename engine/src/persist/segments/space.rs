//! How much of the disk a log's segments take, and how long the next one is.

use std::time::Duration;

use crate::persist::{
    limits::{
        BLOCK_BYTES, SEGMENT_BYTES_MIN, SEGMENT_GROWTH_MAX, SEGMENT_TIME, SEGMENTS_LAST,
        SEGMENTS_PER_LOG,
    },
    log::LogConfig,
};

/// Bytes of segments. The first ones are short; a new one is as long as what lately was written in a
/// moment, so that it is filled no sooner than the next one is there, and long enough for the longest
/// record so far.
#[derive(Debug)]
pub(crate) struct Space {
    /// The longest that are made.
    pub(crate) longest_made: u64,
    first: u64,
    /// What all may take, and may when a checkpoint has given some back.
    pub(crate) max: u64,
    wanted: u64,
    /// All there are, and those of them that hold records.
    pub(crate) total: u64,
    pub(crate) used: u64,
    /// The longest there is.
    longest: u64,
    /// What was written lately in [`SEGMENT_TIME`].
    paced: u64,
    /// The most that was to go into one of them.
    pub(crate) needed: u64,
}

impl Space {
    pub(super) fn new(config: &LogConfig) -> Self {
        let whole = |bytes: u64| bytes.max(SEGMENT_BYTES_MIN).next_multiple_of(BLOCK_BYTES as u64);
        let longest_made = whole(config.segment_bytes);
        let max = config.bytes_max.max(2 * longest_made);
        Self {
            longest_made,
            first: whole(config.segment_bytes_first).min(longest_made),
            max,
            wanted: max,
            total: 0,
            used: 0,
            longest: 0,
            paced: 0,
            needed: 0,
        }
    }

    /// Sets the bound: it grows at once, and shrinks when records were given up.
    pub(super) fn set_max(&mut self, bytes: u64) {
        self.wanted = bytes.max(2 * self.longest_made);
        self.max = self.max.max(self.wanted);
    }

    /// There is one more.
    pub(super) fn add(&mut self, bytes: u64, is_used: bool) {
        self.total += bytes;
        self.longest = self.longest.max(bytes);
        if is_used {
            self.used += bytes;
        }
    }

    /// Records were released. A log that keeps less than before stays clear of the bound.
    pub(super) fn shrink(&mut self) {
        let clear = 2 * self.used + SEGMENTS_LAST * self.longest_made;
        self.max = self.max.min(self.wanted.max(clear));
    }

    /// Notes how many bytes filled a segment, and in how much time.
    pub(super) fn note_filled(&mut self, bytes: u64, took: Duration) {
        let nanoseconds = took.as_nanos().max(1);
        let paced = u128::from(bytes) * SEGMENT_TIME.as_nanos() / nanoseconds;
        self.paced = u64::try_from(paced).unwrap_or(u64::MAX).min(bytes * SEGMENT_GROWTH_MAX);
    }

    /// Length of the next one.
    pub(super) fn next(&self) -> u64 {
        let share = self.total / SEGMENTS_PER_LOG;
        let wanted = self.first.max(share).max(self.paced).max(self.needed);
        wanted.next_power_of_two().min(self.longest_made)
    }

    /// Whether this many more bytes stay within the bound.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.total + bytes <= self.max
    }

    /// Whether none has room for what is needed: no checkpoint could bring one back.
    pub(super) fn is_too_short(&self) -> bool {
        self.longest < self.needed
    }
}
