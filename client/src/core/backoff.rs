//! When to try again: later and later, never at the same moment as everybody else.

use std::time::{Duration, Instant};

/// The wait after a first failure.
const FIRST: Duration = Duration::from_millis(2);

/// The longest wait while a failover is likely to end soon, and how often it is waited for.
const SOON: Duration = Duration::from_millis(32);
const SOON_COUNT: u32 = 40;

/// The longest wait.
const LONGEST: Duration = Duration::from_millis(500);

/// Silence of a server after which others are asked whether the map has changed.
const SILENCE: Duration = Duration::from_millis(250);

/// They are asked so often at intervals of half of that, while a silent server may just have been
/// replaced; then later and later.
const ASKED_SOON: u32 = 8;

/// Waits that grow exponentially, each shortened at random by up to a half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    next: Instant,
    delay: Duration,
    failures: u32,
}

impl Backoff {
    /// Due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, delay: FIRST, failures: 0 }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Waits longer from now on. `random` is any number.
    pub(super) fn fail(&mut self, now: Instant, random: u64) {
        let thousandths = u32::try_from(500 + random % 501).unwrap_or(1000);
        self.next = now + self.delay * thousandths / 1000;
        self.failures = self.failures.saturating_add(1);
        let longest = if self.failures < SOON_COUNT { SOON } else { LONGEST };
        self.delay = (self.delay * 2).min(longest);
    }

    /// How long the step that comes now may block: as long as the wait, within bounds.
    pub(super) fn limit(&self) -> Duration {
        self.delay.clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

/// How long a wait lasts before others are asked once more.
pub(super) fn ask_after(asked: u32) -> Duration {
    match asked.checked_sub(ASKED_SOON) {
        None => SILENCE + SILENCE / 2 * asked,
        Some(later) => SILENCE * (8 << later.min(5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now);
        assert!(backoff.is_due(now));
        let mut last = Duration::ZERO;
        for round in 0..60 {
            backoff.fail(now, 500);
            let wait = backoff.next - now;
            assert!(wait >= last && wait <= LONGEST, "round {round}: {wait:?}");
            assert!(round >= 40 || wait <= SOON, "round {round}: {wait:?}");
            last = wait;
        }
        assert_eq!(last, LONGEST);
        backoff.fail(now, 0);
        assert_eq!(backoff.next - now, LONGEST / 2);
    }
}
