//! The published clock of a table at one shard: what a client polls one-sidedly before a pull that
//! may have to wait.
//!
//! ```text
//! offset size
//!      0    8  clock of the slowest live worker; all ones when no worker is live
//!      8    8  rounds a worker may be ahead of it; all ones when nobody waits
//!     16    8  live workers
//! ```
//!
//! Each word is written and read as one; they change independently, so that no order matters.

use crate::ids::WorkerClock;

/// A table's clock at one shard, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockLine {
    /// Clock of the slowest live worker, or `u64::MAX`.
    pub minimum: u64,
    /// Rounds a worker may be ahead of the slowest, or `u64::MAX`.
    pub tau: u64,
    /// Live workers.
    pub live: u64,
}

impl ClockLine {
    /// Bytes of a line.
    pub const LEN: usize = 24;

    /// Nobody is live and nobody waits.
    pub const OPEN: Self = Self { minimum: u64::MAX, tau: u64::MAX, live: 0 };

    /// The line's words, in order of their offsets.
    #[must_use]
    pub const fn words(&self) -> [u64; 3] {
        [self.minimum, self.tau, self.live]
    }

    /// The line of these words.
    #[must_use]
    pub const fn from_words([minimum, tau, live]: [u64; 3]) -> Self {
        Self { minimum, tau, live }
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
        let line = |minimum, tau| ClockLine { minimum, tau, live: 2 };
        assert!(line(0, 0).must_wait(WorkerClock(2)));
        assert!(!line(1, 0).must_wait(WorkerClock(2)));
        assert!(!line(0, 1).must_wait(WorkerClock(2)));
        assert!(line(0, 1).must_wait(WorkerClock(3)));
        assert!(!line(0, u64::MAX).must_wait(WorkerClock(u64::MAX)));
        assert!(!ClockLine::OPEN.must_wait(WorkerClock(u64::MAX)));
        assert_eq!(ClockLine::from_words(line(3, 4).words()), line(3, 4));
    }
}
