//! The published clock of a table at one shard: what a client polls one-sidedly before a pull that
//! may have to wait.
//!
//! ```text
//! offset size
//!      0    8  how often rows became readable here
//!      8    8  clock of the slowest live worker; all ones when no worker is live
//!     16    8  rounds a worker may be ahead of it; all ones when nobody waits
//!     24    8  live workers; all ones where no rows can be read
//! ```
//!
//! Each word is written and read as one. Before rows become readable, the clock is lowered to theirs,
//! then the first word goes up. A reader that finds the same first word before it looks at the clock and
//! after it has read the rows has looked at a clock that those rows are counted in.

use crate::ids::WorkerClock;

/// A table's clock at one shard, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockLine {
    /// Times that rows became readable at the shard.
    pub gains: u64,
    /// Clock of the slowest live worker, or `u64::MAX`.
    pub minimum: u64,
    /// Rounds a worker may be ahead of the slowest, or `u64::MAX`.
    pub tau: u64,
    /// Live workers.
    pub live: u64,
}

impl ClockLine {
    /// Bytes of a line.
    pub const LEN: usize = 32;

    /// Nobody is live and nobody waits.
    pub const OPEN: Self = Self { gains: 0, minimum: u64::MAX, tau: u64::MAX, live: 0 };

    /// The line's words, in order of their offsets.
    #[must_use]
    pub const fn words(&self) -> [u64; 4] {
        [self.gains, self.minimum, self.tau, self.live]
    }

    /// The line of these words.
    #[must_use]
    pub const fn from_words([gains, minimum, tau, live]: [u64; 4]) -> Self {
        Self { gains, minimum, tau, live }
    }

    /// The least minimum with which a pull of a worker at `clock` may be answered. Clocks count from
    /// 1: a pull at clock t has to see every push of clocks up to `t - tau - 1`.
    #[must_use]
    pub const fn needed(&self, clock: WorkerClock) -> u64 {
        clock.0.saturating_sub(self.tau).saturating_sub(1)
    }

    /// Whether a pull of a worker at `clock` has to wait.
    #[must_use]
    pub const fn must_wait(&self, clock: WorkerClock) -> bool {
        self.minimum < self.needed(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_waits_for_the_slowest_worker() {
        let line = |minimum, tau| ClockLine { gains: 7, minimum, tau, live: 2 };
        assert!(line(0, 0).must_wait(WorkerClock(2)));
        assert!(!line(1, 0).must_wait(WorkerClock(2)));
        assert!(!line(0, 1).must_wait(WorkerClock(2)));
        assert!(line(0, 1).must_wait(WorkerClock(3)));
        assert!(!line(0, u64::MAX).must_wait(WorkerClock(u64::MAX)));
        assert!(!ClockLine::OPEN.must_wait(WorkerClock(u64::MAX)));
        assert_eq!(ClockLine::from_words(line(3, 4).words()), line(3, 4));
    }
}
