//! How late messages have been that should come all the time. Loss on a network of ordered connections
//! never shows as missing messages, only as late ones: a connection sends again, after ever longer times.

use crate::time::Time;

const SLOTS: usize = 8;
const SLOTS_U64: u64 = SLOTS as u64;

/// When something counts as late, and for how long that is remembered, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatenessTimings {
    /// What comes within this time is in time; of what does not, the time beyond it counts.
    pub after_us: u64,
    /// Lateness counts for about this long.
    pub window_us: u64,
}

/// The time, in microseconds, by which messages were late within the last window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    slots: [u64; SLOTS],
    newest: u64,
}

impl Lateness {
    /// Something came after `waited_us`.
    pub fn add(&mut self, now: Time, waited_us: u64, timings: LatenessTimings) {
        self.forget_old(now, timings);
        let at = usize::try_from(self.newest % SLOTS_U64).unwrap_or(0);
        self.slots[at] += waited_us.saturating_sub(timings.after_us);
    }

    /// All within the last window, with what has been waited for until now: at most the window.
    #[must_use]
    pub fn total(mut self, now: Time, waiting_us: u64, timings: LatenessTimings) -> u64 {
        self.add(now, waiting_us, timings);
        self.slots.iter().sum::<u64>().min(timings.window_us)
    }

    fn forget_old(&mut self, now: Time, timings: LatenessTimings) {
        let newest = now.0 / (timings.window_us / SLOTS_U64).max(1);
        let passed = newest.saturating_sub(self.newest).min(SLOTS_U64);
        for slot in 1..=passed {
            let at = usize::try_from((self.newest + slot) % SLOTS_U64).unwrap_or(0);
            self.slots[at] = 0;
        }
        if passed == SLOTS_U64 {
            self.slots = [0; SLOTS];
        }
        self.newest = self.newest.max(newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMINGS: LatenessTimings = LatenessTimings { after_us: 200, window_us: 800 };

    #[test]
    fn what_is_in_time_counts_nothing_and_lateness_is_forgotten() {
        let mut lateness = Lateness::default();
        lateness.add(Time(1_000), 200, TIMINGS);
        assert_eq!(lateness.total(Time(1_000), 150, TIMINGS), 0);
        lateness.add(Time(1_100), 300, TIMINGS);
        lateness.add(Time(1_500), 350, TIMINGS);
        assert_eq!(lateness.total(Time(1_600), 0, TIMINGS), 250);
        assert_eq!(lateness.total(Time(1_600), 210, TIMINGS), 260, "with what is still waited for");
        assert_eq!(lateness.total(Time(1_950), 0, TIMINGS), 150, "the first is too long ago");
        assert_eq!(lateness.total(Time(9_000), 0, TIMINGS), 0);
        assert_eq!(lateness.total(Time(9_000), 5_000, TIMINGS), 800, "at most the window");
    }
}
