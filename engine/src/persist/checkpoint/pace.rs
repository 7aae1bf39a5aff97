//! How many checkpoint bytes one turn submits to the storage. A disk takes them asynchronously. A file system in
//! memory first finds pages and copies them, and the turn waits for that.

use std::time::Duration;

use crate::persist::limits::{BLOCK_BYTES, STAGING_WRITE_BYTES};

/// What giving a turn's bytes to the storage may take, well below a millisecond: twice as many are
/// given in the next one when it took a quarter of it, half as many when it took more.
const SUBMIT_TIME: Duration = Duration::from_micros(200);

/// Bytes that a turn gives at least.
const BYTES_MIN: usize = 4 * BLOCK_BYTES;

/// Bytes that the first turn gives.
const BYTES_FIRST: usize = 16 * BLOCK_BYTES;

const _: () = {
    assert!(BYTES_MIN <= BYTES_FIRST && BYTES_FIRST <= STAGING_WRITE_BYTES);
    assert!(STAGING_WRITE_BYTES.is_multiple_of(BLOCK_BYTES));
};

/// Follows how long the storage takes to be given something.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes of a turn; whole blocks.
    bytes: usize,
    submitted: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { bytes: BYTES_FIRST, submitted: 0 }
    }

    /// Bytes that this turn may still give.
    pub(super) fn left(&self) -> usize {
        self.bytes.saturating_sub(self.submitted)
    }

    pub(super) fn submitted(&mut self, bytes: usize) {
        self.submitted += bytes;
    }

    /// The turn is over, and giving took so long.
    pub(super) fn end_turn(&mut self, took: Duration) {
        let is_full = std::mem::take(&mut self.submitted) >= self.bytes;
        if took > SUBMIT_TIME {
            self.bytes = (self.bytes / 2).next_multiple_of(BLOCK_BYTES).max(BYTES_MIN);
        } else if is_full && took < SUBMIT_TIME / 4 {
            self.bytes = (self.bytes * 2).min(STAGING_WRITE_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_takes_its_time_is_given_less() {
        let mut pace = Pace::new();
        let mut turn = |took: u64| {
            let bytes = pace.left();
            pace.submitted(bytes);
            assert_eq!(pace.left(), 0);
            pace.end_turn(Duration::from_micros(took));
            bytes
        };
        assert_eq!([turn(5), turn(5), turn(5), turn(5)], [1, 2, 4, 4].map(|n| n * BYTES_FIRST));
        assert_eq!(turn(100), STAGING_WRITE_BYTES, "neither quick nor slow");
        let bytes: Vec<usize> = (0..8).map(|_| turn(900)).collect();
        assert_eq!(bytes[7], BYTES_MIN);
        assert!(bytes.iter().all(|bytes| bytes.is_multiple_of(BLOCK_BYTES)));
        turn(5);
        assert!(turn(5) > BYTES_MIN, "it recovers");
    }

    #[test]
    fn times_on_the_bounds_change_nothing() {
        let mut pace = Pace::new();
        for took in [SUBMIT_TIME, SUBMIT_TIME / 4] {
            pace.submitted(BYTES_FIRST - 1);
            assert_eq!(pace.left(), 1);
            pace.submitted(1);
            pace.end_turn(took);
            assert_eq!(pace.left(), BYTES_FIRST, "{took:?}");
        }
    }

    #[test]
    fn a_turn_that_gives_little_says_nothing_of_much() {
        let mut pace = Pace::new();
        for _ in 0..9 {
            pace.submitted(BLOCK_BYTES);
            pace.end_turn(Duration::from_micros(2));
        }
        assert_eq!(pace.left(), BYTES_FIRST);
    }
}
