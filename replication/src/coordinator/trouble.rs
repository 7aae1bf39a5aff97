//! How late one server hears another, as its reports say. They tell of all lateness within a window; what
//! was, and is over, removes nobody, nor does it make the next trouble worse.

use super::CoordinatorOptions;
use crate::time::Time;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    /// As last reported, in microseconds.
    us: u64,
    /// The part of it that had ended when it was last seen not to grow.
    past_us: u64,
    past_at: Time,
    /// When this trouble began, which may be another one than what is over.
    began_at: Time,
    /// After when it grew last, or was as much as can be.
    grew_after: Time,
}

impl Trouble {
    /// A first report, which was made `after` a probe.
    pub(super) fn new(now: Time, us: u64, after: Time) -> Self {
        let began_at = Time(now.0.saturating_sub(us));
        Self { us, past_us: 0, past_at: began_at, began_at, grew_after: after }
    }

    /// The next report.
    pub(super) fn next(self, us: u64, after: Time, options: &CoordinatorOptions) -> Self {
        let after = after.max(self.grew_after);
        let mut next = Self { us, ..self };
        if us > self.us || us >= options.answers.window_us {
            next.grew_after = after;
            if self.past_at > self.began_at {
                next.began_at = after;
            }
        } else if after.since(self.grew_after) >= options.late_max_us {
            (next.past_us, next.past_at) = (us, after);
        }
        if after.since(next.past_at) >= options.answers.window_us {
            next.past_us = 0;
        }
        next.past_us = next.past_us.min(us);
        next
    }

    /// Whether it goes on.
    pub(super) fn lasts(&self, now: Time, options: &CoordinatorOptions) -> bool {
        now.since(self.grew_after) < options.late_max_us
    }

    pub(super) fn began_at(&self) -> Time {
        self.began_at
    }

    /// Whether there was more of it after a moment.
    pub(super) fn grew_since(&self, since: Time) -> bool {
        self.grew_after >= since
    }

    /// Since it began, in microseconds.
    pub(super) fn late_us(&self) -> u64 {
        self.us - self.past_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_counts_no_more() {
        let options = CoordinatorOptions::default();
        let mut trouble = Trouble::new(Time(1_050_000), 100_000, Time(1_000_000));
        assert_eq!(trouble.began_at(), Time(950_000));
        for at in 1..=6 {
            trouble = trouble.next(100_000 * (1 + at), Time(1_000_000 + 100_000 * at), &options);
        }
        assert_eq!(trouble.late_us(), 700_000);
        assert!(trouble.lasts(Time(2_300_000), &options));
        // A report that was on its way for long, or to a leader that has sent no probe yet.
        let later = trouble.next(750_000, Time(0), &options);
        assert!(!later.lasts(Time(2_400_000), &options), "nobody knows when that was");
        for at in 17..=25 {
            trouble = trouble.next(700_000, Time(100_000 * at), &options);
        }
        assert!(!trouble.lasts(Time(2_500_000), &options), "it has not grown since 1.6 s");
        trouble = trouble.next(760_000, Time(2_600_000), &options);
        assert!(trouble.lasts(Time(2_600_000), &options));
        assert_eq!(trouble.late_us(), 60_000, "this trouble is another one");
        assert_eq!(trouble.began_at(), Time(2_600_000));
        for at in 27..=60 {
            trouble = trouble.next(3_000_000, Time(100_000 * at), &options);
        }
        assert_eq!(trouble.late_us(), 3_000_000, "as much as can be, and all of it new");
        assert!(trouble.lasts(Time(6_100_000), &options));
    }
}
