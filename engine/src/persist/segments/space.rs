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

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn space() -> Space {
        Space::new(&LogConfig {
            segment_bytes: 16 * MIB,
            segment_bytes_first: 128 * KIB,
            bytes_max: 256 * MIB,
            ..LogConfig::default()
        })
    }

    #[test]
    fn segments_are_whole_blocks_within_the_bounds() {
        let config = |segment_bytes, first, bytes_max| {
            let config = LogConfig {
                segment_bytes,
                segment_bytes_first: first,
                bytes_max,
                ..LogConfig::default()
            };
            let space = Space::new(&config);
            (space.longest_made, space.next(), space.max)
        };
        assert_eq!(config(MIB, 128 * KIB, 8 * MIB), (MIB, 128 * KIB, 8 * MIB));
        assert_eq!(config(MIB + 1, 2 * MIB, 0), (MIB + 4096, MIB + 4096, 2 * (MIB + 4096)));
        assert_eq!(config(1, 1, 0), (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MIN, 2 * SEGMENT_BYTES_MIN));
    }

    #[test]
    fn the_next_segment_lasts_and_is_a_share_of_all() {
        let mut space = space();
        assert_eq!(space.next(), 128 * KIB);
        // As much as in a quarter of a second, at most four times as long as the one filled.
        space.note_filled(100 * KIB, SEGMENT_TIME);
        assert_eq!(space.next(), 128 * KIB);
        space.note_filled(100 * KIB, SEGMENT_TIME / 2);
        assert_eq!(space.next(), 256 * KIB);
        space.note_filled(100 * KIB, SEGMENT_TIME / 100);
        assert_eq!(space.next(), 512 * KIB, "400 KiB");
        space.note_filled(16 * MIB, Duration::ZERO);
        assert_eq!(space.next(), 16 * MIB);
        space.note_filled(4 * KIB, Duration::from_secs(9));
        assert_eq!(space.next(), 128 * KIB);
        space.add(32 * MIB, false);
        assert_eq!(space.next(), MIB, "a thirty-second part of all");
        space.needed = 3 * MIB;
        assert_eq!(space.next(), 4 * MIB);
    }

    #[test]
    fn what_fits_and_what_is_too_short_is_known() {
        let mut space = space();
        space.add(100 * MIB, true);
        space.add(50 * MIB, false);
        assert_eq!((space.total, space.used), (150 * MIB, 100 * MIB));
        assert!(space.fits(106 * MIB) && !space.fits(106 * MIB + 1));
        space.needed = 100 * MIB;
        assert!(!space.is_too_short());
        space.needed += 1;
        assert!(space.is_too_short());
    }

    #[test]
    fn the_bound_shrinks_only_as_far_as_stays_clear_of_what_is_kept() {
        let mut space = space();
        space.add(64 * MIB, true);
        space.set_max(512 * MIB);
        assert_eq!(space.max, 512 * MIB);
        space.set_max(100 * MIB);
        assert_eq!(space.max, 512 * MIB, "not before records are given up");
        space.shrink();
        assert_eq!(space.max, (2 * 64 + 4 * 16) * MIB);
        space.used = 0;
        space.shrink();
        assert_eq!(space.max, 100 * MIB);
        space.set_max(0);
        space.shrink();
        assert_eq!(space.max, 4 * 16 * MIB, "as many as it must have when nearly full");
    }
}
