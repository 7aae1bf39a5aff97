//! Polite spinning: a thread alone on its core spins, a thread that shares its core yields it.
//!
//! A spinning thread keeps other threads of its core waiting for whole milliseconds, until the scheduler
//! takes the core away. One of them may be the thread it waits for. `sched_yield` returns at once if nobody
//! else wants the core, and after others have run if somebody does. So its duration tells which is the case.

use std::time::{Duration, Instant};

use crate::fabric::Transport;

/// Looks at memory between pauses: a pause takes as long as many looks.
pub const LOOKS_PER_PAUSE: usize = 4;

/// Empty polls between yields of a thread that seems to have its core for itself.
const POLLS_PER_PROBE: u32 = 16;

/// Yields in a row that ran nobody, after which a thread has its core for itself again.
const BARE_YIELDS: u32 = 32;

/// Threads that keep the core for this many bare yields, about 400 microseconds, are computing rather
/// than waiting. A yield to them costs a whole time slice. A sleeping thread is woken in the middle of it.
const CROWDED_FACTOR: u32 = 800;

/// How long a thread stops yielding after that, at first and at most.
const PROBE_AGAIN_MIN: Duration = Duration::from_millis(10);
const PROBE_AGAIN_MAX: Duration = Duration::from_millis(320);

/// A yield that runs nobody takes three to four times as long as the cheapest system call.
const YIELD_PER_CALL: u32 = 4;
/// A yield that runs others takes at least this many times as long as one that runs nobody.
const SHARED_FACTOR: u32 = 3;

/// A thread that yielded its core waits at most this multiple of its spin budget.
const GIVEN_MAX: u32 = 2;

/// What became of an empty poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The thread kept its core.
    Spun,
    /// Others had it for a while.
    Gave,
    /// Others had it for their whole time slice: better to sleep.
    Crowded,
}

/// How one thread behaves when its polls find nothing.
#[derive(Debug)]
pub struct Spin {
    polls_per_probe: u32,
    /// Whether a long-running thread on this core is probably doing the work we wait for.
    has_helpers: bool,
    /// Empty polls since something came, or since the last yield.
    empty: u32,
    /// How long others have had the core since the last poll that found something.
    given: Duration,
    /// Empty polls that will still yield, because others were found to share the core.
    shared: u32,
    /// Duration of a yield that runs nobody.
    bare: Duration,
    /// When yielding may begin again, and how long the pause is.
    not_before: Option<Instant>,
    probe_again: Duration,
}

impl Spin {
    /// For a thread that polls these transports.
    #[must_use]
    pub fn over(transports: &[Box<dyn Transport>]) -> Self {
        let mut spin = Self::default();
        spin.add(transports);
        spin
    }

    /// The thread polls these as well.
    pub fn add(&mut self, transports: &[Box<dyn Transport>]) {
        self.has_helpers |= transports.iter().any(|one| one.capabilities().has_helpers);
    }

    fn new(polls_per_probe: u32) -> Self {
        Self {
            polls_per_probe,
            has_helpers: false,
            empty: 0,
            given: Duration::ZERO,
            shared: 0,
            bare: cheapest_call() * YIELD_PER_CALL,
            not_before: None,
            probe_again: PROBE_AGAIN_MIN,
        }
    }

    /// Something came, or the thread has slept: the next empty poll is the first.
    #[inline]
    pub fn found(&mut self) {
        self.empty = 0;
        self.given = Duration::ZERO;
    }

    /// Whether a thread that has found nothing for so long has spun for as long as it may: time that
    /// others had the core for counts only in part, or it would never come to its turn; but switching
    /// costs, too.
    #[inline]
    #[must_use]
    pub fn is_over(&self, waited: Duration, budget: Duration) -> bool {
        waited >= budget + self.given.min(budget * GIVEN_MAX)
    }

    /// Whether others want the core: looking many times before the next yield only keeps them from it.
    #[inline]
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared > 0
    }

    /// A poll found nothing. Lets others run when it is time to.
    #[inline]
    pub fn idle(&mut self) -> Idle {
        self.empty += 1;
        if self.shared == 0 && self.empty < self.polls_per_probe {
            return Idle::Spun;
        }
        self.give_way()
    }

    fn give_way(&mut self) -> Idle {
        self.empty = 0;
        let now = Instant::now();
        if self.not_before.is_some_and(|until| now < until) {
            return Idle::Spun;
        }
        std::thread::yield_now();
        self.judge(now, now.elapsed())
    }

    /// What a yield at `now` that took so long says.
    fn judge(&mut self, now: Instant, took: Duration) -> Idle {
        if took >= self.bare * CROWDED_FACTOR && !self.has_helpers {
            self.shared = 0;
            self.not_before = Some(now + took + self.probe_again);
            self.probe_again = (self.probe_again * 2).min(PROBE_AGAIN_MAX);
            return Idle::Crowded;
        }
        self.not_before = None;
        self.probe_again = PROBE_AGAIN_MIN;
        if took >= self.bare * SHARED_FACTOR {
            self.shared = BARE_YIELDS;
            self.given += took;
            return Idle::Gave;
        }
        self.bare = self.bare.min(took);
        self.shared = self.shared.saturating_sub(1);
        Idle::Spun
    }
}

/// Time of the cheapest system call there is, the shortest of some.
fn cheapest_call() -> Duration {
    let time = |_| {
        let began = Instant::now();
        let _ = rustix::process::getppid();
        began.elapsed()
    };
    (0..8).map(time).min().unwrap_or_default().max(Duration::from_nanos(50))
}

impl Default for Spin {
    /// For a thread that polls nothing yet.
    fn default() -> Self {
        Self::new(POLLS_PER_PROBE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Duration = Duration::from_nanos(500);
    const SWITCHED: Duration = Duration::from_micros(3);
    const LONG: Duration = Duration::from_micros(400);

    fn spin() -> Spin {
        Spin { bare: BARE, ..Spin::new(4) }
    }

    #[test]
    fn who_is_alone_yields_now_and_then_and_not_while_something_comes() {
        let mut spin = spin();
        for _ in 0..100 {
            for _ in 0..3 {
                assert_eq!(spin.idle(), Idle::Spun);
                assert!(spin.empty > 0, "a yield after {} polls", spin.empty);
            }
            spin.found();
        }
        for _ in 0..4 {
            spin.idle();
        }
        assert_eq!(spin.empty, 0, "four empty polls, and no yield");
    }

    #[test]
    fn who_shares_its_core_yields_until_nobody_else_runs() {
        let (mut spin, now) = (spin(), Instant::now());
        assert_eq!(spin.judge(now, BARE), Idle::Spun);
        assert!(!spin.is_shared());
        assert_eq!(spin.judge(now, SWITCHED), Idle::Gave);
        assert!(spin.is_over(BARE * 3 + SWITCHED, BARE * 3) && !spin.is_over(BARE * 3, BARE * 3));
        for _ in 0..BARE_YIELDS {
            assert!(spin.is_shared());
            assert_eq!(spin.judge(now, BARE), Idle::Spun);
        }
        assert!(!spin.is_shared());
    }

    #[test]
    fn who_meets_a_long_computation_keeps_from_yielding_longer_and_longer() {
        let (mut spin, now) = (spin(), Instant::now());
        spin.judge(now, SWITCHED);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(spin.judge(now, LONG), Idle::Crowded);
            assert!(!spin.is_shared());
            pauses.push(spin.not_before.unwrap() - now - LONG);
        }
        assert!(pauses.is_sorted() && pauses[0] == PROBE_AGAIN_MIN);
        assert_eq!(pauses.last(), Some(&PROBE_AGAIN_MAX));
        spin.judge(now, BARE);
        assert_eq!(spin.probe_again, PROBE_AGAIN_MIN);
    }

    #[test]
    fn who_waits_for_helpers_yields_to_them_however_long_they_take() {
        let (mut spin, now) = (Spin { has_helpers: true, ..spin() }, Instant::now());
        assert_eq!(spin.judge(now, LONG * 100), Idle::Gave);
        assert!(spin.is_shared() && spin.not_before.is_none());
    }

    #[test]
    fn slow_machines_have_slow_yields() {
        let (mut spin, now) = (Spin { bare: LONG, ..spin() }, Instant::now());
        assert_eq!(spin.judge(now, LONG * 2), Idle::Spun);
        assert_eq!(spin.judge(now, LONG * 4), Idle::Gave);
    }
}
